"""Host buffers of a batch and the ONNX Runtime values over them.

A tensor whose rows have a known size keeps one value per number of rows, so that a steady stream of runs creates nothing. Others get
a value per run. The library only ever sees our own aligned memory.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset
from posix.stdlib cimport posix_memalign

from serve._core.debug cimport count_copy
from serve._core.failure cimport INTERNAL, INVALID_ARGUMENT, UNAVAILABLE, Failure, fail
from serve._core.ort_api cimport (
    ALLOCATOR_ALLOC, ALLOCATOR_FREE, CREATE_TENSOR, CREATE_TENSOR_WITH_DATA, GET_DIMENSIONS, GET_DIMENSIONS_COUNT,
    GET_STRING_ELEMENT_BUFFER, GET_STRING_TENSOR_CONTENT, GET_STRING_TENSOR_DATA_LENGTH, GET_TENSOR_ELEMENT_TYPE,
    GET_TENSOR_MUTABLE_DATA, GET_TENSOR_TYPE_AND_SHAPE, RELEASE_TENSOR_TYPE_AND_SHAPE, RELEASE_VALUE, AllocatorAlloc, AllocatorFree,
    CreateFrom, CreateTensor, CreateTensorWithData, GetData, GetDimensions, GetInt, GetSize, GetStringContent,
    GetStringElementBuffer, Release)
from serve._core.ort_library cimport ort_allocator, ort_check
from serve._core.tensors cimport (
    DT_BOOL, DT_BYTES, MAX_RANK, Tensor, TensorSpec, datatype_size, element_count, onnx_from_datatype)

cdef enum:
    ALIGNMENT = 64
    LARGE_BUFFER = 16 << 20         # bytes; a buffer over it is given back when it has not been needed for a while
    SMALL_RUNS = 16                 # runs in a row that need less than a quarter of it
    EAGER_BUFFER = 1 << 20          # a buffer for the largest batch is taken at once when it is not larger

cdef extern from * nogil:
    """
    static int64_t headrace_live_values;
    static inline void headrace_count_value(int64_t n) { __atomic_fetch_add(&headrace_live_values, n, __ATOMIC_RELAXED); }
    static inline int64_t headrace_values(void) { return __atomic_load_n(&headrace_live_values, __ATOMIC_RELAXED); }
    // BOOL on the wire is a byte; anything but 0 and 1 in a C++ bool is undefined behaviour. Written so that it vectorises.
    static inline void headrace_normalise_bool(uint8_t *data, size_t n) {
        for (size_t i = 0; i < n; i++) data[i] = data[i] != 0;
    }
    """
    void count_value "headrace_count_value"(int64_t n)
    int64_t count_values "headrace_values"()
    void normalise_bool "headrace_normalise_bool"(uint8_t* data, size_t n)


cdef int64_t live_values() noexcept nogil:
    return count_values()


cdef void value_release(void** api, void* value) noexcept nogil:
    (<Release>api[RELEASE_VALUE])(value)
    count_value(-1)


cdef int batch_tensor_init(BatchTensor* tensor, const TensorSpec* spec, int64_t max_batch, HostMemory* memory) noexcept nogil:
    memset(tensor, 0, sizeof(BatchTensor))
    tensor.spec, tensor.memory = spec, memory
    tensor.onnx_type = onnx_from_datatype(spec.datatype)
    tensor.element_bytes = datatype_size(spec.datatype)
    tensor.batched, tensor.max_rows = max_batch > 0, max(max_batch, <int64_t>1)
    # Rank 0 may also mean that the model does not know: then what the run returns decides.
    tensor.fixed = spec.row_bytes > 0 and spec.rank > 0
    if not tensor.fixed:
        return 0
    tensor.values = <void**>calloc(tensor.max_rows + 1, sizeof(void*))
    return -1 if tensor.values == NULL else 0


cdef void drop_buffer(BatchTensor* tensor) noexcept nogil:
    """Give the buffer back, with every value over it."""
    cdef void** api = tensor.memory.api
    cdef Failure ignored
    cdef int64_t rows
    if tensor.values != NULL:
        for rows in range(tensor.max_rows + 1):
            if tensor.values[rows] != NULL:
                value_release(api, tensor.values[rows])
                tensor.values[rows] = NULL
    if tensor.memory.pinned == NULL:
        free(tensor.data)
    elif tensor.data != NULL:
        ort_check((<AllocatorFree>api[ALLOCATOR_FREE])(tensor.memory.pinned, tensor.data), &ignored)
    tensor.data = NULL
    tensor.capacity, tensor.n_small_runs = 0, 0


cdef void batch_tensor_free(BatchTensor* tensor) noexcept nogil:
    batch_tensor_release(tensor)
    drop_buffer(tensor)
    free(tensor.values)
    tensor.values = NULL


cdef void batch_tensor_release(BatchTensor* tensor) noexcept nogil:
    if tensor.owned:
        value_release(tensor.memory.api, tensor.value)
    tensor.value = NULL
    tensor.content = NULL
    tensor.offsets = NULL
    tensor.owned, tensor.nbytes, tensor.n_elements = False, 0, 0


cdef int take_buffer(BatchTensor* tensor, size_t capacity, Failure* failure) noexcept nogil:
    cdef void* block = NULL
    drop_buffer(tensor)
    if tensor.memory.pinned != NULL:
        if ort_check((<AllocatorAlloc>tensor.memory.api[ALLOCATOR_ALLOC])(tensor.memory.pinned, capacity, &block), failure):
            return -1
    elif posix_memalign(&block, ALIGNMENT, capacity):
        block = NULL
    if block == NULL:
        return fail(failure, UNAVAILABLE, "memory is out: %zu bytes for tensor '%.*s' of the batch", capacity,
                    <int>tensor.spec.name.length, tensor.spec.name.data)
    tensor.data, tensor.capacity = <uint8_t*>block, capacity
    return 0


cdef int reserve(BatchTensor* tensor, size_t needed, Failure* failure) noexcept nogil:
    """Room for `needed` bytes; what the buffer held is lost when it moves."""
    cdef size_t largest
    if needed <= tensor.capacity and tensor.data != NULL:
        if tensor.capacity <= LARGE_BUFFER or needed >= tensor.capacity // 4:
            tensor.n_small_runs = 0
            return 0
        tensor.n_small_runs += 1
        if tensor.n_small_runs < SMALL_RUNS:
            return 0
        return take_buffer(tensor, max(needed, <size_t>ALIGNMENT), failure)
    cdef size_t capacity = max(needed, <size_t>ALIGNMENT)
    if tensor.capacity < LARGE_BUFFER:
        capacity = max(capacity, 2 * tensor.capacity)
    if tensor.fixed:
        largest = tensor.spec.row_bytes * <size_t>tensor.max_rows
        capacity = largest if largest <= EAGER_BUFFER else min(capacity, largest)
    return take_buffer(tensor, capacity, failure)


cdef int value_over_data(BatchTensor* tensor, size_t nbytes, void** value, Failure* failure) noexcept nogil:
    cdef void** api = tensor.memory.api
    if ort_check((<CreateTensorWithData>api[CREATE_TENSOR_WITH_DATA])(
            tensor.memory.info, tensor.data, nbytes, tensor.shape, tensor.rank, tensor.onnx_type, value), failure):
        return -1
    count_value(1)
    return 0


cdef void fixed_shape(BatchTensor* tensor, int64_t rows_total) noexcept nogil:
    memcpy(tensor.shape, tensor.spec.shape, tensor.spec.rank * sizeof(int64_t))
    tensor.rank = tensor.spec.rank
    if tensor.batched:
        tensor.shape[0] = rows_total


cdef int kept_value(BatchTensor* tensor, int64_t rows_total, Failure* failure) noexcept nogil:
    """Set the value of so many rows, making it the first time. The buffer is reserved."""
    fixed_shape(tensor, rows_total)
    tensor.nbytes = tensor.spec.row_bytes * <size_t>rows_total
    if tensor.values[rows_total] == NULL and value_over_data(tensor, tensor.nbytes, &tensor.values[rows_total], failure):
        return -1
    tensor.value = tensor.values[rows_total]
    return 0


cdef int batch_tensor_prepare(BatchTensor* tensor, int64_t rows_total, Failure* failure) noexcept nogil:
    if reserve(tensor, tensor.spec.row_bytes * <size_t>rows_total, failure) or kept_value(tensor, rows_total, failure):
        return -1
    tensor.content = tensor.data
    return 0


cdef int shape_of_batch(BatchTensor* tensor, int index, Tensor*** inputs, const int64_t* rows, int count, int64_t rows_total,
                        uint64_t* row_elements, Failure* failure) noexcept nogil:
    """The first request's shape with all rows; every request must agree with it beyond the first dimension."""
    cdef const Tensor* tensor_of_first = inputs[0][index]
    cdef int first_dimension = 1 if tensor.batched else 0
    cdef const Tensor* given
    cdef int r, d
    tensor.rank = tensor_of_first.rank
    if tensor.rank > MAX_RANK or tensor.rank < first_dimension:
        return fail(failure, INTERNAL, "input '%.*s' has rank %d", <int>tensor.spec.name.length, tensor.spec.name.data, tensor.rank)
    memcpy(tensor.shape, tensor_of_first.shape, tensor.rank * sizeof(int64_t))
    if element_count(tensor.shape + first_dimension, tensor.rank - first_dimension, row_elements):
        return fail(failure, INVALID_ARGUMENT, "input '%.*s' is too large", <int>tensor.spec.name.length, tensor.spec.name.data)
    for r in range(count):
        given = inputs[r][index]
        if given.rank != tensor.rank or (tensor.batched and given.shape[0] != rows[r]):
            return fail(failure, INTERNAL, "requests of different shapes in one batch")
        for d in range(first_dimension, tensor.rank):
            if given.shape[d] != tensor.shape[d]:
                return fail(failure, INTERNAL, "requests of different shapes in one batch")
    if tensor.batched:
        tensor.shape[0] = rows_total
    return 0


