"""OIP inference over JSON and the binary-tensor extension: body to InferRequest, InferResponse to body."""
from libc.stdint cimport int64_t, uint8_t

from serve._core.failure cimport Failure
from serve._core.json_encode cimport json_encode, json_encode_error
from serve._core.memory cimport Arena
from serve._core.tensors cimport InferRequest

cdef enum:
    JSON_PADDING = 64               # readable bytes behind a body (simdjson)

# json_length: bytes of JSON at the head of the body (Inference-Header-Content-Length), -1 when the header was not sent, 0 for a raw body.
cdef int json_decode(const uint8_t* body, size_t length, int64_t json_length, Arena* arena, InferRequest* request,
                     Failure* failure) noexcept nogil
