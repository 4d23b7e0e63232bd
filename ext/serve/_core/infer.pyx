from libc.math cimport isnan
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from serve._core.compression cimport IDENTITY, deflate_all
from serve._core.failure cimport INTERNAL, INVALID_ARGUMENT, fail
from serve._core.guard cimport Guard, guard_check
from serve._core.json_codec cimport json_decode, json_encode
from serve._core.memory cimport Buffer, arena_alloc, buffer_empty, buffer_free, buffer_reserve
from serve._core.model_table cimport ModelEntry, snapshot_find
from serve._core.posix cimport htonl
from serve._core.router cimport route_request
from serve._core.runner cimport runner_slice
from serve._core.tensors cimport *
from serve._core.version cimport GRPC, Version
from serve._core.wire cimport wire_decode, wire_encode

cdef enum:
    COMPRESS_FROM = 1024            # bytes of body: below, gzip costs more than it saves
    CLASS_TEXT = 64                 # "<value>:<index>" without the label
    GRPC_PREFIX = 5


cdef int infer_decode(Request* request, const Snapshot* snapshot, Slice model, Slice number, int64_t json_length, const Field* fields,
                      uint64_t* random, int thread) noexcept nogil:
    cdef InferRequest* infer = &request.infer
    cdef const ModelEntry* entry
    cdef int status
    if request.protocol == GRPC:
        status = wire_decode(request.message, request.message_length, &request.arena, infer, &request.failure)
        model, number = infer.model_name, infer.model_version
    else:
        status = json_decode(request.message, request.message_length, json_length, &request.arena, infer, &request.failure)
    if status:
        return -1
    entry = snapshot_find(snapshot, model, &request.failure)
    if entry == NULL or route_request(request, entry, number, fields, random, thread):
        return -1
    model = request.version.model                       # NUL-terminated by its owner
    if bind_request(request.version.signature, infer, <const char*>model.data, &request.arena, &request.binding, &request.failure):
        return -1
    if request.version.guard == NULL:
        return 0
    return guard_check(<const Guard*>request.version.guard, request.version.signature, &request.binding, <const char*>model.data,
                       &request.failure)


# --- classification (the classification extension of the protocol) ------------------------------------------------------

cdef double value_at(const Tensor* tensor, size_t index) noexcept nogil:
    cdef const uint8_t* at = tensor.data + index * datatype_size(tensor.datatype)
    cdef float f
    cdef double d
    cdef int32_t i32
    cdef int64_t i64
    cdef uint64_t u64
    cdef uint32_t u32
    cdef uint16_t u16
    cdef int16_t i16
    if tensor.datatype == DT_FP32:
        memcpy(&f, at, 4)
        return f
    if tensor.datatype == DT_FP64:
        memcpy(&d, at, 8)
        return d
    if tensor.datatype == DT_INT32:
        memcpy(&i32, at, 4)
        return i32
    if tensor.datatype == DT_INT64:
        memcpy(&i64, at, 8)
        return <double>i64
    if tensor.datatype == DT_UINT64:
        memcpy(&u64, at, 8)
        return <double>u64
    if tensor.datatype == DT_UINT32:
        memcpy(&u32, at, 4)
        return u32
    if tensor.datatype == DT_INT16:
        memcpy(&i16, at, 2)
        return i16
    if tensor.datatype == DT_UINT16:
        memcpy(&u16, at, 2)
        return u16
    if tensor.datatype == DT_INT8:
        return <int8_t>at[0]
    return at[0]


cdef int append_class(const Tensor* scores, size_t row, size_t index, size_t width, const Slice* labels, int n_labels,
                      uint8_t* out) noexcept nogil:
    """One framed element "<value>:<index>[:<label>]"; returns its bytes. The caller made room."""
    cdef double value = value_at(scores, row * width + index)
    cdef int n
    cdef uint32_t length
    if scores.datatype == DT_FP32 or scores.datatype == DT_FP64:
        n = snprintf(<char*>out + 4, CLASS_TEXT, b"%f:%zu", value, index)
    else:
        n = snprintf(<char*>out + 4, CLASS_TEXT, b"%.0f:%zu", value, index)
    n = min(n, <int>CLASS_TEXT - 1)
    if index < <size_t>n_labels:
        out[4 + n] = 58
        memcpy(out + 5 + n, labels[index].data, labels[index].length)
        n += 1 + <int>labels[index].length
    length = <uint32_t>n
    memcpy(out, &length, 4)
    return 4 + n


cdef size_t label_room(const Slice* labels, int n_labels) noexcept nogil:
    cdef size_t longest = 0
    cdef int i
    for i in range(n_labels):
        longest = max(longest, labels[i].length)
    return longest


cdef bint is_better(const Tensor* scores, size_t row, size_t a, size_t b) noexcept nogil:
    """Higher first, NaN last, the lower index first among equals."""
    cdef double x = value_at(scores, row + a)
    cdef double y = value_at(scores, row + b)
    if isnan(x) or isnan(y):
        return isnan(y) and (not isnan(x) or a < b)
    return x > y or (x == y and a < b)


cdef void sift_down(const Tensor* scores, size_t row, size_t* heap, size_t n, size_t at) noexcept nogil:
    """Restore the heap below `at`: the worst on top."""
    cdef size_t child
    cdef size_t moved = heap[at]
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and is_better(scores, row, heap[child], heap[child + 1]):
            child += 1
        if not is_better(scores, row, moved, heap[child]):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


