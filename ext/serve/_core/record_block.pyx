"""Blocks of records: bytes out of the rings that a journal takes as they are.

To take a request apart into columns costs more than to write it down, and can wait for whoever reads: the keeper when it seals, a query,
the statistics for the rows that they draw; where a stream is redacted, the recorder, before it writes. Here a record is only held against
what its stream says.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo

from serve._core.counters cimport counter_add, counter_read
from serve._core.posix cimport map_pages, unmap_pages
from serve._core.record cimport RecordHeader
from serve._core.record_columns cimport MAX_BATCH_BYTES, RecordColumns, columns_bytes, columns_look

cdef enum:
    PAGE_BYTES = 4096
    FRAME_HEAD = 32                     # of serve.recording.frames
    FRAME_REST = 2 * PAGE_BYTES         # what follows up to a disk's block: a filler, whose own head may not fit into the first

# A huge page, with what is around the records; streams of few rows do with less.
BLOCK_BYTES = (2 << 20) - 3 * PAGE_BYTES
cdef size_t SMALL_BYTES = 64 << 10


cdef inline size_t pages_for(size_t records) noexcept nogil:
    return (FRAME_HEAD + records + FRAME_REST + PAGE_BYTES - 1) & ~<size_t>(PAGE_BYTES - 1)


cdef int grow(BlockBuffer* block, size_t needed) noexcept nogil:
    """Room for as much: little, all that a block may have, or a single record that has more. 0, or -1 when memory is out."""
    cdef size_t room = block.limit if needed > SMALL_BYTES else min(SMALL_BYTES, block.limit)
    cdef size_t mapped = pages_for(max(needed, room))
    cdef uint8_t* data = map_pages(mapped)
    if data == NULL:
        return -1
    if block.end:
        memcpy(data + FRAME_HEAD, block.data + FRAME_HEAD, block.end)
    unmap_pages(block.data, block.mapped)
    block.data, block.mapped = data, mapped
    return 0


cdef int64_t blocks_add(BlockBuffer* block, const RecordHeader* record) noexcept nogil:
    cdef size_t needed = block.end + record.length
    cdef uint64_t malformed
    cdef int64_t rows = columns_look(block.columns, record, &malformed)
    cdef int64_t arrow_bytes = columns_bytes(block.columns, record, rows)
    if block.end and (needed > block.limit or block.arrow_bytes + arrow_bytes > MAX_BATCH_BYTES):
        block.is_full = True
        return 0
    if pages_for(needed) > block.mapped and grow(block, needed):
        return -1
    if malformed:
        counter_add(&block.n_malformed, malformed)
    memcpy(block.data + FRAME_HEAD + block.end, record, record.length)
    if block.end == 0:
        block.first_seq = record.seq
    block.last_ts_ns = record.ts_ns
    block.end = needed
    block.arrow_bytes += arrow_bytes
    block.n_rows += rows
    return rows


cdef uint64_t blocks_malformed(const BlockBuffer* block) noexcept nogil:
    return counter_read(&block.n_malformed)


@cython.no_gc
cdef class RecordBlock:
    cdef RecordBlocks owner             # whose spare the pages become
    cdef uint8_t* data
    cdef size_t mapped
    cdef size_t length                  # bytes of records
    cdef readonly int64_t n_rows
    cdef readonly int64_t arrow_bytes
    cdef readonly uint64_t first_seq
    cdef readonly int64_t last_ts_ns

    def __len__(self):
        return self.length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.mapped, 1, flags)

    @property
    def records(self):
        return memoryview(self)[FRAME_HEAD : FRAME_HEAD + self.length]

    def framed(self, bytes head not None, bytes behind not None):
        if self.data == NULL or len(head) != FRAME_HEAD or len(behind) > FRAME_REST:
            raise ValueError(f"a head of {len(head)} bytes, and {len(behind)} behind; want {FRAME_HEAD}, and at most {FRAME_REST}")
        memcpy(self.data, <const char*>head, FRAME_HEAD)
        memcpy(self.data + FRAME_HEAD + self.length, <const char*>behind, len(behind))
        return memoryview(self)[: FRAME_HEAD + self.length + len(behind)]

    def __dealloc__(self):
        cdef BlockBuffer* buffer
        cdef bint is_small = self.mapped <= pages_for(SMALL_BYTES)
        if self.data == NULL:               # made by nobody who had records
            return
        buffer = &self.owner.buffer
        if buffer.spare == NULL and (is_small or (self.length > SMALL_BYTES and self.mapped == pages_for(buffer.limit))):
            buffer.spare, buffer.spare_mapped = self.data, self.mapped
        else:
            unmap_pages(self.data, self.mapped)


cdef class RecordBlocks:
    def __cinit__(self, tuple tensors not None, size_t limit=BLOCK_BYTES):
        self.columns = RecordColumns(tensors)
        self.buffer.columns = self.columns.buffers
        self.buffer.limit = limit

    def __dealloc__(self):
        unmap_pages(self.buffer.data, self.buffer.mapped)
        unmap_pages(self.buffer.spare, self.buffer.spare_mapped)

    @property
    def n_rows(self):
        return self.buffer.n_rows

    @property
    def is_full(self):
        return self.buffer.is_full

    @property
    def n_malformed(self):
        return blocks_malformed(&self.buffer)

    def take(self):
        cdef BlockBuffer* buffer = &self.buffer
        cdef RecordBlock block
        if buffer.n_rows == 0:
            return None
        block = RecordBlock.__new__(RecordBlock)
        block.owner, block.data, block.mapped, block.length = self, buffer.data, buffer.mapped, buffer.end
        block.arrow_bytes = buffer.arrow_bytes
        block.n_rows, block.first_seq, block.last_ts_ns = buffer.n_rows, buffer.first_seq, buffer.last_ts_ns
        buffer.data, buffer.mapped = buffer.spare, buffer.spare_mapped
        buffer.spare = NULL
        buffer.spare_mapped = 0
        buffer.end = buffer.n_rows = buffer.arrow_bytes = 0
        buffer.is_full = False
        return block

    def trim(self):
        cdef BlockBuffer* buffer = &self.buffer
        cdef size_t freed = buffer.spare_mapped
        unmap_pages(buffer.spare, freed)
        buffer.spare = NULL
        buffer.spare_mapped = 0
        if buffer.end == 0:
            freed += buffer.mapped
            unmap_pages(buffer.data, buffer.mapped)
            buffer.data = NULL
            buffer.mapped = 0
        return freed

    def add_for_test(self, bytes record not None):
        """What blocks_add gave for these bytes."""
        cdef const char* data = record
        return blocks_add(&self.buffer, <const RecordHeader*>data)
