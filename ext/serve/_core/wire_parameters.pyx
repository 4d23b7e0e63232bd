from libc.stdint cimport INT32_MAX, INT64_MAX, UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from serve._core.failure cimport INVALID_ARGUMENT, NOT_IMPLEMENTED, UNAVAILABLE, fail
from serve._core.memory cimport Slice, slice_is
from serve._core.parameters cimport boolean_text, number_text, parameter_keep
from serve._core.protobuf cimport (WIRE_BYTES, WIRE_FIXED64, WIRE_VARINT, Cursor, cursor_of, get_bytes, get_key, get_varint, is_utf8,
                                   skip_bytes, skip_field)
from serve._core.tensors cimport shown

cdef enum EntryKey:
    ENTRY_KEY = 1 << 3 | WIRE_BYTES
    ENTRY_VALUE = 2 << 3 | WIRE_BYTES

cdef enum ParameterKey:
    # InferParameter.parameter_choice; NO_VALUE when none is set.
    NO_VALUE = 0
    BOOL_PARAM = 1 << 3 | WIRE_VARINT
    INT64_PARAM = 2 << 3 | WIRE_VARINT
    STRING_PARAM = 3 << 3 | WIRE_BYTES
    DOUBLE_PARAM = 4 << 3 | WIRE_FIXED64
    UINT64_PARAM = 5 << 3 | WIRE_VARINT

cdef struct Parameter:
    Slice key
    uint32_t choice                 # ParameterKey
    uint64_t number                 # of bool_param, int64_param, uint64_param
    Slice text                      # of string_param


cdef int malformed(Failure* failure) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "malformed ModelInferRequest: a parameter is no valid protobuf")


cdef int decode_value(Slice value, Parameter* parameter, Failure* failure) noexcept nogil:
    """InferParameter: the last member of the oneof wins."""
    cdef Cursor cursor = cursor_of(value)
    cdef uint32_t key = 0
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return malformed(failure)
        if key == BOOL_PARAM or key == INT64_PARAM or key == UINT64_PARAM:
            if not get_varint(&cursor, &parameter.number):
                return malformed(failure)
        elif key == STRING_PARAM:
            if not get_bytes(&cursor, &parameter.text):
                return malformed(failure)
            if not is_utf8(parameter.text):
                return fail(failure, INVALID_ARGUMENT, "malformed ModelInferRequest: the string_param of a parameter is not UTF-8")
        elif key == DOUBLE_PARAM:
            if not skip_bytes(&cursor, 8):
                return malformed(failure)
        else:
            if not skip_field(&cursor, key):
                return malformed(failure)
            continue
        parameter.choice = key
    return 0


cdef int decode_parameter(Slice entry, Parameter* parameter, Failure* failure) noexcept nogil:
    """An entry of map<string, InferParameter>."""
    cdef Cursor cursor = cursor_of(entry)
    cdef uint32_t key = 0
    cdef Slice value
    memset(parameter, 0, sizeof(Parameter))
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return malformed(failure)
        if key == ENTRY_KEY:
            if not get_bytes(&cursor, &parameter.key):
                return malformed(failure)
            if not is_utf8(parameter.key):
                return fail(failure, INVALID_ARGUMENT, "malformed ModelInferRequest: the name of a parameter is not UTF-8")
        elif key == ENTRY_VALUE:
            if not get_bytes(&cursor, &value):
                return malformed(failure)
            if decode_value(value, parameter, failure):
                return -1
        elif not skip_field(&cursor, key):
            return malformed(failure)
    return 0


cdef inline bint starts_with(Slice text, const char* prefix, size_t length) noexcept nogil:
    return text.length >= length and memcmp(text.data, prefix, length) == 0


cdef int wrong_type(const Parameter* parameter, const char* wanted, Failure* failure) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "invalid value type for '%.*s' parameter, expected %s.", shown(parameter.key),
                <const char*>parameter.key.data, wanted)


