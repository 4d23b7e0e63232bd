from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp.atomic cimport memory_order_seq_cst

from serve._core.answering cimport answer, refuse
from serve._core.batch_queue cimport Pool, pool_cancel, pool_finish, pool_nudge, pool_submit, pool_take_inline
from serve._core.batcher cimport batch_run, stats_of
from serve._core.call cimport *
from serve._core.compression cimport IDENTITY, inflate_all
from serve._core.counters cimport Pins, counter_add, counter_read
from serve._core.counting cimport count_rejection, count_success, since
from serve._core.delivery cimport deliver, deliver_stream, note_origin
from serve._core.failure cimport *
from serve._core.grpc_frame cimport GRPC_PREFIX, next_message
from serve._core.infer cimport infer_decode
from serve._core.mailbox cimport mailbox_post
from serve._core.memory cimport buffer_append, buffer_reserve, slice_make
from serve._core.observe cimport is_shadow
from serve._core.posix cimport now_ns
from serve._core.releasing cimport request_release
from serve._core.recording cimport record_begin, record_done, record_park, record_reserve, record_unpark
from serve._core.router cimport count_routed
from serve._core.routing cimport ROUTED_ERROR, ROUTED_REFUSED, ROUTED_SUCCESS
from serve._core.shadow cimport shadow_done, shadow_keep, shadow_make_room, shadow_sample
from serve._core.version cimport *

cdef enum:
    JSON_SPARE = 64                 # json_codec.JSON_PADDING
    SMALL_ANSWER = 65536            # below, an answer finds room: what it takes was let in with the request
    INLINE_LONGEST_NS = 200000      # a run that the I/O thread may do itself
    INLINE_TURN_NS = 1000000        # and all of them in one turn


# --- in -----------------------------------------------------------------------------------------------------------------

cdef bint has_room(void* owner) noexcept nogil:
    cdef IoThread* io = <IoThread*>owner
    cdef uint64_t held = 0, of_shadows = 0
    cdef int i
    for i in range(io.shared.n_threads):
        held += counter_read(&io.shared.counters[i].held_bytes)
        of_shadows += counter_read(&io.shared.counters[i].shadow_bytes)
    if held <= io.shared.limits.max_in_flight:
        return True
    # No client is refused for shadows, which are an eighth at most: ours make way, those of other threads do not count.
    shadow_make_room(io)
    if held - min(of_shadows, held) <= io.shared.limits.max_in_flight:
        return True
    counter_add(&io.counters.refused_in_flight, 1)
    return False


cdef void list_deadline(IoThread* io, Request* request) noexcept nogil:
    request.deadline_listed = True
    request.deadline_previous = NULL
    request.deadline_next = io.deadlines
    if io.deadlines != NULL:
        io.deadlines.deadline_previous = request
    io.deadlines = request


cdef void unlist_deadline(IoThread* io, Request* request) noexcept nogil:
    if not request.deadline_listed:
        return
    request.deadline_listed = False
    if request.deadline_previous != NULL:
        request.deadline_previous.deadline_next = request.deadline_next
    else:
        io.deadlines = request.deadline_next
    if request.deadline_next != NULL:
        request.deadline_next.deadline_previous = request.deadline_previous


cdef void set_deadline(IoThread* io, Call* call, Request* request) noexcept nogil:
    """The earliest of the call's deadline, the OIP timeout and the version's default."""
    cdef uint64_t timeout = 0
    request.deadline_ns = call.deadline_ns
    if request.infer.timeout_us > 0:
        timeout = <uint64_t>min(request.infer.timeout_us, <int64_t>3600000000) * 1000
    elif request.version.default_timeout_ns:
        timeout = request.version.default_timeout_ns
    if timeout and (request.deadline_ns == 0 or call.t_received + timeout < request.deadline_ns):
        request.deadline_ns = call.t_received + timeout
        request.deadline_is_timeout = True
    if request.deadline_ns:
        list_deadline(io, request)


cdef void free_request(IoThread* io, Request* request) noexcept nogil:
    if request.shadow == NULL or not shadow_keep(io, request):
        request_release(io, request)


