from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from libcpp.atomic cimport memory_order_release

from serve._core.call cimport *
from serve._core.counters cimport counter_acquire, counter_add, counter_publish, counter_read, counter_set
from serve._core.answering cimport mark_dirty
from serve._core.http1_server cimport (MAX_PIPELINE, http1_close, http1_direct, http1_end, http1_flush, http1_is_due, http1_probe,
                                       http1_receive, http1_received_direct, http1_resume)
from serve._core.http2 cimport http2_announce_shutdown, http2_close, http2_end, http2_fill, http2_is_done, http2_open, http2_receive
from serve._core.memory cimport buffer_append, buffer_free
from serve._core.posix cimport *

cdef enum:
    HEAD_SIZE = 16 << 10            # bytes of one recv that may begin with the head of an HTTP/1.1 request
    READ_TURN = 1 << 20             # bytes that a connection may bring in one turn
    OUT_FILL = 1 << 20              # frames collected before a send
    OUT_HIGH = 4 << 20              # HTTP/1.1: unsent bytes at which we stop reading
    ACCEPT_TURN = 64                # connections accepted in one turn
    LINGER_BYTES = 16 << 20         # what a peer may still send after our last answer

cdef const char* PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


# --- connections --------------------------------------------------------------------------------------------------------

cdef uint64_t open_connections(IoThread* io) noexcept nogil:
    cdef uint64_t n = 0
    cdef int i
    for i in range(io.shared.n_threads):
        n -= counter_acquire(&io.shared.counters[i].closed)         # before accepted: never more closed than accepted
        n += counter_read(&io.shared.counters[i].accepted)
    return n


cdef void open_connection(IoThread* io, int fd) noexcept nogil:
    cdef int one = 1
    cdef epoll_event event
    cdef Connection* connection
    if open_connections(io) >= <uint64_t>io.shared.limits.max_connections:
        counter_add(&io.counters.refused_connections, 1)
        close(fd)
        return
    connection = <Connection*>calloc(1, sizeof(Connection))
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    event.events = EPOLLIN
    event.data.ptr = connection
    if connection == NULL or epoll_ctl(io.epoll, EPOLL_CTL_ADD, fd, &event):
        free(connection)
        close(fd)
        return
    connection.fd, connection.open = fd, True
    connection.owner, connection.hooks = io, &io.hooks
    connection.t_progress = connection.t_head = io.hooks.now
    connection.next = io.connections
    if io.connections != NULL:
        io.connections.previous = connection
    io.connections = connection
    counter_add(&io.counters.accepted, 1)


cdef void listen_for_connections(IoThread* io, int* listener, bint wanted) noexcept nogil:
    cdef epoll_event event
    if listener[0] < 0:
        return
    event.events = EPOLLIN if wanted else 0
    event.data.ptr = listener
    epoll_ctl(io.epoll, EPOLL_CTL_MOD, listener[0], &event)


