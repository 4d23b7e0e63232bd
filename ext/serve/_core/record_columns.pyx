"""Records of one stream, taken apart into Arrow buffers.

An add holds every length of the record against the record's bytes, then reserves all room, and only then writes: a record is added whole
or not at all. Bitmaps, and the offsets of null texts, are written a run at a time and late: a column that is null in all rows, or in none,
costs a comparison a record.
"""
from libc.stdint cimport INT32_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

from serve._core.counters cimport counter_add, counter_read
from serve._core.failure cimport INTERNAL, OK
from serve._core.memory cimport slice_make
from serve._core.posix cimport now_ns
from serve._core.record cimport RECORD_HAS_UNIT, RecordedPart, RecordHeader, padded
from serve._core.record_buffers cimport *
from serve._core.record_column cimport *
from serve._core.record_values cimport *
from serve._core.tensors cimport (
    DT_BF16, DT_BOOL, DT_BYTES, DT_INVALID, MAX_RANK, MAX_TENSORS, datatype_from_name, datatype_size)

import math

from serve.errors import InvalidArgument

cdef enum:
    MAX_RECORD_ROWS = 1 << 20           # what no request has; bounds the room that a claim can take
    MAX_ROW_BYTES = 1 << 30             # of a fixed shape

cdef int[N_SCALARS] SCALAR_BYTES
SCALAR_BYTES[:] = [8, 8, 8, 4, 1, 2, 1, 8, 8, 4, 4, 4]


# --- a record, looked at ------------------------------------------------------------------------------------------------

cdef bint read_tensors(ColumnBuffers* buffers, const uint8_t* at, const uint8_t* end, int64_t rows) noexcept nogil:
    """Where each is; one that is not what the stream says is null. False: the record ends before they do."""
    cdef const RecordedPart* part
    cdef TensorColumn* tensor
    cdef int i
    for i in range(buffers.n_tensors):
        tensor = &buffers.tensors[i]
        if <size_t>(end - at) < sizeof(RecordedPart):
            return False
        part = <const RecordedPart*>at
        at += sizeof(RecordedPart)
        if tensor.has_dims:
            if part.n_dims < 0 or part.n_dims > MAX_RANK or <size_t>(end - at) < 8 * <size_t>part.n_dims:
                return False
            tensor.dims = <const int64_t*>at
            at += 8 * part.n_dims
        if part.nbytes > <size_t>(end - at) or padded(part.nbytes) > <size_t>(end - at):
            return False
        tensor.data, tensor.nbytes = at, part.nbytes
        at += padded(part.nbytes)
        tensor.is_null = part.is_left_out != 0 or not tensor_fits(tensor, part.n_dims, rows)
        buffers.malformed += tensor.is_null and part.is_left_out == 0
    return True


cdef bint read_texts(ColumnBuffers* buffers, const RecordHeader* record, int64_t rows) noexcept nogil:
    """Where each is. False: the record ends before they do, or they would not fit into all rows; all are empty then."""
    cdef const uint8_t* at = <const uint8_t*>(record + 1)
    cdef bint is_whole
    cdef int i
    buffers.texts[REQUEST_ID].length, buffers.texts[VARIANT].length = record.id_length, record.variant_length
    buffers.texts[TRACE_ID].length, buffers.texts[TAGS].length = record.trace_length, record.tags_length
    is_whole = record.length >= sizeof(RecordHeader) + padded(texts_length(buffers))
    for i in range(N_TEXTS):
        if not is_whole or rows * buffers.texts[i].length > INT32_MAX:
            buffers.texts[i].length = 0
            is_whole = False
        buffers.texts[i].text = at
        at += buffers.texts[i].length
    return is_whole


cdef inline int64_t texts_length(const ColumnBuffers* buffers) noexcept nogil:
    return (buffers.texts[REQUEST_ID].length + buffers.texts[VARIANT].length + buffers.texts[TRACE_ID].length + buffers.texts[TAGS].length)


# --- a record, written --------------------------------------------------------------------------------------------------

