from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset
from libcpp.atomic cimport memory_order_acquire

from serve._core.batch_queue cimport Pool, pool_cancel, pool_finish, pool_has_spare, pool_nudge, pool_submit, pool_take_inline
from serve._core.batcher cimport batch_run
from serve._core.compare cimport ALL_ROWS
from serve._core.counters cimport counter_add
from serve._core.failure cimport CANCELLED, OK
from serve._core.mailbox cimport mailbox_post
from serve._core.memory cimport arena_alloc, buffer_free
from serve._core.posix cimport now_ns, publish_pointer
from serve._core.recording cimport record_done
from serve._core.releasing cimport request_release
from serve._core.router cimport shadow_position
from serve._core.routing cimport Plan, ShadowCopy, ShadowStats, ShadowTarget
from serve._core.tensors cimport DT_BYTES, Tensor, bind_request
from serve._core.version cimport Version


# --- counting -----------------------------------------------------------------------------------------------------------

cdef ShadowStats* stats_of_target(ShadowTarget* target, int thread) noexcept nogil:
    cdef ShadowStats* stats = target.stats[thread]          # written by this thread only
    if stats == NULL:
        stats = <ShadowStats*>calloc(1, sizeof(ShadowStats))
        if stats != NULL:
            publish_pointer(<void**>&target.stats[thread], stats)
    return stats


cdef inline ShadowStats* stats_of_copy(const IoThread* io, const Request* request) noexcept nogil:
    """Never NULL: sampling made it."""
    return request.shadow.target.stats[io.index]


cdef void drop(IoThread* io, Request* request, uint64_t* reason) noexcept nogil:
    counter_add(reason, 1)
    request_release(io, request)


cdef void count_failed(IoThread* io, Request* request) noexcept nogil:
    """The shadow has no answer where the primary has one: no row agrees."""
    cdef ShadowStats* stats = stats_of_copy(io, request)
    counter_add(&stats.compared, 1)
    counter_add(&stats.failed, 1)
    counter_add(&stats.disagreed, ALL_ROWS)
    request_release(io, request)


# --- the primary --------------------------------------------------------------------------------------------------------

cdef void shadow_sample(IoThread* io, Request* request) noexcept nogil:
    """Several shadows take shares of the draw that do not overlap: a request has one shadow at most."""
    cdef Plan* plan = request.routed.plan
    cdef ShadowTarget* target
    cdef ShadowStats* stats
    cdef uint64_t position
    cdef int i
    if plan == NULL or plan.n_shadows == 0 or request.routed.arm >= plan.n_variants or io.phase.load(memory_order_acquire):
        return
    position = shadow_position(plan, request.routed.unit)
    for i in range(plan.n_shadows):
        target = &plan.shadows[i]
        if position >= target.below:
            position -= target.below
            continue
        stats = stats_of_target(target, io.index)
        if target.version == request.version or stats == NULL:
            return
        request.shadow = <ShadowCopy*>arena_alloc(&request.arena, sizeof(ShadowCopy))
        if request.shadow != NULL:
            memset(request.shadow, 0, sizeof(ShadowCopy))
            request.shadow.target = target
            counter_add(&stats.sampled, 1)
        return


cdef bint has_place(const IoThread* io, const Request* request) noexcept nogil:
    cdef size_t most = io.shared.limits.max_in_flight // SHADOW_BUDGET_SHARE // <size_t>io.shared.n_threads
    return io.n_shadows_waiting < MAX_WAITING_SHADOWS and io.shadow_bytes + request.held_bytes + request.arena.total <= most


cdef bint shadow_keep(IoThread* io, Request* request) noexcept nogil:
    cdef ShadowCopy* copy = request.shadow
    cdef ShadowStats* stats = stats_of_copy(io, request)
    if copy.is_shadow:
        return False
    if request.failure.kind != OK:
        counter_add(&stats.dropped_primary, 1)
        return False
    if io.phase.load(memory_order_acquire):
        counter_add(&stats.dropped_gone, 1)
        return False
    if copy.primary == NULL:                                # its client left before it ran, or it lacks what would be compared
        counter_add(&stats.dropped_gone, 1)
        return False
    if not has_place(io, request):
        counter_add(&stats.dropped_capacity, 1)
        return False
    copy.is_shadow = True
    copy.t_waiting = io.hooks.now
    request.call = NULL
    request.deadline_ns = 0
    request.deadline_is_timeout = request.lent = request.done = False
    buffer_free(&request.reply)
    counter_add(&io.counters.held_bytes, request.arena.total)
    request.held_bytes += request.arena.total               # what was decoded, and what is kept of the answer
    counter_add(&io.counters.shadow_bytes, request.held_bytes)
    io.shadow_bytes += request.held_bytes
    io.n_shadows_waiting += 1
    request.next = NULL
    io.shadows_tail[0] = request
    io.shadows_tail = &request.next
    return True


# --- the list -----------------------------------------------------------------------------------------------------------

cdef Request* take_out(IoThread* io, Request** link) noexcept nogil:
    """Of those that wait."""
    cdef Request* request = link[0]
    link[0] = request.next
    if io.shadows_tail == &request.next:
        io.shadows_tail = link
    request.next = NULL
    io.n_shadows_waiting -= 1
    io.shadow_bytes -= request.held_bytes
    return request


cdef bint cancel(IoThread* io, Request** link) noexcept nogil:
    """Take one of those that are submitted back out of its queue. False: it runs."""
    cdef Request* request = link[0]
    if not pool_cancel(<Pool*>request.version.pool, request):
        return False
    link[0] = request.call_next
    io.n_shadows_running -= 1
    return True


