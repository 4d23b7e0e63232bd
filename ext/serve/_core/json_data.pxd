"""JSON data of one tensor into little-endian, row-major bytes of its datatype."""
from libc.stdint cimport uint8_t

from serve._core.failure cimport Failure
from serve._core.json_tape cimport Json
from serve._core.memory cimport Arena
from serve._core.tensors cimport Tensor

cdef const char* kind_name(uint8_t kind) noexcept nogil             # of a tape's value, with its article

# Fills tensor.data and tensor.nbytes, in the arena, from the value at index `at`; name, datatype and shape are already there.
cdef int convert_data(const Json* json, size_t at, Arena* arena, Tensor* tensor, Failure* failure) noexcept nogil