cdef int take_number(const Parameter* parameter, uint64_t highest, uint64_t* number, Failure* failure) noexcept nogil:
    """A parameter that clients send as int64 or uint64 and that is never negative."""
    if parameter.choice != INT64_PARAM and parameter.choice != UINT64_PARAM:
        return wrong_type(parameter, "int64_param or uint64_param", failure)
    if parameter.choice == INT64_PARAM and parameter.number >> 63:
        return fail(failure, INVALID_ARGUMENT, "parameter '%.*s' must not be negative, got %lld", shown(parameter.key),
                    <const char*>parameter.key.data, <long long>parameter.number)
    if parameter.number > highest:
        return fail(failure, INVALID_ARGUMENT, "parameter '%.*s' must be at most %llu, got %llu", shown(parameter.key),
                    <const char*>parameter.key.data, <unsigned long long>highest, <unsigned long long>parameter.number)
    number[0] = parameter.number
    return 0


cdef inline bint is_sequence_key(Slice key) noexcept nogil:
    return slice_is(key, b"sequence_id", 11) or slice_is(key, b"sequence_start", 14) or slice_is(key, b"sequence_end", 12)


cdef int refuse_sequence(const Parameter* parameter, Failure* failure) noexcept nogil:
    """0, "" and false mean that there is no sequence."""
    if parameter.choice == NO_VALUE or parameter.choice == DOUBLE_PARAM:
        return wrong_type(parameter, "int64_param, string_param or bool_param", failure)
    if parameter.text.length if parameter.choice == STRING_PARAM else parameter.number:
        return fail(failure, INVALID_ARGUMENT, "sequence batching is not supported: leave the parameter '%.*s' out", shown(parameter.key),
                    <const char*>parameter.key.data)
    return 0


cdef int keep_parameter(const Parameter* parameter, InferRequest* request, Arena* arena, Failure* failure) noexcept nogil:
    """A client's own, for routing: strings, integers and booleans."""
    cdef Slice text = parameter.text
    cdef int status = 0
    if parameter.choice == NO_VALUE or parameter.choice == DOUBLE_PARAM:
        return 0
    if parameter.choice == BOOL_PARAM:
        text = boolean_text(parameter.number != 0)
    elif parameter.choice != STRING_PARAM:
        status = number_text(arena, parameter.number, parameter.choice == INT64_PARAM, &text)
    if status or parameter_keep(request, arena, parameter.key, text):
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    return 0


cdef int take_request_parameter(Slice entry, InferRequest* request, Arena* arena, Failure* failure) noexcept nogil:
    cdef Parameter parameter
    cdef uint64_t number = 0
    if decode_parameter(entry, &parameter, failure):
        return -1
    if slice_is(parameter.key, b"timeout", 7):
        if take_number(&parameter, INT64_MAX, &number, failure):
            return -1
        request.timeout_us = <int64_t>number
    elif slice_is(parameter.key, b"priority", 8):
        return take_number(&parameter, UINT64_MAX, &request.priority, failure)
    elif slice_is(parameter.key, b"triton_enable_empty_final_response", 34):
        if parameter.choice != BOOL_PARAM:
            return wrong_type(&parameter, "bool_param", failure)
        request.empty_final_response = parameter.number != 0
    elif is_sequence_key(parameter.key):
        return refuse_sequence(&parameter, failure)
    elif starts_with(parameter.key, b"triton_", 7):
        return fail(failure, INVALID_ARGUMENT, "parameter keys starting with 'triton_' are reserved and should not be specified, got "
                    "'%.*s'", shown(parameter.key), <const char*>parameter.key.data)
    else:
        return keep_parameter(&parameter, request, arena, failure)
    return 0


cdef int take_tensor_parameter(Slice entry, RequestedOutput* output, Failure* failure) noexcept nogil:
    """output: NULL for a parameter of an input."""
    cdef Parameter parameter
    cdef uint64_t number = 0
    if decode_parameter(entry, &parameter, failure):
        return -1
    if starts_with(parameter.key, b"shared_memory_", 14):
        return fail(failure, NOT_IMPLEMENTED, "shared memory is not supported: send tensors in the request, without the parameter '%.*s'",
                    shown(parameter.key), <const char*>parameter.key.data)
    if output != NULL and slice_is(parameter.key, b"classification", 14):
        if take_number(&parameter, INT32_MAX, &number, failure):
            return -1
        output.n_classes = <int>number
    return 0