cdef int check_rows(const BatchTensor* tensor, int index, Tensor*** inputs, const int64_t* rows, int count, size_t row_bytes,
                    Failure* failure) noexcept nogil:
    """Every request must hold the bytes of its rows: then the buffer is bounded by what came, not by a claimed shape."""
    cdef size_t nbytes
    cdef int r
    for r in range(count):
        nbytes = inputs[r][index].nbytes
        if nbytes != row_bytes * <size_t>(rows[r] if tensor.batched else 1):
            return fail(failure, INTERNAL, "input '%.*s' holds %zu bytes for %lld rows of %zu", <int>tensor.spec.name.length,
                        tensor.spec.name.data, nbytes, <long long>rows[r], row_bytes)
    return 0


cdef void copy_rows(BatchTensor* tensor, int index, Tensor*** inputs, int count) noexcept nogil:
    """The copy of the request path: each request's rows behind those of the one before."""
    cdef uint8_t* at = tensor.data
    cdef const Tensor* given
    cdef int r
    for r in range(count):
        given = inputs[r][index]
        if given.nbytes:
            memcpy(at, given.data, given.nbytes)
            count_copy(&tensor.memory.copied_bytes, given.nbytes)
            at += given.nbytes
    if tensor.spec.datatype == DT_BOOL:
        normalise_bool(tensor.data, at - tensor.data)


