"""What time does to connections: slow headers and bodies, idleness, lingering, draining."""
from libc.stdint cimport uint64_t

from serve._core.call cimport Call
from serve._core.io_thread cimport IoThread

cdef enum:
    SWEEP_LEAST_NS = 20000000       # between two sweeps that deadlines ask for

cdef void sweep(IoThread* io, uint64_t now) noexcept nogil                  # look at every connection once
cdef void begin_drain(IoThread* io, uint64_t now) noexcept nogil


cdef inline void sweep_in_time(IoThread* io, const Call* call, uint64_t now) noexcept nogil:
    """A deadline may pass while the body still arrives: the sweep is to see that soon."""
    if call.deadline_ns > now and not call.ended:
        io.next_sweep = min(io.next_sweep, max(call.deadline_ns, now + SWEEP_LEAST_NS))
