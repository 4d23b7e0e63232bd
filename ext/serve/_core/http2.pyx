from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memmove, strlen

from serve._core.call cimport *
from serve._core.compression cimport DEFLATE, GZIP
from serve._core.failure cimport HEADERS_TOO_LARGE, TOO_LARGE
from serve._core.memory cimport Slice, arena_copy, buffer_append, slice_make
from serve._core.nghttp2 cimport *
from serve._core.slab cimport slab_destroy, slab_init

cdef enum:
    STREAM_WINDOW = 4 << 20
    CONNECTION_WINDOW = 16 << 20
    MAX_FRAME = 1 << 20
    COMPACT_FROM = 65536            # bytes of an answer that were sent, before the rest is moved up
    MAX_FIELDS = 64                 # of an answer

cdef char** GRPC_STATUS = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11", b"12", b"13", b"14", b"15", b"16"]


# --- receiving: nghttp2's callbacks -------------------------------------------------------------------------------------

cdef inline Call* call_of(nghttp2_session* session, int32_t stream_id) noexcept nogil:
    return <Call*>nghttp2_session_get_stream_user_data(session, stream_id)


cdef int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Connection* connection = <Connection*>user
    cdef Call* call
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0                                        # trailers
    call = call_new(connection, connection.hooks.now)
    if call == NULL:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE    # nghttp2 resets the stream
    call.stream_id = frame.hd.stream_id
    nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, call)
    return 0


cdef int set_path(Call* call, const uint8_t* value, size_t length) noexcept nogil:
    cdef Slice target = arena_copy(&call.arena, value, length)
    cdef const uint8_t* mark
    if target.data == NULL:
        return -1
    mark = <const uint8_t*>memchr(target.data, 63, length)
    call.path = slice_make(target.data, mark - target.data if mark != NULL else length)
    if mark != NULL:
        call.query = slice_make(mark + 1, target.data + length - mark - 1)
    return 0


cdef int on_header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_length,
                   const uint8_t* value, size_t length, uint8_t flags, void* user) noexcept nogil:
    cdef Call* call = call_of(session, frame.hd.stream_id)
    cdef int status = 0
    if call == NULL or frame.headers.cat != NGHTTP2_HCAT_REQUEST or call.kind == CALL_REFUSED:
        return 0
    if name_length and name[0] == 58:
        if name_length == 5 and memcmp(name, b":path", 5) == 0:
            status = set_path(call, value, length)
        elif name_length == 7 and memcmp(name, b":method", 7) == 0:
            call.method = arena_copy(&call.arena, value, length)
    else:
        status = call_add_field(call, slice_make(name, name_length), slice_make(value, length))
    if status:
        call_refuse(call, HEADERS_TOO_LARGE, b"header fields: more than 100, or more than 65536 bytes")
        call.kind = CALL_REFUSED
    return 0


cdef void refuse_size(Call* call) noexcept nogil:
    cdef char text[128]
    snprintf(text, sizeof(text), b"message larger than the limit of %zu bytes", call.connection.hooks.limits.max_body)
    call_refuse(call, TOO_LARGE, text)
    call.kind = CALL_REFUSED
    http2_answer(call)


cdef size_t announced_size(const Call* call) noexcept nogil:
    """What the current message says that it will take; 0 when it does not say."""
    cdef const uint8_t* at
    if not call.is_grpc:
        return <size_t>call.content_length if call.content_length > 0 else 0
    if call.body.length - call.body_used < 5:
        return 0
    at = call.body.data + call.body_used
    return 5 + (<size_t>at[1] << 24 | <size_t>at[2] << 16 | <size_t>at[3] << 8 | at[4])


cdef bint is_too_large(const Call* call) noexcept nogil:
    cdef size_t limit = call.connection.hooks.limits.max_body + (5 if call.is_grpc else 0)
    if announced_size(call) > limit:
        return True
    # Messages for Python may wait in the body; the window bounds them.
    return call.body.length - call.body_used > limit and not (call.is_grpc and call.kind == CALL_CONTROL)


cdef int on_data_chunk(nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data, size_t length,
                       void* user) noexcept nogil:
    cdef Call* call = call_of(session, stream_id)
    cdef Connection* connection = <Connection*>user
    cdef int status
    if call == NULL:
        return 0
    if call.kind == CALL_REFUSED or call.ended:
        call.received += length
        return 0
    status = call_append(call, data, length, announced_size(call) + call.body_used)
    if status == CALL_BROKEN:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    if status:
        call_refuse(call, status, b"too many bytes of requests in flight; try again")
        call.kind = CALL_REFUSED
        http2_answer(call)
        return 0
    connection.hooks.on_data(connection.owner, call)        # complete messages leave the body: the limit is for each
    if not call.ended and is_too_large(call):
        refuse_size(call)
    return 0


