"""All columns of a batch of records: their buffers, and the room in them. Private to record_columns."""
from libc.stdint cimport int32_t, int64_t, uint64_t

from serve._core.record_column cimport *
from serve._core.record_values cimport Growing, growing_move, growing_reserve

cdef enum:
    LEAST_ROWS = 64

cdef enum:
    TS_NS, SEQ, BATCH_ID, ROW, PROTOCOL, STATUS, ERROR, GENERATION, UNIT, QUEUE_US, COMPUTE_US, TOTAL_US
    N_SCALARS

cdef enum:
    REQUEST_ID, VARIANT, TRACE_ID, TAGS
    N_TEXTS

cdef struct ColumnBuffers:
    int64_t n_rows
    int64_t max_rows
    int64_t row_capacity
    int64_t hint_rows
    int64_t n_bytes                     # as MAX_BATCH_BYTES counts
    int64_t row_bytes                   # that a row takes whatever is in it
    bint is_full                        # a record did not fit beside the rows
    uint64_t malformed                  # of the record that is being added
    uint64_t n_malformed                # a counter
    Growing[N_SCALARS] scalars
    Nulls units
    TextColumn[N_TEXTS] texts
    int n_tensors
    TensorColumn* tensors
    int n_row_buffers
    RowBuffer* row_buffers


cdef inline int grow_rows(ColumnBuffers* buffers, int64_t needed) noexcept nogil:
    cdef int64_t capacity = max(2 * buffers.row_capacity, max(buffers.hint_rows, <int64_t>LEAST_ROWS))
    cdef RowBuffer* buffer
    cdef int i
    capacity = max(needed, min(capacity, buffers.max_rows))
    for i in range(buffers.n_row_buffers):
        buffer = &buffers.row_buffers[i]
        if growing_move(buffer.growing, row_bytes(buffer, buffers.n_rows), row_bytes(buffer, capacity)):
            return -1
        if buffer.extra and buffers.n_rows == 0:
            (<int32_t*>buffer.growing.data)[0] = 0
    buffers.row_capacity = capacity
    return 0


cdef inline int reserve_room(ColumnBuffers* buffers, bint has_unit, int64_t rows) noexcept nogil:
    cdef int64_t n = buffers.n_rows
    cdef TextColumn* column
    cdef TensorColumn* tensor
    cdef int i
    if n + rows > buffers.row_capacity and grow_rows(buffers, n + rows):
        return -1
    if reserve_bits(&buffers.units, not has_unit, n, rows):
        return -1
    for i in range(N_TEXTS):
        column = &buffers.texts[i]
        if growing_reserve(&column.data, column.end, column.end + rows * column.length):
            return -1
        if column.is_nullable and reserve_bits(&column.nulls, column.length == 0, n, rows):
            return -1
    for i in range(buffers.n_tensors):
        tensor = &buffers.tensors[i]
        if (tensor.form != PLAIN or tensor.stored == FRAMED or tensor.is_null or tensor.nulls.count) and reserve_tensor(tensor, n, rows):
            return -1
    return 0


cdef inline size_t each_growing(ColumnBuffers* buffers, GrowingAction action) noexcept nogil:
    cdef size_t total = action(&buffers.units.bits)
    cdef int i
    for i in range(N_SCALARS):
        total += action(&buffers.scalars[i])
    for i in range(N_TEXTS):
        total += each_of_text(&buffers.texts[i], action)
    for i in range(buffers.n_tensors):
        total += each_of_tensor(&buffers.tensors[i], action)
    return total
