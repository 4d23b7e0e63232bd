"""Queues of a device's versions: who waits, who is next, what makes a batch. One lock per pool, held for a few instructions."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.call cimport Request
from serve._core.posix cimport Condition, Mutex, Thread
from serve._core.runner cimport Runner
from serve._core.version cimport MAX_INSTANCES, N_RUN_ESTIMATES, Version

cdef enum:
    MAX_BATCH_REQUESTS = 4096           # requests of one batch; its rows are bounded by max_batch

cdef struct Bucket:
    # Queued requests of one shape, oldest first: clients' or shadows. Owned by its Version.
    Bucket* next
    uint64_t shape_key
    bint is_shadow
    Request* head
    Request* tail
    int64_t rows

cdef struct Batch:
    # What one thread is running. Owned by that thread.
    Version* version
    Runner* runner
    int n
    int64_t rows
    bint is_shadow
    uint64_t n_runs                     # ever: with the thread's index, names of its runs
    uint64_t cpu_ns                     # of the thread at cpu_at, before the run, where the version is watched; else 0
    uint64_t cpu_at
    Request* expired                    # taken out of the queue because their deadline passed; chain by next
    Request** requests                  # [MAX_BATCH_REQUESTS]
    void** inputs                       # [MAX_BATCH_REQUESTS] Tensor**, for runner_run
    int64_t* row_counts                 # [MAX_BATCH_REQUESTS]

cdef struct Pool:
    Mutex lock                          # guards what follows, and the queue fields of its versions and requests
    Condition wake
    Version* active                     # versions with queued requests
    int idle                            # instance threads that wait
    int shadow_runs                     # runs of shadows in progress: at most one
    bint stopping
    int n_threads
    Thread[MAX_INSTANCES] threads

# Queue a chain (by next). What a full queue or a stopping pool refuses comes back as a chain, failure set.
cdef Request* pool_submit(Pool* pool, Request* first, bint may_inline) noexcept nogil
# Take one batch that the calling I/O thread may run itself: of clients, or of shadows. 1: taken (run it, then pool_finish); 0: nothing
# of the kind.
cdef int pool_take_inline(Pool* pool, Batch* batch, uint64_t now, uint64_t longest_ns, bint shadows) noexcept nogil
cdef void pool_finish(Pool* pool, Batch* batch) noexcept nogil
cdef void pool_nudge(Pool* pool) noexcept nogil                        # wake a thread if there is work that it could start
# Nothing is queued, no shadow runs, and a thread or the caller could start a run of the version now.
cdef bint pool_has_spare(Pool* pool, const Version* version) noexcept nogil
cdef bint pool_is_wanted(Pool* pool) noexcept nogil                    # requests of clients are queued
# Take a queued request back. 1: it is the caller's again; 0: it is running or done and will come through the mailbox.
cdef bint pool_cancel(Pool* pool, Request* request) noexcept nogil

# With the pool's lock held:
# The most urgent bucket that a thread may start on now, its version and how many rows to take; else NULL, and wait_until is lowered to
# the next time to look. Shadows have a turn only while no client's request is queued on the device and no other shadow runs there.
cdef Bucket* choose(Pool* pool, uint64_t now, Version** chosen, int64_t* rows, uint64_t* wait_until) noexcept nogil
cdef void take(Pool* pool, Batch* batch, Version* version, Bucket* bucket, int64_t limit, uint64_t now) noexcept nogil
cdef bint has_work(Pool* pool) noexcept nogil                          # a thread could start something, or will after a delay


cdef inline int log2_up(int64_t rows) noexcept nogil:
    cdef int n = 0
    while (<int64_t>1 << n) < rows:
        n += 1
    return min(n, N_RUN_ESTIMATES - 1)
