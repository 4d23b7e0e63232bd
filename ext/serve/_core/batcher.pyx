import atexit
import os

from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from serve._core.batch_policy cimport Decision, batch_decide
from serve._core.call cimport mailbox_post
from serve._core.counters cimport counter_add, counter_read, counter_set
from serve._core.failure cimport DEADLINE_EXCEEDED, OK, UNAVAILABLE, fail
from serve._core.histogram cimport size_histogram_add
from serve._core.infer cimport infer_encode
from serve._core.posix cimport *
from serve._core.runner cimport RunTimes, runner_run
from serve._core.tensors cimport Tensor
from serve._core.version cimport BatchCounters, MAX_IO_THREADS, MAX_PREFERRED, N_RUN_ESTIMATES

cdef enum:
    BATCHES_COUNTED = 1024              # batch sizes with counters of their own
    NO_DEADLINE_S = 60                  # urgency of a request without a deadline: as if it had one so far off


# --- queues: everything here is called with the pool's lock held --------------------------------------------------------

cdef inline uint64_t urgency(const Request* request) noexcept nogil:
    return request.deadline_ns if request.deadline_ns else request.t_queued + <uint64_t>NO_DEADLINE_S * 1000000000


cdef Bucket* bucket_of(Version* version, uint64_t shape_key) noexcept nogil:
    cdef Bucket* bucket = <Bucket*>version.buckets
    while bucket != NULL and bucket.shape_key != shape_key:
        bucket = bucket.next
    if bucket != NULL:
        return bucket
    bucket = <Bucket*>version.spare
    version.spare = NULL
    if bucket == NULL:
        bucket = <Bucket*>malloc(sizeof(Bucket))
        if bucket == NULL:
            return NULL
    memset(bucket, 0, sizeof(Bucket))
    bucket.shape_key = shape_key
    bucket.next = <Bucket*>version.buckets
    version.buckets = bucket
    return bucket


cdef void drop_bucket(Version* version, Bucket* bucket) noexcept nogil:
    cdef Bucket** link = <Bucket**>&version.buckets
    while link[0] != bucket:
        link = &link[0].next
    link[0] = bucket.next
    if version.spare == NULL:
        version.spare = bucket
    else:
        free(bucket)


cdef void activate(Pool* pool, Version* version) noexcept nogil:
    if not version.active:
        version.active = True
        version.active_next = pool.active
        pool.active = version


cdef void deactivate(Pool* pool, Version* version) noexcept nogil:
    cdef Version** link = &pool.active
    while link[0] != version:
        link = &link[0].active_next
    link[0] = version.active_next
    version.active_next = NULL
    version.active = False


cdef int enqueue(Pool* pool, Request* request) noexcept nogil:
    cdef Version* version = request.version
    cdef Bucket* bucket
    if pool.stopping or version.depth >= version.queue_limit:
        return fail(&request.failure, UNAVAILABLE, b"Exceeds maximum queue size")
    bucket = bucket_of(version, request.binding.shape_key)
    if bucket == NULL:
        return fail(&request.failure, UNAVAILABLE, b"out of memory")
    request.bucket = bucket
    request.queue_next = NULL
    request.queue_previous = bucket.tail
    if bucket.tail != NULL:
        bucket.tail.queue_next = request
    else:
        bucket.head = request
    bucket.tail = request
    bucket.rows += request.binding.rows
    version.depth += 1
    activate(pool, version)
    return 0


cdef void dequeue(Pool* pool, Request* request) noexcept nogil:
    cdef Bucket* bucket = <Bucket*>request.bucket
    cdef Version* version = request.version
    if request.queue_previous != NULL:
        request.queue_previous.queue_next = request.queue_next
    else:
        bucket.head = request.queue_next
    if request.queue_next != NULL:
        request.queue_next.queue_previous = request.queue_previous
    else:
        bucket.tail = request.queue_previous
    request.bucket = NULL
    bucket.rows -= request.binding.rows
    version.depth -= 1
    if bucket.head == NULL:
        drop_bucket(version, bucket)
        if version.buckets == NULL:
            deactivate(pool, version)


