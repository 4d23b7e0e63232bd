"""Inferences of an I/O thread: in from a call, through a queue, out to the call, counted."""
from libc.stdint cimport uint8_t, uint64_t

from serve._core.call cimport Call, Request
from serve._core.io_thread cimport IoThread

cdef bint has_room(void* owner) noexcept nogil                              # in-flight bytes are within the worker's limit
cdef void start_http(IoThread* io, Call* call) noexcept nogil               # the body is whole
cdef void start_grpc(IoThread* io, Call* call) noexcept nogil
cdef void stream_message(IoThread* io, Call* call, const uint8_t* data, size_t length, bint packed) noexcept nogil
cdef void end_stream_if_done(IoThread* io, Call* call) noexcept nogil
cdef void dispatch_pending(IoThread* io) noexcept nogil                     # queue what the turn decoded; run what is short
cdef void dispatch_done(IoThread* io, Request* request, uint64_t now) noexcept nogil       # a lent request is back
cdef void dispatch_parked(IoThread* io, uint64_t now, bint is_last) noexcept nogil        # answers that waited to be recorded
cdef void dispatch_deadlines(IoThread* io, uint64_t now) noexcept nogil     # refuse what is queued and too late
cdef void inferences_gone(IoThread* io, Call* call) noexcept nogil          # the call is about to be freed
