"""grpc-status-details-bin: the error model of google.rpc (AIP-193), so that clients can tell kinds of failure apart by name."""
from serve._core.memory cimport Arena, Slice

# base64 (no padding) of google.rpc.Status{code, message, details: [ErrorInfo{reason, domain}]}; data is NULL when memory is out.
# reason: failure.Kind's name, or NULL for no ErrorInfo.
cdef Slice status_details(Arena* arena, int code, const char* message, const char* reason) noexcept nogil
