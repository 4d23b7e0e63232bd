from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen

from serve._core.failure cimport INVALID_ARGUMENT, OK, UNAVAILABLE, fail
from serve._core.memory cimport Slice, arena_alloc, arena_copy, arena_free, arena_reset, buffer_free, buffer_reserve, slice_make
from serve._core.protobuf cimport (WIRE_BYTES, WIRE_VARINT, Cursor, cursor_of, field_size, get_bytes, get_key, get_varint, is_utf8,
                                   put_bytes, put_header, put_varint, skip_field, varint_size)
from serve._core.tensors cimport DT_INVALID, MAX_RANK, MAX_TENSORS, RequestedOutput, Tensor, datatype_from_name, datatype_name, shown
from serve._core.wire_contents cimport decode_typed_contents
from serve._core.wire_parameters cimport take_request_parameter, take_tensor_parameter

cdef enum RequestKey:                # of ModelInferRequest, its InferInputTensor and InferRequestedOutputTensor
    REQUEST_MODEL_NAME = 1 << 3 | WIRE_BYTES
    REQUEST_MODEL_VERSION = 2 << 3 | WIRE_BYTES
    REQUEST_ID = 3 << 3 | WIRE_BYTES
    REQUEST_PARAMETERS = 4 << 3 | WIRE_BYTES
    REQUEST_INPUTS = 5 << 3 | WIRE_BYTES
    REQUEST_OUTPUTS = 6 << 3 | WIRE_BYTES
    REQUEST_RAW_INPUT_CONTENTS = 7 << 3 | WIRE_BYTES
    INPUT_NAME = 1 << 3 | WIRE_BYTES
    INPUT_DATATYPE = 2 << 3 | WIRE_BYTES
    INPUT_DIMENSION = 3 << 3 | WIRE_VARINT  # shape, not packed
    INPUT_SHAPE = 3 << 3 | WIRE_BYTES
    INPUT_PARAMETERS = 4 << 3 | WIRE_BYTES
    INPUT_CONTENTS = 5 << 3 | WIRE_BYTES
    OUTPUT_NAME = 1 << 3 | WIRE_BYTES
    OUTPUT_PARAMETERS = 2 << 3 | WIRE_BYTES

cdef enum ResponseField:             # of ModelInferResponse, its InferOutputTensor and ModelStreamInferResponse
    RESPONSE_MODEL_NAME = 1
    RESPONSE_MODEL_VERSION = 2
    RESPONSE_ID = 3
    RESPONSE_PARAMETERS = 4
    RESPONSE_OUTPUTS = 5
    RESPONSE_RAW_OUTPUT_CONTENTS = 6
    OUTPUT_TENSOR_NAME = 1
    OUTPUT_TENSOR_DATATYPE = 2
    OUTPUT_TENSOR_SHAPE = 3
    STREAM_ERROR_MESSAGE = 1
    STREAM_INFER_RESPONSE = 2

cdef struct Decoder:
    # One pass over a message. On the stack; the arrays are not cleared.
    const uint8_t* message
    Arena* arena
    InferRequest* request
    Failure* failure
    int n_raw
    Tensor[MAX_TENSORS] inputs
    Slice[MAX_TENSORS] typed        # the InferInputTensor when it has `contents`, else data is NULL
    RequestedOutput[MAX_TENSORS] outputs
    Slice[MAX_TENSORS] raw


cdef int malformed(Decoder* decoder, const uint8_t* at) noexcept nogil:
    return fail(decoder.failure, INVALID_ARGUMENT, "malformed ModelInferRequest: no valid protobuf at byte %zu",
                <size_t>(at - decoder.message))


cdef int take_text(Decoder* decoder, Slice content, const char* what, Slice* text) noexcept nogil:
    """A field of type string: UTF-8, or protobuf refuses the message. The last one wins."""
    text[0] = content
    return 0 if is_utf8(content) else fail(decoder.failure, INVALID_ARGUMENT, "malformed ModelInferRequest: the %s is not UTF-8", what)


# --- tensors ------------------------------------------------------------------------------------------------------------

