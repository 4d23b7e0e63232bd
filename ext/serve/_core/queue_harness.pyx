"""For the tests: the batch policy, and the queues of a pool without threads whose time is an argument."""
cimport cython
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from serve._core.batch_policy cimport batch_decide
from serve._core.batch_queue cimport Batch, Bucket, Pool, choose, log2_up, pool_cancel, pool_finish, pool_submit, pool_take_inline, take
from serve._core.batcher cimport batch_destroy, batch_init
from serve._core.call cimport Request
from serve._core.counters cimport counter_set
from serve._core.failure cimport UNAVAILABLE
from serve._core.routing cimport ShadowCopy
from serve._core.posix cimport (condition_destroy, condition_init_monotonic, mutex_destroy, mutex_init, mutex_lock, mutex_unlock)
from serve._core.version cimport MAX_PREFERRED, Version

def decide_for_test(int64_t max_batch, list preferred, uint64_t delay_ns, int64_t waiting_rows, uint64_t oldest_ns, uint64_t now):
    """(rows, wait_until) of batch_decide."""
    cdef int64_t[MAX_PREFERRED] sizes
    for i, size in enumerate(preferred):
        sizes[i] = size
    decision = batch_decide(max_batch, sizes, <int>len(preferred), delay_ns, waiting_rows, oldest_ns, now)
    return decision.rows, decision.wait_until


@cython.no_gc_clear                                     # the dicts are needed to free what they name
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
    cdef ShadowCopy shadow                  # of every request that is one

    def __cinit__(self, list versions):
        cdef Version* version
        memset(&self.pool, 0, sizeof(Pool))
        mutex_init(&self.pool.lock, NULL)
        condition_init_monotonic(&self.pool.wake)
        self.requests, self.numbers, self.batches = {}, {}, {}
        memset(&self.shadow, 0, sizeof(ShadowCopy))
        self.shadow.is_shadow = True
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
        """Queue a chain of (version, rows, shape key, queued at, deadline; 0: none), a shadow with a last True.

        Returns a number for each, None where refused.
        """
        cdef Request* chain = NULL
        cdef Request* request
        numbers = []
        for version, rows, shape_key, queued_at, deadline_ns, *shadow in reversed(requests):
            request = <Request*>calloc(1, sizeof(Request))
            if request == NULL:
                raise MemoryError
            request.version = self.versions[<int>version]
            request.binding.rows, request.binding.shape_key = rows, shape_key
            request.t_queued, request.deadline_ns = queued_at, deadline_ns
            request.shadow = &self.shadow if shadow == [True] else NULL
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

    def take_inline(self, uint64_t now, uint64_t longest_ns, *, bint shadows=False):
        """What an I/O thread takes, as take; None: nothing of the kind."""
        cdef Batch* batch = self.batch()
        if pool_take_inline(&self.pool, batch, now, longest_ns, shadows):
            return self.taken(batch)
        self.drop(batch)
        return None

    def measure(self, int version, int64_t rows, uint64_t ns):
        """Note how long a run takes."""
        counter_set(&self.versions[version].run_ns[log2_up(rows)], ns)

    def ban_inline(self, int version, uint64_t until):
        """A run on an I/O thread took far too long: none before `until`."""
        counter_set(&self.versions[version].inline_from, until)

    def stop(self):
        """The pool stops: what is queued is run, nothing more is taken in."""
        self.pool.stopping = True

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
        """For each version (depth, queued shadows, running, free runners, {(shape key, whether of shadows): (rows, [numbers])}), and the
        versions on the pool's list."""
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
                key = bucket.shape_key, bool(bucket.is_shadow)
                if bucket.tail != before or key in shapes:
                    raise AssertionError("a bucket's tail is wrong, or there are two of one shape")
                shapes[key] = bucket.rows, numbers
                bucket = bucket.next
            rows.append((version.depth, version.n_shadows, version.running, version.n_free, shapes))
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