cdef int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Connection* connection = <Connection*>user
    cdef Call* call
    if frame.hd.type == NGHTTP2_PING and frame.hd.flags & NGHTTP2_FLAG_ACK and connection.goodbye == GOODBYE_ASKED:
        http2_shutdown(connection)                      # the peer has seen the first GOAWAY: no other stream is on its way
        return 0
    if frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    call = call_of(session, frame.hd.stream_id)
    if call == NULL:
        return 0
    if frame.hd.type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
        if call.kind == CALL_REFUSED:
            http2_answer(call)
        else:
            connection.hooks.on_headers(connection.owner, call)
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        call.half_closed = True
        if call.kind != CALL_REFUSED and not call.ended:
            connection.hooks.on_end(connection.owner, call)
    return 0


cdef int on_frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    """An answer complete before its request: the client may stop sending (RFC 9113, 8.1), and the stream does not stay half open."""
    cdef Call* call
    if not frame.hd.flags & NGHTTP2_FLAG_END_STREAM or frame.hd.type != NGHTTP2_DATA and frame.hd.type != NGHTTP2_HEADERS:
        return 0
    call = call_of(session, frame.hd.stream_id)
    if call != NULL and nghttp2_session_get_stream_remote_close(session, frame.hd.stream_id) == 0:
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int on_stream_close(nghttp2_session* session, int32_t stream_id, uint32_t code, void* user) noexcept nogil:
    cdef Call* call = call_of(session, stream_id)
    if call != NULL:
        call_free(call)
    return 0


# --- answering ----------------------------------------------------------------------------------------------------------

cdef struct HeaderList:
    int n
    nghttp2_nv[MAX_FIELDS] fields


cdef inline void add(HeaderList* headers, const char* name, size_t name_length, const void* value, size_t length,
                     uint8_t flags) noexcept nogil:
    cdef nghttp2_nv* nv = &headers.fields[headers.n]
    if headers.n == MAX_FIELDS:
        return
    nv.name, nv.namelen = <uint8_t*>name, name_length
    nv.value, nv.valuelen = <uint8_t*>value, length
    nv.flags = flags                                    # names and values that are not constant are copied by nghttp2
    headers.n += 1


cdef inline void add_constant(HeaderList* headers, const char* name, const char* value) noexcept nogil:
    add(headers, name, strlen(name), value, strlen(value), NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)


cdef inline void add_slice(HeaderList* headers, const char* name, Slice value, uint8_t flags) noexcept nogil:
    # The call, and with it the slice, may be gone before nghttp2 sends the frame: let it copy the value.
    if value.data != NULL:
        add(headers, name, strlen(name), value.data, value.length, NGHTTP2_NV_FLAG_NO_COPY_NAME | flags)


cdef void add_grpc_status(HeaderList* headers, const Call* call) noexcept nogil:
    add_constant(headers, b"grpc-status", GRPC_STATUS[call.grpc_status])
    if call.grpc_status:
        add_slice(headers, b"grpc-message", call.message, NGHTTP2_NV_FLAG_NO_INDEX)
        add_slice(headers, b"grpc-status-details-bin", call.details, NGHTTP2_NV_FLAG_NO_INDEX)


cdef ssize_t read_out(nghttp2_session* session, int32_t stream_id, uint8_t* buffer, size_t length, uint32_t* flags,
                      nghttp2_data_source* source, void* user) noexcept nogil:
    cdef Call* call = <Call*>source.ptr
    cdef size_t n = min(length, call.out.length - call.out_sent)
    cdef HeaderList trailers
    if n:
        memcpy(buffer, call.out.data + call.out_sent, n)
        call.out_sent += n
        call.sent += n
        call.t_sent = call.connection.hooks.now
    if call.out_sent < call.out.length:
        if call.out_sent >= COMPACT_FROM and call.out_sent >= call.out.length // 2:         # a stream may never be drained to the end
            memmove(call.out.data, call.out.data + call.out_sent, call.out.length - call.out_sent)
            call.out.length -= call.out_sent
            call.out_sent = 0
            call_hold_out(call)
        return n
    call.out.length = call.out_sent = 0
    call_hold_out(call)
    if call.ended:
        flags[0] |= NGHTTP2_DATA_FLAG_EOF
        if call.is_grpc:
            flags[0] |= NGHTTP2_DATA_FLAG_NO_END_STREAM
            trailers.n = 0
            add_grpc_status(&trailers, call)
            nghttp2_submit_trailer(session, stream_id, trailers.fields, trailers.n)
        return n
    if n:
        return n
    call.deferred = True
    return NGHTTP2_ERR_DEFERRED


