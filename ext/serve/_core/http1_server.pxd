"""HTTP/1.1 connections: bytes in, calls out in order; answers in, bytes out in the same order (pipelining). No sockets."""
from libc.stdint cimport uint8_t

from serve._core.call cimport Call, Connection

cdef enum:
    MAX_PIPELINE = 64               # calls of a connection that may wait for their turn

# data is the I/O thread's own buffer: chunked bodies are decoded in place.
cdef int http1_receive(Connection* connection, uint8_t* data, size_t length) noexcept nogil        # -1: broken, close
# Where the next bytes may go directly: the rest of a long body. 0: nowhere, use a buffer and http1_receive.
cdef size_t http1_direct(Connection* connection, uint8_t** at) noexcept nogil
cdef int http1_received_direct(Connection* connection, size_t length) noexcept nogil
cdef bint http1_is_due(Connection* connection) noexcept nogil             # an answer is ready to be collected
cdef int http1_flush(Connection* connection) noexcept nogil                 # answers that are due, into connection.out; -1: memory
cdef int http1_resume(Connection* connection) noexcept nogil                # parse what waits in connection.input, now that there is room
cdef void http1_end(Connection* connection) noexcept nogil                  # the peer has shut its side
cdef int http1_probe(Connection* connection) noexcept nogil                 # is it still there? -1: memory
cdef void http1_close(Connection* connection) noexcept nogil
cdef void http1_refuse(Connection* connection, int status, const char* text) noexcept nogil        # outside any call: answer and close
