from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from serve._core.batch_policy cimport Decision, batch_decide
from serve._core.counters cimport counter_read
from serve._core.failure cimport UNAVAILABLE, fail
from serve._core.observe cimport is_shadow
from serve._core.posix cimport condition_signal, mutex_lock, mutex_unlock

cdef enum:
    NO_DEADLINE_S = 60                  # urgency of a request without a deadline: as if it had one so far off


# --- queues: everything here is called with the pool's lock held --------------------------------------------------------

cdef inline uint64_t urgency(const Request* request) noexcept nogil:
    return request.deadline_ns if request.deadline_ns else request.t_queued + <uint64_t>NO_DEADLINE_S * 1000000000


cdef Bucket* bucket_of(Version* version, uint64_t shape_key, bint shadows) noexcept nogil:
    cdef Bucket* bucket = <Bucket*>version.buckets
    while bucket != NULL and (bucket.shape_key != shape_key or bucket.is_shadow != shadows):
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
    bucket.shape_key, bucket.is_shadow = shape_key, shadows
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
    cdef bint shadow = is_shadow(request)
    if pool.stopping or (version.depth >= version.queue_limit and not shadow):
        return fail(&request.failure, UNAVAILABLE, b"Exceeds maximum queue size")
    bucket = bucket_of(version, request.binding.shape_key, shadow)
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
    if shadow:
        version.n_shadows += 1
    else:
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
    if bucket.is_shadow:
        version.n_shadows -= 1
    else:
        version.depth -= 1
    if bucket.head == NULL:
        drop_bucket(version, bucket)
        if version.buckets == NULL:
            deactivate(pool, version)


cdef inline Decision decide(const Version* version, const Bucket* bucket, uint64_t now) noexcept nogil:
    # Nobody else will come to a pool that stops: nothing to wait for. Shadows have waited.
    cdef uint64_t delay_ns = 0 if (<Pool*>version.pool).stopping or bucket.is_shadow else version.delay_ns
    return batch_decide(version.max_batch, version.preferred, version.n_preferred, delay_ns, bucket.rows, bucket.head.t_queued, now)


cdef Bucket* best_bucket(Version* version, uint64_t now, bint shadows, int64_t* rows, uint64_t* wait_until) noexcept nogil:
    """The most urgent bucket of the kind that is ready to go; wait_until is lowered to the next time when one will be."""
    cdef Bucket* bucket = <Bucket*>version.buckets
    cdef Bucket* best = NULL
    cdef Decision decision
    while bucket != NULL:
        if bucket.is_shadow != shadows:
            bucket = bucket.next
            continue
        decision = decide(version, bucket, now)
        if decision.rows == 0:
            wait_until[0] = min(wait_until[0], decision.wait_until)
        elif best == NULL or urgency(bucket.head) < urgency(best.head):
            best = bucket
            rows[0] = decision.rows
        bucket = bucket.next
    return best


cdef bint are_wanted(const Pool* pool) noexcept nogil:
    cdef const Version* version = pool.active
    while version != NULL:
        if version.depth:
            return True
        version = version.active_next
    return False


cdef inline bint may_shadow(const Pool* pool) noexcept nogil:
    return pool.shadow_runs == 0 and not are_wanted(pool)


cdef Bucket* choose(Pool* pool, uint64_t now, Version** chosen, int64_t* rows, uint64_t* wait_until) noexcept nogil:
    """Earliest deadline first over the versions that may start another run."""
    cdef Bucket* best = choose_among(pool, now, False, chosen, rows, wait_until)
    if best == NULL and pool.active != NULL and may_shadow(pool):
        best = choose_among(pool, now, True, chosen, rows, wait_until)
    return best


cdef Bucket* choose_among(Pool* pool, uint64_t now, bint shadows, Version** chosen, int64_t* rows, uint64_t* wait_until) noexcept nogil:
    cdef Version* version = pool.active
    cdef Bucket* best = NULL
    cdef Bucket* bucket
    cdef int64_t wanted = 0
    while version != NULL:
        if version.n_free:
            bucket = best_bucket(version, now, shadows, &wanted, wait_until)
            if bucket != NULL and (best == NULL or urgency(bucket.head) < urgency(best.head)):
                best = bucket
                chosen[0] = version
                rows[0] = wanted
        version = version.active_next
    return best


cdef void take(Pool* pool, Batch* batch, Version* version, Bucket* bucket, int64_t limit, uint64_t now) noexcept nogil:
    """Seal: the oldest requests of the bucket that fit `limit` rows; those too late are put aside. Takes a runner if any is left to run."""
    cdef Request* request = bucket.head
    cdef Request* following
    batch.n = 0
    batch.rows = 0
    batch.version = version
    batch.is_shadow = bucket.is_shadow                      # the bucket goes with its last request
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
        pool.shadow_runs += batch.is_shadow


cdef inline uint64_t estimate_ns(Version* version, int64_t rows) noexcept nogil:
    return counter_read(&version.run_ns[log2_up(min(rows, version.max_batch))])


cdef inline bint is_short(Version* version, int64_t rows, uint64_t longest_ns) noexcept nogil:
    """By measurement (an empty estimate means: not measured, so not short)."""
    return 0 < estimate_ns(version, rows) < longest_ns


# --- the pool's interface -----------------------------------------------------------------------------------------------

cdef bint has_work(Pool* pool) noexcept nogil:
    cdef Version* version = pool.active
    cdef bint waiting = False
    if version == NULL:
        return False
    while version != NULL:
        if version.n_free and version.depth:
            return True
        waiting |= version.n_free and version.n_shadows
        version = version.active_next
    return waiting and may_shadow(pool)


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


cdef int pool_take_inline(Pool* pool, Batch* batch, uint64_t now, uint64_t longest_ns, bint shadows) noexcept nogil:
    cdef Version* version
    cdef Bucket* bucket = NULL
    cdef int64_t rows = 0
    cdef uint64_t wait_until = 0
    mutex_lock(&pool.lock)
    version = pool.active if not shadows or may_shadow(pool) else <Version*>NULL
    while version != NULL:
        # Nobody else is at it, and it has not kept an I/O thread waiting lately.
        if version.may_inline and not version.running and not version.delay_ns and now >= counter_read(&version.inline_from):
            bucket = best_bucket(version, now, shadows, &rows, &wait_until)
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
    pool.shadow_runs -= batch.is_shadow
    mutex_unlock(&pool.lock)


cdef bint pool_has_spare(Pool* pool, const Version* version) noexcept nogil:
    cdef bint spare
    mutex_lock(&pool.lock)
    # One idle thread is left for clients, where there is more than one.
    spare = pool.active == NULL and pool.shadow_runs == 0 and version.n_free and (
        pool.idle > (pool.n_threads > 1) or (version.may_inline and not version.running))
    mutex_unlock(&pool.lock)
    return spare


cdef bint pool_is_wanted(Pool* pool) noexcept nogil:
    mutex_lock(&pool.lock)
    cdef bint wanted = are_wanted(pool)
    mutex_unlock(&pool.lock)
    return wanted


cdef bint pool_cancel(Pool* pool, Request* request) noexcept nogil:
    cdef bint queued, nudge
    mutex_lock(&pool.lock)
    queued = request.bucket != NULL
    if queued:
        dequeue(pool, request)
    nudge = queued and pool.idle and has_work(pool)         # shadows, which waited for it
    mutex_unlock(&pool.lock)
    if nudge:
        condition_signal(&pool.wake)
    return queued