cdef int decode_shape(Decoder* decoder, Slice dimensions, int64_t* shape, int* rank) noexcept nogil:
    """The varints of a packed field, or the one of an unpacked field."""
    cdef Cursor cursor = cursor_of(dimensions)
    cdef uint64_t size = 0
    while cursor.at < cursor.end:
        if not get_varint(&cursor, &size):
            return malformed(decoder, cursor.at)
        if rank[0] == MAX_RANK:
            return fail(decoder.failure, INVALID_ARGUMENT, "an input has more than %d dimensions", <int>MAX_RANK)
        shape[rank[0]] = <int64_t>size
        rank[0] += 1
    return 0


cdef int finish_input(Decoder* decoder, Tensor* tensor, Slice datatype, const int64_t* shape) noexcept nogil:
    cdef int d
    tensor.datatype = datatype_from_name(datatype)
    if tensor.datatype == DT_INVALID:
        return fail(decoder.failure, INVALID_ARGUMENT, "input '%.*s' has the unknown datatype '%.*s'", shown(tensor.name),
                    <const char*>tensor.name.data, shown(datatype), <const char*>datatype.data)
    tensor.shape = <int64_t*>arena_alloc(decoder.arena, tensor.rank * sizeof(int64_t))
    if tensor.shape == NULL:
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    for d in range(tensor.rank):
        if shape[d] < 0:
            return fail(decoder.failure, INVALID_ARGUMENT, "input '%.*s' has a negative dimension, %lld", shown(tensor.name),
                        <const char*>tensor.name.data, <long long>shape[d])
        tensor.shape[d] = shape[d]
    return 0


cdef int decode_input(Decoder* decoder, Slice message) noexcept nogil:
    """ModelInferRequest.InferInputTensor"""
    if decoder.request.n_inputs == MAX_TENSORS:
        return fail(decoder.failure, INVALID_ARGUMENT, "a request has at most %d inputs", <int>MAX_TENSORS)
    cdef int index = decoder.request.n_inputs
    cdef Tensor* tensor = &decoder.inputs[index]
    cdef Cursor cursor = cursor_of(message)
    cdef uint32_t key = 0
    cdef int64_t[MAX_RANK] shape
    cdef Slice datatype = slice_make(NULL, 0)
    cdef Slice content
    memset(tensor, 0, sizeof(Tensor))
    decoder.typed[index].data = NULL
    decoder.request.n_inputs += 1
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return malformed(decoder, cursor.at)
        if key & 7 != WIRE_BYTES:
            content.data = cursor.at
            if not skip_field(&cursor, key):
                return malformed(decoder, cursor.at)
            content.length = <size_t>(cursor.at - content.data)
        elif not get_bytes(&cursor, &content):
            return malformed(decoder, cursor.at)
        if key == INPUT_SHAPE or key == INPUT_DIMENSION:
            if decode_shape(decoder, content, shape, &tensor.rank):
                return -1
        elif key == INPUT_NAME or key == INPUT_DATATYPE:
            if take_text(decoder, content, "name or datatype of an input", &tensor.name if key == INPUT_NAME else &datatype):
                return -1
        elif key == INPUT_PARAMETERS:
            if take_tensor_parameter(content, NULL, decoder.failure):
                return -1
        elif key == INPUT_CONTENTS:
            decoder.typed[index] = message
    return finish_input(decoder, tensor, datatype, shape)


cdef int decode_output(Decoder* decoder, Slice message) noexcept nogil:
    """ModelInferRequest.InferRequestedOutputTensor"""
    if decoder.request.n_outputs == MAX_TENSORS:
        return fail(decoder.failure, INVALID_ARGUMENT, "a request names at most %d outputs", <int>MAX_TENSORS)
    cdef RequestedOutput* output = &decoder.outputs[decoder.request.n_outputs]
    cdef Cursor cursor = cursor_of(message)
    cdef uint32_t key = 0
    cdef Slice content
    memset(output, 0, sizeof(RequestedOutput))
    decoder.request.n_outputs += 1
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return malformed(decoder, cursor.at)
        if key == OUTPUT_NAME:
            if not get_bytes(&cursor, &content):
                return malformed(decoder, cursor.at)
            if take_text(decoder, content, "name of an output", &output.name):
                return -1
        elif key == OUTPUT_PARAMETERS:
            if not get_bytes(&cursor, &content):
                return malformed(decoder, cursor.at)
            if take_tensor_parameter(content, output, decoder.failure):
                return -1
        elif not skip_field(&cursor, key):
            return malformed(decoder, cursor.at)
    return 0


