"""Sockets of an I/O thread: accept, read, write, close. What the bytes mean is http1_server's and http2's business."""
from libc.stdint cimport uint8_t

from serve._core.call cimport Connection
from serve._core.io_thread cimport IoThread

cdef enum:
    IN_SIZE = 256 << 10             # bytes of one recv

cdef bint accept_some(IoThread* io, int* listener) noexcept nogil          # listener: io's field; whether more may be waiting
cdef void resume_accepting(IoThread* io) noexcept nogil                     # after accept_paused
cdef void stop_accepting(IoThread* io) noexcept nogil                       # what the kernel has accepted already is taken first
cdef void read_connection(IoThread* io, Connection* connection, uint8_t* buffer) noexcept nogil    # buffer: IN_SIZE bytes and 64 to spare
cdef void flush_dirty(IoThread* io) noexcept nogil                          # send what the turn has made ready
cdef void close_connection(IoThread* io, Connection* connection) noexcept nogil    # the struct itself goes with bury
cdef void bury(IoThread* io) noexcept nogil                                 # at the end of a turn: no event names the dead any more
