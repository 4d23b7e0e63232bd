"""A strict HTTP/1.1 request parser (RFC 9112): bytes in, a head or an error out. No I/O, no allocation, nothing copied."""
from libc.stdint cimport int64_t, uint8_t

from serve._core.memory cimport Slice

cdef enum:
    MAX_HEADERS = 100
    MAX_HEAD_BYTES = 65536
    MAX_CHUNKS = 65536

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
    bint expect_continue
    int status                      # when refused: HTTP status to answer (400, 413, 417, 431, 501, 505)
    const char* reason              # when refused: what is wrong, static text

cdef struct ChunkDecoder:
    # Of one chunked body. Zeroed = at its beginning.
    int state
    int n_chunks
    size_t left                     # bytes of the current chunk still to come
    size_t line_bytes               # of the chunk header or trailer being read, bounded
    int status
    const char* reason

# > 0: bytes of the head; 0: more is needed (seen keeps how far it looked, start it at 0); -1: refused, see head.status and head.reason.
cdef ssize_t http1_parse_head(const uint8_t* data, size_t length, size_t* seen, Head* head) noexcept nogil
# Decodes in place: moves body bytes to data[0:*body]; *used is how much of data was consumed. 1: the body is complete; 0: more; -1: refused.
cdef int http1_decode_chunks(ChunkDecoder* decoder, uint8_t* data, size_t length, size_t* used, size_t* body) noexcept nogil
cdef int http1_header_is(const HeaderField* field, const char* lower_case, size_t length) noexcept nogil
