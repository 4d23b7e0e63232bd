from serve._core.call cimport Call, Request, call_answer_http, call_refuse
from serve._core.failure cimport DEADLINE_EXCEEDED, INTERNAL, OK, UNAVAILABLE
from serve._core.grpc_frame cimport put_message
from serve._core.memory cimport Buffer, Slice, arena_copy, buffer_append, buffer_empty, buffer_free, slice_make
from serve._core.routing cimport Plan
from serve._core.wire cimport wire_encode_stream_error


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


cdef bint is_header_text(Slice text) noexcept nogil:
    cdef size_t i
    for i in range(text.length):
        if not 33 <= text.data[i] <= 126:
            return False
    return 0 < text.length <= 128


cdef void note_origin(Call* call, const Request* request) noexcept nogil:
    """Copies: the plan and the version may be gone before the headers are sent."""
    cdef const Plan* plan = request.routed.plan
    if request.version == NULL:
        return
    call.version_served = arena_copy(&call.arena, request.version.number.data, request.version.number.length)
    if plan == NULL:
        call.variant_served, call.generation_served = call.version_served, slice_make(b"0", 1)
        return
    call.variant_served = arena_copy(&call.arena, plan.arms[request.routed.arm].name.data, plan.arms[request.routed.arm].name.length)
    call.generation_served = arena_copy(&call.arena, plan.generation_text.data, plan.generation_text.length)


cdef void deliver(Call* call, Request* request) noexcept nogil:
    """The answer of a call with one inference. Its identity is the OIP id, where one was sent that a header can carry."""
    if request.infer.has_id and is_header_text(request.infer.id):
        call.request_id = arena_copy(&call.arena, request.infer.id.data, request.infer.id.length)
    note_origin(call, request)
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
