"""What becomes of requests, counted by version, protocol and stage. One entry a request, by its I/O thread."""
from libc.stdint cimport uint64_t

from serve._core.call cimport Request
from serve._core.io_thread cimport IoThread

cdef inline uint64_t since(uint64_t later, uint64_t earlier) noexcept nogil:
    return later - earlier if later > earlier else 0


cdef void count_success(IoThread* io, Request* request, uint64_t now) noexcept nogil
cdef void count_rejection(IoThread* io, Request* request, int reason, uint64_t now) noexcept nogil     # reason: version.Rejection
