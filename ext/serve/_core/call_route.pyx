from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from serve._core.call cimport CALL_CONTROL, CALL_INFER, CALL_INFER_STREAM, CALL_LIVE
from serve._core.memory cimport Slice, arena_alloc, slice_is, slice_make


cdef inline bint is_method(const Call* call, const char* name, size_t length) noexcept nogil:
    return slice_is(call.method, name, length)


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef int percent_decoded(Call* call, Slice text, Slice* out) noexcept nogil:
    """A path segment without its %XX; -1 when one is torn."""
    cdef uint8_t* copy
    cdef size_t i = 0, n = 0
    cdef int high, low
    for i in range(text.length):
        if text.data[i] == 37:
            break
    else:
        out[0] = text
        return 0
    copy = <uint8_t*>arena_alloc(&call.arena, text.length)
    if copy == NULL:
        return -1
    i = 0
    while i < text.length:
        if text.data[i] != 37:
            copy[n] = text.data[i]
            i += 1
        else:
            high = hex_digit(text.data[i + 1]) if i + 2 < text.length else -1
            low = hex_digit(text.data[i + 2]) if i + 2 < text.length else -1
            if high < 0 or low < 0:
                return -1
            copy[n] = <uint8_t>(high << 4 | low)
            i += 3
        n += 1
    out[0] = slice_make(copy, n)
    return 0


cdef Slice segment(Slice* rest) noexcept nogil:
    """The path up to the next slash; rest moves behind it."""
    cdef size_t i = 0
    cdef Slice taken
    while i < rest.length and rest.data[i] != 47:
        i += 1
    taken = slice_make(rest.data, i)
    i = min(i + 1, rest.length)
    rest[0] = slice_make(rest.data + i, rest.length - i)
    return taken


cdef bint is_number(Slice text) noexcept nogil:
    cdef size_t i
    for i in range(text.length):
        if not 48 <= text.data[i] <= 57:
            return False
    return text.length > 0


cdef bint is_infer_path(Call* call) noexcept nogil:
    """/v2/models/{model}[/versions/{version} | /labels/{label}]/infer; sets model and number. Python says what is wrong with others."""
    cdef Slice rest = call.path
    cdef Slice model, word, number
    if rest.length < 18 or memcmp(rest.data, b"/v2/models/", 11) != 0 or memcmp(rest.data + rest.length - 6, b"/infer", 6) != 0:
        return False
    rest = slice_make(rest.data + 11, rest.length - 11)
    model = segment(&rest)
    word = segment(&rest)
    number = slice_make(NULL, 0)
    if slice_is(word, b"versions", 8) or slice_is(word, b"labels", 6):
        number = segment(&rest)
        if number.length == 0 or word.length == 6 and is_number(number):     # a label is never all digits
            return False
        word = segment(&rest)
    if not slice_is(word, b"infer", 5) or rest.length:
        return False
    return percent_decoded(call, model, &call.model) == 0 and percent_decoded(call, number, &call.number) == 0


cdef int route_http(Call* call) noexcept nogil:
    if is_method(call, b"POST", 4) and is_infer_path(call):
        return CALL_INFER
    if slice_is(call.path, b"/v2/health/live", 15) and (is_method(call, b"GET", 3) or is_method(call, b"HEAD", 4)):
        return CALL_LIVE
    return CALL_CONTROL


cdef int route_grpc(Call* call) noexcept nogil:
    cdef const uint8_t* name
    if call.path.length < 32 or memcmp(call.path.data, b"/inference.GRPCInferenceService/", 32) != 0:
        return CALL_CONTROL
    name = call.path.data + 32
    if call.path.length == 42 and memcmp(name, b"ModelInfer", 10) == 0:
        return CALL_INFER
    if call.path.length == 48 and memcmp(name, b"ModelStreamInfer", 16) == 0:
        return CALL_INFER_STREAM
    if call.path.length == 42 and memcmp(name, b"ServerLive", 10) == 0:
        return CALL_LIVE
    return CALL_CONTROL


cdef int route_call(Call* call) noexcept nogil:
    return route_grpc(call) if call.is_grpc else route_http(call)
