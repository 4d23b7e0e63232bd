from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, strlen

from serve._core.batch_queue cimport Pool, pool_cancel, pool_finish, pool_nudge, pool_submit, pool_take_inline
from serve._core.batcher cimport batch_run, stats_of
from serve._core.call cimport *
from serve._core.compression cimport IDENTITY, UNKNOWN_ENCODING, inflate_all
from serve._core.control_queue cimport control_submit
from serve._core.counters cimport counter_add, counter_publish, counter_read, counter_set
from serve._core.failure cimport *
from serve._core.histogram cimport Histogram, histogram_add
from serve._core.http2 cimport http2_answer
from serve._core.ids cimport uuid7_text
from serve._core.infer cimport infer_decode
from serve._core.memory cimport (Buffer, Slice, arena_alloc, arena_copy, buffer_append, buffer_empty, buffer_free, buffer_reserve, slice_is, slice_make)
from serve._core.model_table cimport Snapshot
from serve._core.posix cimport htonl, now_ns, wall_ms
from serve._core.version cimport *
from serve._core.wire cimport wire_encode_stream_error

cdef enum:
    JSON_SPARE = 64                 # json_codec.JSON_PADDING
    GRPC_PREFIX = 5
    INLINE_LONGEST_NS = 200000      # a run that the I/O thread may do itself
    INLINE_TURN_NS = 1000000        # and all of them in one turn


cdef void mark_dirty(IoThread* io, Connection* connection) noexcept nogil:
    if not connection.dirty:
        connection.dirty = True
        connection.dirty_next = io.dirty
        io.dirty = connection


cdef inline void answer(IoThread* io, Call* call) noexcept nogil:
    """The call has something new to say. HTTP/1.1 answers are collected, in order, when the connection is flushed."""
    if call.connection.protocol == PROTOCOL_HTTP2:
        http2_answer(call)
    mark_dirty(io, call.connection)


cdef void refuse(IoThread* io, Call* call, int kind, const char* text) noexcept nogil:
    call_refuse(call, kind, text)
    answer(io, call)


# --- routing ------------------------------------------------------------------------------------------------------------

cdef inline bint is_method(const Call* call, const char* name, size_t length) noexcept nogil:
    return slice_is(call.method, name, length)


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef int percent_decoded(Call* call, Slice text, Slice* out) noexcept nogil:
    """A path segment without its %XX; -1 when one is torn."""
    cdef uint8_t* copy
    cdef size_t i = 0, n = 0
    cdef int high, low
    for i in range(text.length):
        if text.data[i] == 37:
            break
    else:
        out[0] = text
        return 0
    copy = <uint8_t*>arena_alloc(&call.arena, text.length)
    if copy == NULL:
        return -1
    i = 0
    while i < text.length:
        if text.data[i] != 37:
            copy[n] = text.data[i]
            i += 1
        else:
            high = hex_digit(text.data[i + 1]) if i + 2 < text.length else -1
            low = hex_digit(text.data[i + 2]) if i + 2 < text.length else -1
            if high < 0 or low < 0:
                return -1
            copy[n] = <uint8_t>(high << 4 | low)
            i += 3
        n += 1
    out[0] = slice_make(copy, n)
    return 0


cdef Slice segment(Slice* rest) noexcept nogil:
    """The path up to the next slash; rest moves behind it."""
    cdef size_t i = 0
    cdef Slice taken
    while i < rest.length and rest.data[i] != 47:
        i += 1
    taken = slice_make(rest.data, i)
    i = min(i + 1, rest.length)
    rest[0] = slice_make(rest.data + i, rest.length - i)
    return taken


cdef bint is_number(Slice text) noexcept nogil:
    cdef size_t i
    for i in range(text.length):
        if not 48 <= text.data[i] <= 57:
            return False
    return text.length > 0


