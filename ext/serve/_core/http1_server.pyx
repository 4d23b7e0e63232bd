from libc.stdint cimport int64_t, uint8_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memmove, memset, strlen

from serve._core.call cimport *
from serve._core.compression cimport DEFLATE, GZIP
from serve._core.debug cimport count_copy
from serve._core.failure cimport TOO_LARGE
from serve._core.http1 cimport Head, http1_decode_chunks, http1_parse_head
from serve._core.json_codec cimport json_encode_error
from serve._core.memory cimport Buffer, Slice, arena_copy, buffer_append, buffer_free, buffer_reserve

cdef enum:
    FLUSH_LIMIT = 4 << 20           # bytes of answers collected before they are sent
    DIRECT_AHEAD = 16               # memory reserved for a direct read: at most so many times what has arrived
    DIRECT_FROM = 16384             # read straight into the body when at least so much of it is missing
    BODY_PADDING = 64               # json_codec.JSON_PADDING


cdef const char* reason_phrase(int status) noexcept nogil:
    """RFC 9110, 15. Clients ignore it; people read it."""
    if status == 200:
        return b"OK"
    if status == 202:
        return b"Accepted"
    if status == 400:
        return b"Bad Request"
    if status == 409:
        return b"Conflict"
    if status == 404:
        return b"Not Found"
    if status == 405:
        return b"Method Not Allowed"
    if status == 408:
        return b"Request Timeout"
    if status == 413:
        return b"Content Too Large"
    if status == 414:
        return b"URI Too Long"
    if status == 417:
        return b"Expectation Failed"
    if status == 431:
        return b"Request Header Fields Too Large"
    if status == 500:
        return b"Internal Server Error"
    if status == 501:
        return b"Not Implemented"
    if status == 503:
        return b"Service Unavailable"
    if status == 504:
        return b"Gateway Timeout"
    if status == 505:
        return b"HTTP Version Not Supported"
    return b"Status"


# --- answers ------------------------------------------------------------------------------------------------------------

cdef inline int put(Buffer* out, const char* text) noexcept nogil:
    return buffer_append(out, text, strlen(text))


cdef inline int put_field(Buffer* out, const char* name, Slice value) noexcept nogil:
    if value.data == NULL:
        return 0
    return put(out, name) or buffer_append(out, value.data, value.length) or put(out, b"\r\n")


cdef int put_head(Connection* connection, Call* call) noexcept nogil:
    cdef Buffer* out = &connection.out
    cdef Field* field = call.reply_fields
    cdef char line[256]
    cdef int n = snprintf(line, sizeof(line), b"HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Length: %zu\r\n",
                          call.status, reason_phrase(call.status), connection.hooks.date, call.out.length)
    if buffer_append(out, line, n):
        return -1
    if call.content_type != NULL and (put(out, b"Content-Type: ") or put(out, call.content_type) or put(out, b"\r\n")):
        return -1
    if call.reply_json_length >= 0:
        n = snprintf(line, sizeof(line), b"Inference-Header-Content-Length: %lld\r\n", <long long>call.reply_json_length)
        if buffer_append(out, line, n):
            return -1
    if call.reply_encoding == GZIP and put(out, b"Content-Encoding: gzip\r\n"):
        return -1
    if call.reply_encoding == DEFLATE and put(out, b"Content-Encoding: deflate\r\n"):
        return -1
    if put_field(out, b"x-request-id: ", call.request_id) or put_field(out, b"x-headrace-version: ", call.version_served):
        return -1
    if put_field(out, b"x-headrace-variant: ", call.variant_served) or put_field(out, b"x-headrace-generation: ", call.generation_served):
        return -1
    while field != NULL:
        if buffer_append(out, field.name.data, field.name.length) or put_field(out, b": ", field.value):
            return -1
        field = field.next
    return put(out, b"\r\n" if call.keep_alive else b"Connection: close\r\n\r\n")


cdef bint http1_is_due(Connection* connection) noexcept nogil:
    return connection.calls != NULL and connection.calls.ended and not connection.closing


cdef int http1_flush(Connection* connection) noexcept nogil:
    cdef Call* call
    while http1_is_due(connection) and connection.out.length < FLUSH_LIMIT:
        call = connection.calls
        # Draining: whoever was read is answered, and the last one says goodbye. A body that nobody wants is not waited for.
        if ((connection.hooks.draining or connection.peer_done) and call.next == NULL and connection.input.length == 0
                or connection.receiving == call):
            call.keep_alive = False
        if put_head(connection, call):
            return -1
        if not (call.method.length == 4 and memcmp(call.method.data, b"HEAD", 4) == 0):
            if buffer_append(&connection.out, call.out.data, call.out.length):
                return -1
            call.sent = call.out.length
        call.answered = True
        if not call.keep_alive:
            connection.closing = True
        call_free(call)
    return give_leave(connection) if connection.continue_due and connection.calls == connection.receiving else 0


