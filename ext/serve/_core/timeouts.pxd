"""What time does to connections: slow headers and bodies, idleness, lingering, draining."""
from libc.stdint cimport uint64_t

from serve._core.io_thread cimport IoThread

cdef void sweep(IoThread* io, uint64_t now) noexcept nogil                  # look at every connection once
cdef void begin_drain(IoThread* io, uint64_t now) noexcept nogil
