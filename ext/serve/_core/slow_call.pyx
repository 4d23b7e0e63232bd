from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport strlen

from serve._core.answering cimport answer, mark_dirty, refuse
from serve._core.call cimport *
from serve._core.compression cimport IDENTITY, inflate_all
from serve._core.control_frame cimport *
from serve._core.control_queue cimport control_submit
from serve._core.counters cimport counter_add
from serve._core.failure cimport INTERNAL, TOO_LARGE, UNAVAILABLE, Failure
from serve._core.grpc_frame cimport GRPC_PREFIX, compact, next_message, put_message
from serve._core.http2 cimport http2_set_window
from serve._core.mailbox cimport frame_free, frame_new
from serve._core.memory cimport Buffer, Slice, arena_alloc, arena_copy, buffer_append, buffer_empty, buffer_free, slice_make

cdef enum:
    MESSAGE_BYTES = 1 << 20         # of a message to Python, unpacked: questions are small
    CALL_BYTES = 1 << 20            # of one call's messages that Python has not begun with, and their number: no call fills the queue
    CALL_MESSAGES = 64
    UNREAD_BYTES = 4 << 20          # of answers that a client may leave unread


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
    cdef Buffer* head = &frame.head
    if put_text(head, call.method) or put_text(head, call.path) or put_text(head, call.query) or put_fields(head, call.fields):
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


cdef void send_message(IoThread* io, Call* call, const uint8_t* data, size_t length) noexcept nogil:
    """It stays in the in-flight budget until Python says that it begins with it."""
    call_hold(call, length)
    call.control.n_untaken += 1
    call.control.untaken_bytes += length
    send_down(io, call, FRAME_MESSAGE, data, length)


cdef void control_message(IoThread* io, Call* call, const uint8_t* data, size_t length, bint packed) noexcept nogil:
    cdef size_t limit = min(call.connection.hooks.limits.max_body, <size_t>MESSAGE_BYTES)
    cdef Buffer plain
    cdef Failure failure
    if not packed:
        send_message(io, call, data, length)
        return
    plain = buffer_empty()
    if call.content_encoding == IDENTITY:
        refuse(io, call, INTERNAL, b"a compressed message without grpc-encoding")
    elif inflate_all(call.content_encoding, data, length, limit, 0, &plain, &failure):
        refuse(io, call, failure.kind, failure.text)
    else:
        send_message(io, call, plain.data, plain.length)
    buffer_free(&plain)


cdef bint hand_down(IoThread* io, Call* call) noexcept nogil:
    """Whole messages, as far as Python keeps up. Whether others wait in the body."""
    cdef size_t length
    cdef bint packed = False
    cdef bint is_whole
    while not call.ended:
        length = 0
        is_whole = next_message(call, &length, &packed)
        if length > MESSAGE_BYTES:
            refuse(io, call, TOO_LARGE, b"a message of more than 1048576 bytes in a call of this kind")
        elif not is_whole:
            return False
        elif call.control.n_untaken >= CALL_MESSAGES or call.control.untaken_bytes >= CALL_BYTES:
            return True
        else:
            call.body_used += GRPC_PREFIX + length
            call_release_held(call, GRPC_PREFIX + length)
            control_message(io, call, call.body.data + call.body_used - length, length, packed)
    return False


cdef void control_data(IoThread* io, Call* call) noexcept nogil:
    cdef bint was_behind = call.control.is_behind
    call.control.is_behind = hand_down(io, call)
    if 2 * call.body_used >= call.body.length:          # not after each message: much may wait behind it
        compact(call)
    if (was_behind or call.control.is_behind) and not call.half_closed and not call.ended:
        http2_set_window(call, not call.control.is_behind)
        mark_dirty(io, call.connection)


cdef void control_end(IoThread* io, Call* call) noexcept nogil:
    if call.control != NULL and not call.control.is_behind:             # else behind the messages that wait
        send_down(io, call, FRAME_HALF_CLOSE, NULL, 0)


cdef void control_taken(IoThread* io, Call* call, size_t length) noexcept nogil:
    call.control.n_untaken -= 1
    call.control.untaken_bytes -= length
    call_release_held(call, length)
    if not call.control.is_behind:
        return
    control_data(io, call)
    if call.half_closed and not call.ended:
        control_end(io, call)


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


cdef void dispatch_frame(IoThread* io, Frame* frame) noexcept nogil:
    cdef ControlCall* control = frame.control
    cdef Call* call = control.call
    cdef const char* text
    if frame.kind == FRAME_RELEASE:
        if call != NULL:
            call.control = NULL
        free(control)
    elif frame.kind == FRAME_TAKEN:
        if call != NULL and not call.ended:
            control_taken(io, call, frame.taken)
    elif call != NULL and not call.ended:
        control.answered = frame.kind != FRAME_MESSAGE
        if frame.kind == FRAME_RESPONSE:
            take_response(call, frame)
        elif frame.kind == FRAME_MESSAGE and call.out.length - call.out_sent > UNREAD_BYTES:
            call_refuse(call, UNAVAILABLE, b"the client does not read its answers")
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


cdef void control_gone(IoThread* io, Call* call) noexcept nogil:
    cdef Frame* frame
    if call.control != NULL:
        call.control.call = NULL
        if not call.control.answered:
            frame = frame_new(call.control, FRAME_CANCEL)
            if frame != NULL and control_submit(io.control, frame):
                frame_free(frame)
        call.control = NULL
