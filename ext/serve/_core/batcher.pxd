"""The instance threads of a device: take a batch, gather, run, scatter, encode, hand back."""
from serve._core.batch_queue cimport Batch, Pool
from serve._core.version cimport Version, VersionStats

cdef int batch_init(Batch* batch) noexcept nogil
cdef void batch_destroy(Batch* batch) noexcept nogil
# Gather, run, scatter, encode: every request of the batch ends with a reply or a failure. thread: index for the counters.
cdef void batch_run(Batch* batch, int thread) noexcept nogil
cdef VersionStats* stats_of(Version* version, int thread) noexcept nogil    # NULL: memory is out

cdef class InstancePool:
    cdef Pool* pool
    cdef readonly int n_threads