cdef bint is_infer_path(Call* call) noexcept nogil:
    """/v2/models/{model}[/versions/{version} | /labels/{label}]/infer; sets model and number. What is wrong with other paths, Python says."""
    cdef Slice rest = call.path
    cdef Slice model, word, number
    if rest.length < 18 or memcmp(rest.data, b"/v2/models/", 11) != 0 or memcmp(rest.data + rest.length - 6, b"/infer", 6) != 0:
        return False
    rest = slice_make(rest.data + 11, rest.length - 11)
    model = segment(&rest)
    word = segment(&rest)
    number = slice_make(NULL, 0)
    if slice_is(word, b"versions", 8) or slice_is(word, b"labels", 6):
        number = segment(&rest)
        if number.length == 0 or word.length == 6 and is_number(number):     # a label is never all digits
            return False
        word = segment(&rest)
    if not slice_is(word, b"infer", 5) or rest.length:
        return False
    return percent_decoded(call, model, &call.model) == 0 and percent_decoded(call, number, &call.number) == 0


cdef int route_http(Call* call) noexcept nogil:
    if is_method(call, b"POST", 4) and is_infer_path(call):
        return CALL_INFER
    if slice_is(call.path, b"/v2/health/live", 15) and (is_method(call, b"GET", 3) or is_method(call, b"HEAD", 4)):
        return CALL_LIVE
    return CALL_CONTROL


cdef int route_grpc(Call* call) noexcept nogil:
    cdef const uint8_t* name
    if call.path.length < 32 or memcmp(call.path.data, b"/inference.GRPCInferenceService/", 32) != 0:
        return CALL_CONTROL
    name = call.path.data + 32
    if call.path.length == 42 and memcmp(name, b"ModelInfer", 10) == 0:
        return CALL_INFER
    if call.path.length == 48 and memcmp(name, b"ModelStreamInfer", 16) == 0:
        return CALL_INFER_STREAM
    if call.path.length == 42 and memcmp(name, b"ServerLive", 10) == 0:
        return CALL_LIVE
    return CALL_CONTROL


cdef void ensure_id(IoThread* io, Call* call) noexcept nogil:
    cdef char* text
    if call.request_id.data != NULL:
        return
    text = <char*>arena_alloc(&call.arena, 40)
    if text != NULL:
        uuid7_text(io.hooks.wall_ms, io.hooks.random, text)
        call.request_id = slice_make(text, 36)


cdef void on_headers(void* owner, Call* call) noexcept nogil:
    cdef IoThread* io = <IoThread*>owner
    cdef Field* field
    ensure_id(io, call)
    if call.is_grpc:
        counter_add(&io.counters.grpc_requests, 1)
        call.kind = route_grpc(call)
    else:
        counter_add(&io.counters.http_requests, 1)
        call.kind = route_http(call)
    if call.content_encoding == UNKNOWN_ENCODING:
        refuse(io, call, NOT_IMPLEMENTED, b"unknown content encoding; accepted: identity, gzip, deflate")
        call.kind = CALL_REFUSED
    elif call.content_length == -2:
        refuse(io, call, INVALID_ARGUMENT, b"content-length: not a number")
        call.kind = CALL_REFUSED
    elif call.is_grpc and not is_method(call, b"POST", 4):
        refuse(io, call, METHOD_NOT_ALLOWED, b"gRPC calls are POST")
        call.kind = CALL_REFUSED
    elif call.kind == CALL_CONTROL and call.is_grpc:
        open_control(io, call)
    elif call.kind == CALL_INFER_STREAM:
        field = call.fields
        while field != NULL:
            if slice_is(field.name, b"triton_grpc_error", 17):
                call.errors_end_stream = slice_is(field.value, b"true", 4)
            field = field.next


# --- the control plane --------------------------------------------------------------------------------------------------

cdef int put_text(Buffer* out, Slice text) noexcept nogil:
    return buffer_append(out, text.data, text.length) or buffer_append(out, b"\0", 1)


cdef int put_fields(Buffer* out, Field* field) noexcept nogil:
    while field != NULL:
        if put_text(out, field.name) or put_text(out, field.value):
            return -1
        field = field.next
    return 0