cdef int give_leave(Connection* connection) noexcept nogil:
    """100 (Continue), behind the answers of earlier requests (RFC 9110, 10.1.1; RFC 9112, 9.3.2)."""
    connection.continue_due = False
    if connection.receiving == NULL or connection.receiving.ended or connection.body_received or connection.closing:
        return 0                                        # it did not wait for us
    connection.t_body = connection.hooks.now
    return put(&connection.out, b"HTTP/1.1 100 Continue\r\n\r\n")


cdef void http1_refuse(Connection* connection, int status, const char* text) noexcept nogil:
    cdef Call* call = call_new(connection, connection.hooks.now)
    if call == NULL:
        connection.closing = True
        return
    call.kind = CALL_REFUSED
    call.keep_alive = False
    if json_encode_error(text, &call.out):
        call.out.length = 0
    call_answer_http(call, status, b"application/json")


# --- receiving ----------------------------------------------------------------------------------------------------------

cdef int begin_call(Connection* connection, const Head* head) noexcept nogil:
    """A complete head: a call, routed. 0; -1: memory is out."""
    cdef Call* call = call_new(connection, connection.t_head)
    cdef int i
    if call == NULL:
        return -1
    call.method = arena_copy(&call.arena, head.method.data, head.method.length)
    call.path = arena_copy(&call.arena, head.path.data, head.path.length)
    call.query = arena_copy(&call.arena, head.query.data, head.query.length)
    for i in range(head.n_headers):
        if call_add_field(call, head.headers[i].name, head.headers[i].value):
            call_free(call)
            http1_refuse(connection, 431, b"header fields: more than 100, or more than 65536 bytes")
            return 0
    call.is_grpc = False                                # gRPC needs HTTP/2; here the header means nothing
    # 1.0 clients would wait for a confirmation, or for the end.
    call.keep_alive = call.takes_interim = head.keep_alive and head.minor == 1
    call.content_length = head.content_length
    connection.receiving = call
    connection.chunked = head.chunked
    connection.body_left = <size_t>head.content_length if head.content_length > 0 else 0
    connection.body_received = 0
    connection.t_body = connection.hooks.now
    memset(&connection.chunks, 0, sizeof(connection.chunks))
    connection.hooks.on_headers(connection.owner, call)
    if not call.ended and not head.chunked and head.content_length > <int64_t>connection.hooks.limits.max_body:
        refuse_size(call)
    connection.continue_due = not call.ended and head.expect_continue and (head.chunked or head.content_length > 0)
    return give_leave(connection) if connection.continue_due and connection.calls == call else 0


cdef void refuse_size(Call* call) noexcept nogil:
    cdef char text[128]
    snprintf(text, sizeof(text), b"body larger than the limit of %zu bytes", call.connection.hooks.limits.max_body)
    call_refuse(call, TOO_LARGE, text)
    call.kind = CALL_REFUSED
    call.keep_alive = False


cdef void end_body(Connection* connection) noexcept nogil:
    cdef Call* call = connection.receiving
    connection.receiving = NULL
    connection.t_body = 0
    call.half_closed = True
    if not call.ended:
        connection.hooks.on_end(connection.owner, call)


cdef int append_body(Connection* connection, const uint8_t* data, size_t length) noexcept nogil:
    cdef Call* call = connection.receiving
    cdef int status
    connection.body_received += length
    if call.ended:
        call.received += length
        return 0                                        # refused: what still arrives is dropped
    status = call_append(call, data, length, 0 if connection.chunked else call.body.length + length + connection.body_left)
    return settle(call, status)


cdef int settle(Call* call, int status) noexcept nogil:
    """What call_append said. -1: broken."""
    if status == CALL_BROKEN:
        return -1
    if status:
        call_refuse(call, status, b"too many bytes of requests in flight; try again")
        call.kind = CALL_REFUSED
        call.keep_alive = False
    return 0


cdef ssize_t take_body(Connection* connection, uint8_t* data, size_t length) noexcept nogil:
    """Body bytes from the head of data; how many were used, or -1 (broken)."""
    cdef Call* call = connection.receiving
    cdef size_t used = 0, n = 0
    cdef int state
    if not connection.chunked:
        used = min(length, connection.body_left)
        connection.body_left -= used
        if append_body(connection, data, used):
            return -1
        if connection.body_left == 0:
            end_body(connection)
        return used
    state = http1_decode_chunks(&connection.chunks, data, length, &used, &n)
    if state < 0:
        if call.ended:
            return -1
        call.ended = False
        if json_encode_error(connection.chunks.reason, &call.out):
            call.out.length = 0
        call.kind = CALL_REFUSED
        call.keep_alive = False
        call_answer_http(call, connection.chunks.status, b"application/json")
        return length
    if not call.ended and call.body.length + n > connection.hooks.limits.max_body:
        refuse_size(call)
    if append_body(connection, data, n):
        return -1
    if state == 1:
        end_body(connection)
    return used


