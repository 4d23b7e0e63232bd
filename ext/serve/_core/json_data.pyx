"""One pass over the data's part of the tape; numbers are checked against their datatype, nesting against the shape."""
from libc.math cimport isinf
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serve._core.failure cimport INVALID_ARGUMENT, UNAVAILABLE, Failure, fail
from serve._core.json_tape cimport JSON_DEPTH, Json, is_number, json_after, json_double, json_kind, json_text
from serve._core.memory cimport Arena, Slice, arena_alloc
from serve._core.tensors cimport *

cdef struct Conversion:
    # JSON data on its way into one tensor.
    const Json* json
    Failure* failure
    const Tensor* tensor
    uint8_t* out                    # where the next element goes
    uint64_t count                  # elements that the shape asks for
    uint64_t filled
    size_t size                     # bytes of an element; 0 for BYTES
    int64_t lowest                  # of an integer datatype
    uint64_t highest
    int n_levels                    # of nesting seen so far
    int leaf_level                  # where the scalars are; -1: none seen yet
    int64_t[JSON_DEPTH] lengths     # of the arrays at each level; -1: not known yet


cdef const char* kind_name(uint8_t kind) noexcept nogil:
    if kind == b'{':
        return b"an object"
    if kind == b'[':
        return b"an array"
    if kind == b'"':
        return b"a string"
    if kind == b't' or kind == b'f':
        return b"true or false"
    if kind == b'n':
        return b"null"
    return b"a number with a fraction or an exponent" if kind == b'd' else b"an integer"


cdef int wrong_element(const Conversion* data, uint8_t kind) noexcept nogil:
    cdef const Tensor* tensor = data.tensor
    cdef const char* wanted = b"integers"
    if tensor.datatype == DT_BYTES:
        wanted = b"strings"
    elif tensor.datatype == DT_BOOL:
        wanted = b"true, false, 0 and 1"
    elif tensor.datatype == DT_FP32 or tensor.datatype == DT_FP64:
        wanted = b"numbers"
    return fail(data.failure, INVALID_ARGUMENT, "input '%.*s': element %llu is %s, but %s takes %s", shown(tensor.name),
                <const char*>tensor.name.data, <unsigned long long>data.filled, kind_name(kind), datatype_name(tensor.datatype), wanted)


cdef int misshapen(const Conversion* data, const char* why) noexcept nogil:
    return fail(data.failure, INVALID_ARGUMENT, "input '%.*s': its shape asks for %llu elements, but its data %s",
                shown(data.tensor.name), <const char*>data.tensor.name.data, <unsigned long long>data.count, why)


cdef int convert_float(Conversion* data, size_t at, uint8_t kind) noexcept nogil:
    cdef double value
    cdef float narrow
    if kind == b'd':
        value = json_double(data.json, at)
    elif kind == b'l':
        value = <double><int64_t>data.json.tape[at + 1]
    elif kind == b'u':
        value = <double>data.json.tape[at + 1]
    else:
        return wrong_element(data, kind)
    if data.size == 8:
        memcpy(data.out, &value, 8)
        return 0
    narrow = <float>value
    if isinf(narrow) and not isinf(value):
        return fail(data.failure, INVALID_ARGUMENT, "input '%.*s': element %llu is %.9g, outside FP32's range of +-3.40282347e+38",
                    shown(data.tensor.name), <const char*>data.tensor.name.data, <unsigned long long>data.filled, value)
    memcpy(data.out, &narrow, 4)
    return 0


cdef int convert_integer(Conversion* data, size_t at, uint8_t kind) noexcept nogil:
    cdef uint64_t value = data.json.tape[at + 1]
    cdef bint negative = kind == b'l' and <int64_t>value < 0
    if kind != b'l' and kind != b'u':
        return wrong_element(data, kind)
    if <int64_t>value < data.lowest if negative else value > data.highest:
        return fail(data.failure, INVALID_ARGUMENT, "input '%.*s': element %llu is %s%llu, outside %s's range of %lld to %llu",
                    shown(data.tensor.name), <const char*>data.tensor.name.data, <unsigned long long>data.filled,
                    <const char*>b"-" if negative else <const char*>b"", <unsigned long long>(0 - value if negative else value),
                    datatype_name(data.tensor.datatype), <long long>data.lowest, <unsigned long long>data.highest)
    if data.size == 8:
        memcpy(data.out, &value, 8)
    elif data.size == 4:
        memcpy(data.out, &value, 4)
    elif data.size == 2:
        memcpy(data.out, &value, 2)
    else:
        data.out[0] = <uint8_t>value
    return 0


cdef int convert_bool(Conversion* data, size_t at, uint8_t kind) noexcept nogil:
    cdef bint is_bit = kind == b'l' and data.json.tape[at + 1] <= 1
    if kind != b't' and kind != b'f' and not is_bit:
        return wrong_element(data, kind)
    data.out[0] = kind == b't' or (is_bit and data.json.tape[at + 1] == 1)
    return 0