cdef void add_scalars(ColumnBuffers* buffers, const RecordHeader* record, bint failed, int error, int64_t rows) noexcept nogil:
    cdef int64_t n = buffers.n_rows
    cdef bint has_unit = record.flags & RECORD_HAS_UNIT != 0
    cdef int64_t i
    add_nulls(&buffers.units, not has_unit, n, rows)
    for i in range(n, n + rows):
        (<int64_t*>buffers.scalars[TS_NS].data)[i] = record.ts_ns
        (<uint64_t*>buffers.scalars[SEQ].data)[i] = record.seq + <uint64_t>(i - n)
        (<uint64_t*>buffers.scalars[BATCH_ID].data)[i] = record.batch_id
        (<int32_t*>buffers.scalars[ROW].data)[i] = -1 if failed else <int32_t>(i - n)
        buffers.scalars[PROTOCOL].data[i] = record.protocol
        (<int16_t*>buffers.scalars[STATUS].data)[i] = record.status
        (<int8_t*>buffers.scalars[ERROR].data)[i] = <int8_t>error
        (<uint64_t*>buffers.scalars[GENERATION].data)[i] = record.generation
        (<uint64_t*>buffers.scalars[UNIT].data)[i] = record.unit if has_unit else 0
        (<uint32_t*>buffers.scalars[QUEUE_US].data)[i] = min(record.queue_us, <uint32_t>INT32_MAX)
        (<uint32_t*>buffers.scalars[COMPUTE_US].data)[i] = min(record.compute_us, <uint32_t>INT32_MAX)
        (<uint32_t*>buffers.scalars[TOTAL_US].data)[i] = min(record.total_us, <uint32_t>INT32_MAX)


cdef int64_t look(ColumnBuffers* buffers, const RecordHeader* record, bint* failed, int* error) noexcept nogil:
    """As columns_look, and where everything is; the same for the same bytes, whoever looks and when."""
    cdef int64_t rows = 1 if record.rows == 0 else record.rows
    cdef bint is_whole = False
    cdef size_t at
    buffers.malformed = 0
    # More than 2^32 bytes are in no record, whose length is a uint32_t.
    if 0 < rows <= MAX_RECORD_ROWS and rows * buffers.row_bytes <= <int64_t>1 << 32:
        is_whole = read_texts(buffers, record, rows)
    if not is_whole:
        rows = 1
        read_texts(buffers, record, rows)
    at = sizeof(RecordHeader) + padded(texts_length(buffers))
    if is_whole and record.rows:
        is_whole = read_tensors(buffers, <const uint8_t*>record + at, <const uint8_t*>record + record.length, rows)
    buffers.malformed += not is_whole
    failed[0] = record.rows == 0 or not is_whole
    error[0] = INTERNAL if not is_whole and record.error == OK else record.error
    return rows if is_whole else 1


cdef int64_t columns_look(ColumnBuffers* buffers, const RecordHeader* record, uint64_t* malformed) noexcept nogil:
    cdef bint failed
    cdef int error
    cdef int64_t rows = look(buffers, record, &failed, &error)
    malformed[0] = buffers.malformed
    return rows


cdef int64_t columns_bytes(const ColumnBuffers* buffers, const RecordHeader* record, int64_t rows) noexcept nogil:
    cdef int64_t texts = texts_length(buffers)
    return max(record.length + (rows - 1) * texts, rows * (texts + buffers.row_bytes))


cdef int64_t columns_add(ColumnBuffers* buffers, const RecordHeader* record) noexcept nogil:
    cdef bint failed
    cdef int error
    cdef int64_t rows = look(buffers, record, &failed, &error)
    cdef int64_t n = buffers.n_rows
    cdef int64_t n_bytes = record.length + rows * texts_length(buffers)
    cdef int i
    if n > 0 and (n + rows > buffers.max_rows or buffers.n_bytes + n_bytes > MAX_BATCH_BYTES):
        buffers.is_full = True
        return 0
    if failed:
        for i in range(buffers.n_tensors):
            buffers.tensors[i].is_null = True
    if reserve_room(buffers, record.flags & RECORD_HAS_UNIT, rows):
        return -1
    if buffers.malformed:
        counter_add(&buffers.n_malformed, buffers.malformed)
    add_scalars(buffers, record, failed, error, rows)
    for i in range(N_TEXTS):
        add_text(&buffers.texts[i], n, rows)
    for i in range(buffers.n_tensors):
        add_tensor(&buffers.tensors[i], n, rows)
    buffers.n_rows += rows
    buffers.n_bytes += n_bytes
    return rows


