"""A strict HTTP/1.1 request parser (RFC 9112): bytes in, a head or an error out. No I/O, no allocation, nothing copied."""
from libc.stdint cimport int64_t, uint8_t

from serve._core.chunked cimport MAX_CHUNKS, ChunkDecoder, http1_decode_chunks
from serve._core.memory cimport Slice

cdef enum:
    MAX_HEADERS = 100
    MAX_HEAD_BYTES = 65536
    MAX_TARGET_BYTES = 8192

cdef struct HeaderField:
    Slice name                      # as sent; compare without case
    Slice value                     # without leading and trailing white space

cdef struct Head:
    # Slices point into the bytes given to http1_parse_head.
    Slice method
    Slice path                      # origin form, up to '?', still percent-encoded
    Slice query                     # behind '?', may be empty
    int minor                       # HTTP/1.minor: 0 or 1
    int n_headers
    HeaderField[MAX_HEADERS] headers
    int64_t content_length          # -1: none
    bint chunked
    bint keep_alive
    bint expect_continue            # only where there is content to wait for
    int status                      # when refused: HTTP status to answer (400, 413, 414, 417, 431, 501, 505)
    const char* reason              # when refused: what is wrong, static text

# > 0: bytes of the head; 0: more is needed (seen keeps how far it looked, start it at 0); -1: refused, see head.status and head.reason.
cdef ssize_t http1_parse_head(const uint8_t* data, size_t length, size_t* seen, Head* head) noexcept nogil
cdef int http1_header_is(const HeaderField* field, const char* lower_case, size_t length) noexcept nogil
