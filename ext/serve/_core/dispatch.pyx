from libc.stdint cimport uint8_t

from serve._core.answering cimport answer, refuse
from serve._core.call cimport *
from serve._core.call_route cimport route_call
from serve._core.compression cimport IDENTITY, UNKNOWN_ENCODING, inflate_all
from serve._core.counters cimport counter_add
from serve._core.failure cimport *
from serve._core.grpc_frame cimport GRPC_PREFIX, compact, next_message, put_message
from serve._core.ids cimport uuid7_text
from serve._core.inference cimport end_stream_if_done, has_room, inferences_gone, start_grpc, start_http, stream_message
from serve._core.io_thread cimport IoThread
from serve._core.memory cimport Buffer, arena_alloc, buffer_append, buffer_empty, buffer_free, slice_is, slice_make
from serve._core.slow_call cimport control_data, control_end, control_gone, open_control
from serve._core.timeouts cimport sweep_in_time


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
    else:
        counter_add(&io.counters.http_requests, 1)
    call.kind = route_call(call)
    sweep_in_time(io, call, io.hooks.now)
    if call.content_encoding == UNKNOWN_ENCODING:
        refuse(io, call, NOT_IMPLEMENTED, b"unknown content encoding; accepted: identity, gzip, deflate")
        call.kind = CALL_REFUSED
    elif call.deadline_ns == <uint64_t>BAD_GRPC_TIMEOUT:        # a client that has a deadline must not run without; grpc-core's words
        refuse(io, call, INTERNAL if call.is_grpc else INVALID_ARGUMENT, b"Error parsing 'grpc-timeout' metadata")
        call.kind = CALL_REFUSED
    elif call.deadline_ns == <uint64_t>BAD_TIMEOUT_MS:
        refuse(io, call, INVALID_ARGUMENT, b"x-request-timeout-ms: want a whole number of milliseconds")
        call.kind = CALL_REFUSED
    elif call.content_length == -2:
        refuse(io, call, INVALID_ARGUMENT, b"content-length: not a number")
        call.kind = CALL_REFUSED
    elif call.is_grpc and not slice_is(call.method, b"POST", 4):
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


cdef void on_data(void* owner, Call* call) noexcept nogil:
    """Messages of a gRPC call that is no single inference, as they become whole."""
    cdef IoThread* io = <IoThread*>owner
    cdef size_t length = 0
    cdef bint packed = False
    cdef const uint8_t* data
    if call.control != NULL and call.is_grpc:
        control_data(io, call)
    if not call.is_grpc or call.kind != CALL_INFER_STREAM:
        return
    while not call.ended and next_message(call, &length, &packed):
        data = call.body.data + call.body_used + GRPC_PREFIX
        call.body_used += GRPC_PREFIX + length
        call.t_received = io.hooks.now
        stream_message(io, call, data, length, packed)
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
        control_end(io, call)
    elif call.kind == CALL_CONTROL:
        if call.content_encoding != IDENTITY:
            plain = buffer_empty()
            if inflate_all(call.content_encoding, call.body.data, call.body.length, io.shared.limits.max_body, 0, &plain, &failure):
                buffer_free(&plain)
                refuse(io, call, failure.kind, failure.text)
                return
            buffer_free(&call.body)
            call.body = plain
        open_control(io, call)


cdef void on_gone(void* owner, Call* call) noexcept nogil:
    inferences_gone(<IoThread*>owner, call)
    control_gone(<IoThread*>owner, call)


cdef void dispatch_init(Hooks* hooks) noexcept nogil:
    hooks.on_headers = on_headers
    hooks.on_data = on_data
    hooks.on_end = on_end
    hooks.on_gone = on_gone
    hooks.has_room = has_room