# --- Python -------------------------------------------------------------------------------------------------------------

cdef void note_rows(ColumnBuffers* buffers, Growing* growing, size_t row_bits, size_t extra) noexcept nogil:
    buffers.row_buffers[buffers.n_row_buffers].growing = growing
    buffers.row_buffers[buffers.n_row_buffers].row_bits = row_bits
    buffers.row_buffers[buffers.n_row_buffers].extra = extra
    buffers.n_row_buffers += 1
    buffers.row_bytes += <int64_t>(row_bits >> 3)


cdef int open_tensor(TensorColumn* tensor, object spec) except -1:
    cdef bytes name = spec.datatype.encode()
    cdef int datatype = datatype_from_name(slice_make(<const char*>name, len(name)))
    cdef int n_dynamic = 0
    if datatype == DT_INVALID:
        raise InvalidArgument(f"{spec.column}: {spec.datatype!r} is no datatype")
    if len(spec.shape) > MAX_RANK:
        raise InvalidArgument(f"{spec.column} has {len(spec.shape)} dimensions; at most {MAX_RANK} can be recorded")
    tensor.stored = BITS if datatype == DT_BOOL else WIDENED if datatype == DT_BF16 else FRAMED if datatype == DT_BYTES else AS_IS
    tensor.item = datatype_size(datatype)
    tensor.item_bits = 1 if datatype == DT_BOOL else 32 if datatype == DT_BF16 else 8 * tensor.item
    elements = math.prod([max(size, 1) for size in spec.shape])
    if elements * max(tensor.item_bits, <size_t>32) > 8 * <size_t>MAX_ROW_BYTES:
        raise InvalidArgument(f"{spec.column}: a row of shape {list(spec.shape)} is too large to be recorded; leave it out")
    for size in spec.shape:
        tensor.shape[tensor.rank] = size
        tensor.rank += 1
        n_dynamic += size < 0
    tensor.row_elements = elements
    tensor.form = SHAPED if n_dynamic > 1 else LISTED if n_dynamic or 0 in spec.shape else PLAIN
    tensor.has_dims = n_dynamic > 0
    tensor.elements = tensor.row_elements if tensor.form == PLAIN else 0
    return 0


cdef void open_columns(ColumnBuffers* buffers) noexcept nogil:
    """What grows with the rows, and what may be null."""
    cdef TensorColumn* tensor
    cdef int i
    buffers.texts[TRACE_ID].is_nullable = buffers.texts[TAGS].is_nullable = True
    for i in range(N_SCALARS):
        note_rows(buffers, &buffers.scalars[i], 8 * SCALAR_BYTES[i], 0)
    for i in range(N_TEXTS):
        note_rows(buffers, &buffers.texts[i].offsets, 32, 4)
    for i in range(buffers.n_tensors):
        tensor = &buffers.tensors[i]
        if tensor.form != PLAIN:
            note_rows(buffers, &tensor.lists, 32, 4)
            if tensor.form == SHAPED:
                note_rows(buffers, &tensor.ranks, 32, 4)
        elif tensor.stored == FRAMED:
            note_rows(buffers, &tensor.offsets, 32 * <size_t>tensor.row_elements, 4)
        else:
            note_rows(buffers, &tensor.values, tensor.item_bits * <size_t>tensor.row_elements, 0)


cdef void free_columns(ColumnBuffers* buffers) noexcept nogil:
    each_growing(buffers, growing_free)
    free(buffers.tensors)
    free(buffers.row_buffers)
    free(buffers)


# --- to Python ----------------------------------------------------------------------------------------------------------

@cython.no_gc
cdef class ColumnBuffer:
    """Bytes that were a column's, read-only. The block becomes the column's spare when the last view of it is gone, in whatever thread."""
    cdef RecordColumns owner            # which `growing` is part of
    cdef Growing* growing
    cdef uint8_t* data
    cdef size_t length

    def __len__(self):
        return self.length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 1, flags)

    def __dealloc__(self):
        if self.data != NULL:
            growing_return(self.growing, self.data)


