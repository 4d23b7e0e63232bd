"""inference.ModelInferRequest scanned in place, ModelInferResponse and ModelStreamInferResponse written in place.

No gRPC framing here: `message` is one protobuf message; the 5-byte prefix belongs to http2.
"""
from libc.stdint cimport uint8_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Arena, Buffer, Slice
from serve._core.tensors cimport InferRequest, InferResponse

cdef int wire_decode(const uint8_t* message, size_t length, Arena* arena, InferRequest* request, Failure* failure) noexcept nogil
cdef int wire_encode(const InferResponse* response, bint stream, Buffer* out) noexcept nogil            # appends; -1: memory is out
cdef int wire_encode_stream_error(const char* text, Slice id, Buffer* out) noexcept nogil                 # id: of the request, or empty