cdef void add_identity(HeaderList* headers, Call* call) noexcept nogil:
    """Where the answer comes from. Unique values stay out of the HPACK table, but for the first, which brings the name into it."""
    cdef uint8_t flags = NGHTTP2_NV_FLAG_NO_INDEX if call.connection.id_is_indexed else NGHTTP2_NV_FLAG_NONE
    add_slice(headers, b"x-request-id", call.request_id, flags)
    call.connection.id_is_indexed = True
    add_slice(headers, b"x-headrace-version", call.version_served, NGHTTP2_NV_FLAG_NONE)
    add_slice(headers, b"x-headrace-variant", call.variant_served, NGHTTP2_NV_FLAG_NONE)
    add_slice(headers, b"x-headrace-generation", call.generation_served, NGHTTP2_NV_FLAG_NONE)


cdef void answer_grpc(Call* call) noexcept nogil:
    cdef nghttp2_data_provider provider
    cdef HeaderList headers
    cdef bint only_trailers = call.ended and call.out.length == 0
    headers.n = 0
    add_constant(&headers, b":status", b"200")
    add_constant(&headers, b"content-type", b"application/grpc")
    add_identity(&headers, call)
    if only_trailers:
        add_constant(&headers, b"grpc-accept-encoding", b"identity, deflate, gzip")     # what an unknown grpc-encoding is answered with
        add_grpc_status(&headers, call)
        nghttp2_submit_response(call.connection.session, call.stream_id, headers.fields, headers.n, NULL)
        return
    provider.source.ptr = call
    provider.read_callback = read_out
    nghttp2_submit_response(call.connection.session, call.stream_id, headers.fields, headers.n, &provider)


cdef void answer_http(Call* call) noexcept nogil:
    cdef nghttp2_data_provider provider
    cdef nghttp2_data_provider* body = &provider
    cdef HeaderList headers
    cdef Field* field = call.reply_fields
    cdef char status[8]
    cdef char length[24]
    cdef char json_length[24]
    cdef bint no_body = call.method.length == 4 and memcmp(call.method.data, b"HEAD", 4) == 0
    headers.n = 0
    snprintf(status, sizeof(status), b"%d", call.status)
    add(&headers, b":status", 7, status, strlen(status), NGHTTP2_NV_FLAG_NO_COPY_NAME)
    add(&headers, b"date", 4, call.connection.hooks.date, strlen(call.connection.hooks.date), NGHTTP2_NV_FLAG_NO_COPY_NAME)
    if call.content_type != NULL:
        add_constant(&headers, b"content-type", call.content_type)
    snprintf(length, sizeof(length), b"%zu", call.out.length)
    add(&headers, b"content-length", 14, length, strlen(length), NGHTTP2_NV_FLAG_NO_COPY_NAME)
    if call.reply_json_length >= 0:
        snprintf(json_length, sizeof(json_length), b"%lld", <long long>call.reply_json_length)
        add(&headers, b"inference-header-content-length", 31, json_length, strlen(json_length), NGHTTP2_NV_FLAG_NO_COPY_NAME)
    if call.reply_encoding == GZIP or call.reply_encoding == DEFLATE:
        add_constant(&headers, b"content-encoding", b"gzip" if call.reply_encoding == GZIP else b"deflate")
    add_identity(&headers, call)
    while field != NULL:
        add(&headers, <const char*>field.name.data, field.name.length, field.value.data, field.value.length, NGHTTP2_NV_FLAG_NONE)
        field = field.next
    provider.source.ptr = call
    provider.read_callback = read_out
    if no_body or call.out.length == 0:
        body = NULL
    nghttp2_submit_response(call.connection.session, call.stream_id, headers.fields, headers.n, body)


cdef void http2_set_window(Call* call, bint is_open) noexcept nogil:
    # A window that is made smaller takes nothing back: nghttp2 withholds as many bytes of updates, and gives them when it is made larger.
    nghttp2_session_set_local_window_size(call.connection.session, NGHTTP2_FLAG_NONE, call.stream_id, STREAM_WINDOW if is_open else 0)


cdef void http2_abandon(Call* call) noexcept nogil:
    nghttp2_submit_rst_stream(call.connection.session, NGHTTP2_FLAG_NONE, call.stream_id, NGHTTP2_CANCEL)