cdef void submit(IoThread* io, Call* call, Request* request, size_t received) noexcept nogil:
    """Decode, and put on the turn's list; a request that cannot be run is answered at once.

    request.message is set; `received` bytes of the call's body became it.
    """
    cdef Pins* pins
    cdef bint is_bound = False
    request.protocol = GRPC if call.is_grpc else HTTP
    request.stream = call.kind == CALL_INFER_STREAM
    request.mailbox = &io.mailbox
    request.accept_encoding = call.accept_encoding
    request.t_received = call.t_received
    request.held_bytes = request.body.length
    counter_add(&io.counters.held_bytes, request.held_bytes)
    call_release_held(call, received)
    call_attach(call, request)
    # Not the turn's: a turn reads for milliseconds, and what is published is to hold for the very next request. A swap after this load
    # finds the reader in this same turn.
    io.snapshot = io.table.load(memory_order_seq_cst)
    pins = &io.snapshot.pins[io.index]
    counter_add(&pins.taken, 1)
    request.pins = pins
    if not has_room(io):
        fail(&request.failure, UNAVAILABLE, b"more than %zu bytes of requests in flight; try again", io.shared.limits.max_in_flight)
    elif request.failure.kind == OK:
        is_bound = not infer_decode(request, io.snapshot, call.model, call.number, call.json_length, call.fields, io.hooks.random, io.index)
        if request.version != NULL and request.version.recording != NULL:
            record_begin(io, call, request)
    if is_bound and record_reserve(io, request) == 0:
        set_deadline(io, call, request)
        if request.routed.plan != NULL:
            shadow_sample(io, request)
        request.t_queued = io.hooks.now
        request.lent = True
        request.next = NULL
        io.pending_tail[0] = request
        io.pending_tail = &request.next
        return
    count_rejection(io, request, REJECTED_QUEUE_FULL if is_bound else REJECTED_INVALID, io.hooks.now)
    count_routed(request, ROUTED_REFUSED, 0, io.index)
    record_and_finish(io, request, io.hooks.now)


cdef int unpack(Call* call, const uint8_t* data, size_t length, Request* request) noexcept nogil:
    """Decompress into request.body. 0, or -1 with the failure set."""
    if inflate_all(call.content_encoding, data, length, call.connection.hooks.limits.max_body, JSON_SPARE, &request.body, &request.failure):
        return -1
    request.message, request.message_length = request.body.data, request.body.length
    return 0


cdef void start_http(IoThread* io, Call* call) noexcept nogil:
    cdef Request* request = request_new(&io.calls)
    cdef size_t received = call.body.length
    if request == NULL:
        refuse(io, call, UNAVAILABLE, b"out of memory")
        return
    if call.json_length == -2:
        fail(&request.failure, INVALID_ARGUMENT, b"Inference-Header-Content-Length: not a number")
    elif call.content_encoding != IDENTITY:
        unpack(call, call.body.data, call.body.length, request)
    elif buffer_reserve(&call.body, JSON_SPARE):
        fail(&request.failure, UNAVAILABLE, b"out of memory")
    else:
        request.body, call.body = call.body, request.body
        request.message, request.message_length = request.body.data, request.body.length
    submit(io, call, request, received)


cdef void start_grpc(IoThread* io, Call* call) noexcept nogil:
    """A unary call: exactly one message, taken over with the body."""
    cdef size_t length = 0
    cdef bint packed = False
    cdef Request* request
    if not next_message(call, &length, &packed) or call.body.length != GRPC_PREFIX + length:
        refuse(io, call, INVALID_ARGUMENT, b"a unary call carries exactly one message")
        return
    request = request_new(&io.calls)
    if request == NULL:
        refuse(io, call, UNAVAILABLE, b"out of memory")
        return
    if packed:
        if call.content_encoding == IDENTITY:
            fail(&request.failure, INTERNAL, b"a compressed message without grpc-encoding")
        else:
            unpack(call, call.body.data + GRPC_PREFIX, length, request)
    else:
        request.body, call.body = call.body, request.body
        request.message, request.message_length = request.body.data + GRPC_PREFIX, length
    submit(io, call, request, GRPC_PREFIX + length)


cdef void stream_message(IoThread* io, Call* call, const uint8_t* data, size_t length, bint packed) noexcept nogil:
    cdef Request* request = request_new(&io.calls)
    if request == NULL:
        refuse(io, call, UNAVAILABLE, b"out of memory")
        return
    request.infer.id = slice_make(NULL, 0)              # no earlier user's, should this one never be decoded
    if packed and call.content_encoding != IDENTITY:
        unpack(call, data, length, request)
    elif packed:
        fail(&request.failure, INTERNAL, b"a compressed message without grpc-encoding")
    elif buffer_append(&request.body, data, length):            # a copy more than a unary call: many messages share the call's buffer
        fail(&request.failure, UNAVAILABLE, b"out of memory")
    else:
        request.message, request.message_length = request.body.data, length
    submit(io, call, request, GRPC_PREFIX + length)


# --- out ----------------------------------------------------------------------------------------------------------------

