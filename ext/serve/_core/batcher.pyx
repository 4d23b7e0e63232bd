import atexit
import os

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from serve._core.batch_queue cimport Bucket, MAX_BATCH_REQUESTS, choose, has_work, log2_up, pool_finish, pool_is_wanted, take
from serve._core.call cimport Mailbox, Request
from serve._core.counters cimport counter_add, counter_read, counter_set
from serve._core.failure cimport CANCELLED, DEADLINE_EXCEEDED, OK, UNAVAILABLE, fail
from serve._core.histogram cimport histogram_add, size_histogram_add
from serve._core.infer cimport infer_encode
from serve._core.mailbox cimport mailbox_post
from serve._core.observe cimport observe_answer, observe_pair
from serve._core.posix cimport *
from serve._core.recording cimport record_outputs
from serve._core.runner cimport Runner, RunTimes, runner_run
from serve._core.tensors cimport Tensor
from serve._core.version cimport BatchCounters, MAX_INSTANCES, MAX_IO_THREADS

cdef enum:
    BATCHES_COUNTED = 1024              # batch sizes with counters of their own
    SURPRISE_NS = 2000000               # a run of a model measured as short that takes longer than this ...
    SLICES_NS = 10000000                # nobody takes the core for so long while we want it
    SURPRISE_SHARE = 100                # ... bans it from I/O threads for so many times as long: 1 % of their time at most
    SURPRISE_BAN_S = 60                 # and at most so long
    WATCH_NS = 1000000000               # after a run that took so long, and may have been descheduled
    CPU_SAMPLE_NS = 500000              # then the CPU time is taken so often: each time is a system call


# --- running a batch ----------------------------------------------------------------------------------------------------

cdef int batch_init(Batch* batch) noexcept nogil:
    memset(batch, 0, sizeof(Batch))
    batch.requests = <Request**>malloc(MAX_BATCH_REQUESTS * sizeof(void*))
    batch.inputs = <void**>malloc(MAX_BATCH_REQUESTS * sizeof(void*))
    batch.row_counts = <int64_t*>malloc(MAX_BATCH_REQUESTS * sizeof(int64_t))
    if batch.requests == NULL or batch.inputs == NULL or batch.row_counts == NULL:
        batch_destroy(batch)
        return -1
    return 0


cdef void batch_destroy(Batch* batch) noexcept nogil:
    free(batch.requests)
    free(batch.inputs)
    free(batch.row_counts)
    memset(batch, 0, sizeof(Batch))


cdef VersionStats* stats_of(Version* version, int thread) noexcept nogil:
    cdef VersionStats* stats = version.stats[thread]        # written by this thread only
    if stats != NULL:
        return stats
    stats = <VersionStats*>calloc(1, sizeof(VersionStats))
    if stats == NULL:
        return NULL
    stats.n_batches = <int>min(version.max_batch, <int64_t>BATCHES_COUNTED) + 1
    stats.batches = <BatchCounters*>calloc(stats.n_batches, sizeof(BatchCounters))
    if stats.batches == NULL:
        free(stats)
        return NULL
    publish_pointer(<void**>&version.stats[thread], stats)
    return stats


