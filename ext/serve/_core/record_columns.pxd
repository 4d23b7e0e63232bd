"""Records of one stream, taken apart into Arrow buffers: one growing buffer a column. One thread at a time, the recorder's."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.record cimport RecordHeader
from serve._core.record_buffers cimport ColumnBuffers

cdef class RecordColumns:
    cdef ColumnBuffers* buffers         # lives as long as the object; take() empties it

# The table rows that the record became; 0: it does not fit beside what is there, take first; -1: memory is out, nothing was added.
# A record always fits into empty columns.
cdef int64_t columns_add(ColumnBuffers* columns, const RecordHeader* record) noexcept nogil
cdef int64_t columns_rows(const ColumnBuffers* columns) noexcept nogil
cdef uint64_t columns_malformed(const ColumnBuffers* columns) noexcept nogil    # as RecordColumns.n_malformed; any thread