cdef Frame* opening(Call* call) noexcept nogil:
    cdef Frame* frame = frame_new(call.control, FRAME_OPEN)
    if frame == NULL:
        return NULL
    frame.is_grpc = call.is_grpc
    frame.deadline_ns = call.deadline_ns
    if put_text(&frame.head, call.method) or put_text(&frame.head, call.path) or put_text(&frame.head, call.query) or put_fields(&frame.head, call.fields):
        frame_free(frame)
        return NULL
    return frame


cdef void open_control(IoThread* io, Call* call) noexcept nogil:
    """Hand the call to Python. HTTP: with its whole body. gRPC: messages follow as frames."""
    cdef Frame* frame
    call.control = <ControlCall*>calloc(1, sizeof(ControlCall))
    if call.control == NULL:
        refuse(io, call, UNAVAILABLE, b"out of memory")
        return
    call.control.call = call
    call.control.mailbox = &io.mailbox
    frame = opening(call)
    if frame != NULL and not call.is_grpc:
        frame.body, call.body = call.body, frame.body
    if frame == NULL or control_submit(io.control, frame):
        if frame != NULL:
            frame_free(frame)
        free(call.control)
        call.control = NULL
        counter_add(&io.counters.refused_control, 1)
        refuse(io, call, UNAVAILABLE, b"the control plane is busy; try again")
        return
    counter_add(&io.counters.control_calls, 1)


cdef void send_down(IoThread* io, Call* call, int kind, const uint8_t* data, size_t length) noexcept nogil:
    cdef Frame* frame = frame_new(call.control, kind)
    if frame != NULL and buffer_append(&frame.body, data, length) == 0 and control_submit(io.control, frame) == 0:
        return
    if frame != NULL:
        frame_free(frame)
    refuse(io, call, UNAVAILABLE, b"the control plane is busy; try again")


cdef void take_response(Call* call, Frame* frame) noexcept nogil:
    """Header fields "name NUL value NUL ..." and body of an HTTP answer."""
    cdef Slice text = arena_copy(&call.arena, frame.head.data, frame.head.length)
    cdef const char* at = <const char*>text.data
    cdef const char* end = at + text.length
    cdef Field* field
    call.out, frame.body = frame.body, call.out
    call_answer_http(call, frame.status, NULL)
    while text.data != NULL and at < end:
        field = <Field*>arena_alloc(&call.arena, sizeof(Field))
        if field == NULL:
            return
        field.name = slice_make(at, strlen(at))
        at += field.name.length + 1
        field.value = slice_make(at, strlen(at))
        at += field.value.length + 1
        field.next = call.reply_fields
        call.reply_fields = field


cdef int put_message(Call* call, const uint8_t* data, size_t length) noexcept nogil:
    cdef uint8_t prefix[GRPC_PREFIX]
    cdef uint32_t size = htonl(<uint32_t>length)
    prefix[0] = 0
    memcpy(prefix + 1, &size, 4)
    return buffer_append(&call.out, prefix, GRPC_PREFIX) or buffer_append(&call.out, data, length)


cdef void dispatch_frame(IoThread* io, Frame* frame) noexcept nogil:
    cdef ControlCall* control = frame.control
    cdef Call* call = control.call
    cdef const char* text
    if frame.kind == FRAME_RELEASE:
        if call != NULL:
            call.control = NULL
        free(control)
    elif call != NULL and not call.ended:
        control.answered = frame.kind != FRAME_MESSAGE
        if frame.kind == FRAME_RESPONSE:
            take_response(call, frame)
        elif frame.kind == FRAME_MESSAGE:
            if put_message(call, frame.body.data, frame.body.length):
                call_refuse(call, INTERNAL, b"out of memory")
        else:
            call.ended = True
            if frame.status:
                text = b"internal error"
                if frame.head.length:
                    text = <const char*>frame.head.data
                call_fail_grpc(call, frame.status, text, NULL)
        answer(io, call)
    frame_free(frame)


# --- inference: in ------------------------------------------------------------------------------------------------------