cdef int batch_tensor_gather(BatchTensor* tensor, int index, Tensor*** inputs, const int64_t* rows, int count, int64_t rows_total,
                             Failure* failure) noexcept nogil:
    cdef size_t row_bytes = tensor.spec.row_bytes
    cdef uint64_t row_elements = 0
    if not tensor.fixed:
        if shape_of_batch(tensor, index, inputs, rows, count, rows_total, &row_elements, failure):
            return -1
        if tensor.spec.datatype == DT_BYTES:
            return gather_strings(tensor, index, inputs, count, row_elements, rows_total, failure)
        if row_elements > inputs[0][index].nbytes:              # keeps the products below from wrapping
            return fail(failure, INTERNAL, "input '%.*s' does not hold the bytes of its shape", <int>tensor.spec.name.length,
                        tensor.spec.name.data)
        row_bytes = row_elements * tensor.element_bytes
    tensor.nbytes = row_bytes * <size_t>rows_total
    if check_rows(tensor, index, inputs, rows, count, row_bytes, failure) or reserve(tensor, tensor.nbytes, failure):
        return -1
    copy_rows(tensor, index, inputs, count)
    if tensor.fixed:
        return kept_value(tensor, rows_total, failure)
    if value_over_data(tensor, tensor.nbytes, &tensor.value, failure):
        return -1
    tensor.owned = True
    return 0