cdef int complete(ColumnBuffers* buffers) noexcept nogil:
    """What is written late, and a block for every buffer, however empty. 0, or -1 when memory is out (rows may still be added)."""
    cdef int64_t n = buffers.n_rows
    cdef TextColumn* column
    cdef TensorColumn* tensor
    cdef int i
    if buffers.row_capacity == 0 and grow_rows(buffers, 1):
        return -1
    end_nulls(&buffers.units, n)
    for i in range(N_TEXTS):
        column = &buffers.texts[i]
        if growing_reserve(&column.data, column.end, column.end):
            return -1
        repeat_offset(<int32_t*>column.offsets.data + column.filled, 0, n - column.filled)
        column.filled = n
        end_nulls(&column.nulls, n)
    for i in range(buffers.n_tensors):
        tensor = &buffers.tensors[i]
        tensor.is_null = True
        if reserve_tensor(tensor, n, 0):
            return -1
        end_nulls(&tensor.nulls, n)
    return 0


cdef void start_anew(ColumnBuffers* buffers) noexcept nogil:
    cdef TensorColumn* tensor
    cdef int i
    buffers.hint_rows = max(buffers.n_rows, buffers.hint_rows - buffers.hint_rows // 4)
    buffers.n_rows = buffers.row_capacity = buffers.n_bytes = 0
    buffers.is_full = False
    forget_nulls(&buffers.units)
    for i in range(N_TEXTS):
        buffers.texts[i].end, buffers.texts[i].filled = 0, 0
        forget_nulls(&buffers.texts[i].nulls)
    for i in range(buffers.n_tensors):
        tensor = &buffers.tensors[i]
        tensor.n_elements, tensor.n_bytes, tensor.n_sizes = 0, 0, 0
        forget_nulls(&tensor.nulls)


cdef ColumnBuffer give(RecordColumns owner, Growing* growing, size_t length):
    cdef ColumnBuffer buffer = ColumnBuffer.__new__(ColumnBuffer)
    buffer.owner, buffer.growing, buffer.length = owner, growing, length
    buffer.data = growing_give(growing, length)
    return buffer


cdef object give_bits(RecordColumns owner, Nulls* nulls):
    return None if nulls.count == 0 else give(owner, &nulls.bits, (owner.buffers.n_rows + 7) >> 3)


cdef tuple give_scalar(RecordColumns owner, int which):
    cdef ColumnBuffers* buffers = owner.buffers
    cdef ColumnBuffer values = give(owner, &buffers.scalars[which], buffers.n_rows * SCALAR_BYTES[which])
    if which == UNIT:
        return buffers.units.count, (give_bits(owner, &buffers.units), values)
    return 0, (None, values)


cdef tuple give_text(RecordColumns owner, int which):
    cdef TextColumn* column = &owner.buffers.texts[which]
    return column.nulls.count, (give_bits(owner, &column.nulls), give(owner, &column.offsets, 4 * (owner.buffers.n_rows + 1)),
                                give(owner, &column.data, column.end))


cdef tuple give_tensor(RecordColumns owner, TensorColumn* tensor):
    cdef int64_t n = owner.buffers.n_rows
    cdef int64_t elements = n * tensor.row_elements if tensor.form == PLAIN else tensor.n_elements
    cdef list given = [give_bits(owner, &tensor.nulls)]
    if tensor.form != PLAIN:
        given.append(give(owner, &tensor.lists, 4 * (n + 1)))
    if tensor.stored == FRAMED:
        given.append(give(owner, &tensor.offsets, 4 * (elements + 1)))
        given.append(give(owner, &tensor.values, tensor.n_bytes))
    else:
        given.append(give(owner, &tensor.values, (elements * tensor.item_bits + 7) >> 3))
    if tensor.form == SHAPED:
        given.append(give(owner, &tensor.ranks, 4 * (n + 1)))
        given.append(give(owner, &tensor.sizes, 8 * tensor.n_sizes))
    return tensor.nulls.count, tuple(given)


cdef class RecordColumns:
    """Buffers for the journal schema of `tensors`. max_rows: where they are full, less where rows are large; one record may have more."""

    def __cinit__(self, tuple tensors not None, int64_t max_rows=8192):
        cdef int i
        if max_rows < 1 or len(tensors) > 2 * MAX_TENSORS:
            raise InvalidArgument(f"{len(tensors)} tensors in batches of {max_rows} rows; at most {2 * MAX_TENSORS}, and a row or more")
        self.buffers = <ColumnBuffers*>calloc(1, sizeof(ColumnBuffers))
        if self.buffers == NULL:
            raise MemoryError
        self.buffers.tensors = <TensorColumn*>calloc(max(len(tensors), 1), sizeof(TensorColumn))
        self.buffers.row_buffers = <RowBuffer*>calloc(N_SCALARS + N_TEXTS + 2 * len(tensors), sizeof(RowBuffer))
        if self.buffers.tensors == NULL or self.buffers.row_buffers == NULL:
            raise MemoryError
        for i in range(len(tensors)):
            open_tensor(&self.buffers.tensors[i], tensors[i])
        self.buffers.n_tensors = <int>len(tensors)
        open_columns(self.buffers)
        self.buffers.max_rows = max(1, min(max_rows, MAX_BATCH_BYTES // self.buffers.row_bytes))

    def __dealloc__(self):
        if self.buffers != NULL:
            free_columns(self.buffers)

    @property
    def n_rows(self):
        return self.buffers.n_rows

    @property
    def is_full(self):
        return self.buffers.is_full

    @property
    def n_malformed(self):
        return counter_read(&self.buffers.n_malformed)

    def trim(self):
        self.buffers.hint_rows = 0
        return each_growing(self.buffers, growing_trim)

    def add(self, const uint8_t[::1] records not None, size_t start=0, int64_t n_rows=MAX_RECORD_ROWS):
        cdef const RecordHeader* record
        cdef size_t length = records.shape[0]
        cdef int64_t added = 1
        with nogil:
            while start < length and self.buffers.n_rows < n_rows:
                record = <const RecordHeader*>&records[start]
                if length - start < sizeof(RecordHeader) or record.length & 7 or (
                        not sizeof(RecordHeader) <= record.length <= length - start):
                    break
                added = columns_add(self.buffers, record)
                if added <= 0:
                    break
                start += record.length
        if added < 0:
            raise MemoryError
        if added and start < length and self.buffers.n_rows < n_rows:
            raise ValueError(f"no record at byte {start} of {length}")
        return start

    def take(self):
        """[(nulls, (bitmap or None, buffer, ...)), ...] for the columns of the journal schema; they start anew. Raises MemoryError."""
        if complete(self.buffers):
            raise MemoryError
        try:
            return [
                give_scalar(self, TS_NS), give_scalar(self, SEQ), give_scalar(self, BATCH_ID), give_scalar(self, ROW),
                give_text(self, REQUEST_ID), give_text(self, VARIANT), give_text(self, TRACE_ID), give_scalar(self, PROTOCOL),
                give_scalar(self, STATUS), give_scalar(self, ERROR), give_scalar(self, GENERATION), give_scalar(self, UNIT),
                give_scalar(self, QUEUE_US), give_scalar(self, COMPUTE_US), give_scalar(self, TOTAL_US), give_text(self, TAGS),
                *[give_tensor(self, &self.buffers.tensors[i]) for i in range(self.buffers.n_tensors)],
            ]
        finally:
            start_anew(self.buffers)


def add_for_test(RecordColumns columns not None, bytes record not None, int repeats=1):
    """(what columns_add gave last, mean nanoseconds) of adding these bytes, and none behind them, `repeats` times over."""
    cdef size_t length = len(record)
    cdef RecordHeader* copy = <RecordHeader*>malloc(length)
    cdef int64_t rows = 0
    cdef uint64_t start
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>record, length)
    with nogil:
        start = now_ns()
        for _ in range(repeats):
            rows = columns_add(columns.buffers, copy)
        start = now_ns() - start
    free(copy)
    return rows, start / <double>repeats