cdef bint has_room(void* owner) noexcept nogil:
    cdef IoThread* io = <IoThread*>owner
    cdef uint64_t held = 0
    cdef int i
    for i in range(io.shared.n_threads):
        held += counter_read(&io.shared.counters[i].held_bytes)
    return held <= io.shared.limits.max_in_flight


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
    if request.pins != NULL:
        counter_publish(&request.pins.dropped, 1)
        request.pins = NULL
    counter_set(&io.counters.held_bytes, counter_read(&io.counters.held_bytes) - request.held_bytes)
    request_free(&io.calls, request)


cdef void count_rejection(IoThread* io, Request* request, int reason, uint64_t now) noexcept nogil:
    cdef VersionStats* stats
    if request.version == NULL:
        return
    stats = stats_of(request.version, io.index)
    if stats != NULL:
        counter_add(&stats.rejections[reason], 1)
        counter_add(&stats.rejection_ns, now - request.t_received)


cdef void submit(IoThread* io, Call* call, Request* request, size_t received) noexcept nogil:
    """Decode, and put on the turn's list; a request that cannot be run is answered at once.

    request.message is set; `received` bytes of the call's body became it.
    """
    cdef Pins* pins
    request.protocol = GRPC if call.is_grpc else HTTP
    request.stream = call.kind == CALL_INFER_STREAM
    request.mailbox = &io.mailbox
    request.accept_encoding = call.accept_encoding
    request.t_received = call.t_received
    request.held_bytes = request.body.length
    counter_add(&io.counters.held_bytes, request.held_bytes)
    call_release_held(call, received)
    call_attach(call, request)
    pins = &io.snapshot.pins[io.index]
    counter_add(&pins.taken, 1)
    request.pins = pins
    if not has_room(io):
        counter_add(&io.counters.refused_in_flight, 1)
        fail(&request.failure, UNAVAILABLE, b"more than %zu bytes of requests in flight; try again", io.shared.limits.max_in_flight)
    elif request.failure.kind == OK and infer_decode(request, io.snapshot, call.model, call.number, call.json_length) == 0:
        set_deadline(io, call, request)
        request.t_queued = io.hooks.now
        request.lent = True
        request.next = NULL
        io.pending_tail[0] = request
        io.pending_tail = &request.next
        return
    count_rejection(io, request, REJECTED_INVALID, io.hooks.now)
    finish_request(io, request)


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


cdef int next_message(const Call* call, size_t* length, bint* packed) noexcept nogil:
    """Whether call.body holds a whole gRPC message behind body_used."""
    cdef size_t available = call.body.length - call.body_used
    cdef const uint8_t* at
    if available < GRPC_PREFIX:
        return 0
    at = call.body.data + call.body_used
    length[0] = <size_t>at[1] << 24 | <size_t>at[2] << 16 | <size_t>at[3] << 8 | at[4]
    packed[0] = at[0] != 0
    return available - GRPC_PREFIX >= length[0]


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


cdef void compact(Call* call) noexcept nogil:
    """Forget the messages that were taken."""
    cdef size_t rest = call.body.length - call.body_used
    if call.body_used == 0:
        return
    if rest:
        memmove(call.body.data, call.body.data + call.body_used, rest)
    call.body.length = rest
    call.body_used = 0


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


cdef void control_message(IoThread* io, Call* call, const uint8_t* data, size_t length, bint packed) noexcept nogil:
    cdef Buffer plain
    cdef Failure failure
    if not packed:
        send_down(io, call, FRAME_MESSAGE, data, length)
        return
    plain = buffer_empty()
    if call.content_encoding == IDENTITY:
        refuse(io, call, INTERNAL, b"a compressed message without grpc-encoding")
    elif inflate_all(call.content_encoding, data, length, call.connection.hooks.limits.max_body, 0, &plain, &failure):
        refuse(io, call, failure.kind, failure.text)
    else:
        send_down(io, call, FRAME_MESSAGE, plain.data, plain.length)
    buffer_free(&plain)