# --- the message --------------------------------------------------------------------------------------------------------

cdef int take_field(Decoder* decoder, uint32_t key, Slice content) noexcept nogil:
    """A length-delimited field of ModelInferRequest."""
    if key == REQUEST_RAW_INPUT_CONTENTS:
        if decoder.n_raw == MAX_TENSORS:
            return fail(decoder.failure, INVALID_ARGUMENT, "a request has at most %d raw_input_contents", <int>MAX_TENSORS)
        decoder.raw[decoder.n_raw] = content
        decoder.n_raw += 1
        return 0
    if key == REQUEST_INPUTS:
        return decode_input(decoder, content)
    if key == REQUEST_MODEL_NAME:
        return take_text(decoder, content, "model_name", &decoder.request.model_name)
    if key == REQUEST_OUTPUTS:
        return decode_output(decoder, content)
    if key == REQUEST_ID:
        return take_text(decoder, content, "id", &decoder.request.id)
    if key == REQUEST_PARAMETERS:
        return take_request_parameter(content, decoder.request, decoder.arena, decoder.failure)
    if key == REQUEST_MODEL_VERSION:
        return take_text(decoder, content, "model_version", &decoder.request.model_version)
    return 0


cdef int attach_data(Decoder* decoder) noexcept nogil:
    """Give each input its elements: the raw entry of its place, or its own typed contents."""
    cdef InferRequest* request = decoder.request
    cdef Slice model = request.model_name
    cdef Tensor* tensor
    cdef int i
    for i in range(request.n_inputs):
        tensor = &request.inputs[i]
        if decoder.typed[i].data == NULL:
            continue
        if decoder.n_raw:
            return fail(decoder.failure, INVALID_ARGUMENT, "contents field must not be specified when using raw_input_contents for "
                        "'%.*s' for model '%.*s'", shown(tensor.name), <const char*>tensor.name.data, shown(model), <const char*>model.data)
        if decode_typed_contents(decoder.typed[i], model, decoder.arena, tensor, decoder.failure):
            return -1
    if decoder.n_raw == 0:
        return 0
    if decoder.n_raw != request.n_inputs:
        return fail(decoder.failure, INVALID_ARGUMENT, "the number of raw_input_contents (%d) is not the number of inputs (%d) for model "
                    "'%.*s'", decoder.n_raw, request.n_inputs, shown(model), <const char*>model.data)
    for i in range(request.n_inputs):
        request.inputs[i].data, request.inputs[i].nbytes = decoder.raw[i].data, decoder.raw[i].length
    return 0


cdef int keep_arrays(Decoder* decoder) noexcept nogil:
    cdef InferRequest* request = decoder.request
    cdef size_t inputs = request.n_inputs * sizeof(Tensor)
    cdef size_t outputs = request.n_outputs * sizeof(RequestedOutput)
    request.inputs = <Tensor*>arena_alloc(decoder.arena, inputs)
    request.outputs = <RequestedOutput*>arena_alloc(decoder.arena, outputs)
    if request.inputs == NULL or request.outputs == NULL:
        return fail(decoder.failure, UNAVAILABLE, "the server is out of memory")
    memcpy(request.inputs, decoder.inputs, inputs)
    memcpy(request.outputs, decoder.outputs, outputs)
    return 0


cdef int wire_decode(const uint8_t* message, size_t length, Arena* arena, InferRequest* request, Failure* failure) noexcept nogil:
    """0; -1 with INVALID_ARGUMENT, NOT_IMPLEMENTED (shared memory) or UNAVAILABLE (memory is out).

    Names and raw tensors are views into `message`.
    """
    cdef Decoder decoder
    cdef Cursor cursor = cursor_of(slice_make(message, length))
    cdef uint32_t key = 0
    cdef Slice content
    memset(request, 0, sizeof(InferRequest))
    decoder.message, decoder.arena, decoder.request, decoder.failure, decoder.n_raw = message, arena, request, failure, 0
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return malformed(&decoder, cursor.at)
        if key & 7 != WIRE_BYTES:
            if not skip_field(&cursor, key):
                return malformed(&decoder, cursor.at)
            continue
        if not get_bytes(&cursor, &content):
            return malformed(&decoder, cursor.at)
        if take_field(&decoder, key, content):
            return -1
    request.has_id = request.id.length > 0
    if keep_arrays(&decoder):
        return -1
    return attach_data(&decoder)