cdef int gather_strings(BatchTensor* tensor, int index, Tensor*** inputs, int count, uint64_t row_elements, int64_t rows_total,
                        Failure* failure) noexcept nogil:
    """Fill a string tensor from framed elements. It costs memory per element, so their number is checked against the bytes first."""
    cdef void** api = tensor.memory.api
    cdef size_t nbytes = 0
    cdef size_t element = 0
    cdef size_t n_elements
    cdef int r
    for r in range(count):
        nbytes += inputs[r][index].nbytes
    if row_elements > nbytes // sizeof(uint32_t) or row_elements * <uint64_t>rows_total > nbytes // sizeof(uint32_t):
        return torn_strings(tensor, failure)
    n_elements = row_elements * <size_t>rows_total
    if ort_check((<CreateTensor>api[CREATE_TENSOR])(
            ort_allocator(), tensor.shape, tensor.rank, tensor.onnx_type, &tensor.value), failure):
        return -1
    tensor.owned = True
    count_value(1)
    for r in range(count):
        if fill_strings(tensor, inputs[r][index], n_elements, &element, failure):
            return -1
    return 0 if element == n_elements else torn_strings(tensor, failure)


cdef int torn_strings(BatchTensor* tensor, Failure* failure) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "input '%.*s' does not hold the BYTES elements of its shape, each behind its length",
                <int>tensor.spec.name.length, tensor.spec.name.data)


cdef int fill_strings(BatchTensor* tensor, const Tensor* given, size_t n_elements, size_t* element, Failure* failure) noexcept nogil:
    cdef void** api = tensor.memory.api
    cdef const uint8_t* at = given.data
    cdef size_t left = given.nbytes
    cdef uint32_t length
    cdef char* place = NULL
    while left:
        if left < sizeof(length) or element[0] == n_elements:
            return torn_strings(tensor, failure)
        memcpy(&length, at, sizeof(length))
        at += sizeof(length)
        left -= sizeof(length)
        if length > left:
            return torn_strings(tensor, failure)
        if ort_check((<GetStringElementBuffer>api[GET_STRING_ELEMENT_BUFFER])(tensor.value, element[0], length, &place), failure):
            return -1
        if length:
            memcpy(place, at, length)
        at += length
        left -= length
        element[0] += 1
    return 0


cdef int read_shape(BatchTensor* tensor, Failure* failure) noexcept nogil:
    """Shape of the run's output from its value; its datatype must be the declared one."""
    cdef void** api = tensor.memory.api
    cdef void* info = NULL
    cdef size_t rank = 0
    cdef int onnx_type = 0
    if ort_check((<CreateFrom>api[GET_TENSOR_TYPE_AND_SHAPE])(tensor.value, &info), failure):
        return -1
    cdef int failed = (ort_check((<GetInt>api[GET_TENSOR_ELEMENT_TYPE])(info, &onnx_type), failure)
                       or ort_check((<GetSize>api[GET_DIMENSIONS_COUNT])(info, &rank), failure))
    if not failed and rank <= MAX_RANK:
        failed = ort_check((<GetDimensions>api[GET_DIMENSIONS])(info, tensor.shape, rank), failure)
    (<Release>api[RELEASE_TENSOR_TYPE_AND_SHAPE])(info)
    tensor.rank = <int>rank
    if failed:
        return -1
    if rank > MAX_RANK:
        return fail(failure, INTERNAL, "the model returned output '%.*s' with %zu dimensions; at most %d can be sent",
                    <int>tensor.spec.name.length, tensor.spec.name.data, rank, <int>MAX_RANK)
    if onnx_type != tensor.onnx_type:
        return fail(failure, INTERNAL, "the model returned output '%.*s' with another datatype than it declares",
                    <int>tensor.spec.name.length, tensor.spec.name.data)
    return 0


