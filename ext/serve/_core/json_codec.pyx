"""Decoding walks simdjson's tape once and keeps nothing of it: names go to the arena, numbers are converted into it, binary tensors stay
views into the body. The wire form is the OIP's, with Triton's binary-tensor extension.
"""
from libc.stdint cimport INT32_MAX, INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from serve._core.failure cimport INVALID_ARGUMENT, NOT_IMPLEMENTED, OK, UNAVAILABLE, fail
from serve._core.json_data cimport convert_data, kind_name
from serve._core.json_tape cimport *
from serve._core.memory cimport Slice, arena_alloc, arena_copy, arena_free, arena_reset, slice_is, slice_make
from serve._core.parameters cimport boolean_text, number_text, parameter_keep
from serve._core.tensors cimport *

ctypedef const char* Name

cdef struct Decoder:
    # One body on its way into `request`. Everything is borrowed for the length of the call.
    Json json
    Arena* arena
    InferRequest* request
    Failure* failure
    const uint8_t* binary           # the next binary tensor
    size_t binary_left              # bytes from there to the end of the body


# --- values -------------------------------------------------------------------------------------------------------------

cdef int wrong_value(const Decoder* decoder, const char* what, const char* wanted, size_t at) noexcept nogil:
    return fail(decoder.failure, INVALID_ARGUMENT, "%s must be %s, not %s", what, wanted, kind_name(json_kind(&decoder.json, at)))


cdef int read_string(const Decoder* decoder, size_t at, const char* what, Slice* text) noexcept nogil:
    """The parser's strings die with its next document: the arena gets a copy."""
    if json_kind(&decoder.json, at) != b'"':
        return wrong_value(decoder, what, b"a string", at)
    text[0] = json_text(&decoder.json, at)
    text[0] = arena_copy(decoder.arena, text.data, text.length)
    return fail(decoder.failure, UNAVAILABLE, "the server is out of memory") if text.data == NULL else 0


cdef int read_count(const Decoder* decoder, size_t at, const char* what, uint64_t limit, uint64_t* value) noexcept nogil:
    cdef uint8_t kind = json_kind(&decoder.json, at)
    if kind != b'l' and kind != b'u':
        return wrong_value(decoder, what, b"an integer", at)
    value[0] = decoder.json.tape[at + 1]
    if kind == b'l' and <int64_t>value[0] < 0:
        return fail(decoder.failure, INVALID_ARGUMENT, "%s is %lld, but must not be negative", what, <long long>value[0])
    if value[0] > limit:
        return fail(decoder.failure, INVALID_ARGUMENT, "%s is %llu, over its limit of %llu", what, <unsigned long long>value[0],
                    <unsigned long long>limit)
    return 0


cdef int read_bool(const Decoder* decoder, size_t at, const char* what, bint* value) noexcept nogil:
    cdef uint8_t kind = json_kind(&decoder.json, at)
    value[0] = kind == b't'
    return 0 if kind == b't' or kind == b'f' else wrong_value(decoder, what, b"true or false", at)


cdef int read_fields(const Decoder* decoder, size_t at, const char* what, const Name* names, int n_names,
                     size_t* found) noexcept nogil:
    """found[i]: index of the value of names[i] in the object at `at`, 0: absent or null. Other names are ignored, as Triton does."""
    cdef size_t end
    cdef Slice name
    cdef int i
    memset(found, 0, n_names * sizeof(size_t))
    if json_kind(&decoder.json, at) != b'{':
        return wrong_value(decoder, what, b"an object", at)
    end = json_after(&decoder.json, at) - 1
    at += 1
    while at < end:
        name = json_text(&decoder.json, at)
        at += 1
        for i in range(n_names):
            if name.length and name.data[0] == <uint8_t>names[i][0] and slice_is(name, names[i], strlen(names[i])):
                if found[i]:
                    return fail(decoder.failure, INVALID_ARGUMENT, "'%s' appears more than once in %s", names[i], what)
                if json_kind(&decoder.json, at) != b'n':
                    found[i] = at
        at = json_after(&decoder.json, at)
    return 0