# --- answers ------------------------------------------------------------------------------------------------------------

# An entry of map<string, InferParameter>: {key: "triton_final_response" value: {bool_param: true}}
cdef const char* FINAL_RESPONSE = b"\x0a\x15triton_final_response\x12\x02\x08\x01"

cdef enum:
    FINAL_RESPONSE_BYTES = 27


cdef inline size_t text_size(size_t length) noexcept nogil:
    """Of a string field; the empty string is left out."""
    return field_size(length) if length else 0


cdef inline uint8_t* put_text(uint8_t* at, int number, Slice text) noexcept nogil:
    return put_bytes(at, number, text.data, text.length) if text.length else at


cdef size_t shape_size(const Tensor* tensor) noexcept nogil:
    """Of the packed dimensions."""
    cdef size_t size = 0
    cdef int d
    for d in range(tensor.rank):
        size += varint_size(<uint64_t>tensor.shape[d])
    return size


cdef size_t output_size(const Tensor* tensor) noexcept nogil:
    return text_size(tensor.name.length) + field_size(strlen(datatype_name(tensor.datatype))) + text_size(shape_size(tensor))


cdef uint64_t response_size(const InferResponse* response) noexcept nogil:
    cdef uint64_t size = text_size(response.model_name.length) + text_size(response.model_version.length)
    cdef int i
    if response.has_id:
        size += text_size(response.id.length)
    if response.final_response:
        size += field_size(FINAL_RESPONSE_BYTES)
    for i in range(response.n_outputs):
        size += field_size(output_size(&response.outputs[i])) + field_size(response.outputs[i].nbytes)
    return size


cdef uint8_t* put_output(uint8_t* at, const Tensor* tensor) noexcept nogil:
    cdef const char* datatype = datatype_name(tensor.datatype)
    cdef size_t dimensions = shape_size(tensor)
    cdef int d
    at = put_header(at, RESPONSE_OUTPUTS, output_size(tensor))
    at = put_text(at, OUTPUT_TENSOR_NAME, tensor.name)
    at = put_bytes(at, OUTPUT_TENSOR_DATATYPE, datatype, strlen(datatype))
    if dimensions:
        at = put_header(at, OUTPUT_TENSOR_SHAPE, dimensions)
        for d in range(tensor.rank):
            at = put_varint(at, <uint64_t>tensor.shape[d])
    return at


cdef uint8_t* put_response(uint8_t* at, const InferResponse* response) noexcept nogil:
    cdef int i
    at = put_text(at, RESPONSE_MODEL_NAME, response.model_name)
    at = put_text(at, RESPONSE_MODEL_VERSION, response.model_version)
    if response.has_id:
        at = put_text(at, RESPONSE_ID, response.id)
    if response.final_response:
        at = put_bytes(at, RESPONSE_PARAMETERS, FINAL_RESPONSE, FINAL_RESPONSE_BYTES)
    for i in range(response.n_outputs):
        at = put_output(at, &response.outputs[i])
    for i in range(response.n_outputs):
        at = put_bytes(at, RESPONSE_RAW_OUTPUT_CONTENTS, response.outputs[i].data, response.outputs[i].nbytes)
    return at


cdef int wire_encode(const InferResponse* response, bint stream, Buffer* out) noexcept nogil:
    """-1 as well when the message would be over the 2 GiB that protobuf allows."""
    cdef uint64_t size = response_size(response)
    cdef uint64_t total = field_size(size) if stream else size
    cdef uint8_t* at
    if total > INT32_MAX or buffer_reserve(out, total):
        return -1
    at = out.data + out.length
    if stream:
        at = put_header(at, STREAM_INFER_RESPONSE, size)
    out.length = <size_t>(put_response(at, response) - out.data)
    return 0


cdef int wire_encode_stream_error(const char* text, Slice id, Buffer* out) noexcept nogil:
    """As in Triton, infer_response has nothing but the id, which tells the client whose error it is."""
    cdef size_t length = strlen(text)
    cdef size_t response = text_size(id.length)
    cdef uint8_t* at
    if buffer_reserve(out, field_size(length) + field_size(response)):
        return -1
    at = put_bytes(out.data + out.length, STREAM_ERROR_MESSAGE, text, length)
    if response:
        at = put_text(put_header(at, STREAM_INFER_RESPONSE, response), RESPONSE_ID, id)
    out.length = <size_t>(at - out.data)
    return 0