cdef void shadow_expire(IoThread* io, uint64_t now) noexcept nogil:
    cdef Request* request
    cdef Request** link = &io.shadows_out
    while io.shadows != NULL and now > io.shadows.shadow.t_waiting + LATE_NS:       # the oldest first
        request = take_out(io, &io.shadows)
        drop(io, request, &stats_of_copy(io, request).dropped_late)
    while link[0] != NULL:
        request = link[0]
        if now > request.shadow.t_waiting + LATE_NS and cancel(io, link):
            drop(io, request, &stats_of_copy(io, request).dropped_late)
        else:
            link = &request.call_next


cdef size_t shadow_make_room(IoThread* io) noexcept nogil:
    cdef size_t held = io.shadow_bytes
    cdef Request* request
    while io.shadows != NULL:
        request = take_out(io, &io.shadows)
        drop(io, request, &stats_of_copy(io, request).dropped_capacity)
    return held


cdef void shadow_drop_all(IoThread* io) noexcept nogil:
    cdef Request* request
    cdef Request** link = &io.shadows_out
    while io.shadows != NULL:
        request = take_out(io, &io.shadows)
        drop(io, request, &stats_of_copy(io, request).dropped_gone)
    while link[0] != NULL:
        request = link[0]
        if cancel(io, link):
            drop(io, request, &stats_of_copy(io, request).dropped_gone)
        else:
            link = &request.call_next


# --- the shadow ---------------------------------------------------------------------------------------------------------

cdef bint rebind(Request* request) noexcept nogil:
    """The inputs as the shadow's signature has them. False: it refuses what the primary took."""
    cdef Tensor* raw = request.infer.inputs
    request.version = request.shadow.target.version
    request.failure.kind = OK
    if request.infer.raw_body and raw.datatype == DT_BYTES:             # binding frames it, and the primary's has
        raw.data += 4
        raw.nbytes -= 4
    return bind_request(request.version.signature, &request.infer, <const char*>request.version.model.data, &request.arena,
                        &request.binding, &request.failure) == 0


cdef Version* next_version(IoThread* io) noexcept nogil:
    """Of the oldest that waits for a device with capacity to spare; NULL: none has."""
    cdef Request* request = io.shadows
    cdef Version* version
    cdef void* busy = NULL
    while request != NULL:
        version = request.shadow.target.version
        if version.pool != busy:
            if pool_has_spare(<Pool*>version.pool, version):
                return version
            busy = version.pool
        request = request.next
    return NULL


cdef void record_shadow(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    if request.record != NULL:
        request.record.gave_up = True                   # nobody waits for its answer, so neither does it
        record_done(io, request, now)


cdef int submit_some(IoThread* io, Version* version, Pool* pool, uint64_t now) noexcept nogil:
    """The version may be gone afterwards: requests that cannot be bound to it drop their pins. The pool outlives it."""
    cdef Request** link = &io.shadows
    cdef Request* first = NULL
    cdef Request** tail = &first
    cdef Request* request
    cdef int n = 0
    while link[0] != NULL and io.n_shadows_running < MAX_RUNNING_SHADOWS:
        if link[0].shadow.target.version != version:
            link = &link[0].next
            continue
        request = take_out(io, link)
        n += 1
        if not rebind(request):
            request.t_queued, request.t_started, request.batch_id = now, 0, 0
            record_shadow(io, request, now)
            count_failed(io, request)
            continue
        request.t_queued = now
        request.call_next = io.shadows_out
        io.shadows_out = request
        io.n_shadows_running += 1
        tail[0] = request
        tail = &request.next
    first = pool_submit(pool, first, True)
    while first != NULL:                                    # the pool stops
        request = first
        first = request.next
        forget_out(io, request)
        drop(io, request, &stats_of_copy(io, request).dropped_gone)
    return n


cdef void run_short(IoThread* io, Pool* pool, uint64_t now) noexcept nogil:
    """As primaries: short runs on this thread. What comes of them goes through the mailboxes, which the next turn empties."""
    cdef uint64_t end = now + SHADOW_TURN_NS
    cdef Request* request
    cdef int i
    while now < end and pool_take_inline(pool, &io.batch, now, end - now, True):
        batch_run(&io.batch, io.index)
        pool_finish(pool, &io.batch)
        counter_add(&io.counters.inline_batches, 1)
        for i in range(io.batch.n):
            request = io.batch.requests[i]
            mailbox_post(request.mailbox, request, request)
        now = now_ns()
    pool_nudge(pool)


cdef int shadow_turn(IoThread* io, uint64_t now) noexcept nogil:
    cdef Version* version = NULL
    cdef Pool* pool
    cdef int n
    if io.n_shadows_running < MAX_RUNNING_SHADOWS:
        version = next_version(io)
    if version == NULL:
        return 0
    pool = <Pool*>version.pool
    n = submit_some(io, version, pool, now)
    run_short(io, pool, now)
    return n


cdef void forget_out(IoThread* io, Request* request) noexcept nogil:
    cdef Request** link = &io.shadows_out
    while link[0] != request:
        link = &link[0].call_next
    link[0] = request.call_next
    io.n_shadows_running -= 1


cdef void shadow_done(IoThread* io, Request* request) noexcept nogil:
    cdef ShadowStats* stats = stats_of_copy(io, request)
    forget_out(io, request)
    if request.failure.kind != CANCELLED:
        record_shadow(io, request, io.hooks.now)
    if request.failure.kind == CANCELLED:                   # made way for clients
        drop(io, request, &stats.dropped_capacity)
    elif request.failure.kind != OK:
        count_failed(io, request)
    else:
        counter_add(&stats.compared, 1)
        counter_add(&stats.disagreed, request.shadow.disagreed)
        request_release(io, request)
