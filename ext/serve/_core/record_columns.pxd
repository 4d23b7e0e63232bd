"""Records of one stream, taken apart into Arrow buffers: one growing buffer a column.

One thread at a time: the recorder's, or whoever reads a journal.
"""
from libc.stdint cimport int64_t, uint64_t

from serve._core.record cimport RecordHeader
from serve._core.record_buffers cimport ColumnBuffers

cdef enum:
    MAX_BATCH_BYTES = 32 << 20          # of records, and of their texts in each row; also keeps every offset below 2^31

cdef class RecordColumns:
    cdef ColumnBuffers* buffers         # lives as long as the object; take() empties it

# The table rows that the record became; 0: it does not fit beside what is there, take first; -1: memory is out, nothing was added.
# A record always fits into empty columns.
cdef int64_t columns_add(ColumnBuffers* columns, const RecordHeader* record) noexcept nogil
# The table rows that columns_add would make of it, by its bytes alone. malformed: what of it is not as the stream says: the record, which
# becomes one failed row, or tensors, which become null.
cdef int64_t columns_look(ColumnBuffers* columns, const RecordHeader* record, uint64_t* malformed) noexcept nogil
# Of a record that was just looked at: the bytes that its rows take as columns, about. Texts, once in a record, are in each row then.
cdef int64_t columns_bytes(const ColumnBuffers* columns, const RecordHeader* record, int64_t rows) noexcept nogil
