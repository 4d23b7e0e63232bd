"""Which way a call goes, by its method and path."""
from serve._core.call cimport Call

cdef int route_call(Call* call) noexcept nogil      # call.CallKind; sets call.model and call.number for inferences over HTTP