cdef inline Decision decide(const Version* version, const Bucket* bucket, uint64_t now) noexcept nogil:
    return batch_decide(version.max_batch, version.preferred, version.n_preferred, version.delay_ns, bucket.rows, bucket.head.t_queued, now)


cdef Bucket* best_bucket(Version* version, uint64_t now, int64_t* rows, uint64_t* wait_until) noexcept nogil:
    """The most urgent bucket that is ready to go; wait_until is lowered to the next time when one will be."""
    cdef Bucket* bucket = <Bucket*>version.buckets
    cdef Bucket* best = NULL
    cdef Decision decision
    while bucket != NULL:
        decision = decide(version, bucket, now)
        if decision.rows == 0:
            wait_until[0] = min(wait_until[0], decision.wait_until)
        elif best == NULL or urgency(bucket.head) < urgency(best.head):
            best = bucket
            rows[0] = decision.rows
        bucket = bucket.next
    return best


cdef Bucket* choose(Pool* pool, uint64_t now, Version** chosen, int64_t* rows, uint64_t* wait_until) noexcept nogil:
    """Earliest deadline first over the versions that may start another run."""
    cdef Version* version = pool.active
    cdef Bucket* best = NULL
    cdef Bucket* bucket
    cdef int64_t wanted = 0
    while version != NULL:
        if version.n_free:
            bucket = best_bucket(version, now, &wanted, wait_until)
            if bucket != NULL and (best == NULL or urgency(bucket.head) < urgency(best.head)):
                best = bucket
                chosen[0] = version
                rows[0] = wanted
        version = version.active_next
    return best


cdef void take(Pool* pool, Batch* batch, Version* version, Bucket* bucket, int64_t limit, uint64_t now) noexcept nogil:
    """Seal: the oldest requests of the bucket that fit `limit` rows; those too late are put aside. Takes a runner if anything is left to run."""
    cdef Request* request = bucket.head
    cdef Request* following
    batch.n = 0
    batch.rows = 0
    batch.version = version
    batch.expired = NULL
    while request != NULL and batch.n < MAX_BATCH_REQUESTS:
        following = request.queue_next
        if request.deadline_ns and now >= request.deadline_ns:
            dequeue(pool, request)
            request.next = batch.expired
            batch.expired = request
        elif batch.rows + request.binding.rows > limit and batch.n:
            break
        else:
            dequeue(pool, request)
            batch.requests[batch.n] = request
            batch.n += 1
            batch.rows += request.binding.rows
        request = following
    if batch.n:
        version.n_free -= 1
        batch.runner = version.free[version.n_free]
        version.running += 1


cdef inline int log2_up(int64_t rows) noexcept nogil:
    cdef int n = 0
    while (<int64_t>1 << n) < rows:
        n += 1
    return min(n, N_RUN_ESTIMATES - 1)


cdef inline uint64_t estimate_ns(Version* version, int64_t rows) noexcept nogil:
    return counter_read(&version.run_ns[log2_up(min(rows, version.max_batch))])


cdef inline bint is_short(Version* version, int64_t rows, uint64_t longest_ns) noexcept nogil:
    """By measurement (an empty estimate means: not measured, so not short)."""
    return 0 < estimate_ns(version, rows) < longest_ns


# --- the pool's interface -----------------------------------------------------------------------------------------------

cdef bint has_work(Pool* pool) noexcept nogil:
    cdef Version* version = pool.active
    while version != NULL:
        if version.n_free:
            return True
        version = version.active_next
    return False


