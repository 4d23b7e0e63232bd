"""gzip and zlib streams, one shot, with bounds (zlib). RFC 1950, RFC 1952."""
from libc.stdint cimport uint8_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Buffer, Slice

cdef enum Encoding:
    IDENTITY = 0
    GZIP = 1
    DEFLATE = 2                     # a zlib stream, as HTTP defines it
    UNKNOWN_ENCODING = -1

cdef int encoding_from_name(Slice name) noexcept nogil              # Content-Encoding or grpc-encoding value; case-insensitive
cdef int encoding_accepted(Slice accept) noexcept nogil             # best of an Accept-Encoding list with q values; gzip before deflate
# `encoding` is GZIP or DEFLATE in both.
# Appends what `data` unpacks to, with `padding` spare bytes reserved behind it. TOO_LARGE over `limit` bytes or over ratio 100:1 (beyond
# the first 1 MiB), INVALID_ARGUMENT on torn or trailing bytes; `out` then holds what it held.
cdef int inflate_all(int encoding, const uint8_t* data, size_t length, size_t limit, size_t padding, Buffer* out,
                     Failure* failure) noexcept nogil
cdef int deflate_all(int encoding, const uint8_t* data, size_t length, Buffer* out) noexcept nogil  # appends; level 1; -1: memory is out