cdef void on_data(void* owner, Call* call) noexcept nogil:
    """Messages of a gRPC stream, as they become whole."""
    cdef IoThread* io = <IoThread*>owner
    cdef size_t length = 0
    cdef bint packed = False
    cdef const uint8_t* data
    if not call.is_grpc or (call.kind != CALL_INFER_STREAM and call.control == NULL):
        return
    while not call.ended and next_message(call, &length, &packed):
        data = call.body.data + call.body_used + GRPC_PREFIX
        call.body_used += GRPC_PREFIX + length
        if call.kind == CALL_INFER_STREAM:
            call.t_received = io.hooks.now
            stream_message(io, call, data, length, packed)
        else:
            control_message(io, call, data, length, packed)
            call_release_held(call, GRPC_PREFIX + length)
    compact(call)


cdef void answer_live(IoThread* io, Call* call) noexcept nogil:
    cdef uint8_t[2] live = [8, 1]                       # ServerLiveResponse{live: true}
    call.ended = True
    if call.is_grpc:
        if put_message(call, live, 2):
            call.out.length = 0
    else:
        if buffer_append(&call.out, b'{"live":true}', 13):
            call.out.length = 0
        call_answer_http(call, 200, b"application/json")
    answer(io, call)


cdef void on_end(void* owner, Call* call) noexcept nogil:
    cdef IoThread* io = <IoThread*>owner
    cdef Buffer plain
    cdef Failure failure
    if call.kind == CALL_INFER:
        if call.is_grpc:
            start_grpc(io, call)
        else:
            start_http(io, call)
    elif call.kind == CALL_LIVE:
        answer_live(io, call)
    elif call.kind == CALL_INFER_STREAM:
        end_stream_if_done(io, call)
    elif call.kind == CALL_CONTROL and call.is_grpc:
        if call.control != NULL:
            send_down(io, call, FRAME_HALF_CLOSE, NULL, 0)
    elif call.kind == CALL_CONTROL:
        if call.content_encoding != IDENTITY:
            plain = buffer_empty()
            if inflate_all(call.content_encoding, call.body.data, call.body.length, call.connection.hooks.limits.max_body, 0, &plain, &failure):
                buffer_free(&plain)
                refuse(io, call, failure.kind, failure.text)
                return
            buffer_free(&call.body)
            call.body = plain
        open_control(io, call)


# --- inference: out -----------------------------------------------------------------------------------------------------

cdef void end_stream_if_done(IoThread* io, Call* call) noexcept nogil:
    if call.half_closed and call.requests == NULL and not call.ended:
        if call.body.length > call.body_used:
            refuse(io, call, INVALID_ARGUMENT, b"the stream ends inside a message")
            return
        call.ended = True
        answer(io, call)


cdef void deliver_stream(IoThread* io, Call* call, Request* request) noexcept nogil:
    cdef Buffer message
    if call.out.length - call.out_sent > io.shared.limits.max_body:
        call_refuse(call, UNAVAILABLE, b"the client does not read its answers")
        return
    if request.failure.kind == OK:
        if buffer_append(&call.out, request.reply.data, request.reply.length):
            call_refuse(call, INTERNAL, b"out of memory")
        return
    if call.errors_end_stream or request.failure.kind == DEADLINE_EXCEEDED:      # the deadline is the call's, not the message's
        call_refuse(call, request.failure.kind, request.failure.text)
        return
    message = buffer_empty()
    if wire_encode_stream_error(request.failure.text, request.infer.id, &message) or put_message(call, message.data, message.length):
        call_refuse(call, INTERNAL, b"out of memory")
    buffer_free(&message)


cdef void deliver(Call* call, Request* request) noexcept nogil:
    """The answer of a call with one inference."""
    if request.version != NULL:
        call.version_served = arena_copy(&call.arena, request.version.number.data, request.version.number.length)
    if request.failure.kind != OK:
        call_refuse(call, request.failure.kind, request.failure.text)
        return
    call.out, request.reply = request.reply, call.out
    if call.is_grpc:
        call.ended = True
        return
    call.reply_json_length = request.reply_json_length
    call.reply_encoding = request.reply_encoding
    call_answer_http(call, 200, b"application/json" if request.reply_json_length < 0 else b"application/octet-stream")


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