cdef bint accept_some(IoThread* io, int* listener) noexcept nogil:
    cdef int fd
    for _ in range(ACCEPT_TURN):
        fd = accept4(listener[0], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            open_connection(io, fd)
        elif errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
            # What waits stays in the backlog, and would wake us without end: a sweep looks again.
            io.accept_paused = True
            listen_for_connections(io, listener, False)
            return False
        elif errno != EINTR and errno != ECONNABORTED:
            return False
    return True


cdef void resume_accepting(IoThread* io) noexcept nogil:
    io.accept_paused = False
    listen_for_connections(io, &io.listener_http, True)
    listen_for_connections(io, &io.listener_grpc, True)


cdef void leave(IoThread* io, int* listener) noexcept nogil:
    if listener[0] < 0:
        return
    while accept_some(io, listener):
        pass
    epoll_ctl(io.epoll, EPOLL_CTL_DEL, listener[0], NULL)
    listener[0] = -1


cdef void stop_accepting(IoThread* io) noexcept nogil:
    leave(io, &io.listener_http)
    leave(io, &io.listener_grpc)
    io.accepting.store(0, memory_order_release)         # Python may close the sockets


cdef void hold_out(IoThread* io, Connection* connection) noexcept nogil:
    """What the socket did not take counts for the in-flight budget."""
    cdef uint64_t* held = &io.counters.held_bytes
    if connection.out.length != connection.held_out:
        counter_set(held, counter_read(held) + connection.out.length - connection.held_out)
        connection.held_out = connection.out.length


cdef void close_connection(IoThread* io, Connection* connection) noexcept nogil:
    """Close the socket, end the calls; the struct itself goes at the end of the turn."""
    if not connection.open:
        return
    connection.open = False
    epoll_ctl(io.epoll, EPOLL_CTL_DEL, connection.fd, NULL)
    close(connection.fd)
    if connection.protocol == PROTOCOL_HTTP2:
        http2_close(connection)
    else:
        http1_close(connection)
    buffer_free(&connection.out)
    hold_out(io, connection)
    buffer_free(&connection.input)
    if connection.previous != NULL:
        connection.previous.next = connection.next
    else:
        io.connections = connection.next
    if connection.next != NULL:
        connection.next.previous = connection.previous
    connection.next = io.graveyard
    io.graveyard = connection
    counter_publish(&io.counters.closed, 1)


cdef void bury(IoThread* io) noexcept nogil:
    cdef Connection* connection
    while io.graveyard != NULL:
        connection = io.graveyard
        io.graveyard = connection.next
        free(connection)


cdef void listen_to(IoThread* io, Connection* connection, bint readable, bint writable) noexcept nogil:
    cdef epoll_event event
    if connection.listening_out == writable and connection.not_listening_in == (not readable):
        return
    connection.listening_out, connection.not_listening_in = writable, not readable
    event.events = (EPOLLIN if readable else 0) | (EPOLLOUT if writable else 0)
    event.data.ptr = connection
    epoll_ctl(io.epoll, EPOLL_CTL_MOD, connection.fd, &event)


# --- reading ------------------------------------------------------------------------------------------------------------

cdef int detect(IoThread* io, Connection* connection, const uint8_t* data, size_t length) noexcept nogil:
    """HTTP/2 begins with its preface, which no HTTP/1.1 method shares. 0: not known yet; -1: memory is out."""
    cdef size_t n = min(length, <size_t>24)
    if memcmp(data, PREFACE, n) == 0:
        if n < 4:
            return 0
        connection.protocol = PROTOCOL_HTTP2
        connection.t_head = 0
        if http2_open(connection):
            return -1
        if io.draining:
            http2_announce_shutdown(connection)
        return 1
    connection.protocol = PROTOCOL_HTTP1
    connection.t_head = io.hooks.now                    # the request begins here, not when the connection was made
    return 1


cdef int receive(IoThread* io, Connection* connection, uint8_t* data, size_t length) noexcept nogil:
    cdef int status
    if connection.lingering:
        connection.lingered += length
        return -1 if connection.lingered > LINGER_BYTES else 0
    if connection.protocol == PROTOCOL_UNKNOWN:
        if connection.input.length:                     # the first bytes came alone
            if buffer_append(&connection.input, data, length):
                return -1
            status = detect(io, connection, connection.input.data, connection.input.length)
            if status <= 0:
                return status
            if connection.protocol == PROTOCOL_HTTP1:
                return http1_resume(connection)
            status = http2_receive(connection, connection.input.data, connection.input.length)
            buffer_free(&connection.input)
            return status
        status = detect(io, connection, data, length)
        if status <= 0:
            return -1 if status or buffer_append(&connection.input, data, length) else 0
    if connection.protocol == PROTOCOL_HTTP2:
        return http2_receive(connection, data, length)
    return http1_receive(connection, data, length)


cdef void read_connection(IoThread* io, Connection* connection, uint8_t* buffer) noexcept nogil:
    """What the socket has, up to a turn's share: the next turn goes on, so that one fast sender does not starve the others."""
    cdef size_t taken = 0, room, size
    cdef ssize_t n
    cdef uint8_t* at = NULL
    cdef int status
    if connection.peer_done:                            # we do not listen any more: it is an error or a hang-up
        close_connection(io, connection)
        return
    while connection.open and taken < READ_TURN and not connection.reading_paused:
        room = http1_direct(connection, &at) if connection.protocol == PROTOCOL_HTTP1 and not connection.lingering else 0
        # Of an HTTP/1.1 body, only what comes with the head is copied: little is read until the rest can be received in its place.
        size = IN_SIZE if connection.protocol == PROTOCOL_HTTP2 or connection.lingering else HEAD_SIZE
        n = recv(connection.fd, at, room, 0) if room else recv(connection.fd, buffer, size, 0)
        if n < 0 and errno == EINTR:
            continue
        if n < 0 and errno == EAGAIN:
            return
        if n == 0 and not connection.lingering and connection.protocol != PROTOCOL_UNKNOWN:
            end_input(io, connection)
            return
        if n <= 0:
            close_connection(io, connection)
            return
        taken += n
        counter_add(&io.counters.bytes_received, n)
        if not connection.lingering:                    # what comes then buys no time
            connection.t_progress = io.hooks.now
        status = http1_received_direct(connection, n) if room else receive(io, connection, buffer, n)
        if status:
            close_after_answer(io, connection)
            return
        if not room and <size_t>n < size and not (connection.protocol == PROTOCOL_HTTP1 and connection.receiving != NULL):
            return                                      # the socket is empty, and epoll would say if not


cdef void end_input(IoThread* io, Connection* connection) noexcept nogil:
    """The peer has shut its side, which a client may do as soon as it has asked: what is whole is answered, then we close, too."""
    connection.peer_done = True
    connection.t_progress = io.hooks.now
    if connection.protocol == PROTOCOL_HTTP2:
        http2_end(connection)
    else:
        http1_end(connection)
    mark_dirty(io, connection)


cdef void close_after_answer(IoThread* io, Connection* connection) noexcept nogil:
    """The peer broke the protocol: what nghttp2 or we have to say about it still goes out."""
    connection.broken = True
    mark_dirty(io, connection)


# --- writing ------------------------------------------------------------------------------------------------------------

cdef int send_out(IoThread* io, Connection* connection) noexcept nogil:
    """1: all sent; 0: the socket is full; -1: broken."""
    cdef ssize_t n
    while connection.out_sent < connection.out.length:
        n = send(connection.fd, connection.out.data + connection.out_sent, connection.out.length - connection.out_sent, MSG_NOSIGNAL)
        if n > 0:
            connection.out_sent += n
            connection.t_progress = connection.t_sent = io.hooks.now
            counter_add(&io.counters.bytes_sent, n)
        elif errno == EAGAIN:
            return 0
        elif errno != EINTR:
            return -1
    connection.out.length = connection.out_sent = 0
    if connection.out.capacity > OUT_FILL:
        buffer_free(&connection.out)
    return 1


cdef int fill_out(Connection* connection) noexcept nogil:
    if connection.protocol == PROTOCOL_HTTP2:
        return http2_fill(connection, OUT_FILL)
    while True:
        if http1_flush(connection):
            return -1
        # Answers make room in the pipeline; what waits there is parsed now, and may be answered at once.
        if not connection.reading_paused or connection.closing or connection.out.length >= OUT_HIGH or connection.n_calls >= MAX_PIPELINE:
            return 0
        if http1_resume(connection):
            return -1


cdef bint is_finished(Connection* connection) noexcept nogil:
    if connection.peer_done and connection.calls == NULL:
        return True
    if connection.protocol == PROTOCOL_HTTP2:
        return http2_is_done(connection)
    return connection.closing


cdef void finish_connection(IoThread* io, Connection* connection) noexcept nogil:
    """Everything is sent. Close our side first: closing at once could reset the connection under the peer's last read."""
    if connection.broken or connection.peer_done:       # nothing is on its way to us that could reset the connection
        close_connection(io, connection)
        return
    if not connection.lingering:
        connection.lingering = True
        connection.t_progress = io.hooks.now
        shutdown(connection.fd, SHUT_WR)


cdef void flush(IoThread* io, Connection* connection) noexcept nogil:
    cdef int sent = 1
    while True:
        if not connection.lingering and (fill_out(connection) or connection.peer_done and connection.protocol == PROTOCOL_HTTP1
                                         and http1_probe(connection)):
            close_connection(io, connection)
            return
        if connection.out.length == 0:
            break
        sent = send_out(io, connection)
        if sent < 0:
            close_connection(io, connection)
            return
        if sent == 0 or connection.protocol == PROTOCOL_HTTP1 and not (connection.reading_paused or http1_is_due(connection)):
            break
    if sent and (connection.broken or is_finished(connection)):
        finish_connection(io, connection)
    if connection.open:
        hold_out(io, connection)
        if not sent and not connection.listening_out:
            connection.t_sent = io.hooks.now
        if connection.out.length - connection.out_sent >= OUT_HIGH:
            connection.reading_paused = True
        listen_to(io, connection, not (connection.reading_paused or connection.broken or connection.peer_done), not sent)


cdef void flush_dirty(IoThread* io) noexcept nogil:
    cdef Connection* connection
    while io.dirty != NULL:
        connection = io.dirty
        io.dirty = connection.dirty_next
        connection.dirty = False
        if connection.open:
            flush(io, connection)
