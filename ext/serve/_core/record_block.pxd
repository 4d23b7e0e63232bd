"""Records of one stream, whole and one behind the other, as a journal keeps them. One thread at a time, the recorder's."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from serve._core.record cimport RecordHeader
from serve._core.record_buffers cimport ColumnBuffers
from serve._core.record_columns cimport RecordColumns

cdef struct BlockBuffer:
    ColumnBuffers* columns              # by which a record is looked at
    uint8_t* data                       # pages of its own: FRAME_HEAD bytes, records, FRAME_REST bytes; NULL until there is a record
    size_t mapped                       # bytes of data
    size_t limit                        # bytes of records, but for a single one that has more
    size_t end                          # bytes of the records that are there
    int64_t arrow_bytes                 # that their rows take as columns, about
    int64_t n_rows
    uint64_t first_seq
    int64_t last_ts_ns
    bint is_full                        # a record did not fit behind the others, as it is or as columns
    uint64_t n_malformed                # a counter
    uint8_t* spare                      # pages that a block gave back; with the GIL
    size_t spare_mapped

cdef class RecordBlocks:
    cdef BlockBuffer buffer
    cdef RecordColumns columns          # stay empty

# The table rows that the record will be; 0: it does not fit behind what is there, take first; -1: memory is out, nothing was added.
# A record always fits where there is none.
cdef int64_t blocks_add(BlockBuffer* block, const RecordHeader* record) noexcept nogil
cdef inline int64_t blocks_rows(const BlockBuffer* block) noexcept nogil:
    return block.n_rows
cdef uint64_t blocks_malformed(const BlockBuffer* block) noexcept nogil     # any thread
