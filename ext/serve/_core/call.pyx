from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from serve._core.access_log cimport (ACCESS_GRPC, ACCESS_HTTP1, ACCESS_HTTP2, ACCESS_ID, ACCESS_METHOD, ACCESS_PATH,
                                     ACCESS_VARIANT, ACCESS_VERSION, AccessRecord, access_publish, access_slot)
from serve._core.compression cimport encoding_accepted, encoding_from_name
from serve._core.debug cimport KEEPS_FREE, count_copy
from serve._core.counters cimport counter_add, counter_read, counter_set
from serve._core.failure cimport CANCELLED, GRPC_CODE, HTTP_STATUS, KIND_NAME, OK, UNAVAILABLE
from serve._core.json_codec cimport json_encode_error
from serve._core.memory cimport (arena_alloc, arena_copy, arena_free, arena_reset, buffer_free, buffer_reserve, slice_is, slice_make,
                                 slice_of)
from serve._core.posix cimport now_ns
from serve._core.routing cimport Routed
from serve._core.status_details cimport status_details

cdef enum:
    FREE_LIMIT = 4096               # free calls and requests kept by a thread
    KEEP_BUFFER = 1 << 20           # largest buffer that stays with a free one
    KEEP_TOTAL = 64 << 20           # bytes that all of a thread's free ones may hold
    RESERVE_RATIO = 16              # memory reserved ahead of a body: at most so many times what has arrived
    SMALL_BODY = 65536              # bodies below are not held against the in-flight limit while they arrive
    BODY_SPARE = 64                 # json_codec.JSON_PADDING


# --- header fields ------------------------------------------------------------------------------------------------------

cdef inline int64_t digits(Slice text) noexcept nogil:
    """A decimal number of 1 to 18 digits; -2 when it is anything else."""
    cdef int64_t value = 0
    cdef size_t i
    if text.length == 0 or text.length > 18:
        return -2
    for i in range(text.length):
        if not 48 <= text.data[i] <= 57:
            return -2
        value = value * 10 + (text.data[i] - 48)
    return value


cdef uint64_t timeout_ns(Slice text, uint64_t cap) noexcept nogil:
    """grpc-timeout (PROTOCOL-HTTP2: at most 8 digits and a unit) in ns, at most `cap`; 0 when unreadable."""
    cdef int64_t value
    cdef uint64_t unit
    if text.length < 2 or text.length > 9:
        return 0
    value = digits(slice_make(text.data, text.length - 1))
    if value < 0:
        return 0
    cdef uint8_t letter = text.data[text.length - 1]
    if letter == b'n':
        unit = 1
    elif letter == b'u':
        unit = 1000
    elif letter == b'm':
        unit = 1000000
    elif letter == b'S':
        unit = 1000000000
    elif letter == b'M':
        unit = <uint64_t>60 * 1000000000
    elif letter == b'H':
        unit = <uint64_t>3600 * 1000000000
    else:
        return 0
    if <uint64_t>value > cap // unit:
        return cap
    return max(<uint64_t>1, <uint64_t>value * unit)


cdef inline void set_deadline(Call* call, uint64_t deadline_ns) noexcept nogil:
    """The last one given counts, but an unreadable one is never taken back."""
    if call.deadline_ns < <uint64_t>BAD_TIMEOUT_MS:
        call.deadline_ns = deadline_ns


cdef bint is_grpc_type(Slice value) noexcept nogil:
    """application/grpc, alone or before + (a message format) or ; (parameters): PROTOCOL-HTTP2, Content-Type."""
    if value.length < 16 or memcmp(value.data, b"application/grpc", 16) != 0:
        return False
    return value.length == 16 or value.data[16] == b'+' or value.data[16] == b';'


