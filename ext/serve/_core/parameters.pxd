"""Request parameters that are not the protocol's: kept for routing, newest first."""
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf

from serve._core.memory cimport Arena, Slice, arena_alloc, slice_make
from serve._core.tensors cimport MAX_PARAMETERS, InferRequest, NamedParameter

cdef enum:
    NUMBER_TEXT = 24                # bytes of a 64-bit number as text


cdef inline int parameter_keep(InferRequest* request, Arena* arena, Slice name, Slice text) noexcept nogil:
    """name and text live as long as the request. What is over the limit is not kept. 0, or -1: memory is out."""
    cdef NamedParameter* parameter
    if request.n_parameters == MAX_PARAMETERS:
        return 0
    parameter = <NamedParameter*>arena_alloc(arena, sizeof(NamedParameter))
    if parameter == NULL:
        return -1
    parameter.name, parameter.text, parameter.next = name, text, request.parameters
    request.parameters = parameter
    request.n_parameters += 1
    return 0


cdef inline int number_text(Arena* arena, uint64_t number, bint is_signed, Slice* text) noexcept nogil:
    """The decimal digits of a 64-bit integer. 0, or -1: memory is out."""
    cdef char* at = <char*>arena_alloc(arena, NUMBER_TEXT)
    cdef int n
    if at == NULL:
        return -1
    if is_signed:
        n = snprintf(at, NUMBER_TEXT, b"%lld", <long long>number)
    else:
        n = snprintf(at, NUMBER_TEXT, b"%llu", <unsigned long long>number)
    text[0] = slice_make(at, n)
    return 0


cdef inline Slice boolean_text(bint value) noexcept nogil:
    return slice_make(b"true", 4) if value else slice_make(b"false", 5)
