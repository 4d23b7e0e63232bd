"""The recorder as Python holds it: the rings of the I/O threads, the streams of the versions, the page that survives the process."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.memory cimport Slice
from serve._core.record cimport MAX_RECORD_STREAMS, RecordStream
from serve._core.record_block cimport BlockBuffer
from serve._core.record_ring cimport RecordRing
from serve._core.version cimport MAX_IO_THREADS

cdef class NativeRecorder:
    cdef readonly int n_rings
    cdef RecordRing* rings[MAX_IO_THREADS]
    cdef readonly bint gave_way                     # the last drain did
    cdef int first_ring                             # that the next drain begins with
    cdef uint64_t* page                             # record.PAGE_* words
    cdef object page_view                           # what the page lies in
    cdef RecordStream* streams[MAX_RECORD_STREAMS]
    cdef BlockBuffer* buffers[MAX_RECORD_STREAMS]
    cdef int n_streams
    cdef list specs                                 # serve.records.RecordStreamSpec, by id
    cdef list collected                             # RecordBlocks, by id
    cdef list kept                                  # bytes that the streams borrow
    cdef object lock                                # threading.Lock: streams are opened by threads that load
    cdef int drain_ring(self, RecordRing* ring, int64_t* most, bint gives_way) noexcept nogil
    cdef bint holds_up(self) noexcept nogil
    cdef Slice borrow(self, str text)
    cdef RecordStream* stream(self, int id) except NULL
    cdef RecordStream* build(self, int id, spec) except NULL