cdef void end_stream_if_done(IoThread* io, Call* call) noexcept nogil:
    if call.half_closed and call.requests == NULL and not call.ended:
        if call.body.length > call.body_used:
            refuse(io, call, INVALID_ARGUMENT, b"the stream ends inside a message")
            return
        call.ended = True
        answer(io, call)


cdef void progress(IoThread* io, Call* call) noexcept nogil:
    """Answer what is done, in order of arrival."""
    cdef Request* request
    cdef bint moved = False
    while call.requests != NULL and call.requests.done:
        request = call.requests
        call.requests = request.call_next
        if call.requests == NULL:
            call.requests_tail = &call.requests
        call.n_requests -= 1
        if not call.ended:
            moved = True
            if call.kind == CALL_INFER_STREAM:
                deliver_stream(io, call, request)
            else:
                deliver(call, request)
        free_request(io, request)
    if moved:
        answer(io, call)
    if call.kind == CALL_INFER_STREAM:
        end_stream_if_done(io, call)


cdef void finish_request(IoThread* io, Request* request) noexcept nogil:
    request.done = True
    request.lent = False
    unlist_deadline(io, request)                        # done ones may wait for their turn in a stream: no deadline touches them
    if request.call == NULL:
        free_request(io, request)
    else:
        progress(io, request.call)


cdef inline bint is_past_deadline(const Request* request, uint64_t now) noexcept nogil:
    """A time-out (deadline_is_timeout) is about the queue: who runs has kept it."""
    return request.deadline_ns != 0 and now >= request.deadline_ns and not request.deadline_is_timeout


