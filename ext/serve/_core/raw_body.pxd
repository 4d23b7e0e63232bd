"""A request whose body is nothing but one tensor (OIP binary extension, header length 0): name, datatype and shape come from the model."""
from serve._core.failure cimport Failure
from serve._core.memory cimport Arena
from serve._core.tensors cimport Tensor, TensorSpec

# Fills in `tensor`, whose data and nbytes are the body: one row, at most one variable dimension, which the length of the body decides; the
# body of a BYTES input is its one element. element_bytes: of the datatype. Fails INVALID_ARGUMENT when the shape cannot be deduced.
cdef int describe_raw_body(const TensorSpec* spec, bint batched, size_t element_bytes, const char* model, Arena* arena, Tensor* tensor,
                           Failure* failure) noexcept nogil