cdef int count_items(const Decoder* decoder, size_t at, const char* what, int limit) noexcept nogil:
    """Items of the array at `at`; -1 when it is none or has more than `limit`."""
    cdef size_t end
    cdef int count = 0
    if json_kind(&decoder.json, at) != b'[':
        return wrong_value(decoder, what, b"an array", at)
    end = json_after(&decoder.json, at) - 1
    at += 1
    while at < end:
        if count == limit:
            return fail(decoder.failure, INVALID_ARGUMENT, "%s has more than %d items, the limit", what, limit)
        count += 1
        at = json_after(&decoder.json, at)
    return count


# --- the request ----------------------------------------------------------------------------------------------------------

cdef bint starts_with(Slice text, const char* start, size_t length) noexcept nogil:
    return text.length >= length and slice_is(slice_make(text.data, length), start, length)


cdef bint is_unset(const Json* json, size_t at) noexcept nogil:
    """Whether a value says "not used": null, false, 0 or ""."""
    cdef uint8_t kind = json_kind(json, at)
    if kind == b'"':
        return json_text(json, at).length == 0
    return kind == b'n' or kind == b'f' or (kind == b'l' and json.tape[at + 1] == 0)


cdef inline bint is_sequence_name(Slice name) noexcept nogil:
    return slice_is(name, b"sequence_id", 11) or slice_is(name, b"sequence_start", 14) or slice_is(name, b"sequence_end", 12)


cdef int check_parameter(const Decoder* decoder, Slice name, size_t at) noexcept nogil:
    """Parameters of extensions that are not implemented must not be ignored. Others that we do not know are the client's own."""
    if starts_with(name, b"shared_memory_", 14):
        return fail(decoder.failure, NOT_IMPLEMENTED, "shared memory is not supported: send tensors in the request, without the parameter "
                    "'%.*s'", shown(name), <const char*>name.data)
    if is_sequence_name(name):
        if not is_unset(&decoder.json, at):
            return fail(decoder.failure, INVALID_ARGUMENT, "sequence batching is not supported: leave the parameter '%.*s' out",
                        shown(name), <const char*>name.data)
    if starts_with(name, b"triton_", 7) and not slice_is(name, b"triton_enable_empty_final_response", 34):
        return fail(decoder.failure, INVALID_ARGUMENT, "parameter keys starting with 'triton_' are reserved and should not be specified, "
                    "got '%.*s'", shown(name), <const char*>name.data)
    return 0


cdef int read_parameters(const Decoder* decoder, size_t at, const char* what, const Name* names, int n_names,
                         size_t* found) noexcept nogil:
    """Like read_fields, for a 'parameters' object; refuses what must not be ignored. at = 0: there is none."""
    cdef size_t end
    cdef Slice name
    memset(found, 0, n_names * sizeof(size_t))
    if at == 0:
        return 0
    if read_fields(decoder, at, what, names, n_names, found):
        return -1
    end = json_after(&decoder.json, at) - 1
    at += 1
    while at < end:
        name = json_text(&decoder.json, at)
        if check_parameter(decoder, name, at + 1):
            return -1
        at = json_after(&decoder.json, at + 1)
    return 0


cdef int keep_parameter(const Decoder* decoder, Slice name, size_t at) noexcept nogil:
    """A client's own, for routing: strings, integers and booleans, in copies that outlive the parser's."""
    cdef uint8_t kind = json_kind(&decoder.json, at)
    cdef Slice text
    cdef int status = 0
    if kind == b't' or kind == b'f':
        text = boolean_text(kind == b't')
    elif kind == b'l' or kind == b'u':
        status = number_text(decoder.arena, decoder.json.tape[at + 1], kind == b'l', &text)
    elif kind == b'"':
        text = json_text(&decoder.json, at)
        text = arena_copy(decoder.arena, text.data, text.length)
    else:
        return 0
    name = arena_copy(decoder.arena, name.data, name.length)
    if status or text.data == NULL or name.data == NULL or parameter_keep(decoder.request, decoder.arena, name, text):
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    return 0


