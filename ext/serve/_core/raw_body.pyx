from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serve._core.failure cimport INVALID_ARGUMENT, UNAVAILABLE, fail
from serve._core.memory cimport arena_alloc
from serve._core.tensors cimport DT_BYTES, MAX_RANK, shown

cdef extern from * nogil:
    bint multiply_overflow "__builtin_mul_overflow"(uint64_t, uint64_t, uint64_t*)


cdef int not_deduced(const TensorSpec* spec, const Tensor* tensor, const char* model, const char* why, Failure* failure) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "the shape of a raw binary request of %zu bytes cannot be deduced: input '%.*s' of model "
                "'%s' %s", tensor.nbytes, shown(spec.name), <const char*>spec.name.data, model, why)


cdef int out_of_memory(Failure* failure) noexcept nogil:
    return fail(failure, UNAVAILABLE, "the server is out of memory")


cdef int frame_element(Arena* arena, Tensor* tensor, Failure* failure) noexcept nogil:
    """Put the length in front, as every BYTES element has it."""
    cdef uint32_t length = <uint32_t>tensor.nbytes
    cdef uint8_t* framed = <uint8_t*>arena_alloc(arena, 4 + tensor.nbytes)
    if framed == NULL:
        return out_of_memory(failure)
    memcpy(framed, &length, 4)
    if length:
        memcpy(framed + 4, tensor.data, length)
    tensor.data = framed
    tensor.nbytes += 4
    return 0


cdef int describe_raw_body(const TensorSpec* spec, bint batched, size_t element_bytes, const char* model, Arena* arena, Tensor* tensor,
                           Failure* failure) noexcept nogil:
    cdef int64_t* shape = <int64_t*>arena_alloc(arena, MAX_RANK * sizeof(int64_t))
    cdef uint64_t step = 1          # elements, then bytes, for each unit of the variable dimension
    cdef int variable = -1
    cdef int d
    if shape == NULL:
        return out_of_memory(failure)
    for d in range(spec.rank):
        shape[d] = 1 if spec.shape[d] < 0 or (d == 0 and batched) else spec.shape[d]
        if spec.shape[d] < 0 and not (d == 0 and batched):
            if variable >= 0:
                return not_deduced(spec, tensor, model, "has more than one variable-size dimension", failure)
            variable = d
        if multiply_overflow(step, <uint64_t>shape[d], &step) or step > INT64_MAX:
            return not_deduced(spec, tensor, model, "is too large", failure)
    tensor.name, tensor.datatype, tensor.rank, tensor.shape = spec.name, spec.datatype, spec.rank, shape
    if spec.datatype == DT_BYTES:
        if step != 1 or tensor.nbytes > UINT32_MAX:
            return not_deduced(spec, tensor, model, "takes more than one BYTES element", failure)
        return frame_element(arena, tensor, failure)
    if variable < 0:
        return 0
    if multiply_overflow(step, element_bytes, &step) or step == 0 or tensor.nbytes % step:
        return not_deduced(spec, tensor, model, "does not divide into them", failure)
    shape[variable] = <int64_t>(tensor.nbytes // step)
    return 0