cdef void check_result(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    """A result that comes too late, or that there is no room for, is a failure."""
    if is_past_deadline(request, now):
        fail(&request.failure, DEADLINE_EXCEEDED, b"Request timeout expired")
    elif request.reply.length > SMALL_ANSWER and not has_room(io):
        fail(&request.failure, UNAVAILABLE, b"more than %zu bytes in flight, answers that are not read included; try again",
             io.shared.limits.max_in_flight)


cdef int routed_outcome(const Request* request, bint run_failed, uint64_t now) noexcept nogil:
    """What it says about the version. A run that failed is an error whoever gave the input and whoever has left since, so is one that the
    deadline found running; a full queue, a deadline in it and no room for the answer are not.
    """
    if request.failure.kind == OK:
        return ROUTED_SUCCESS
    if request.t_started == 0 or request.failure.kind == CANCELLED:
        return ROUTED_REFUSED
    return ROUTED_ERROR if run_failed or is_past_deadline(request, now) else ROUTED_REFUSED


cdef void dispatch_done(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    cdef VersionStats* stats
    cdef bint run_failed = request.failure.kind != OK
    cdef int kind
    if is_shadow(request):
        shadow_done(io, request)
        return
    stats = stats_of(request.version, io.index)
    if request.failure.kind == OK:
        check_result(io, request, now)
    kind = request.failure.kind
    io.n_lent -= 1
    if not request.counted:
        count_routed(request, routed_outcome(request, run_failed, now), since(now, request.t_received), io.index)
    if stats != NULL:
        counter_add(&stats.completed, 1)
    if kind == OK:
        count_success(io, request, now)
    elif kind == DEADLINE_EXCEEDED or (kind == UNAVAILABLE and request.deadline_is_timeout and now >= request.deadline_ns):
        count_rejection(io, request, REJECTED_DEADLINE, now)
    elif request.call == NULL or kind == CANCELLED:
        count_rejection(io, request, REJECTED_CANCELLED, now)
    elif kind == UNAVAILABLE:
        count_rejection(io, request, REJECTED_QUEUE_FULL, now)
    else:
        count_rejection(io, request, FAILED_RUN, now)
    record_and_finish(io, request, now)


cdef void record_and_finish(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    """What is recorded first is answered first; where there is no room, the answer may have to wait for it."""
    if request.record != NULL and not record_done(io, request, now):
        unlist_deadline(io, request)                    # it has kept its deadline: what it waits for now has one of its own
        if record_park(io, request, now):
            return
    finish_request(io, request)


cdef void dispatch_parked(IoThread* io, uint64_t now, bint is_last) noexcept nogil:
    cdef Request* request = record_unpark(io, now, is_last)
    while request != NULL:
        finish_request(io, request)
        request = record_unpark(io, now, is_last)


cdef void run_inline(IoThread* io, Pool* pool) noexcept nogil:
    """Short batches on this thread: no hand-over, no wake-up. What is left after the turn's share goes to an instance thread."""
    cdef uint64_t now = now_ns()
    cdef uint64_t end = now + INLINE_TURN_NS
    cdef Request* request
    cdef int i
    while now < end and pool_take_inline(pool, &io.batch, now, INLINE_LONGEST_NS, False):
        batch_run(&io.batch, io.index)
        pool_finish(pool, &io.batch)
        counter_add(&io.counters.inline_batches, 1)
        now = now_ns()
        for i in range(io.batch.n):
            return_request(io, io.batch.requests[i], now)
        while io.batch.expired != NULL:
            request = io.batch.expired
            io.batch.expired = request.next
            fail(&request.failure, UNAVAILABLE if request.deadline_is_timeout else DEADLINE_EXCEEDED, b"Request timeout expired")
            return_request(io, request, now)
    pool_nudge(pool)                                 # whatever is left: too long for us, or more than our share


cdef void return_request(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    """A batch may hold requests of another I/O thread as well."""
    if request.mailbox == &io.mailbox:
        dispatch_done(io, request, now)
    else:
        mailbox_post(request.mailbox, request, request)


cdef Request* without_gone(IoThread* io) noexcept nogil:
    """The turn's requests, less those whose call went away in the same turn."""
    cdef Request* request = io.pending
    cdef Request* following
    cdef Request* first = NULL
    cdef Request** tail = &first
    cdef VersionStats* stats
    io.pending = NULL
    io.pending_tail = &io.pending
    while request != NULL:
        following = request.next
        request.next = NULL
        if request.call == NULL:
            request.failure.kind = CANCELLED
            count_rejection(io, request, REJECTED_CANCELLED, io.hooks.now)
            count_routed(request, ROUTED_REFUSED, 0, io.index)
            record_and_finish(io, request, io.hooks.now)
        else:
            stats = stats_of(request.version, io.index)
            if stats != NULL:
                counter_add(&stats.submitted, 1)
            tail[0] = request
            tail = &request.next
            io.n_lent += 1
        request = following
    return first


cdef Request* of_pool(Pool* pool, Request** chain) noexcept nogil:
    """Take the requests of one device out of a chain; both keep their order."""
    cdef Request* first = NULL
    cdef Request** tail = &first
    cdef Request** link = chain
    while link[0] != NULL:
        if link[0].version.pool == pool:
            tail[0] = link[0]
            link[0] = link[0].next
            tail = &tail[0].next
            tail[0] = NULL
        else:
            link = &link[0].next
    return first


cdef void dispatch_pending(IoThread* io) noexcept nogil:
    cdef Request* refused
    cdef Request* following
    cdef Request* rest
    cdef Pool* pool
    if io.pending == NULL:
        return
    rest = without_gone(io)
    while rest != NULL:
        pool = <Pool*>rest.version.pool
        refused = pool_submit(pool, of_pool(pool, &rest), True)
        while refused != NULL:
            following = refused.next
            dispatch_done(io, refused, io.hooks.now)
            refused = following
        run_inline(io, pool)


cdef void answer_ahead(IoThread* io, Request* request) noexcept nogil:
    """It runs, and nobody will want what comes of it: its client is told now. The request itself is freed when it comes back."""
    cdef Call* call = request.call
    unlist_deadline(io, request)
    request.call = NULL
    call.requests = NULL
    call.requests_tail = &call.requests
    call.n_requests = 0
    # Now, and not when it is back: a version that hangs must not go uncounted.
    count_routed(request, ROUTED_ERROR, 0, io.index)
    request.counted = True
    note_origin(call, request)
    refuse(io, call, DEADLINE_EXCEEDED, b"Request timeout expired")


cdef void dispatch_deadlines(IoThread* io, uint64_t now) noexcept nogil:
    cdef Request* request = io.deadlines
    cdef Request* following
    while request != NULL:
        following = request.deadline_next
        if now >= request.deadline_ns and request.lent and pool_cancel(<Pool*>request.version.pool, request):
            fail(&request.failure, UNAVAILABLE if request.deadline_is_timeout else DEADLINE_EXCEEDED, b"Request timeout expired")
            dispatch_done(io, request, now)
        elif request.call != NULL and not request.stream and is_past_deadline(request, now):
            answer_ahead(io, request)
        request = following


cdef void inferences_gone(IoThread* io, Call* call) noexcept nogil:
    cdef Request* request = call.requests
    cdef Request* following
    while request != NULL:
        following = request.call_next
        request.call = NULL
        if request.done:
            free_request(io, request)
        elif pool_cancel(<Pool*>request.version.pool, request):
            request.failure.kind = CANCELLED
            dispatch_done(io, request, io.hooks.now)
        request = following                             # otherwise it is freed when it comes back
    call.requests = NULL
    call.requests_tail = &call.requests