cdef void interpret(Call* call, Slice name, Slice value) noexcept nogil:
    """Note the fields that the data plane acts on. Unknown ones are only kept."""
    cdef uint64_t cap = call.connection.hooks.limits.deadline_cap_ns
    cdef int64_t number
    if name.length == 11 and slice_is(name, b"traceparent", 11):
        call.traceparent = value
    elif name.length == 12 and slice_is(name, b"grpc-timeout", 12):
        number = <int64_t>timeout_ns(value, cap)
        set_deadline(call, call.t_received + <uint64_t>number if number else <uint64_t>BAD_GRPC_TIMEOUT)
    elif name.length == 12 and slice_is(name, b"content-type", 12):
        call.is_grpc = is_grpc_type(value)
    elif name.length == 12 and slice_is(name, b"x-request-id", 12):
        if 0 < value.length <= 128:
            call.request_id = value
    elif name.length == 13 and slice_is(name, b"grpc-encoding", 13):
        call.content_encoding = encoding_from_name(value)
    elif name.length == 14 and slice_is(name, b"content-length", 14):
        call.content_length = digits(value)
    elif name.length == 15 and slice_is(name, b"accept-encoding", 15):
        call.accept_encoding = encoding_accepted(value)
    elif name.length == 16 and slice_is(name, b"content-encoding", 16):
        call.content_encoding = encoding_from_name(value)
    elif name.length == 20 and slice_is(name, b"x-request-timeout-ms", 20):
        number = digits(value)
        if number < 0:
            set_deadline(call, <uint64_t>BAD_TIMEOUT_MS)
        elif number > 0:
            set_deadline(call, call.t_received + (cap if <uint64_t>number > cap // 1000000 else <uint64_t>number * 1000000))
    elif name.length == 31 and slice_is(name, b"inference-header-content-length", 31):
        call.json_length = digits(value)


cdef int call_add_field(Call* call, Slice name, Slice value) noexcept nogil:
    cdef Field* field
    cdef uint8_t* text
    cdef size_t i
    cdef uint8_t letter
    call.n_fields += 1
    call.field_bytes += name.length + value.length + 32
    if call.n_fields > 100 or call.field_bytes > 65536:
        return -1
    field = <Field*>arena_alloc(&call.arena, sizeof(Field) + name.length)
    if field == NULL:
        return -1
    text = <uint8_t*>(field + 1)
    for i in range(name.length):
        letter = name.data[i]
        text[i] = letter + 32 if 65 <= letter <= 90 else letter
    field.name = slice_make(text, name.length)
    field.value = arena_copy(&call.arena, value.data, value.length)
    if field.value.data == NULL:
        return -1
    field.next = call.fields
    call.fields = field
    interpret(call, field.name, field.value)
    return 0


# --- calls --------------------------------------------------------------------------------------------------------------

cdef Call* call_new(Connection* connection, uint64_t now) noexcept nogil:
    cdef CallPool* pool = connection.hooks.pool
    cdef Call* call = pool.calls
    if call != NULL:
        pool.calls = call.next
        pool.n_calls -= 1
        pool.kept_bytes -= call.body.capacity + call.out.capacity
    else:
        call = <Call*>calloc(1, sizeof(Call))
        if call == NULL:
            return NULL
    counter_add(&pool.live_calls, 1)
    call.connection = connection
    call.next = NULL
    call.previous = connection.last_call
    if connection.last_call != NULL:
        connection.last_call.next = call
    else:
        connection.calls = call
    connection.last_call = call
    connection.n_calls += 1
    call.json_length = call.content_length = -1
    call.reply_json_length = -1
    call.requests_tail = &call.requests
    call.keep_alive = True
    call.takes_interim = False
    call.t_opened = call.t_received = call.t_grown = now
    return call


cdef int call_append(Call* call, const uint8_t* data, size_t length, size_t expected) noexcept nogil:
    cdef Buffer* body = &call.body
    cdef const uint8_t* before = body.data
    # Whole bodies at once save copies while they grow; what is reserved ahead stays within a multiple of what has arrived.
    if expected + BODY_SPARE > body.capacity and expected <= (body.length + length) * RESERVE_RATIO + SMALL_BODY and expected > body.length:
        buffer_reserve(body, expected + BODY_SPARE - body.length)           # best effort: appending grows it otherwise
    if buffer_reserve(body, length):
        return CALL_BROKEN
    count_copy(&call.connection.hooks.copied_bytes, length + (body.length if body.data != before else 0))
    if length:
        memcpy(body.data + body.length, data, length)
    return call_grown(call, length)


cdef int call_grown(Call* call, size_t length) noexcept nogil:
    cdef Hooks* hooks = call.connection.hooks
    call.body.length += length
    call.received += length
    call.t_grown = hooks.now
    call.held_bytes += length
    counter_add(hooks.held_bytes, length)
    if call.held_bytes > SMALL_BODY and not hooks.has_room(call.connection.owner):
        return UNAVAILABLE
    return OK


cdef void call_hold(Call* call, size_t length) noexcept nogil:
    call.held_bytes += length
    counter_add(call.connection.hooks.held_bytes, length)


cdef void call_release_held(Call* call, size_t length) noexcept nogil:
    cdef uint64_t* held = call.connection.hooks.held_bytes
    length = min(length, call.held_bytes)
    call.held_bytes -= length
    counter_set(held, counter_read(held) - length)


cdef void call_hold_out(Call* call) noexcept nogil:
    cdef uint64_t* held = call.connection.hooks.held_bytes
    counter_set(held, counter_read(held) + call.out.length - call.held_out)
    call.held_out = call.out.length


cdef void recycle_buffer(CallPool* pool, Buffer* buffer) noexcept nogil:
    """Keep the memory for the next user when it is small enough."""
    if buffer.capacity > KEEP_BUFFER or pool.kept_bytes + buffer.capacity > KEEP_TOTAL:
        buffer_free(buffer)
        return
    buffer.length = 0
    pool.kept_bytes += buffer.capacity


cdef inline uint8_t keep_text(char* to, int room, Slice text) noexcept nogil:
    cdef size_t n = min(text.length, <size_t>room)
    if n:
        memcpy(to, text.data, n)
    return <uint8_t>n


cdef void note_access(Call* call) noexcept nogil:
    """One record. A call that ends before it was answered was cancelled by the client or given up."""
    cdef AccessRecord* record = access_slot(call.connection.hooks.access)
    cdef bint complete = call.answered and call.ended
    if record == NULL:
        return
    record.duration_ns = now_ns() - call.t_opened
    record.request_bytes, record.answer_bytes = call.received, call.sent
    record.protocol = ACCESS_GRPC if call.is_grpc else ACCESS_HTTP2 if call.connection.protocol == PROTOCOL_HTTP2 else ACCESS_HTTP1
    if call.is_grpc:
        record.status = call.grpc_status if complete else GRPC_CODE[<int>CANCELLED]
    else:
        record.status = call.status if complete else HTTP_STATUS[<int>CANCELLED]
    record.n_method = keep_text(record.method, ACCESS_METHOD, call.method)
    record.n_path = keep_text(record.path, ACCESS_PATH, call.path)
    record.n_version = keep_text(record.version, ACCESS_VERSION, call.version_served)
    record.n_variant = keep_text(record.variant, ACCESS_VARIANT, call.variant_served)
    record.n_id = keep_text(record.id, ACCESS_ID, call.request_id)
    access_publish(call.connection.hooks.access)


cdef void call_free(Call* call) noexcept nogil:
    cdef Connection* connection = call.connection
    cdef CallPool* pool = connection.hooks.pool
    cdef Arena arena
    cdef Buffer body, out
    connection.hooks.on_gone(connection.owner, call)
    call_release_held(call, call.held_bytes)
    call.out.length = 0
    call_hold_out(call)
    if connection.hooks.access != NULL:
        note_access(call)
    if call.previous != NULL:
        call.previous.next = call.next
    else:
        connection.calls = call.next
    if call.next != NULL:
        call.next.previous = call.previous
    else:
        connection.last_call = call.previous
    if connection.receiving == call:
        connection.receiving = NULL
    connection.n_calls -= 1
    counter_set(&pool.live_calls, counter_read(&pool.live_calls) - 1)
    if not KEEPS_FREE or pool.n_calls >= FREE_LIMIT:
        arena_free(&call.arena)
        buffer_free(&call.body)
        buffer_free(&call.out)
        free(call)
        return
    arena_reset(&call.arena)
    recycle_buffer(pool, &call.body)
    recycle_buffer(pool, &call.out)
    arena, body, out = call.arena, call.body, call.out
    memset(call, 0, sizeof(Call))
    call.arena, call.body, call.out = arena, body, out
    call.next = pool.calls
    pool.calls = call
    pool.n_calls += 1


cdef void call_attach(Call* call, Request* request) noexcept nogil:
    """Append to the call's requests, answered in this order."""
    request.call = call
    request.call_next = NULL
    call.requests_tail[0] = request
    call.requests_tail = &request.call_next
    call.n_requests += 1


cdef Slice percent_encoded(Arena* arena, const char* text) noexcept nogil:
    """grpc-message: bytes outside printable ASCII, and %, as %XX (PROTOCOL-HTTP2)."""
    cdef Slice raw = slice_of(text)
    cdef uint8_t* out = <uint8_t*>arena_alloc(arena, 3 * raw.length)
    cdef const char* hexadecimal = b"0123456789ABCDEF"
    cdef size_t i, n = 0
    cdef uint8_t c
    if out == NULL:
        return slice_make(NULL, 0)
    for i in range(raw.length):
        c = raw.data[i]
        if 32 <= c < 127 and c != 37:
            out[n] = c
            n += 1
        else:
            out[n], out[n + 1], out[n + 2] = 37, hexadecimal[c >> 4], hexadecimal[c & 15]
            n += 3
    return slice_make(out, n)


cdef void call_fail_grpc(Call* call, int code, const char* text, const char* reason) noexcept nogil:
    call.grpc_status = code
    call.message = percent_encoded(&call.arena, text)
    call.details = status_details(&call.arena, code, text, reason)


cdef void ask_to_retry(Call* call) noexcept nogil:
    """Retry-After (RFC 9110, 10.2.3): one second is enough for a queue to move."""
    cdef Field* field = <Field*>arena_alloc(&call.arena, sizeof(Field))
    if field != NULL:
        field.name, field.value = slice_of(b"retry-after"), slice_of(b"1")
        field.next = call.reply_fields
        call.reply_fields = field


cdef void call_refuse(Call* call, int kind, const char* text) noexcept nogil:
    """An error answer of the call's own protocol. Nothing that was prepared before is sent, unless it is out already."""
    call.ended = True
    if call.is_grpc:
        call_fail_grpc(call, GRPC_CODE[kind], text, KIND_NAME[kind])
        return
    if kind == UNAVAILABLE:
        ask_to_retry(call)
    call.status = HTTP_STATUS[kind]
    call.content_type = b"application/json"
    call.reply_json_length = -1
    call.reply_encoding = 0
    call.out.length = call.out_sent = 0
    if json_encode_error(text, &call.out):
        call.out.length = 0


cdef void call_answer_http(Call* call, int status, const char* content_type) noexcept nogil:
    """call.out is the whole body."""
    call.ended = True
    call.status = status
    call.content_type = content_type


# --- requests -----------------------------------------------------------------------------------------------------------

cdef Request* request_new(CallPool* pool) noexcept nogil:
    cdef Request* request = pool.requests
    if request != NULL:
        pool.requests = request.next
        pool.n_requests -= 1
        pool.kept_bytes -= request.body.capacity + request.reply.capacity
        request.next = NULL
    else:
        request = <Request*>calloc(1, sizeof(Request))
        if request == NULL:
            return NULL
    counter_add(&pool.live_requests, 1)
    request.failure.kind = 0
    request.infer.has_id = False                        # no earlier user's, should this one never be decoded
    memset(&request.routed, 0, sizeof(Routed))
    request.shadow = NULL
    request.record = NULL
    request.batch_id = 0
    request.counted = False
    request.t_started = 0
    return request


cdef void request_free(CallPool* pool, Request* request) noexcept nogil:
    counter_set(&pool.live_requests, counter_read(&pool.live_requests) - 1)
    if not KEEPS_FREE or pool.n_requests >= FREE_LIMIT:
        arena_free(&request.arena)
        buffer_free(&request.body)
        buffer_free(&request.reply)
        free(request)
        return
    arena_reset(&request.arena)
    recycle_buffer(pool, &request.body)
    recycle_buffer(pool, &request.reply)
    request.call = NULL
    request.call_next = request.queue_next = request.queue_previous = NULL
    request.version = NULL
    request.pins = NULL
    request.bucket = NULL
    request.stream = request.lent = request.done = request.deadline_is_timeout = False
    request.accept_encoding = request.reply_encoding = 0
    request.deadline_ns = 0
    request.held_bytes = 0
    request.reply_json_length = -1
    request.next = pool.requests
    pool.requests = request
    pool.n_requests += 1


cdef void pool_clear(CallPool* pool) noexcept nogil:
    cdef Call* call
    cdef Request* request
    while pool.calls != NULL:
        call = pool.calls
        pool.calls = call.next
        arena_free(&call.arena)
        buffer_free(&call.body)
        buffer_free(&call.out)
        free(call)
    while pool.requests != NULL:
        request = pool.requests
        pool.requests = request.next
        arena_free(&request.arena)
        buffer_free(&request.body)
        buffer_free(&request.reply)
        free(request)
    pool.n_calls = pool.n_requests = 0
    pool.kept_bytes = 0
