"""Numbers are written as Python's json writes them: the shortest text that reads back as the same value, floats with a point or an
exponent, NaN, Infinity and -Infinity bare. Strings are UTF-8; what JSON cannot carry is refused with the advice to ask for binary data.
"""
from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from serve._core.failure cimport INTERNAL, INVALID_ARGUMENT, OK, UNAVAILABLE, fail
from serve._core.json_tape cimport NUMBER_ROOM, is_utf8, put_number
from serve._core.memory cimport Slice, buffer_append, buffer_free, buffer_reserve, slice_make, slice_of
from serve._core.tensors cimport *

cdef enum:
    CHUNK = 512                     # numbers for which room is made at once

ctypedef fused Float:
    float
    double


cdef inline int put(Buffer* out, const char* text) noexcept nogil:
    return buffer_append(out, text, strlen(text))


# --- strings ------------------------------------------------------------------------------------------------------------

cdef int put_escaped(Buffer* out, uint8_t byte) noexcept nogil:
    """A byte that JSON does not take as it is."""
    cdef const char* hexadecimal = b"0123456789abcdef"
    cdef uint8_t[6] text
    cdef size_t length = 2
    memcpy(text, b"\\u0000", 6)
    if byte == b'"' or byte == b'\\':
        text[1] = byte
    elif byte == b'\n':
        text[1] = b'n'
    elif byte == b'\t':
        text[1] = b't'
    elif byte == b'\r':
        text[1] = b'r'
    else:
        length = 6
        text[4], text[5] = hexadecimal[byte >> 4], hexadecimal[byte & 15]
    return buffer_append(out, text, length)


cdef int put_string(Buffer* out, Slice text) noexcept nogil:
    """UTF-8, quoted."""
    cdef size_t i, done = 0
    cdef uint8_t byte
    if put(out, b'"'):
        return -1
    for i in range(text.length):
        byte = text.data[i]
        if byte < 0x20 or byte == b'"' or byte == b'\\':
            if buffer_append(out, text.data + done, i - done) or put_escaped(out, byte):
                return -1
            done = i + 1
    if buffer_append(out, text.data + done, text.length - done):
        return -1
    return put(out, b'"')


cdef int put_name(Buffer* out, Slice text) noexcept nogil:
    """Like put_string, for what may come from a URL or a message: where it is not UTF-8, each byte beyond ASCII becomes a question mark."""
    cdef size_t start = out.length, i
    if put_string(out, text):
        return -1
    if not is_utf8(text.data, text.length):
        for i in range(start, out.length):
            if out.data[i] >= 0x80:
                out.data[i] = b'?'
    return 0


# --- elements -----------------------------------------------------------------------------------------------------------

cdef inline char* put_word(char* at, const char* word, size_t length) noexcept nogil:
    memcpy(at, word, length)
    return at + length


cdef char* put_float(char* at, Float value) noexcept nogil:
    cdef char* end
    if isnan(value):
        return put_word(at, b"NaN", 3)
    if isinf(value):
        return put_word(at, b"Infinity", 8) if value > 0 else put_word(at, b"-Infinity", 9)
    end = put_number(at, value)
    while at < end:
        if at[0] == b'.' or at[0] == b'e':
            return end
        at += 1
    return put_word(end, b".0", 2)          # digits alone would read back as an integer


cdef inline int64_t load_signed(const uint8_t* data, size_t size) noexcept nogil:
    cdef int64_t value = 0
    memcpy(<uint8_t*>&value + 8 - size, data, size)
    return value >> (64 - 8 * size)


