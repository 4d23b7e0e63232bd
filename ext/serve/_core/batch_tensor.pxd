"""One input or output of a batch: its host buffer, the ONNX Runtime values over it, and copies in and out. One thread at a time."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from serve._core.failure cimport Failure
from serve._core.tensors cimport MAX_RANK, Tensor, TensorSpec

cdef struct HostMemory:
    # Where the buffers of a runner come from. Owned by the runner.
    void** api                      # ort_api()
    void* info                      # OrtMemoryInfo* of the buffers; borrowed on the CPU, owned when pinned
    void* pinned                    # OrtAllocator* of page-locked memory; NULL on the CPU: posix_memalign
    uint64_t copied_bytes           # debug builds: gathered

cdef struct BatchTensor:
    # Owned by its runner.
    const TensorSpec* spec          # the signature's
    HostMemory* memory              # the runner's
    int onnx_type
    size_t element_bytes            # 0: BYTES
    bint batched                    # the first dimension is the rows of the batch
    bint fixed                      # bytes of a row are known: values are kept, outputs are written straight into data
    int64_t max_rows                # 1 when not batched
    uint8_t* data                   # 64-byte aligned
    size_t capacity                 # bytes of data
    int n_small_runs                # in a row, that needed less than a quarter of a large buffer
    void** values                   # fixed: [max_rows + 1] OrtValue* over data by rows, made at first use; else NULL
    # Of the last run, until the next one.
    void* value                     # given to or got from the run; one of values, or owned
    bint owned
    int rank
    int64_t[MAX_RANK] shape         # of the whole batch
    const uint8_t* content          # output: its bytes on the host; BYTES are framed
    size_t nbytes
    const size_t* offsets           # output of BYTES: [elements + 1] where each begins in content; in data, too
    size_t n_elements               # output of BYTES

# -1: memory is out.
cdef int batch_tensor_init(BatchTensor* tensor, const TensorSpec* spec, int64_t max_batch, HostMemory* memory) noexcept nogil
cdef void batch_tensor_free(BatchTensor* tensor) noexcept nogil
# Copies input `index` of every request behind each other and makes the value. rows_total: sum of rows.
cdef int batch_tensor_gather(BatchTensor* tensor, int index, Tensor*** inputs, const int64_t* rows, int count, int64_t rows_total,
                             Failure* failure) noexcept nogil
# A fixed output's value for so many rows.
cdef int batch_tensor_prepare(BatchTensor* tensor, int64_t rows_total, Failure* failure) noexcept nogil
# Takes an output that the library allocated; read: its shape and content.
cdef void batch_tensor_adopt(BatchTensor* tensor, void* value) noexcept nogil
cdef int batch_tensor_read(BatchTensor* tensor, int64_t rows_total, Failure* failure) noexcept nogil
cdef void batch_tensor_release(BatchTensor* tensor) noexcept nogil      # forgets the run: releases its value unless it is kept
# Bytes of rows [first, first + rows) of an output; not batched: everything. The caller has checked the range.
cdef void batch_tensor_cut(const BatchTensor* tensor, int64_t first, int64_t rows, Tensor* view) noexcept nogil

cdef void value_release(void** api, void* value) noexcept nogil
cdef int64_t live_values() noexcept nogil                               # OrtValues made and not yet released, of the process
