"""Queues of a device's versions and the instance threads that drain them in batches. One lock per pool, held for a few instructions."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.call cimport Mailbox, Request
from serve._core.posix cimport Condition, Mutex, Thread
from serve._core.runner cimport Runner
from serve._core.version cimport MAX_INSTANCES, Version, VersionStats

cdef enum:
    MAX_BATCH_REQUESTS = 4096           # requests of one batch; its rows are bounded by max_batch

cdef struct Bucket:
    # Queued requests of one shape, oldest first. Owned by its Version.
    Bucket* next
    uint64_t shape_key
    Request* head
    Request* tail
    int64_t rows

cdef struct Batch:
    # What one thread is running. Owned by that thread.
    Version* version
    Runner* runner
    int n
    int64_t rows
    Request* expired                    # taken out of the queue because their deadline passed; chain by next
    Request** requests                  # [MAX_BATCH_REQUESTS]
    void** inputs                       # [MAX_BATCH_REQUESTS] Tensor**, for runner_run
    int64_t* row_counts                 # [MAX_BATCH_REQUESTS]

cdef struct Pool:
    Mutex lock                          # guards what follows, and the queue fields of its versions and requests
    Condition wake
    Version* active                     # versions with queued requests
    int idle                            # instance threads that wait
    bint stopping
    int n_threads
    Thread[MAX_INSTANCES] threads

cdef int batch_init(Batch* batch) noexcept nogil
cdef void batch_destroy(Batch* batch) noexcept nogil

# Queue a chain (by next). What a full queue or a stopping pool refuses comes back as a chain, failure set.
cdef Request* pool_submit(Pool* pool, Request* first, bint may_inline) noexcept nogil
# Take one batch that the calling I/O thread may run itself. 1: taken (run it, then pool_finish); 0: nothing of the kind.
cdef int pool_take_inline(Pool* pool, Batch* batch, uint64_t now, uint64_t longest_ns) noexcept nogil
cdef void pool_finish(Pool* pool, Batch* batch) noexcept nogil
cdef void pool_nudge(Pool* pool) noexcept nogil                        # wake a thread if there is work that it could start
# Take a queued request back. 1: it is the caller's again; 0: it is running or done and will come through the mailbox.
cdef bint pool_cancel(Pool* pool, Request* request) noexcept nogil
# Gather, run, scatter, encode: every request of the batch ends with a reply or a failure. thread: index for the counters.
cdef void batch_run(Batch* batch, int thread) noexcept nogil
cdef VersionStats* stats_of(Version* version, int thread) noexcept nogil    # NULL: memory is out

cdef class InstancePool:
    cdef Pool* pool
    cdef readonly int n_threads
