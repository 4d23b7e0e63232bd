"""HTTP/2 on nghttp2: frames in, calls out; answers in, frames out. gRPC framing of answers included. No sockets, no threads."""
from libc.stdint cimport uint8_t

from serve._core.call cimport Call, Connection, Hooks

cdef int http2_init(Hooks* hooks) noexcept nogil                            # fills hooks.callbacks
cdef void http2_destroy(Hooks* hooks) noexcept nogil
cdef int http2_open(Connection* connection) noexcept nogil
cdef void http2_close(Connection* connection) noexcept nogil                # ends its calls
cdef int http2_receive(Connection* connection, const uint8_t* data, size_t length) noexcept nogil      # -1: the connection is broken
cdef void http2_end(Connection* connection) noexcept nogil                  # the peer has shut its side
cdef int http2_fill(Connection* connection, size_t limit) noexcept nogil    # frames into connection.out, up to about limit; -1: broken
cdef void http2_answer(Call* call) noexcept nogil                           # call.out, ended or the status have changed
# What the client may go on to send. Closed: what its window still has, and no more; the connection's other calls do not notice.
cdef void http2_set_window(Call* call, bint is_open) noexcept nogil
cdef void http2_abandon(Call* call) noexcept nogil                          # reset the stream, whatever was said on it
cdef void http2_announce_shutdown(Connection* connection) noexcept nogil    # first GOAWAY: no new streams, please
cdef void http2_ask_shutdown(Connection* connection) noexcept nogil         # once the first is sent; the second follows when it was seen
cdef void http2_shutdown(Connection* connection) noexcept nogil             # second GOAWAY: no stream beyond what was seen
cdef bint http2_is_done(Connection* connection) noexcept nogil
