"""The answer's JSON, and the binary tensors behind it, written straight into the buffer that is sent."""
from libc.stdint cimport int64_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Buffer
from serve._core.tensors cimport InferResponse

# Appends JSON and then the binary tensors; header_length gets the length of the JSON, or -1 when no byte follows it.
# -1: failure says why, and `out` holds what it held.
cdef int json_encode(const InferResponse* response, Buffer* out, int64_t* header_length, Failure* failure) noexcept nogil
cdef int json_encode_error(const char* text, Buffer* out) noexcept nogil    # {"error": "..."}; -1: memory is out
