"""Parameters of a request and of its tensors on the wire: what they set, and which of them are refused."""
from serve._core.failure cimport Failure
from serve._core.memory cimport Arena, Slice
from serve._core.tensors cimport InferRequest, RequestedOutput

# entry: one entry of a map<string, InferParameter>. Fail INVALID_ARGUMENT; NOT_IMPLEMENTED for shared memory. A request's
# parameters that are not ours are kept for routing, as views into the entry; a tensor's are ignored.
cdef int take_request_parameter(Slice entry, InferRequest* request, Arena* arena, Failure* failure) noexcept nogil
cdef int take_tensor_parameter(Slice entry, RequestedOutput* output, Failure* failure) noexcept nogil      # output: NULL for an input