cdef int keep_parameters(const Decoder* decoder, size_t at, const Name* names, int n_names) noexcept nogil:
    """Those of the object at `at` that are neither in names nor of an extension."""
    cdef size_t end = json_after(&decoder.json, at) - 1
    cdef Slice name
    cdef bint is_ours
    cdef int i
    at += 1
    while at < end and decoder.request.n_parameters < MAX_PARAMETERS:
        name = json_text(&decoder.json, at)
        is_ours = is_sequence_name(name)
        for i in range(n_names):
            is_ours = is_ours or slice_is(name, names[i], strlen(names[i]))
        if not is_ours and keep_parameter(decoder, name, at + 1):
            return -1
        at = json_after(&decoder.json, at + 1)
    return 0


cdef int decode_parameters(const Decoder* decoder, size_t at) noexcept nogil:
    cdef Name[4] names = [b"timeout", b"priority", b"binary_data_output", b"triton_enable_empty_final_response"]
    cdef size_t[4] found
    cdef uint64_t timeout_us = 0
    cdef InferRequest* request = decoder.request
    if read_parameters(decoder, at, b"'parameters'", names, 4, found):
        return -1
    if found[0] and read_count(decoder, found[0], b"parameter 'timeout'", INT64_MAX, &timeout_us):
        return -1
    request.timeout_us = <int64_t>timeout_us
    if found[1] and read_count(decoder, found[1], b"parameter 'priority'", UINT64_MAX, &request.priority):
        return -1
    if found[2] and read_bool(decoder, found[2], b"parameter 'binary_data_output'", &request.binary_default):
        return -1
    if found[3] and read_bool(decoder, found[3], b"parameter 'triton_enable_empty_final_response'", &request.empty_final_response):
        return -1
    return keep_parameters(decoder, at, names, 4) if at else 0


cdef int decode_shape(const Decoder* decoder, size_t at, Tensor* tensor) noexcept nogil:
    cdef uint64_t size
    cdef int d
    tensor.rank = count_items(decoder, at, b"the shape of an input", MAX_RANK)
    if tensor.rank < 0:
        return -1
    tensor.shape = <int64_t*>arena_alloc(decoder.arena, tensor.rank * sizeof(int64_t))
    if tensor.shape == NULL:
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    at += 1
    for d in range(tensor.rank):
        if read_count(decoder, at, b"a dimension of an input's shape", INT64_MAX, &size):
            return -1
        tensor.shape[d] = <int64_t>size
        at = json_after(&decoder.json, at)
    return 0


cdef int take_binary(Decoder* decoder, uint64_t size, Tensor* tensor) noexcept nogil:
    """The next `size` bytes behind the JSON. bind_request checks, for every protocol, that it is what shape and datatype ask for."""
    if size > decoder.binary_left:
        return fail(decoder.failure, INVALID_ARGUMENT, "input '%.*s': binary_data_size is %llu, but %zu bytes are left behind the JSON "
                    "(whose length the header Inference-Header-Content-Length tells)", shown(tensor.name), <const char*>tensor.name.data,
                    <unsigned long long>size, decoder.binary_left)
    tensor.data, tensor.nbytes = decoder.binary, <size_t>size
    decoder.binary += size
    decoder.binary_left -= size
    return 0


cdef int decode_input(Decoder* decoder, size_t at, Tensor* tensor) noexcept nogil:
    cdef Name[5] names = [b"name", b"shape", b"datatype", b"data", b"parameters"]
    cdef Name[1] parameter_names = [b"binary_data_size"]
    cdef size_t[5] found
    cdef size_t binary_size = 0
    cdef uint64_t size
    cdef Slice datatype
    memset(tensor, 0, sizeof(Tensor))
    if read_fields(decoder, at, b"an input", names, 5, found):
        return -1
    if found[0] == 0 or found[1] == 0 or found[2] == 0:
        return fail(decoder.failure, INVALID_ARGUMENT, "an input has no '%s'", names[0 if found[0] == 0 else 1 if found[1] == 0 else 2])
    if read_string(decoder, found[0], b"the name of an input", &tensor.name) or decode_shape(decoder, found[1], tensor):
        return -1
    if json_kind(&decoder.json, found[2]) != b'"':
        return wrong_value(decoder, b"the datatype of an input", b"a string", found[2])
    datatype = json_text(&decoder.json, found[2])
    tensor.datatype = datatype_from_name(datatype)
    if tensor.datatype == DT_INVALID:
        return fail(decoder.failure, INVALID_ARGUMENT, "input '%.*s': '%.*s' is no datatype; they are BOOL, UINT8 to UINT64, INT8 to "
                    "INT64, FP16, BF16, FP32, FP64 and BYTES", shown(tensor.name), <const char*>tensor.name.data, shown(datatype),
                    <const char*>datatype.data)
    if read_parameters(decoder, found[4], b"the parameters of an input", parameter_names, 1, &binary_size):
        return -1
    if (binary_size == 0) == (found[3] == 0):
        return fail(decoder.failure, INVALID_ARGUMENT, "input '%.*s' must have either 'data' or the parameter 'binary_data_size'",
                    shown(tensor.name), <const char*>tensor.name.data)
    if found[3]:
        return convert_data(&decoder.json, found[3], decoder.arena, tensor, decoder.failure)
    if read_count(decoder, binary_size, b"binary_data_size", UINT64_MAX, &size):
        return -1
    return take_binary(decoder, size, tensor)