cdef void batch_tensor_adopt(BatchTensor* tensor, void* value) noexcept nogil:
    tensor.value, tensor.owned = value, True
    count_value(1)


cdef int batch_tensor_read(BatchTensor* tensor, int64_t rows_total, Failure* failure) noexcept nogil:
    cdef uint64_t count = 0
    cdef void* data = NULL
    if read_shape(tensor, failure):
        return -1
    if tensor.batched and (tensor.rank == 0 or tensor.shape[0] != rows_total):
        return fail(failure, INTERNAL, "the model returned output '%.*s' with %lld rows for a batch of %lld: it cannot be batched; "
                    "set max_batch_size to 0", <int>tensor.spec.name.length, tensor.spec.name.data,
                    <long long>(tensor.shape[0] if tensor.rank else 0), <long long>rows_total)
    if element_count(tensor.shape, tensor.rank, &count):
        return fail(failure, INTERNAL, "the model returned output '%.*s' with an impossible shape", <int>tensor.spec.name.length,
                    tensor.spec.name.data)
    if tensor.spec.datatype == DT_BYTES:
        return read_strings(tensor, count, failure)
    if ort_check((<GetData>tensor.memory.api[GET_TENSOR_MUTABLE_DATA])(tensor.value, &data), failure):
        return -1
    tensor.content, tensor.nbytes = <const uint8_t*>data, count * tensor.element_bytes
    return 0


cdef int read_strings(BatchTensor* tensor, size_t count, Failure* failure) noexcept nogil:
    """Frame the elements of a string tensor in the buffer, behind the table of their offsets."""
    cdef void** api = tensor.memory.api
    cdef size_t text_bytes = 0
    if ort_check((<GetSize>api[GET_STRING_TENSOR_DATA_LENGTH])(tensor.value, &text_bytes), failure):
        return -1
    cdef size_t table_bytes = (count + 1) * sizeof(size_t)
    cdef size_t nbytes = count * sizeof(uint32_t) + text_bytes
    if reserve(tensor, table_bytes + nbytes, failure):
        return -1
    cdef size_t* offsets = <size_t*>tensor.data
    cdef uint8_t* content = tensor.data + table_bytes
    # The text goes to the end of the buffer, from where each element moves down to behind its length: never over one that is to come.
    cdef uint8_t* text = content + count * sizeof(uint32_t)
    if count and ort_check((<GetStringContent>api[GET_STRING_TENSOR_CONTENT])(tensor.value, text, text_bytes, offsets, count), failure):
        return -1
    offsets[count] = text_bytes
    cdef size_t i, length
    cdef uint32_t prefix
    cdef uint8_t* at
    for i in range(count):
        length = offsets[i + 1] - offsets[i]
        if length > 0xFFFFFFFFu:
            return fail(failure, INTERNAL, "the model returned an element of output '%.*s' of over 4 GiB", <int>tensor.spec.name.length,
                        tensor.spec.name.data)
        prefix = <uint32_t>length
        at = content + offsets[i] + i * sizeof(uint32_t)
        memmove(at + sizeof(uint32_t), text + offsets[i], length)
        memcpy(at, &prefix, sizeof(uint32_t))
        offsets[i] += i * sizeof(uint32_t)
    offsets[count] = nbytes
    tensor.content, tensor.nbytes, tensor.offsets, tensor.n_elements = content, nbytes, offsets, count
    return 0


cdef void batch_tensor_cut(const BatchTensor* tensor, int64_t first, int64_t rows, Tensor* view) noexcept nogil:
    cdef size_t unit
    view.data, view.nbytes = tensor.content, tensor.nbytes
    if not tensor.batched:
        return
    if tensor.spec.datatype == DT_BYTES:
        unit = tensor.n_elements // <size_t>tensor.shape[0]
        view.data = tensor.content + tensor.offsets[<size_t>first * unit]
        view.nbytes = tensor.offsets[<size_t>(first + rows) * unit] - tensor.offsets[<size_t>first * unit]
        return
    unit = tensor.nbytes // <size_t>tensor.shape[0]
    view.data = tensor.content + <size_t>first * unit
    view.nbytes = <size_t>rows * unit
