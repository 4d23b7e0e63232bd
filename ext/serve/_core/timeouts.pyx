from libc.stdint cimport uint64_t
from libcpp.atomic cimport memory_order_relaxed

from serve._core.call cimport *
from serve._core.connection_io cimport close_connection, resume_accepting, stop_accepting
from serve._core.answering cimport mark_dirty
from serve._core.failure cimport DEADLINE_EXCEEDED, REQUEST_TIMEOUT, UNAVAILABLE
from serve._core.http1_server cimport http1_refuse
from serve._core.http2 cimport http2_abandon, http2_announce_shutdown, http2_answer, http2_ask_shutdown, http2_shutdown
from serve._core.posix cimport SIOCOUTQ, ioctl

cdef enum:
    LINGER_NS = 2000000000          # how long the peer may take to read our last answer
    BODY_GRACE_NS = 5000000000      # before the body rate counts
    HANDSHAKE_NS = 100000000        # of a drain: connections whose handshake is under way are still accepted
    GOAWAY_GRACE_NS = 1000000000    # how long a client may take to see the first GOAWAY
    IDLE_DRAIN_NS = 300000000       # a client may be sending on a connection that looks idle to us


cdef bint body_too_slow(IoThread* io, uint64_t since, size_t received, uint64_t now) noexcept nogil:
    cdef uint64_t elapsed = now - since if now > since else 0
    if elapsed < BODY_GRACE_NS:
        return False
    return received < io.shared.limits.min_body_rate * (elapsed // 1000000) // 1000


cdef inline uint64_t silence_ns(IoThread* io) noexcept nogil:
    """How long nothing at all of a body may come: a rate says nothing of one that is whole and never closed, or where there is none."""
    cdef uint64_t idle_ns = io.shared.limits.idle_ns
    return max(idle_ns, <uint64_t>BODY_GRACE_NS) if io.shared.limits.min_body_rate else idle_ns


cdef inline bint is_late(const Call* call, uint64_t now) noexcept nogil:
    return call.deadline_ns != 0 and now >= call.deadline_ns


cdef bint is_overdue(IoThread* io, const Call* call, uint64_t now) noexcept nogil:
    """An HTTP/2 stream that is not whole: its deadline has passed, its body comes too slowly, or nothing of it comes."""
    if call.kind == CALL_INFER_STREAM:                  # it may be silent for as long as it likes; its messages keep the deadline
        return call.n_requests == 0 and is_late(call, now)
    if call.kind != CALL_INFER and call.kind != CALL_LIVE and (call.kind != CALL_CONTROL or call.is_grpc):      # gRPC: Python's business
        return False
    return is_late(call, now) or body_too_slow(io, call.t_received, call.body.length, now) or now > call.t_grown + silence_ns(io)


cdef void refuse_body(Call* call, uint64_t now) noexcept nogil:
    if is_late(call, now):
        call_refuse(call, DEADLINE_EXCEEDED, b"Request timeout expired")
    else:
        call_refuse(call, REQUEST_TIMEOUT, b"the body arrives too slowly")


cdef void sweep_http1(IoThread* io, Connection* connection, uint64_t now) noexcept nogil:
    cdef Call* call = connection.receiving
    if connection.closing:
        return
    if connection.t_head and now > connection.t_head + io.shared.limits.header_ns:
        if connection.input.length == 0:                # nothing was sent at all: nobody to answer
            close_connection(io, connection)
            return
        connection.t_head = 0
        http1_refuse(connection, 408, b"the header did not arrive in time")
        mark_dirty(io, connection)
    elif call != NULL and not call.ended and (is_late(call, now) or not connection.continue_due and (
            body_too_slow(io, connection.t_body, connection.body_received, now) or now > connection.t_progress + silence_ns(io))):
        call.keep_alive = False
        refuse_body(call, now)
        mark_dirty(io, connection)
    elif call != NULL and not call.ended:
        sweep_in_time(io, call, now)


cdef void sweep_http2(IoThread* io, Connection* connection, uint64_t now) noexcept nogil:
    cdef Call* call = connection.calls
    while call != NULL:
        if not call.half_closed:
            sweep_in_time(io, call, now)
        if not call.half_closed and not call.ended and is_overdue(io, call, now):
            refuse_body(call, now)
            call.kind = CALL_REFUSED
            http2_answer(call)
            mark_dirty(io, connection)
        elif connection.peer_done and call.kind == CALL_CONTROL and call.answered and not call.ended and now > call.t_sent + LINGER_NS:
            http2_abandon(call)                         # it only listens, and cannot say that it does not any more
            mark_dirty(io, connection)
        elif call.kind == CALL_UNROUTED and now > call.t_received + io.shared.limits.header_ns:
            close_connection(io, connection)            # its header block never ends
            return
        elif call.answered and call.out.length and now > call.t_sent + io.shared.limits.idle_ns:
            http2_abandon(call)                         # it gives no window for what it asked for
            mark_dirty(io, connection)
        call = call.next


cdef void end_idle_streams(IoThread* io, Connection* connection) noexcept nogil:
    """Streams of inferences would never end by themselves. What they were asked is answered first."""
    cdef Call* call = connection.calls
    while call != NULL:
        if call.kind == CALL_INFER_STREAM and call.n_requests == 0 and not call.ended:
            call_refuse(call, UNAVAILABLE, b"the server is shutting down")
            http2_answer(call)
            mark_dirty(io, connection)
        call = call.next


cdef void drain_http2(IoThread* io, Connection* connection, uint64_t now) noexcept nogil:
    if connection.goodbye == GOODBYE_ANNOUNCED:
        http2_ask_shutdown(connection)
        mark_dirty(io, connection)
    elif connection.goodbye == GOODBYE_ASKED and now > io.drain_from + GOAWAY_GRACE_NS:
        http2_shutdown(connection)                      # it does not answer our PING
        mark_dirty(io, connection)
    if now > io.drain_from + IDLE_DRAIN_NS:
        end_idle_streams(io, connection)


cdef void drain_http1(IoThread* io, Connection* connection, uint64_t now) noexcept nogil:
    if now <= io.drain_from + IDLE_DRAIN_NS:
        return
    if connection.last_call != NULL:
        connection.last_call.keep_alive = False         # who never stops pipelining is told where to stop
    elif connection.input.length == 0 and now > connection.t_progress + IDLE_DRAIN_NS:
        close_connection(io, connection)


cdef bint takes_something(Connection* connection, uint64_t now) noexcept nogil:
    """Whether the peer has acknowledged anything lately. The socket becomes writable only when a third of its buffer is free again."""
    cdef int underway = 0
    if ioctl(connection.fd, SIOCOUTQ, &underway):
        return False
    if underway == connection.n_underway:
        return False
    connection.n_underway = underway
    connection.t_sent = now
    return True


cdef void sweep(IoThread* io, uint64_t now) noexcept nogil:
    cdef Connection* connection = io.connections
    cdef Connection* following
    while connection != NULL:
        following = connection.next
        if connection.lingering:
            if now > connection.t_progress + LINGER_NS:
                close_connection(io, connection)
        elif (connection.calls == NULL or connection.peer_done) and now > connection.t_progress + io.shared.limits.idle_ns:
            close_connection(io, connection)
        elif connection.listening_out and not takes_something(connection, now) and now > connection.t_sent + io.shared.limits.idle_ns:
            close_connection(io, connection)            # it does not read what it asked for
        elif connection.protocol == PROTOCOL_HTTP2:
            sweep_http2(io, connection, now)
        else:
            sweep_http1(io, connection, now)
        if connection.open and io.draining:
            if connection.protocol == PROTOCOL_HTTP2:
                drain_http2(io, connection, now)
            else:
                drain_http1(io, connection, now)
        connection = following
    if io.accept_paused:
        resume_accepting(io)
    if io.draining and now > io.drain_from + HANDSHAKE_NS and io.accepting.load(memory_order_relaxed):
        stop_accepting(io)


cdef void begin_drain(IoThread* io, uint64_t now) noexcept nogil:
    """Ask the clients to go. Whose handshake is under way may still come, for HANDSHAKE_NS."""
    cdef Connection* connection
    io.draining = io.hooks.draining = True
    io.drain_from = now
    connection = io.connections
    while connection != NULL:
        if connection.protocol == PROTOCOL_HTTP2:
            http2_announce_shutdown(connection)
            mark_dirty(io, connection)
        connection = connection.next
