"""The chunked transfer coding (RFC 9112 section 7.1), decoded in place and resumable at any byte. No I/O, no allocation."""
from libc.stdint cimport uint8_t

cdef enum:
    MAX_CHUNKS = 65536

cdef struct ChunkDecoder:
    # Of one chunked body. Zeroed = at its beginning.
    int state
    int n_chunks
    size_t left                     # bytes of the current chunk still to come
    size_t line_bytes               # of the chunk header or trailer being read, bounded
    int status
    const char* reason

# Decodes in place: moves body bytes to data[0:*body]; *used is what was consumed. 1: the body is complete; 0: more; -1: refused.
cdef int http1_decode_chunks(ChunkDecoder* decoder, uint8_t* data, size_t length, size_t* used, size_t* body) noexcept nogil