cdef int convert_bytes(Conversion* data, size_t at, uint8_t kind) noexcept nogil:
    cdef Slice text
    cdef uint32_t length
    if kind != b'"':
        return wrong_element(data, kind)
    text = json_text(data.json, at)
    length = <uint32_t>text.length
    memcpy(data.out, &length, 4)
    memcpy(data.out + 4, text.data, length)
    data.out += 4 + length
    return 0


cdef inline int convert_element(Conversion* data, size_t at, uint8_t kind) noexcept nogil:
    cdef int datatype = data.tensor.datatype
    if data.filled == data.count:
        return misshapen(data, b"has more")
    if datatype == DT_FP32 or datatype == DT_FP64:
        if convert_float(data, at, kind):
            return -1
    elif datatype == DT_BYTES:
        if convert_bytes(data, at, kind):
            return -1
    elif datatype == DT_BOOL:
        if convert_bool(data, at, kind):
            return -1
    elif convert_integer(data, at, kind):
        return -1
    data.out += data.size
    data.filled += 1
    return 0


cdef int64_t convert_array(Conversion* data, size_t at, int level) noexcept nogil:
    """Converts the array at `at`, arrays in it included: index behind it, or -1 and a failure. Recursion ends at the parser's depth."""
    cdef int64_t n = 0
    cdef uint8_t kind = json_kind(data.json, at + 1)
    if level == data.n_levels:
        data.lengths[level] = -1
        data.n_levels += 1
    if kind != b'[' and data.leaf_level < 0:
        data.leaf_level = level
    at += 1
    while kind != b']':
        if (kind == b'[') == (data.leaf_level == level):
            return misshapen(data, b"is nested unevenly")
        if kind == b'[':
            at = <size_t>convert_array(data, at, level + 1)
            if at == <size_t>-1:
                return -1
        else:
            if convert_element(data, at, kind):
                return -1
            at += 2 if is_number(kind) else 1
        n += 1
        kind = json_kind(data.json, at)
    if data.lengths[level] >= 0 and data.lengths[level] != n:
        return misshapen(data, b"has rows of different lengths")
    data.lengths[level] = n
    return <int64_t>at + 1


cdef size_t framed_size(const Json* json, size_t at) noexcept nogil:
    """Bytes of all strings in the value at `at`, each behind its length."""
    cdef size_t end = json_after(json, at), size = 0
    while at < end:
        if json_kind(json, at) == b'"':
            size += 4 + json_text(json, at).length
        at += 2 if is_number(json_kind(json, at)) else 1
    return size


cdef int check_nesting(const Conversion* data) noexcept nogil:
    """Data may be flat or nested in another way than the shape; when it has the shape's rank, it must have the shape."""
    cdef int level
    if data.filled != data.count:
        return misshapen(data, b"has fewer")
    for level in range(data.n_levels):
        if data.n_levels == data.tensor.rank and data.lengths[level] != data.tensor.shape[level]:
            return misshapen(data, b"is nested to another shape")
    return 0


cdef void set_range(Conversion* data) noexcept nogil:
    """Of an integer datatype of data.size bytes."""
    data.lowest, data.highest = 0, <uint64_t>-1 >> (64 - 8 * data.size)
    if DT_INT8 <= data.tensor.datatype <= DT_INT64:
        data.highest >>= 1
        data.lowest = -<int64_t>data.highest - 1


cdef int convert_data(const Json* json, size_t at, Arena* arena, Tensor* tensor, Failure* failure) noexcept nogil:
    cdef Conversion data
    data.json, data.tensor, data.failure = json, tensor, failure
    data.filled = data.n_levels = 0
    data.leaf_level = -1
    data.size = datatype_size(tensor.datatype)
    if data.size:
        set_range(&data)
    if tensor.datatype == DT_FP16 or tensor.datatype == DT_BF16:
        return fail(failure, INVALID_ARGUMENT, "input '%.*s': %s has no JSON form, send it as a binary tensor", shown(tensor.name),
                    <const char*>tensor.name.data, datatype_name(tensor.datatype))
    # A value takes a word of the tape or more: memory is bounded by what was received, whatever the shape claims.
    if element_count(tensor.shape, tensor.rank, &data.count) or data.count > json_after(json, at) - at:
        return fail(failure, INVALID_ARGUMENT, "input '%.*s': its shape asks for more elements than its data has", shown(tensor.name),
                    <const char*>tensor.name.data)
    tensor.nbytes = <size_t>data.count * data.size if data.size else framed_size(json, at)
    tensor.data = data.out = <uint8_t*>arena_alloc(arena, tensor.nbytes)
    if data.out == NULL:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    if json_kind(json, at) == b'[':
        return -1 if convert_array(&data, at, 0) < 0 else check_nesting(&data)
    if tensor.rank:
        return misshapen(&data, b"is no array")
    return convert_element(&data, at, json_kind(json, at))