# --- For the tests: the same code paths, fed from Python objects --------------------------------------------------------

cdef class Scratch:
    """An arena and a buffer that die with their Python object."""
    cdef Arena arena
    cdef Buffer buffer

    def __dealloc__(self):
        arena_free(&self.arena)
        buffer_free(&self.buffer)

    cdef Slice copy(self, bytes data):
        return arena_copy(&self.arena, <const char*>data, len(data))


cdef bytes text_of(Slice text):
    return text.data[:text.length]


cdef dict decoded(const InferRequest* request):
    cdef const Tensor* tensor
    inputs = []
    for i in range(request.n_inputs):
        tensor = &request.inputs[i]
        data = None if tensor.data == NULL else tensor.data[:tensor.nbytes]
        inputs.append((text_of(tensor.name), datatype_name(tensor.datatype).decode(), [tensor.shape[d] for d in range(tensor.rank)], data))
    return {
        "model_name": text_of(request.model_name), "model_version": text_of(request.model_version), "id": text_of(request.id),
        "has_id": bool(request.has_id), "inputs": inputs,
        "outputs": [(text_of(request.outputs[i].name), request.outputs[i].n_classes) for i in range(request.n_outputs)],
        "timeout_us": request.timeout_us, "priority": request.priority, "empty_final_response": bool(request.empty_final_response),
    }


def decode_for_test(bytes message, int repeat=1):
    """wire_decode: a dict of the request, or (kind, text) when it is refused. repeat: for measuring."""
    cdef Scratch scratch = Scratch()
    # A block of exactly its size, so that a sanitizer sees reads past the end.
    cdef size_t length = len(message)
    cdef uint8_t* copy = <uint8_t*>malloc(length)
    cdef InferRequest request
    cdef Failure failure
    cdef int status = 0
    failure.kind = OK
    memcpy(copy, <const char*>message, length)
    try:
        with nogil:
            while repeat > 0:
                repeat -= 1
                arena_reset(&scratch.arena)
                status = wire_decode(copy, length, &scratch.arena, &request, &failure)
        return (failure.kind, (<bytes>failure.text).decode()) if status else decoded(&request)
    finally:
        free(copy)


def encode_for_test(bytes model_name, bytes model_version, request_id, list outputs, *, bint stream=False, bint final_response=False,
                    int repeat=1):
    """wire_encode of outputs (name, datatype name, shape, data) each; request_id None: not sent."""
    cdef Scratch scratch = Scratch()
    cdef InferResponse response
    cdef Slice data
    cdef int status = 0
    response.model_name, response.model_version = scratch.copy(model_name), scratch.copy(model_version)
    response.id, response.has_id = scratch.copy(request_id or b""), request_id is not None
    response.final_response, response.n_outputs = final_response, len(outputs)
    response.outputs = <Tensor*>arena_alloc(&scratch.arena, len(outputs) * sizeof(Tensor))
    for i, (name, datatype, shape, content) in enumerate(outputs):
        data = scratch.copy(content)
        response.outputs[i].name, response.outputs[i].datatype = scratch.copy(name), datatype_from_name(scratch.copy(datatype))
        response.outputs[i].data, response.outputs[i].nbytes, response.outputs[i].rank = data.data, data.length, len(shape)
        response.outputs[i].shape = <int64_t*>arena_alloc(&scratch.arena, len(shape) * sizeof(int64_t))
        for d, size in enumerate(shape):
            response.outputs[i].shape[d] = size
    with nogil:
        while repeat > 0:
            repeat -= 1
            scratch.buffer.length = 0
            status = wire_encode(&response, stream, &scratch.buffer)
    if status:
        raise MemoryError
    return scratch.buffer.data[:scratch.buffer.length]


def encode_stream_error_for_test(bytes text, bytes request_id=b""):
    cdef Scratch scratch = Scratch()
    if wire_encode_stream_error(text, scratch.copy(request_id), &scratch.buffer):
        raise MemoryError
    return scratch.buffer.data[:scratch.buffer.length]