cdef int decode_output(const Decoder* decoder, size_t at, RequestedOutput* output) noexcept nogil:
    cdef Name[2] names = [b"name", b"parameters"]
    cdef Name[2] parameter_names = [b"binary_data", b"classification"]
    cdef size_t[2] found, parameters
    cdef uint64_t n_classes = 0
    output.binary, output.n_classes = decoder.request.binary_default, 0
    if read_fields(decoder, at, b"an output", names, 2, found):
        return -1
    if found[0] == 0:
        return fail(decoder.failure, INVALID_ARGUMENT, "an output has no 'name'")
    if read_string(decoder, found[0], b"the name of an output", &output.name):
        return -1
    if read_parameters(decoder, found[1], b"the parameters of an output", parameter_names, 2, parameters):
        return -1
    if parameters[0] and read_bool(decoder, parameters[0], b"binary_data", &output.binary):
        return -1
    if parameters[1] and read_count(decoder, parameters[1], b"classification", INT32_MAX, &n_classes):
        return -1
    output.n_classes = <int>n_classes
    return 0


cdef int decode_inputs(Decoder* decoder, size_t at) noexcept nogil:
    cdef InferRequest* request = decoder.request
    cdef int i
    request.n_inputs = count_items(decoder, at, b"'inputs'", MAX_TENSORS)
    if request.n_inputs < 0:
        return -1
    request.inputs = <Tensor*>arena_alloc(decoder.arena, request.n_inputs * sizeof(Tensor))
    if request.inputs == NULL:
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    at += 1
    for i in range(request.n_inputs):
        if decode_input(decoder, at, &request.inputs[i]):
            return -1
        at = json_after(&decoder.json, at)
    return 0


cdef int decode_outputs(const Decoder* decoder, size_t at) noexcept nogil:
    cdef InferRequest* request = decoder.request
    cdef int i
    request.n_outputs = count_items(decoder, at, b"'outputs'", MAX_TENSORS)
    if request.n_outputs < 0:
        return -1
    request.outputs = <RequestedOutput*>arena_alloc(decoder.arena, request.n_outputs * sizeof(RequestedOutput))
    if request.outputs == NULL:
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    at += 1
    for i in range(request.n_outputs):
        if decode_output(decoder, at, &request.outputs[i]):
            return -1
        at = json_after(&decoder.json, at)
    return 0


cdef int decode_document(Decoder* decoder) noexcept nogil:
    """Parameters go first: what they say holds for the outputs, wherever they stand."""
    cdef Name[4] names = [b"id", b"parameters", b"inputs", b"outputs"]
    cdef size_t[4] found
    cdef InferRequest* request = decoder.request
    if read_fields(decoder, ROOT, b"the request", names, 4, found):
        return -1
    if found[0] and read_string(decoder, found[0], b"'id'", &request.id):
        return -1
    request.has_id = request.id.length > 0
    if decode_parameters(decoder, found[1]):
        return -1
    if found[2] == 0:
        return fail(decoder.failure, INVALID_ARGUMENT, "the request has no 'inputs'")
    if decode_inputs(decoder, found[2]):
        return -1
    if decoder.binary_left:
        return fail(decoder.failure, INVALID_ARGUMENT, "%zu bytes of the body are left behind its last binary tensor", decoder.binary_left)
    return decode_outputs(decoder, found[3]) if found[3] else 0


