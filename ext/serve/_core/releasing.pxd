"""The end of a request: its share of the in-flight budget and its pins are given back. Declarations and one inline function."""
from serve._core.call cimport Request, request_free
from serve._core.counters cimport counter_publish, counter_read, counter_set
from serve._core.io_thread cimport IoThread


cdef inline void request_release(IoThread* io, Request* request) noexcept nogil:
    """Its plan and its versions may be gone afterwards."""
    if request.pins != NULL:
        counter_publish(&request.pins.dropped, 1)
        request.pins = NULL
    counter_set(&io.counters.held_bytes, counter_read(&io.counters.held_bytes) - request.held_bytes)
    if request.shadow != NULL and request.shadow.is_shadow:
        counter_set(&io.counters.shadow_bytes, counter_read(&io.counters.shadow_bytes) - request.held_bytes)
    request_free(&io.calls, request)
