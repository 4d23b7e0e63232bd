"""inference.InferTensorContents on the wire: elements in the field of their datatype, turned into raw little-endian bytes."""
from serve._core.failure cimport Failure
from serve._core.memory cimport Arena, Slice
from serve._core.tensors cimport Tensor

# message: the InferInputTensor, whose `contents` may come in several pieces (protobuf merges them). Sets tensor.data and nbytes, in the
# arena; needs its name and datatype. Fails INVALID_ARGUMENT: no protobuf, elements in a field of another datatype, an element out of range.
cdef int decode_typed_contents(Slice message, Slice model, Arena* arena, Tensor* tensor, Failure* failure) noexcept nogil
