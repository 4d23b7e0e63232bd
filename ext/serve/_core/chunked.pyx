"""The chunked transfer coding of RFC 9112 section 7.1 read strictly: bad white space, bare LF and CR are refused, never forgiven.

A table decides: TRANSITIONS[state][byte] is the next state; what a transition does besides is in chunk_step. Chunk data is moved in runs.

To edit: each refusal is one call of refuse_chunk, and each of its texts has its rule in tests/core/http1_rules.py.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

# RFC 9110 sections 5.6.2 and 5.5; http1 reads fields with the same two.
TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))

cdef enum:
    MAX_SIZE_DIGITS = 16
    MAX_CHUNK_LINE_BYTES = 4096
    MAX_TRAILER_BYTES = 8192

cdef enum ChunkState:
    # In the order of the bytes: up to SIZE_LF the chunk header, from TRAILER_FIRST the trailer section.
    SIZE_FIRST = 0
    SIZE
    EXTENSION_FIRST
    EXTENSION_NAME
    EXTENSION_VALUE_FIRST
    EXTENSION_TOKEN
    EXTENSION_QUOTED
    EXTENSION_PAIR
    EXTENSION_QUOTED_END
    SIZE_LF
    DATA
    DATA_CR
    DATA_LF
    TRAILER_FIRST
    TRAILER_NAME
    TRAILER_VALUE
    TRAILER_LF
    END_LF
    DONE
    REFUSED
    N_STATES

cdef uint8_t[N_STATES][256] TRANSITIONS
cdef uint8_t[256] HEX_VALUE


cdef int refuse_chunk(ChunkDecoder* decoder, const char* reason) noexcept nogil:
    decoder.state, decoder.status, decoder.reason = REFUSED, 400, reason
    return -1


cdef const char* reason_of(int state) noexcept nogil:
    """Why no transition leads out of the state with the byte that came."""
    if state <= SIZE:
        return "a chunk size is not hexadecimal digits, followed by CRLF or an extension"
    if state < SIZE_LF:
        return "a chunk extension is not ;name, ;name=token or ;name=\"text\""
    if state == SIZE_LF:
        return "a chunk header does not end with CRLF"
    if state < TRAILER_FIRST:
        return "the data of a chunk is not followed by CRLF"
    return "a trailer field is not a token, a colon and a value, ended by CRLF"


cdef int chunk_begin(ChunkDecoder* decoder) noexcept nogil:
    """The chunk header is complete: data, or the trailer section when it was the last one."""
    if decoder.left == 0:
        decoder.state, decoder.line_bytes = TRAILER_FIRST, 0
        return 0
    if decoder.n_chunks == MAX_CHUNKS:
        return refuse_chunk(decoder, "there are more than 65536 chunks")
    decoder.n_chunks += 1
    return 0


cdef int chunk_step(ChunkDecoder* decoder, uint8_t byte) noexcept nogil:
    """One byte outside of chunk data. 1: the body is complete; 0: go on; -1: refused."""
    cdef int before = decoder.state
    cdef int state = TRANSITIONS[before][byte]
    if state == REFUSED:
        return refuse_chunk(decoder, reason_of(before))
    decoder.state = state
    decoder.line_bytes += 1
    if state == SIZE:
        if decoder.line_bytes > MAX_SIZE_DIGITS:
            return refuse_chunk(decoder, "a chunk size has more than 16 digits")
        decoder.left = decoder.left << 4 | HEX_VALUE[byte]
    elif state == DATA:
        return chunk_begin(decoder)
    elif state == SIZE_FIRST:
        decoder.line_bytes = 0
    elif state == DONE:
        return 1
    elif state < DATA and decoder.line_bytes > MAX_CHUNK_LINE_BYTES:
        return refuse_chunk(decoder, "a chunk header is longer than 4096 bytes")
    elif state >= TRAILER_FIRST and decoder.line_bytes > MAX_TRAILER_BYTES:
        return refuse_chunk(decoder, "the trailer section is longer than 8192 bytes")
    return 0


cdef int http1_decode_chunks(ChunkDecoder* decoder, uint8_t* data, size_t length, size_t* used, size_t* body) noexcept nogil:
    cdef size_t at = 0, out = 0, run
    cdef int result = decoder.state == DONE
    while at < length and result == 0:
        if decoder.state == DATA:
            run = min(decoder.left, length - at)
            memmove(data + out, data + at, run)
            at, out = at + run, out + run
            decoder.left -= run
            if decoder.left == 0:
                decoder.state = DATA_CR
        else:
            result = chunk_step(decoder, data[at])
            at += 1
    used[0], body[0] = at, out
    return result


cdef int transition(int state, bytes members, int target) except -1:
    cdef uint8_t byte
    for byte in members:
        TRANSITIONS[state][byte] = target
    return 0


cdef int fill_transitions() except -1:
    """RFC 9112 section 7.1, without the bad white space that a recipient may forgive."""
    token, value, digits = TOKEN_BYTES, VALUE_BYTES, b"0123456789abcdefABCDEF"
    for byte in digits:
        HEX_VALUE[byte] = int(chr(byte), 16)
    memset(TRANSITIONS, REFUSED, sizeof(TRANSITIONS))
    transition(SIZE_FIRST, digits, SIZE)
    transition(SIZE, digits, SIZE)
    transition(EXTENSION_FIRST, token, EXTENSION_NAME)
    transition(EXTENSION_NAME, token, EXTENSION_NAME)
    transition(EXTENSION_NAME, b"=", EXTENSION_VALUE_FIRST)
    transition(EXTENSION_VALUE_FIRST, token, EXTENSION_TOKEN)
    transition(EXTENSION_VALUE_FIRST, b'"', EXTENSION_QUOTED)
    transition(EXTENSION_TOKEN, token, EXTENSION_TOKEN)
    transition(EXTENSION_QUOTED, value, EXTENSION_QUOTED)
    transition(EXTENSION_QUOTED, b"\\", EXTENSION_PAIR)
    transition(EXTENSION_QUOTED, b'"', EXTENSION_QUOTED_END)
    transition(EXTENSION_PAIR, value, EXTENSION_QUOTED)
    for state in (SIZE, EXTENSION_NAME, EXTENSION_TOKEN, EXTENSION_QUOTED_END):
        transition(state, b";", EXTENSION_FIRST)
        transition(state, b"\r", SIZE_LF)
    transition(SIZE_LF, b"\n", DATA)
    transition(DATA_CR, b"\r", DATA_LF)
    transition(DATA_LF, b"\n", SIZE_FIRST)
    transition(TRAILER_FIRST, token, TRAILER_NAME)
    transition(TRAILER_FIRST, b"\r", END_LF)
    transition(TRAILER_NAME, token, TRAILER_NAME)
    transition(TRAILER_NAME, b":", TRAILER_VALUE)
    transition(TRAILER_VALUE, value, TRAILER_VALUE)
    transition(TRAILER_VALUE, b"\r", TRAILER_LF)
    transition(TRAILER_LF, b"\n", TRAILER_FIRST)
    transition(END_LF, b"\n", DONE)
    return 0


fill_transitions()


# For the tests: a decoder fed with Python's bytes, each part in a block of exactly its size so that a sanitizer sees each wrong access.

def decode_chunks(list parts):
    """(result, body, left over, chunks, status, reason) after the parts were given one by one."""
    cdef ChunkDecoder decoder
    cdef size_t used, body
    cdef uint8_t* block
    cdef bytes part
    cdef int result = 0
    memset(&decoder, 0, sizeof(decoder))
    decoded, rest = b"", b""
    for part in parts:
        if result:
            rest += part
            continue
        block = <uint8_t*>malloc(max(len(part), 1))
        if block == NULL:
            raise MemoryError
        memcpy(block, <const char*>part, len(part))
        result = http1_decode_chunks(&decoder, block, len(part), &used, &body)
        decoded += block[:body]
        rest += part[used:]
        free(block)
    return result, decoded, rest, decoder.n_chunks, decoder.status, decoder.reason.decode() if decoder.reason != NULL else ""