cdef void best_classes(const Tensor* scores, size_t row, size_t width, size_t* best, size_t n) noexcept nogil:
    """Indices of the n best of `width` values from `row` on, best first, in O(width log n): a heap of the n best so far, then sorted."""
    cdef size_t i
    cdef size_t worst
    for i in range(n):
        best[i] = i
    i = n // 2
    while i > 0:
        i -= 1
        sift_down(scores, row, best, n, i)
    for i in range(n, width):
        if is_better(scores, row, i, best[0]):
            best[0] = i
            sift_down(scores, row, best, n, 0)
    i = n
    while i > 1:
        i -= 1
        worst = best[0]
        best[0] = best[i]
        best[i] = worst
        sift_down(scores, row, best, i, 0)


cdef int classify(Request* request, Tensor* scores, int n_classes, const Slice* labels, int n_labels, int64_t* shape) noexcept nogil:
    """Replace `scores`, a view of [rows, ...] (or [...] when the model is not batched), by its best classes, best first."""
    cdef uint64_t total
    cdef size_t rows = <size_t>request.binding.rows if request.version.signature.max_batch else 1
    cdef size_t width, row, i, element
    cdef uint8_t* out
    cdef size_t* best
    cdef size_t used = 0
    if scores.datatype in (DT_BYTES, DT_BOOL, DT_FP16, DT_BF16):
        return fail(&request.failure, INVALID_ARGUMENT, b"classification of output '%.*s': not of datatype %s", shown(scores.name),
                    <const char*>scores.name.data, datatype_name(scores.datatype))
    if element_count(scores.shape, scores.rank, &total) or rows == 0:
        return fail(&request.failure, INTERNAL, b"classification: no rows")
    width = <size_t>total // rows
    n_classes = <int>min(<size_t>n_classes, width)
    element = 4 + CLASS_TEXT + 1 + label_room(labels, n_labels)
    out = <uint8_t*>arena_alloc(&request.arena, rows * <size_t>n_classes * element)
    best = <size_t*>arena_alloc(&request.arena, <size_t>n_classes * sizeof(size_t))
    if out == NULL or best == NULL:
        return fail(&request.failure, INTERNAL, b"out of memory")
    for row in range(rows):
        best_classes(scores, row * width, width, best, <size_t>n_classes)
        for i in range(<size_t>n_classes):
            used += append_class(scores, row, best[i], width, labels, n_labels, out + used)
    scores.datatype = DT_BYTES
    scores.data, scores.nbytes = out, used
    scores.shape = shape
    scores.rank = 0
    if request.version.signature.max_batch:
        shape[0] = <int64_t>rows
        scores.rank = 1
    shape[scores.rank] = n_classes
    scores.rank += 1
    return 0


# --- the answer ---------------------------------------------------------------------------------------------------------

cdef int frame_grpc(Request* request, const InferResponse* response) noexcept nogil:
    cdef uint32_t length
    if buffer_reserve(&request.reply, GRPC_PREFIX):
        return fail(&request.failure, INTERNAL, b"out of memory")
    request.reply.length = GRPC_PREFIX
    if wire_encode(response, request.stream, &request.reply):
        return fail(&request.failure, INTERNAL, b"out of memory")
    length = htonl(<uint32_t>(request.reply.length - GRPC_PREFIX))
    request.reply.data[0] = 0
    memcpy(request.reply.data + 1, &length, 4)
    return 0


cdef int body_http(Request* request, const InferResponse* response) noexcept nogil:
    cdef Buffer packed
    if json_encode(response, &request.reply, &request.reply_json_length, &request.failure):
        return -1
    request.reply_encoding = IDENTITY
    if request.accept_encoding > IDENTITY and request.reply.length >= COMPRESS_FROM:
        packed = buffer_empty()
        if deflate_all(request.accept_encoding, request.reply.data, request.reply.length, &packed):
            buffer_free(&packed)
            return fail(&request.failure, INTERNAL, b"out of memory")
        buffer_free(&request.reply)
        request.reply = packed
        request.reply_encoding = request.accept_encoding
    return 0


cdef int infer_encode(Request* request, Runner* runner, int64_t first) noexcept nogil:
    cdef const Version* version = request.version
    cdef int n = request.infer.n_outputs if request.infer.n_outputs else version.signature.n_outputs
    cdef Tensor* outputs = <Tensor*>arena_alloc(&request.arena, n * sizeof(Tensor))
    cdef int64_t* shapes = <int64_t*>arena_alloc(&request.arena, <size_t>n * 2 * MAX_RANK * sizeof(int64_t))
    cdef InferResponse response
    cdef int i, index
    request.reply.length = 0
    if outputs == NULL or shapes == NULL:
        return fail(&request.failure, INTERNAL, b"out of memory")
    for i in range(n):
        index = request.binding.output_index[i] if request.infer.n_outputs else i
        if runner_slice(runner, index, first, request.binding.rows, shapes + 2 * i * MAX_RANK, &outputs[i], &request.failure):
            return -1
        outputs[i].binary = request.infer.binary_default
        if request.infer.n_outputs:
            outputs[i].binary = request.binding.outputs[i].binary
            if request.binding.outputs[i].n_classes > 0 and classify(
                    request, &outputs[i], request.binding.outputs[i].n_classes, version.class_labels[index], version.n_labels[index],
                    shapes + (2 * i + 1) * MAX_RANK):
                return -1
    response.model_name, response.model_version = version.model, version.number
    response.id, response.has_id = request.infer.id, request.infer.has_id
    response.n_outputs, response.outputs = n, outputs
    response.final_response = request.stream and request.infer.empty_final_response
    return frame_grpc(request, &response) if request.protocol == GRPC else body_http(request, &response)