cdef int decode_raw_body(const uint8_t* body, size_t length, Arena* arena, InferRequest* request, Failure* failure) noexcept nogil:
    request.inputs = <Tensor*>arena_alloc(arena, sizeof(Tensor))
    if request.inputs == NULL:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    memset(request.inputs, 0, sizeof(Tensor))
    request.n_inputs, request.raw_body, request.binary_default = 1, True, True
    request.inputs[0].data, request.inputs[0].nbytes = body, length
    return 0


cdef int unreadable(int error, Failure* failure) noexcept nogil:
    if error == MEMALLOC:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    if error == DEPTH_ERROR:
        return fail(failure, INVALID_ARGUMENT, "the JSON is nested deeper than %d levels", <int>JSON_DEPTH)
    return fail(failure, INVALID_ARGUMENT, "the body cannot be read as JSON: %s", json_error_text(error))


cdef int json_decode(const uint8_t* body, size_t length, int64_t json_length, Arena* arena, InferRequest* request,
                     Failure* failure) noexcept nogil:
    cdef Decoder decoder
    cdef int status
    memset(request, 0, sizeof(InferRequest))
    if json_length == 0:
        return decode_raw_body(body, length, arena, request, failure)
    if json_length < -1 or (json_length > 0 and <uint64_t>json_length > length):
        return fail(failure, INVALID_ARGUMENT, "the header Inference-Header-Content-Length must be a number from 0 to the body's length of "
                    "%zu bytes", length)
    decoder.arena, decoder.request, decoder.failure = arena, request, failure
    decoder.binary_left = 0 if json_length < 0 else length - <size_t>json_length
    decoder.binary = body + (length - decoder.binary_left)
    status = json_read(body, length - decoder.binary_left, arena, &decoder.json)
    status = unreadable(status, failure) if status else decode_document(&decoder)
    json_release()
    return status


# --- For the tests: json_decode on Python bytes -------------------------------------------------------------------------

cdef uint8_t* padded(bytes body) except NULL:
    """A copy with exactly the spare bytes that json_decode may read, so that a sanitizer sees one more."""
    cdef uint8_t* copy = <uint8_t*>malloc(len(body) + JSON_PADDING)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>body, len(body))
    memset(copy + len(body), b'7', JSON_PADDING)
    return copy


cdef object told(const InferRequest* request):
    cdef const Tensor* t
    cdef const RequestedOutput* o
    inputs, outputs = [], []
    for i in range(request.n_inputs):
        t = &request.inputs[i]
        shape = [t.shape[d] for d in range(t.rank)]
        inputs.append((t.name.data[:t.name.length], datatype_name(t.datatype).decode(), shape, t.data[:t.nbytes]))
    for i in range(request.n_outputs):
        o = &request.outputs[i]
        outputs.append((o.name.data[:o.name.length], bool(o.binary), o.n_classes))
    return {"id": request.id.data[:request.id.length] if request.has_id else None, "inputs": inputs, "outputs": outputs,
            "binary_default": bool(request.binary_default), "raw_body": bool(request.raw_body), "timeout_us": request.timeout_us,
            "priority": request.priority, "empty_final_response": bool(request.empty_final_response)}


def decode_for_test(bytes body, int64_t json_length=-1, int repeat=1):
    """(fields of the InferRequest or None, kind and text of the failure, bytes of the arena). repeat: for measuring."""
    cdef Arena arena
    cdef InferRequest request
    cdef Failure failure
    cdef uint8_t* copy = padded(body)
    cdef size_t length = len(body)
    cdef int status = 0
    memset(&arena, 0, sizeof(Arena))
    try:
        with nogil:
            while status == 0 and repeat > 0:
                repeat -= 1
                arena_reset(&arena)
                status = json_decode(copy, length, json_length, &arena, &request, &failure)
        if status:
            return None, failure.kind, failure.text.decode(), arena.total
        return told(&request), OK, "", arena.total
    finally:
        arena_free(&arena)
        free(copy)
