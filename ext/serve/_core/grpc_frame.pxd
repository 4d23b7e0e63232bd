"""gRPC's length-prefixed messages (PROTOCOL-HTTP2): a flag for compression, four bytes of length, the message."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memmove

from serve._core.call cimport Call
from serve._core.memory cimport buffer_append
from serve._core.posix cimport htonl

cdef enum:
    GRPC_PREFIX = 5


cdef inline int put_message(Call* call, const uint8_t* data, size_t length) noexcept nogil:
    cdef uint8_t prefix[GRPC_PREFIX]
    cdef uint32_t size = htonl(<uint32_t>length)
    prefix[0] = 0
    memcpy(prefix + 1, &size, 4)
    return buffer_append(&call.out, prefix, GRPC_PREFIX) or buffer_append(&call.out, data, length)


cdef inline int next_message(const Call* call, size_t* length, bint* packed) noexcept nogil:
    """Whether call.body holds a whole gRPC message behind body_used."""
    cdef size_t available = call.body.length - call.body_used
    cdef const uint8_t* at
    if available < GRPC_PREFIX:
        return 0
    at = call.body.data + call.body_used
    length[0] = <size_t>at[1] << 24 | <size_t>at[2] << 16 | <size_t>at[3] << 8 | at[4]
    packed[0] = at[0] != 0
    return available - GRPC_PREFIX >= length[0]


cdef inline void compact(Call* call) noexcept nogil:
    """Forget the messages that were taken."""
    cdef size_t rest = call.body.length - call.body_used
    if call.body_used == 0:
        return
    if rest:
        memmove(call.body.data, call.body.data + call.body_used, rest)
    call.body.length = rest
    call.body_used = 0
