"""What becomes of a call: routed, decoded, queued, run, answered, counted. Runs on the call's I/O thread."""
from libc.stdint cimport uint64_t

from serve._core.call cimport Connection, Frame, Hooks, Request
from serve._core.io_thread cimport IoThread

cdef void dispatch_init(Hooks* hooks) noexcept nogil
cdef void dispatch_pending(IoThread* io) noexcept nogil                     # queue what the turn decoded; run what is short
cdef void dispatch_done(IoThread* io, Request* request, uint64_t now) noexcept nogil       # a lent request is back
cdef void dispatch_frame(IoThread* io, Frame* frame) noexcept nogil         # the control plane says something; takes the frame
cdef void dispatch_deadlines(IoThread* io, uint64_t now) noexcept nogil     # refuse what is queued and too late
cdef void mark_dirty(IoThread* io, Connection* connection) noexcept nogil
