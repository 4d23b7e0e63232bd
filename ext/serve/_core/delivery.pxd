"""What a finished request says to its call."""
from serve._core.call cimport Call, Request
from serve._core.io_thread cimport IoThread

cdef void deliver(Call* call, Request* request) noexcept nogil                              # the one inference of a call
cdef void deliver_stream(IoThread* io, Call* call, Request* request) noexcept nogil         # the next message of a gRPC stream
# Version, variant and generation, for the answer's headers; nothing where no version was found.
cdef void note_origin(Call* call, const Request* request) noexcept nogil
