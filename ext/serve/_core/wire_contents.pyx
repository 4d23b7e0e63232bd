from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serve._core.failure cimport INVALID_ARGUMENT, UNAVAILABLE, fail
from serve._core.memory cimport arena_alloc, slice_make
from serve._core.protobuf cimport (WIRE_BYTES, WIRE_FIXED32, WIRE_FIXED64, WIRE_VARINT, Cursor, cursor_of, get_bytes, get_key, get_varint,
                                   skip_field)
from serve._core.tensors cimport DT_BOOL, DT_INT8, DT_INT32, DT_UINT8, DT_UINT32, N_DATATYPES, datatype_name, datatype_size, shown

ctypedef const char* Name

cdef enum:
    CONTENTS_KEY = 5 << 3 | WIRE_BYTES      # InferInputTensor.contents
    N_FIELDS = 9

cdef enum Outcome:
    FINE = 0
    MALFORMED = 1
    FOREIGN = 2                     # elements in a field that is not the datatype's
    OUT_OF_RANGE = 3

# By field number of InferTensorContents; 0 is where data without such a field belongs.
cdef Name[N_FIELDS] FIELD_NAMES = [b"raw_input_contents", b"bool_contents", b"int_contents", b"int64_contents", b"uint_contents",
                                   b"uint64_contents", b"fp32_contents", b"fp64_contents", b"bytes_contents"]
cdef int[N_FIELDS] ELEMENT_WIRE_TYPE = [-1, WIRE_VARINT, WIRE_VARINT, WIRE_VARINT, WIRE_VARINT, WIRE_VARINT, WIRE_FIXED32,
                                        WIRE_FIXED64, WIRE_BYTES]
# By datatype: the field of its elements, 0 for none.
cdef int[N_DATATYPES] FIELD_OF = [0, 1, 4, 4, 4, 5, 2, 2, 2, 3, 0, 6, 7, 8, 0]

cdef struct Sink:
    int datatype
    int field                       # number in InferTensorContents
    size_t element_bytes            # 0: BYTES
    uint8_t* data                   # NULL while measuring
    size_t nbytes                   # measured or written so far
    int foreign_field
    int64_t misfit                  # the value that is out of range


cdef inline bint fits(int datatype, uint64_t* value, int64_t* number) noexcept nogil:
    """Read a varint as protobuf reads the datatype's field (32-bit fields drop what is above); False when it is out of range."""
    if datatype == DT_BOOL:
        value[0] = value[0] != 0
    elif DT_INT8 <= datatype <= DT_INT32:
        number[0] = <int32_t>value[0]
        value[0] = <uint64_t>number[0]
        return datatype == DT_INT32 or (-128 <= number[0] <= 127 if datatype == DT_INT8 else -32768 <= number[0] <= 32767)
    elif DT_UINT8 <= datatype <= DT_UINT32:
        number[0] = <uint32_t>value[0]
        value[0] = <uint64_t>number[0]
        return datatype == DT_UINT32 or number[0] <= (255 if datatype == DT_UINT8 else 65535)
    return True


cdef int take_varints(Sink* sink, Slice run) noexcept nogil:
    cdef Cursor cursor = cursor_of(run)
    cdef uint64_t value = 0
    cdef size_t i, elements = 0
    if sink.data == NULL:
        for i in range(run.length):
            elements += run.data[i] < 128
        sink.nbytes += elements * sink.element_bytes
        return MALFORMED if run.length and run.data[run.length - 1] >= 128 else FINE
    while cursor.at < cursor.end:
        if not get_varint(&cursor, &value):
            return MALFORMED
        if not fits(sink.datatype, &value, &sink.misfit):
            return OUT_OF_RANGE
        memcpy(sink.data + sink.nbytes, &value, sink.element_bytes)
        sink.nbytes += sink.element_bytes
    return FINE


