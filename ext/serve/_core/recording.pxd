"""What an I/O thread does for the recorder: samples a request, keeps what its run answered, writes one record of it into its ring."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.call cimport Call, Request
from serve._core.io_thread cimport IoThread
from serve._core.runner cimport Runner

cdef enum:
    MAX_RECORDED_TEXT = 1024            # bytes of an id, a variant; of all tags
    MAX_PARKED = 4096                   # answers of an I/O thread that wait for room

# A request whose version records, once that is known, decoded or not: decides by its id, and notes what only its call can tell.
cdef void record_begin(IoThread* io, const Call* call, Request* request) noexcept nogil
# Before it is queued. -1: it fails closed, and the failure says so.
cdef int record_reserve(IoThread* io, Request* request) noexcept nogil
# With the runner's outputs still there: copies of the rows that are kept. For requests with a note; a shadow's replace its primary's.
cdef void record_outputs(Request* request, Runner* runner, int64_t first) noexcept nogil
# A request with a note that has ended, however. False: it blocks, and there is no room; nothing was done.
cdef bint record_done(IoThread* io, Request* request, uint64_t now) noexcept nogil
# Keeps a finished request until there is room, or its time is over; `finish` is called then. False: too many wait, its row is dropped.
cdef bint record_park(IoThread* io, Request* request, uint64_t now) noexcept nogil
# The next parked request whose record is written or given up, to be finished; NULL: none. is_last: the thread ends, nobody waits any more.
cdef Request* record_unpark(IoThread* io, uint64_t now, bint is_last) noexcept nogil