cdef void count_batch(const Batch* run, int thread, int64_t rows, uint64_t oldest, uint64_t start, const RunTimes* times,
                      uint64_t end) noexcept nogil:
    """oldest: when the request that waited longest came into the queue."""
    cdef Version* version = run.version
    cdef VersionStats* stats = stats_of(version, thread)
    cdef BatchCounters* batch
    cdef int index = log2_up(rows)
    cdef uint64_t before = counter_read(&version.run_ns[index])
    cdef uint64_t took = end - start
    # A run that was descheduled for a slice of the scheduler says nothing about the model: the CPU time of the next ones will tell. It
    # moves the average by an eighth at most.
    if took > SURPRISE_NS and version.may_inline:
        if took > SLICES_NS or run.cpu_ns and thread_cpu_ns() - run.cpu_ns > SURPRISE_NS + (start - run.cpu_at):
            counter_set(&version.inline_from, end + min(took * SURPRISE_SHARE, <uint64_t>SURPRISE_BAN_S * 1000000000))
        counter_set(&version.watched_until, end + WATCH_NS)
    counter_set(&version.run_ns[index], took if before == 0 else before - before // 8 + min(took, 2 * before) // 8)
    if stats == NULL:
        return
    batch = &stats.batches[rows if rows < stats.n_batches else 0]
    counter_add(&stats.rows, rows)
    size_histogram_add(&stats.batch_sizes, rows, 1)
    counter_add(&stats.executions, 1)
    counter_add(&batch.executions, 1)
    counter_add(&batch.gather_ns, times.gathered - start)
    counter_add(&batch.run_ns, times.ran - times.gathered)
    counter_add(&batch.scatter_ns, end - times.ran)
    if not run.is_shadow:                             # shadows wait and run under conditions of their own
        histogram_add(&stats.runs[index], times.ran - times.gathered, 1)
        histogram_add(&stats.waits, start - oldest, 1)


cdef inline void give_answer(Request* request, Runner* runner, int64_t first) noexcept nogil:
    """The request's rows of the outputs: what is recorded and what is watched of them, then the reply. A shadow has none."""
    if request.record != NULL:
        record_outputs(request, runner, first)
    if request.shadow != NULL and observe_pair(request, runner, first):
        return
    if request.routed.plan != NULL:
        observe_answer(request, runner, first)
    infer_encode(request, runner, first)


cdef void run_one_by_one(Batch* batch, int first, int n, int thread) noexcept nogil:
    """Shadows make way for clients between two runs, as they do between two batches."""
    cdef int i
    for i in range(first, first + n):
        if batch.is_shadow and pool_is_wanted(<Pool*>batch.version.pool):
            batch.requests[i].failure.kind = CANCELLED
        else:
            run_part(batch, i, 1, thread)


cdef void run_part(Batch* batch, int first, int n, int thread) noexcept nogil:
    """Run requests [first, first + n) together. If the model refuses the batch, run them one by one: only the culprit fails."""
    cdef int i
    cdef int64_t rows = 0, row = 0
    cdef RunTimes times
    cdef Request* request
    cdef uint64_t start = now_ns()
    cdef uint64_t oldest = start
    cdef uint64_t end
    # Names the run within this worker's life: the thread above, its count of runs below.
    cdef uint64_t batch_id = (<uint64_t>thread + 1) << 48 | batch.n_runs
    batch.n_runs += 1
    if start >= counter_read(&batch.version.watched_until):
        batch.cpu_ns = 0
    elif batch.cpu_ns == 0 or start > batch.cpu_at + CPU_SAMPLE_NS:
        batch.cpu_ns, batch.cpu_at = thread_cpu_ns(), start
    times.gathered = times.ran = times.scattered = start
    for i in range(first, first + n):
        request = batch.requests[i]
        request.t_started, request.batch_id = start, batch_id
        batch.inputs[i] = request.binding.inputs
        batch.row_counts[i] = request.binding.rows
        rows += request.binding.rows
        oldest = min(oldest, request.t_queued)
    request = batch.requests[first]
    if runner_run(batch.runner, <Tensor***>batch.inputs + first, batch.row_counts + first, n, &times, &request.failure):
        if n > 1:
            request.failure.kind = OK
            run_one_by_one(batch, first, n, thread)
            return
        request.t_gathered = request.t_ran = request.t_scattered = request.t_encoded = now_ns()
        return
    for i in range(first, first + n):
        request = batch.requests[i]
        request.t_gathered, request.t_ran = times.gathered, times.ran
        give_answer(request, batch.runner, row)
        row += request.binding.rows
    end = now_ns()
    for i in range(first, first + n):
        batch.requests[i].t_scattered = batch.requests[i].t_encoded = end
    count_batch(batch, thread, rows, oldest, start, &times, end)


cdef void batch_run(Batch* batch, int thread) noexcept nogil:
    if batch.n:
        run_part(batch, 0, batch.n, thread)


cdef void post_expired(Batch* batch) noexcept nogil:
    cdef Request* request = batch.expired
    cdef Request* following
    batch.expired = NULL
    while request != NULL:
        following = request.next
        fail(&request.failure, UNAVAILABLE if request.deadline_is_timeout else DEADLINE_EXCEEDED, b"Request timeout expired")
        mailbox_post(request.mailbox, request, request)
        request = following


cdef void post_batch(Batch* batch) noexcept nogil:
    """One post, hence at most one wake-up, per I/O thread and batch."""
    cdef int i, j
    cdef Request* first
    cdef Request* last
    cdef Mailbox* mailbox
    for i in range(batch.n - 1, -1, -1):
        last = batch.requests[i]
        if last == NULL:
            continue
        mailbox = last.mailbox
        first = last
        for j in range(i - 1, -1, -1):                      # newest first, as the mailbox wants it
            if batch.requests[j] != NULL and batch.requests[j].mailbox == mailbox:
                last.next = batch.requests[j]
                last = batch.requests[j]
                batch.requests[j] = NULL
        mailbox_post(mailbox, first, last)


cdef struct Instance:
    Pool* pool
    int index


cdef void wait_for_work(Pool* pool, uint64_t until) noexcept nogil:
    cdef timespec t
    pool.idle += 1
    if until == <uint64_t>-1:
        condition_wait(&pool.wake, &pool.lock)
    else:
        t.tv_sec, t.tv_nsec = until // 1000000000, until % 1000000000
        condition_timedwait(&pool.wake, &pool.lock, &t)
    pool.idle -= 1


cdef bint next_batch(Pool* pool, Batch* batch) noexcept nogil:
    """Wait for a batch and take it. False: the pool stops and its queues are empty."""
    cdef Version* version = NULL
    cdef Bucket* bucket
    cdef int64_t rows = 0
    cdef uint64_t now, wait_until
    cdef bint nudge
    mutex_lock(&pool.lock)
    while True:
        now = now_ns()
        wait_until = <uint64_t>-1
        bucket = choose(pool, now, &version, &rows, &wait_until)
        if bucket != NULL:
            break
        if pool.stopping and pool.active == NULL:
            condition_broadcast(&pool.wake)                 # who waited for a runner of the last batch ends, too
            mutex_unlock(&pool.lock)
            return False
        wait_for_work(pool, wait_until)
    take(pool, batch, version, bucket, rows, now)
    nudge = pool.idle and has_work(pool)
    mutex_unlock(&pool.lock)
    if nudge:
        condition_signal(&pool.wake)                        # chain: whoever starts wakes the next
    return True


cdef void* instance_main(void* argument) noexcept nogil:
    cdef Instance* instance = <Instance*>argument
    cdef Pool* pool = instance.pool
    cdef Batch batch
    if batch_init(&batch):
        free(instance)
        return NULL
    while next_batch(pool, &batch):
        batch_run(&batch, MAX_IO_THREADS + instance.index)
        pool_finish(pool, &batch)
        post_expired(&batch)
        post_batch(&batch)
    batch_destroy(&batch)
    free(instance)
    return NULL


# --- Python's side ------------------------------------------------------------------------------------------------------

cdef set alive = set()           # started and not stopped: nothing may free what a native thread uses


@atexit.register
def stop_all():
    """Native threads end before the interpreter does."""
    for pool in list(alive):
        pool.stop()


def forget_all():
    """In a forked child the threads do not exist and their locks may be held: touch nothing."""
    alive.clear()


os.register_at_fork(after_in_child=forget_all)


cdef class InstancePool:
    """The instance threads of one device. Raises ValueError when n_threads is not 1 to 64."""

    def __cinit__(self, int n_threads):
        if not 1 <= n_threads <= MAX_INSTANCES:
            raise ValueError(f"{n_threads} instance threads; want 1 to {MAX_INSTANCES}")
        self.pool = <Pool*>calloc(1, sizeof(Pool))
        if self.pool == NULL:
            raise MemoryError
        mutex_init(&self.pool.lock, NULL)
        condition_init_monotonic(&self.pool.wake)
        self.n_threads = n_threads

    def start(self):
        """Start the threads. Raises RuntimeError when one does not start or they run already."""
        cdef Instance* instance
        if self.pool.n_threads:
            raise RuntimeError("the instance threads run already")
        self.pool.stopping = False
        alive.add(self)
        for index in range(self.n_threads):
            instance = <Instance*>calloc(1, sizeof(Instance))
            if instance == NULL:
                raise MemoryError
            instance.pool, instance.index = self.pool, index
            if start_thread(&self.pool.threads[index], instance_main, instance, b"instance"):
                free(instance)
                raise RuntimeError(f"instance thread {index} does not start")
            self.pool.n_threads += 1

    def stop(self):
        """Run what is queued, then join. Idempotent."""
        cdef int i
        with nogil:
            mutex_lock(&self.pool.lock)
            self.pool.stopping = True
            condition_broadcast(&self.pool.wake)
            mutex_unlock(&self.pool.lock)
            for i in range(self.pool.n_threads):
                thread_join(self.pool.threads[i], NULL)
        self.pool.n_threads = 0
        alive.discard(self)

    def __dealloc__(self):
        if self.pool != NULL:
            condition_destroy(&self.pool.wake)
            mutex_destroy(&self.pool.lock)
            free(self.pool)