cdef int take_run(Sink* sink, Slice run) noexcept nogil:
    """A packed run, a single element, or one BYTES element."""
    cdef uint32_t length = <uint32_t>run.length
    if ELEMENT_WIRE_TYPE[sink.field] == WIRE_VARINT:
        return take_varints(sink, run)
    if sink.element_bytes == 0:
        if sink.data != NULL:
            memcpy(sink.data + sink.nbytes, &length, 4)
        sink.nbytes += 4
    elif run.length % sink.element_bytes:
        return MALFORMED
    if sink.data != NULL and run.length:
        memcpy(sink.data + sink.nbytes, run.data, run.length)
    sink.nbytes += run.length
    return FINE


cdef int take_contents(Sink* sink, Slice contents) noexcept nogil:
    cdef Cursor cursor = cursor_of(contents)
    cdef uint32_t key = 0
    cdef uint32_t field
    cdef const uint8_t* first
    cdef Slice run
    cdef int outcome
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return MALFORMED
        field = key >> 3
        if field >= N_FIELDS or (key & 7 != WIRE_BYTES and key & 7 != <uint32_t>ELEMENT_WIRE_TYPE[field]):
            if not skip_field(&cursor, key):
                return MALFORMED
            continue
        first = cursor.at
        if key & 7 == WIRE_BYTES:
            if not get_bytes(&cursor, &run):
                return MALFORMED
        elif skip_field(&cursor, key):
            run = slice_make(first, <size_t>(cursor.at - first))
        else:
            return MALFORMED
        if field == <uint32_t>sink.field:
            outcome = take_run(sink, run)
            if outcome:
                return outcome
        elif run.length or ELEMENT_WIRE_TYPE[field] == WIRE_BYTES:
            sink.foreign_field = field
            return FOREIGN
    return FINE


cdef int take_all(Sink* sink, Slice message) noexcept nogil:
    cdef Cursor cursor = cursor_of(message)
    cdef uint32_t key = 0
    cdef Slice contents
    cdef int outcome
    sink.nbytes = 0
    while cursor.at < cursor.end:
        if not get_key(&cursor, &key):
            return MALFORMED
        if key != CONTENTS_KEY:
            if not skip_field(&cursor, key):
                return MALFORMED
            continue
        if not get_bytes(&cursor, &contents):
            return MALFORMED
        outcome = take_contents(sink, contents)
        if outcome:
            return outcome
    return FINE


cdef int refuse(int outcome, const Sink* sink, const Tensor* tensor, Slice model, Failure* failure) noexcept nogil:
    cdef const char* datatype = datatype_name(sink.datatype)
    cdef const char* field = FIELD_NAMES[sink.field]
    cdef const char* name = <const char*>tensor.name.data
    cdef int length = shown(tensor.name)
    if outcome == FOREIGN:
        return fail(failure, INVALID_ARGUMENT, "unexpected explicit tensor data for input '%.*s' of model '%.*s': %s has elements, but %s "
                    "data belongs in %s", length, name, shown(model), <const char*>model.data, FIELD_NAMES[sink.foreign_field], datatype,
                    field)
    if outcome == OUT_OF_RANGE:
        return fail(failure, INVALID_ARGUMENT, "value %lld in %s of input '%.*s' of model '%.*s' is out of range for %s",
                    <long long>sink.misfit, field, length, name, shown(model), <const char*>model.data, datatype)
    return fail(failure, INVALID_ARGUMENT, "malformed ModelInferRequest: contents of input '%.*s' are no valid protobuf", length, name)


cdef int decode_typed_contents(Slice message, Slice model, Arena* arena, Tensor* tensor, Failure* failure) noexcept nogil:
    cdef Sink sink
    cdef int outcome
    sink.datatype, sink.field, sink.element_bytes = tensor.datatype, FIELD_OF[tensor.datatype], datatype_size(tensor.datatype)
    sink.data = NULL
    sink.foreign_field, sink.misfit = 0, 0
    outcome = take_all(&sink, message)
    if outcome:
        return refuse(outcome, &sink, tensor, model, failure)
    tensor.data = NULL
    tensor.nbytes = 0
    if sink.nbytes == 0:
        return 0
    sink.data = <uint8_t*>arena_alloc(arena, sink.nbytes)
    if sink.data == NULL:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    outcome = take_all(&sink, message)
    if outcome:
        return refuse(outcome, &sink, tensor, model, failure)
    tensor.data, tensor.nbytes = sink.data, sink.nbytes
    return 0