cdef Request* pool_submit(Pool* pool, Request* first, bint may_inline) noexcept nogil:
    cdef Request* refused = NULL
    cdef Request* following
    cdef bint nudge = False
    mutex_lock(&pool.lock)
    while first != NULL:
        following = first.next
        first.next = NULL
        if enqueue(pool, first):
            first.next = refused
            refused = first
        elif not (may_inline and first.version.may_inline) or first.version.running:
            nudge = True
        first = following
    nudge = nudge and pool.idle
    mutex_unlock(&pool.lock)
    if nudge:
        condition_signal(&pool.wake)
    return refused


cdef void pool_nudge(Pool* pool) noexcept nogil:
    mutex_lock(&pool.lock)
    cdef bint nudge = pool.idle and has_work(pool)
    mutex_unlock(&pool.lock)
    if nudge:
        condition_signal(&pool.wake)


cdef int pool_take_inline(Pool* pool, Batch* batch, uint64_t now, uint64_t longest_ns) noexcept nogil:
    cdef Version* version
    cdef Bucket* bucket = NULL
    cdef int64_t rows = 0
    cdef uint64_t wait_until = 0
    mutex_lock(&pool.lock)
    version = pool.active
    while version != NULL:
        if version.may_inline and not version.running and not version.delay_ns:        # nobody else is at it
            bucket = best_bucket(version, now, &rows, &wait_until)
            if bucket != NULL and is_short(version, rows, longest_ns):
                break
            bucket = NULL
        version = version.active_next
    if bucket != NULL:
        take(pool, batch, version, bucket, rows, now)
    mutex_unlock(&pool.lock)
    return bucket != NULL


cdef void pool_finish(Pool* pool, Batch* batch) noexcept nogil:
    cdef Version* version = batch.version
    if batch.n == 0:
        return
    mutex_lock(&pool.lock)
    version.free[version.n_free] = batch.runner
    version.n_free += 1
    version.running -= 1
    mutex_unlock(&pool.lock)


cdef bint pool_cancel(Pool* pool, Request* request) noexcept nogil:
    cdef bint queued
    mutex_lock(&pool.lock)
    queued = request.bucket != NULL
    if queued:
        dequeue(pool, request)
    mutex_unlock(&pool.lock)
    return queued


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


cdef void count_batch(Version* version, int thread, int64_t rows, uint64_t start, const RunTimes* times, uint64_t end) noexcept nogil:
    cdef VersionStats* stats = stats_of(version, thread)
    cdef BatchCounters* batch
    cdef int index = log2_up(rows)
    cdef uint64_t before = counter_read(&version.run_ns[index])
    cdef uint64_t took = end - start
    # A run that was descheduled says nothing about the model: one sample moves the average by an eighth at most.
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


cdef void run_part(Batch* batch, int first, int n, int thread) noexcept nogil:
    """Run requests [first, first + n) together. If the model refuses the batch, run them one by one: only the culprit fails."""
    cdef int i
    cdef int64_t rows = 0, row = 0
    cdef RunTimes times
    cdef Request* request
    cdef uint64_t start = now_ns()
    cdef uint64_t end
    times.gathered = times.ran = times.scattered = start
    for i in range(first, first + n):
        request = batch.requests[i]
        request.t_started = start
        batch.inputs[i] = request.binding.inputs
        batch.row_counts[i] = request.binding.rows
        rows += request.binding.rows
    request = batch.requests[first]
    if runner_run(batch.runner, <Tensor***>batch.inputs + first, batch.row_counts + first, n, &times, &request.failure):
        if n > 1:
            request.failure.kind = OK
            for i in range(first, first + n):
                run_part(batch, i, 1, thread)
            return
        request.t_gathered = request.t_ran = request.t_scattered = request.t_encoded = now_ns()
        return
    for i in range(first, first + n):
        request = batch.requests[i]
        request.t_gathered, request.t_ran = times.gathered, times.ran
        infer_encode(request, batch.runner, row)
        row += request.binding.rows
    end = now_ns()
    for i in range(first, first + n):
        batch.requests[i].t_scattered = batch.requests[i].t_encoded = end
    count_batch(batch.version, thread, rows, start, &times, end)


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


