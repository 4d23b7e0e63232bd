"""How the modules of an I/O thread tell a client something: prepare the call, then `answer` it."""
from serve._core.call cimport Call, Connection, PROTOCOL_HTTP2, call_hold_out, call_refuse
from serve._core.http2 cimport http2_answer
from serve._core.io_thread cimport IoThread


cdef inline void mark_dirty(IoThread* io, Connection* connection) noexcept nogil:
    """To be flushed at the end of the turn."""
    if not connection.dirty:
        connection.dirty = True
        connection.dirty_next = io.dirty
        io.dirty = connection


cdef inline void answer(IoThread* io, Call* call) noexcept nogil:
    """The call has something new to say. HTTP/1.1 answers are collected, in order, when the connection is flushed."""
    call_hold_out(call)
    if call.connection.protocol == PROTOCOL_HTTP2:
        http2_answer(call)
    mark_dirty(io, call.connection)


cdef inline void refuse(IoThread* io, Call* call, int kind, const char* text) noexcept nogil:
    call_refuse(call, kind, text)
    answer(io, call)