cdef ssize_t take_head(Connection* connection, uint8_t* data, size_t length) noexcept nogil:
    """A head from the beginning of data; its bytes, 0 when it is not complete, -1 when broken."""
    cdef Head head
    cdef ssize_t n
    if connection.t_head == 0:
        connection.t_head = connection.hooks.now
    n = http1_parse_head(data, length, &connection.seen, &head)
    if n == 0:
        return 0
    connection.seen = 0
    if n < 0:
        http1_refuse(connection, head.status, head.reason)
        connection.t_head = 0
        return length                                   # nothing behind it can be trusted
    if begin_call(connection, &head):
        return -1
    connection.t_head = 0
    if connection.receiving != NULL and not connection.chunked and connection.body_left == 0:
        end_body(connection)
    return n


cdef bint is_last(const Connection* connection) noexcept nogil:
    """Nothing more is read: a call said or will say that the connection closes."""
    return connection.closing or connection.last_call != NULL and not connection.last_call.keep_alive and connection.receiving == NULL


cdef int parse(Connection* connection, uint8_t* data, size_t length, size_t* used) noexcept nogil:
    cdef ssize_t n
    used[0] = 0
    while used[0] < length:
        if connection.receiving != NULL:
            n = take_body(connection, data + used[0], length - used[0])
        elif is_last(connection):
            used[0] = length
            return 0
        elif connection.n_calls >= MAX_PIPELINE:
            connection.reading_paused = True
            return 0
        else:
            n = take_head(connection, data + used[0], length - used[0])
        if n < 0:
            return -1
        if n == 0:
            return 0
        used[0] += n
    return 0


cdef int http1_receive(Connection* connection, uint8_t* data, size_t length) noexcept nogil:
    cdef size_t used
    if connection.input.length:
        count_copy(&connection.hooks.copied_bytes, length)
        if buffer_append(&connection.input, data, length):
            return -1
        return http1_resume(connection)
    if parse(connection, data, length, &used):
        return -1
    count_copy(&connection.hooks.copied_bytes, length - used)
    return buffer_append(&connection.input, data + used, length - used) if used < length else 0


cdef int http1_resume(Connection* connection) noexcept nogil:
    cdef size_t used
    connection.reading_paused = False
    if connection.input.length == 0:
        return 0
    if parse(connection, connection.input.data, connection.input.length, &used):
        return -1
    if used == connection.input.length:
        buffer_free(&connection.input)                  # only rests need it: an idle connection holds no memory
    elif used:
        memmove(connection.input.data, connection.input.data + used, connection.input.length - used)
        connection.input.length -= used
    return 0


cdef size_t http1_direct(Connection* connection, uint8_t** at) noexcept nogil:
    cdef Call* call = connection.receiving
    cdef size_t room
    if call == NULL or connection.chunked or call.ended or connection.body_left < DIRECT_FROM or connection.input.length:
        return 0
    room = call.body.capacity - call.body.length
    if room <= BODY_PADDING:
        if buffer_reserve(&call.body, min(connection.body_left, call.body.length * DIRECT_AHEAD + 4096) + BODY_PADDING):
            return 0
        room = call.body.capacity - call.body.length
    at[0] = call.body.data + call.body.length
    return min(room - BODY_PADDING, connection.body_left)


cdef int http1_received_direct(Connection* connection, size_t length) noexcept nogil:
    cdef Call* call = connection.receiving
    connection.body_left -= length
    connection.body_received += length
    if settle(call, call_grown(call, length)):
        return -1
    if connection.body_left == 0:
        end_body(connection)
    return 0


cdef void http1_end(Connection* connection) noexcept nogil:
    """The peer has sent its last byte: a request that is not whole never will be."""
    if connection.receiving != NULL and not connection.receiving.ended:
        call_free(connection.receiving)
    buffer_free(&connection.input)
    connection.seen = 0
    connection.t_head = 0


cdef int http1_probe(Connection* connection) noexcept nogil:
    """Once, behind the answers that were ready when the peer shut its side: an interim answer, which every client of HTTP/1.1 takes (RFC
    9110, 15.2). From a socket that is closed for good a reset comes back, and what is queued for it is taken back at once.

    Clients of 1.0, and who asked us to close, would take it for the answer, or might: -1, their end is taken for a farewell.
    """
    if connection.probed or connection.calls == NULL or connection.calls.ended:
        return 0
    if not connection.calls.takes_interim:
        return -1
    connection.probed = True
    return put(&connection.out, b"HTTP/1.1 100 Continue\r\n\r\n")


cdef void http1_close(Connection* connection) noexcept nogil:
    connection.receiving = NULL
    while connection.calls != NULL:
        call_free(connection.calls)
    buffer_free(&connection.input)