cdef void http2_answer(Call* call) noexcept nogil:
    if call.out_sent == 0:
        call.t_sent = call.connection.hooks.now
    if call.answered:
        if call.deferred:
            call.deferred = False
            nghttp2_session_resume_data(call.connection.session, call.stream_id)
        return
    call.answered = True
    if call.is_grpc:
        answer_grpc(call)
    else:
        answer_http(call)


# --- the connection -----------------------------------------------------------------------------------------------------

cdef int http2_init(Hooks* hooks) noexcept nogil:
    cdef nghttp2_session_callbacks* callbacks = NULL
    slab_init(&hooks.slab)
    if nghttp2_session_callbacks_new(&callbacks):
        return -1
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close)
    hooks.callbacks = callbacks
    return 0


cdef void http2_destroy(Hooks* hooks) noexcept nogil:
    nghttp2_session_callbacks_del(hooks.callbacks)
    hooks.callbacks = NULL
    slab_destroy(&hooks.slab)


cdef int http2_open(Connection* connection) noexcept nogil:
    cdef nghttp2_settings_entry[4] settings
    cdef nghttp2_option* option = NULL
    cdef int status
    if nghttp2_option_new(&option):
        return -1
    status = nghttp2_session_server_new3(&connection.session, connection.hooks.callbacks, connection, option, &connection.hooks.slab.mem)
    nghttp2_option_del(option)
    if status:
        connection.session = NULL
        return -1
    settings[0].settings_id, settings[0].value = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, <uint32_t>connection.hooks.limits.max_streams
    settings[1].settings_id, settings[1].value = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW
    settings[2].settings_id, settings[2].value = NGHTTP2_SETTINGS_MAX_FRAME_SIZE, MAX_FRAME
    settings[3].settings_id, settings[3].value = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 65536
    if nghttp2_submit_settings(connection.session, 0, settings, 4):
        return -1
    return nghttp2_session_set_local_window_size(connection.session, 0, 0, CONNECTION_WINDOW)


cdef void http2_close(Connection* connection) noexcept nogil:
    while connection.calls != NULL:
        call_free(connection.calls)
    if connection.session != NULL:
        nghttp2_session_del(connection.session)
        connection.session = NULL


cdef int http2_receive(Connection* connection, const uint8_t* data, size_t length) noexcept nogil:
    return -1 if nghttp2_session_mem_recv(connection.session, data, length) < 0 else 0


cdef void http2_end(Connection* connection) noexcept nogil:
    """The peer has sent its last byte: what is whole is answered, a request in the middle of which it stopped is dropped."""
    cdef Call* call = connection.calls
    while call != NULL:
        if not call.ended and (call.kind == CALL_INFER_STREAM or call.kind == CALL_CONTROL and call.is_grpc) and not call.half_closed:
            call.half_closed = True                     # its whole messages count; there will be no others
            connection.hooks.on_end(connection.owner, call)
        elif not call.ended and not call.half_closed:
            http2_abandon(call)
        call = call.next
    if connection.goodbye != GOODBYE_FINAL:             # a peer that has closed its socket, too, answers with a reset: nobody waits then
        http2_shutdown(connection)


cdef int http2_fill(Connection* connection, size_t limit) noexcept nogil:
    cdef const uint8_t* data
    cdef ssize_t n
    while connection.out.length < limit:
        n = nghttp2_session_mem_send(connection.session, &data)
        if n < 0:
            return -1
        if n == 0:
            return 0
        if buffer_append(&connection.out, data, n):
            return -1
    return 0


cdef void http2_announce_shutdown(Connection* connection) noexcept nogil:
    connection.goodbye = GOODBYE_ANNOUNCED
    nghttp2_submit_shutdown_notice(connection.session)


cdef void http2_ask_shutdown(Connection* connection) noexcept nogil:
    connection.goodbye = GOODBYE_ASKED
    nghttp2_submit_ping(connection.session, NGHTTP2_FLAG_NONE, NULL)    # not sooner: nghttp2 sends a PING before everything else


cdef void http2_shutdown(Connection* connection) noexcept nogil:
    connection.goodbye = GOODBYE_FINAL
    nghttp2_submit_goaway(connection.session, 0, nghttp2_session_get_last_proc_stream_id(connection.session), NGHTTP2_NO_ERROR, NULL, 0)


cdef bint http2_is_done(Connection* connection) noexcept nogil:
    return not nghttp2_session_want_read(connection.session) and not nghttp2_session_want_write(connection.session)