# --- For the tests: the policy, and a pool without threads whose time is an argument --------------------------------------

def decide_for_test(int64_t max_batch, list preferred, uint64_t delay_ns, int64_t waiting_rows, uint64_t oldest_ns, uint64_t now):
    """(rows, wait_until) of batch_decide."""
    cdef int64_t[MAX_PREFERRED] sizes
    for i, size in enumerate(preferred):
        sizes[i] = size
    decision = batch_decide(max_batch, sizes, <int>len(preferred), delay_ns, waiting_rows, oldest_ns, now)
    return decision.rows, decision.wait_until


cdef class QueueHarness:
    """The queues of one device, driven from Python: versions without runners, requests that are numbers, no threads.

    versions: for each (max_batch, preferred, delay_ns, queue_limit, instances, may_inline).
    """
    cdef Pool pool
    cdef Version* versions[8]
    cdef int n_versions
    cdef dict requests                      # number -> address of Request, of all that were not given back
    cdef dict numbers                       # and the other way round
    cdef dict batches                       # number -> address of Batch, of those that run
    cdef int n_requests
    cdef int n_batches

    def __cinit__(self, list versions):
        cdef Version* version
        memset(&self.pool, 0, sizeof(Pool))
        mutex_init(&self.pool.lock, NULL)
        condition_init_monotonic(&self.pool.wake)
        self.requests, self.numbers, self.batches = {}, {}, {}
        for max_batch, preferred, delay_ns, queue_limit, instances, may_inline in versions:
            version = <Version*>calloc(1, sizeof(Version))
            if version == NULL:
                raise MemoryError
            version.max_batch, version.delay_ns, version.queue_limit, version.may_inline = max_batch, delay_ns, queue_limit, may_inline
            for size in preferred:
                version.preferred[version.n_preferred] = size
                version.n_preferred += 1
            version.n_free = version.instances = instances
            version.pool = &self.pool
            self.versions[self.n_versions] = version
            self.n_versions += 1

    def submit(self, list requests):
        """Queue a chain of (version, rows, shape key, queued at, deadline; 0: none). Returns a number for each; None where it was refused."""
        cdef Request* chain = NULL
        cdef Request* request
        numbers = []
        for version, rows, shape_key, queued_at, deadline_ns in reversed(requests):
            request = <Request*>calloc(1, sizeof(Request))
            if request == NULL:
                raise MemoryError
            request.version = self.versions[<int>version]
            request.binding.rows, request.binding.shape_key = rows, shape_key
            request.t_queued, request.deadline_ns = queued_at, deadline_ns
            request.next = chain
            chain = request
            self.n_requests += 1
            numbers.append(self.n_requests)
            self.requests[self.n_requests] = <uintptr_t>request
            self.numbers[<uintptr_t>request] = self.n_requests
        request = pool_submit(&self.pool, chain, True)
        refused = set()
        while request != NULL:
            chain = request.next
            if request.failure.kind != UNAVAILABLE:
                raise AssertionError(f"refused with {request.failure.kind}")
            refused.add(self.forget(request))
            request = chain
        return [None if number in refused else number for number in reversed(numbers)]

    cdef int forget(self, Request* request) except -1:
        number = self.numbers.pop(<uintptr_t>request)
        del self.requests[number]
        free(request)
        return number

    def cancel(self, int number):
        """Whether the request was still queued."""
        cdef Request* request = <Request*><uintptr_t>self.requests[number]
        cdef bint queued = pool_cancel(&self.pool, request)
        if queued:
            self.forget(request)
        return queued

    def take(self, uint64_t now):
        """What an instance thread takes: (version, batch, [(number, rows)], [expired numbers]), or the time to look again (None: never)."""
        cdef Version* version = NULL
        cdef int64_t rows = 0
        cdef uint64_t wait_until = <uint64_t>-1
        cdef Batch* batch = self.batch()
        mutex_lock(&self.pool.lock)
        cdef Bucket* bucket = choose(&self.pool, now, &version, &rows, &wait_until)
        if bucket != NULL:
            take(&self.pool, batch, version, bucket, rows, now)
        mutex_unlock(&self.pool.lock)
        if bucket != NULL:
            return self.taken(batch)
        self.drop(batch)
        return None if wait_until == <uint64_t>-1 else wait_until

    def take_inline(self, uint64_t now, uint64_t longest_ns):
        """What an I/O thread takes, as take; None: nothing of the kind."""
        cdef Batch* batch = self.batch()
        if pool_take_inline(&self.pool, batch, now, longest_ns):
            return self.taken(batch)
        self.drop(batch)
        return None

    def measure(self, int version, int64_t rows, uint64_t ns):
        """Note how long a run takes."""
        counter_set(&self.versions[version].run_ns[log2_up(rows)], ns)

    def finish(self, int number):
        """The batch has run: its runner is free, its requests are gone."""
        cdef Batch* batch = <Batch*><uintptr_t>self.batches.pop(number)
        pool_finish(&self.pool, batch)
        for i in range(batch.n):
            self.forget(batch.requests[i])
        self.drop(batch)

    cdef Batch* batch(self) except NULL:
        cdef Batch* batch = <Batch*>calloc(1, sizeof(Batch))
        if batch == NULL or batch_init(batch):
            raise MemoryError
        return batch

    cdef int drop(self, Batch* batch) except -1:
        batch_destroy(batch)
        free(batch)
        return 0

    cdef tuple taken(self, Batch* batch):
        cdef Request* request
        expired = []
        while batch.expired != NULL:
            request = batch.expired
            batch.expired = request.next
            expired.append(self.forget(request))
        members = [(self.numbers[<uintptr_t>batch.requests[i]], batch.requests[i].binding.rows) for i in range(batch.n)]
        version = [i for i in range(self.n_versions) if self.versions[i] == batch.version][0]
        self.n_batches += 1
        self.batches[self.n_batches] = <uintptr_t>batch
        return version, self.n_batches, members, expired

    def state(self):
        """For each version (depth, running, free runners, {shape key: (rows, [numbers])}), and the versions on the pool's list."""
        cdef Version* version
        cdef Bucket* bucket
        cdef Request* request
        cdef Request* before
        rows = []
        for i in range(self.n_versions):
            version = self.versions[i]
            shapes = {}
            bucket = <Bucket*>version.buckets
            while bucket != NULL:
                numbers = []
                before = NULL
                request = bucket.head
                while request != NULL:
                    if request.queue_previous != before or request.bucket != bucket:
                        raise AssertionError("the queue's links do not agree")
                    numbers.append(self.numbers[<uintptr_t>request])
                    before, request = request, request.queue_next
                if bucket.tail != before or bucket.shape_key in shapes:
                    raise AssertionError("a bucket's tail is wrong, or there are two of one shape")
                shapes[bucket.shape_key] = bucket.rows, numbers
                bucket = bucket.next
            rows.append((version.depth, version.running, version.n_free, shapes))
        active = []
        version = self.pool.active
        while version != NULL:
            active.append([i for i in range(self.n_versions) if self.versions[i] == version][0])
            version = version.active_next
        return rows, active

    def __dealloc__(self):
        cdef Bucket* bucket
        cdef int i
        for address in self.batches.values():
            batch_destroy(<Batch*><uintptr_t>address)
            free(<Batch*><uintptr_t>address)
        for address in self.requests.values():
            free(<Request*><uintptr_t>address)
        for i in range(self.n_versions):
            while self.versions[i].buckets != NULL:
                bucket = <Bucket*>self.versions[i].buckets
                self.versions[i].buckets = bucket.next
                free(bucket)
            free(self.versions[i].spare)
            free(self.versions[i])
        condition_destroy(&self.pool.wake)
        mutex_destroy(&self.pool.lock)