cdef inline uint64_t load_unsigned(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t value = 0
    memcpy(&value, data, size)
    return value


cdef char* put_element(char* at, int datatype, const uint8_t* data, size_t size) noexcept nogil:
    """A number or truth value, at most NUMBER_ROOM bytes; the end of it."""
    cdef float single
    cdef double wide
    if datatype == DT_FP32:
        memcpy(&single, data, 4)
        return put_float(at, single)
    if datatype == DT_FP64:
        memcpy(&wide, data, 8)
        return put_float(at, wide)
    if datatype == DT_BOOL:
        return put_word(at, b"true", 4) if data[0] else put_word(at, b"false", 5)
    if DT_INT8 <= datatype <= DT_INT64:
        return put_number(at, load_signed(data, size))
    return put_number(at, load_unsigned(data, size))


cdef int put_numbers(Buffer* out, const Tensor* tensor) noexcept nogil:
    cdef size_t size = datatype_size(tensor.datatype), n = tensor.nbytes // size, i
    cdef char* at
    for i in range(n):
        if i % CHUNK == 0 and buffer_reserve(out, min(n - i, <size_t>CHUNK) * (NUMBER_ROOM + 1)):
            return -1
        at = <char*>out.data + out.length
        if i:
            at[0] = b','
            at += 1
        at = put_element(at, tensor.datatype, tensor.data + i * size, size)
        out.length = <size_t>(at - <char*>out.data)
    return 0


cdef int put_strings(Buffer* out, const Tensor* tensor, Failure* failure) noexcept nogil:
    cdef size_t at = 0
    cdef uint32_t length
    while at < tensor.nbytes:
        if tensor.nbytes - at < 4:
            return fail(failure, INTERNAL, "an output's strings are torn")
        memcpy(&length, tensor.data + at, 4)
        at += 4
        if length > tensor.nbytes - at:
            return fail(failure, INTERNAL, "an output's strings are torn")
        if not is_utf8(tensor.data + at, length):
            return fail(failure, INVALID_ARGUMENT, "output '%.*s' has bytes that are not UTF-8 and so no JSON form: ask for it with the "
                        "parameter binary_data", shown(tensor.name), <const char*>tensor.name.data)
        if (at > 4 and put(out, b",")) or put_string(out, slice_make(tensor.data + at, length)):
            return fail(failure, UNAVAILABLE, "the server is out of memory")
        at += length
    return 0


# --- the answer ---------------------------------------------------------------------------------------------------------

cdef int put_integer(Buffer* out, uint64_t value) noexcept nogil:
    cdef char* end
    if buffer_reserve(out, NUMBER_ROOM):
        return -1
    end = put_number(<char*>out.data + out.length, value)
    out.length = <size_t>(end - <char*>out.data)
    return 0


cdef int put_head(Buffer* out, const Tensor* tensor) noexcept nogil:
    """Everything about an output but its elements."""
    cdef int d
    if (put(out, b'{"name":') or put_name(out, tensor.name) or put(out, b',"datatype":"') or put(out, datatype_name(tensor.datatype))
            or put(out, b'","shape":[')):
        return -1
    for d in range(tensor.rank):
        if (d and put(out, b",")) or put_integer(out, <uint64_t>tensor.shape[d]):
            return -1
    if tensor.binary:
        return -1 if put(out, b'],"parameters":{"binary_data_size":') or put_integer(out, tensor.nbytes) or put(out, b"}}") else 0
    return put(out, b'],"data":[')


cdef int put_output(Buffer* out, const Tensor* tensor, Failure* failure) noexcept nogil:
    if not tensor.binary and (tensor.datatype == DT_FP16 or tensor.datatype == DT_BF16):
        return fail(failure, INVALID_ARGUMENT, "output '%.*s' is %s, which has no JSON form: ask for it with the parameter binary_data",
                    shown(tensor.name), <const char*>tensor.name.data, datatype_name(tensor.datatype))
    if put_head(out, tensor):
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    if tensor.binary:
        return 0
    if tensor.datatype == DT_BYTES:
        if put_strings(out, tensor, failure):
            return -1
    elif put_numbers(out, tensor):
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    return fail(failure, UNAVAILABLE, "the server is out of memory") if put(out, b"]}") else 0


cdef int put_names(Buffer* out, const InferResponse* response) noexcept nogil:
    if put(out, b"{") or (response.has_id and (put(out, b'"id":') or put_name(out, response.id) or put(out, b","))):
        return -1
    if put(out, b'"model_name":') or put_name(out, response.model_name) or put(out, b',"model_version":'):
        return -1
    if put_name(out, response.model_version) or put(out, b',"outputs":['):
        return -1
    return 0


cdef int put_response(const InferResponse* response, Buffer* out, int64_t* header_length, Failure* failure) noexcept nogil:
    cdef size_t start = out.length, json_end
    cdef int i
    if put_names(out, response):
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    for i in range(response.n_outputs):
        if i and put(out, b","):
            return fail(failure, UNAVAILABLE, "the server is out of memory")
        if put_output(out, &response.outputs[i], failure):
            return -1
    if put(out, b"]}"):
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    json_end = out.length
    for i in range(response.n_outputs):
        if response.outputs[i].binary and buffer_append(out, response.outputs[i].data, response.outputs[i].nbytes):
            return fail(failure, UNAVAILABLE, "the server is out of memory")
    # As in Triton: without a byte behind it, the JSON is the whole body, though it may name binary outputs of size 0.
    header_length[0] = <int64_t>(json_end - start) if out.length > json_end else -1
    return 0


cdef int json_encode(const InferResponse* response, Buffer* out, int64_t* header_length, Failure* failure) noexcept nogil:
    cdef size_t start = out.length
    if put_response(response, out, header_length, failure):
        out.length = start
        return -1
    return 0


cdef int json_encode_error(const char* text, Buffer* out) noexcept nogil:
    if put(out, b'{"error":') or put_name(out, slice_make(text, strlen(text))):
        return -1
    return put(out, b"}")


# --- For the tests: the same on Python objects --------------------------------------------------------------------------

def encode_for_test(model_name, model_version, request_id, list outputs, bytes before=b"", int repeat=1):
    """outputs: (name, datatype name, shape, data, binary) each, names and id as bytes; before: what the buffer holds.

    (the buffer, header_length, kind and text of the failure). repeat: for measuring.
    """
    cdef InferResponse response
    cdef Tensor[MAX_TENSORS] tensors
    cdef int64_t[MAX_TENSORS][MAX_RANK] shapes
    cdef Buffer out
    cdef Failure failure
    cdef int64_t header_length = 0
    cdef int i, status = 0
    cdef size_t start = len(before)
    memset(&response, 0, sizeof(response))
    memset(&out, 0, sizeof(out))
    response.model_name, response.model_version = slice_of(model_name), slice_of(model_version)
    response.has_id = request_id is not None
    if response.has_id:
        response.id = slice_make(<const char*>request_id, len(request_id))
    response.outputs, response.n_outputs = tensors, len(outputs)
    for i, (name, datatype, shape, data, binary) in enumerate(outputs):
        tensors[i].name, tensors[i].datatype = slice_make(<const char*>name, len(name)), datatype_from_name(slice_of(datatype))
        tensors[i].data, tensors[i].nbytes, tensors[i].binary = <const uint8_t*><const char*>data, len(data), binary
        tensors[i].shape, tensors[i].rank = shapes[i], len(shape)
        for d, size in enumerate(shape):
            shapes[i][d] = size
    try:
        buffer_append(&out, <const char*>before, start)
        with nogil:
            while status == 0 and repeat > 0:
                repeat -= 1
                out.length = start
                status = json_encode(&response, &out, &header_length, &failure)
        if status:
            return out.data[:out.length], header_length, failure.kind, failure.text.decode()
        return out.data[:out.length], header_length, OK, ""
    finally:
        buffer_free(&out)


def encode_error_for_test(bytes text):
    cdef Buffer out
    memset(&out, 0, sizeof(out))
    try:
        if json_encode_error(text, &out):
            raise MemoryError
        return out.data[:out.length]
    finally:
        buffer_free(&out)