cdef inline uint64_t since(uint64_t later, uint64_t earlier) noexcept nogil:
    return later - earlier if later > earlier else 0


cdef void count_success(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    cdef VersionStats* stats = stats_of(request.version, io.index)
    cdef Histogram* stages
    if stats == NULL:
        return
    stages = stats.stages[request.protocol]
    counter_add(&stats.success[request.protocol], 1)
    counter_set(&stats.last_wall_ms, io.hooks.wall_ms)
    histogram_add(&stages[<int>RECEIVE], since(request.t_queued, request.t_received), 1)
    histogram_add(&stages[<int>QUEUE], since(request.t_started, request.t_queued), 1)
    histogram_add(&stages[<int>GATHER], since(request.t_gathered, request.t_started), 1)
    histogram_add(&stages[<int>RUN], since(request.t_ran, request.t_gathered), 1)
    histogram_add(&stages[<int>SCATTER], since(request.t_encoded, request.t_ran), 1)
    histogram_add(&stages[<int>SEND], since(now, request.t_encoded), 1)
    histogram_add(&stages[<int>TOTAL], since(now, request.t_received), 1)


cdef void dispatch_done(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    cdef VersionStats* stats = stats_of(request.version, io.index)
    cdef int kind = request.failure.kind
    io.n_lent -= 1
    if stats != NULL:
        counter_add(&stats.completed, 1)
    if kind == OK:
        count_success(io, request, now)
    elif request.call == NULL or kind == CANCELLED:
        count_rejection(io, request, REJECTED_CANCELLED, now)
    elif kind == DEADLINE_EXCEEDED or (kind == UNAVAILABLE and request.deadline_is_timeout and now >= request.deadline_ns):
        count_rejection(io, request, REJECTED_DEADLINE, now)
    elif kind == UNAVAILABLE:
        count_rejection(io, request, REJECTED_QUEUE_FULL, now)
    else:
        count_rejection(io, request, FAILED_RUN, now)
    finish_request(io, request)


cdef void run_inline(IoThread* io, Pool* pool) noexcept nogil:
    """Short batches on this thread: no hand-over, no wake-up. What is left after the turn's share goes to an instance thread."""
    cdef uint64_t now = now_ns()
    cdef uint64_t end = now + INLINE_TURN_NS
    cdef Request* request
    cdef int i
    while now < end and pool_take_inline(pool, &io.batch, now, INLINE_LONGEST_NS):
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
            count_rejection(io, request, REJECTED_CANCELLED, io.hooks.now)
            finish_request(io, request)
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


cdef void dispatch_deadlines(IoThread* io, uint64_t now) noexcept nogil:
    cdef Request* request = io.deadlines
    cdef Request* following
    while request != NULL:
        following = request.deadline_next
        if now >= request.deadline_ns and request.lent and pool_cancel(<Pool*>request.version.pool, request):
            fail(&request.failure, UNAVAILABLE if request.deadline_is_timeout else DEADLINE_EXCEEDED, b"Request timeout expired")
            dispatch_done(io, request, now)
        request = following


# --- a call goes away ---------------------------------------------------------------------------------------------------

cdef void on_gone(void* owner, Call* call) noexcept nogil:
    cdef IoThread* io = <IoThread*>owner
    cdef Request* request = call.requests
    cdef Request* following
    cdef Frame* frame
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
    if call.control != NULL:
        call.control.call = NULL
        if not call.control.answered:
            frame = frame_new(call.control, FRAME_CANCEL)
            if frame != NULL and control_submit(io.control, frame):
                frame_free(frame)
        call.control = NULL


cdef void dispatch_init(Hooks* hooks) noexcept nogil:
    hooks.on_headers = on_headers
    hooks.on_data = on_data
    hooks.on_end = on_end
    hooks.on_gone = on_gone
    hooks.has_room = has_room
