"""gzip and zlib streams, one shot, with bounds (zlib). RFC 1950, RFC 1952; Accept-Encoding as RFC 9110, section 12.5.3, has it."""
from libc.stdint cimport uint8_t
from libc.string cimport memset

from serve._core.failure cimport INVALID_ARGUMENT, OK, TOO_LARGE, UNAVAILABLE, Failure, fail
from serve._core.memory cimport Buffer, Slice, buffer_append, buffer_free, buffer_reserve, slice_is, slice_make

cdef extern from * nogil:
    """
    #define ZLIB_CONST                  // next_in points to const
    #include <zlib.h>
    """
    ctypedef struct z_stream:
        const uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
        const char* msg
    enum: Z_OK, Z_STREAM_END, Z_MEM_ERROR, Z_BUF_ERROR, Z_NO_FLUSH, Z_FINISH, Z_DEFLATED, Z_DEFAULT_STRATEGY, Z_BEST_SPEED, MAX_WBITS
    int inflateInit2(z_stream*, int window_bits)
    int inflate(z_stream*, int flush)
    int inflateReset(z_stream*)
    int inflateEnd(z_stream*)
    int deflateInit2(z_stream*, int level, int method, int window_bits, int memory_level, int strategy)
    int deflate(z_stream*, int flush)
    int deflateEnd(z_stream*)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char*, const char*, size_t)

cdef enum:
    GZIP_WINDOW = 16                # added to zlib's window bits: gzip instead of zlib framing
    MEMORY_LEVEL = 8                # zlib's default
    STEP = 1 << 30                  # zlib counts in unsigned int: the most it is given at once
    FREE_OUTPUT = 1 << 20           # output bytes to which the ratio does not apply: regular values pack very well
    MAX_RATIO = 100                 # output bytes an input byte
    FULL_QUALITY = 1000             # q=1, in thousandths


cdef inline bint names(Slice name, const char* lower_case, size_t length) noexcept nogil:
    return name.length == length and strncasecmp(<const char*>name.data, lower_case, length) == 0


cdef int encoding_from_name(Slice name) noexcept nogil:
    if name.length == 0 or names(name, b"identity", 8):
        return IDENTITY
    if names(name, b"gzip", 4) or names(name, b"x-gzip", 6):
        return GZIP
    if names(name, b"deflate", 7):
        return DEFLATE
    return UNKNOWN_ENCODING


cdef Slice trimmed(Slice text) noexcept nogil:
    while text.length and text.data[0] in (b' ', b'\t'):
        text.data += 1
        text.length -= 1
    while text.length and text.data[text.length - 1] in (b' ', b'\t'):
        text.length -= 1
    return text


cdef Slice cut(Slice* rest, uint8_t separator) noexcept nogil:
    """What stands before the next separator, trimmed; `rest` moves behind it."""
    cdef size_t i = 0
    cdef Slice head
    while i < rest.length and rest.data[i] != separator:
        i += 1
    head = trimmed(slice_make(rest.data, i))
    i += i < rest.length
    rest.data += i
    rest.length -= i
    return head


cdef int quality(Slice parameter) noexcept nogil:
    """Thousandths of a `q=` parameter; no parameter is 1, an unreadable one 0, so that what we cannot read is never preferred."""
    cdef int value = 0, digit_worth = FULL_QUALITY
    cdef size_t i
    if parameter.length == 0:
        return FULL_QUALITY
    if not (3 <= parameter.length <= 7 and parameter.data[0] in (b'q', b'Q') and parameter.data[1] == b'='):
        return 0
    for i in range(2, parameter.length):
        if i == 3:
            if parameter.data[i] != b'.':
                return 0
            continue
        if not b'0' <= parameter.data[i] <= b'9':
            return 0
        value += (parameter.data[i] - c'0') * digit_worth
        digit_worth //= 10
    return value if value <= FULL_QUALITY else 0


cdef int encoding_accepted(Slice accept) noexcept nogil:
    cdef int[3] qualities = [-1, -1, -1]        # by Encoding; -1: not named
    cdef int other = 0                          # of "*"
    cdef int encoding, best = IDENTITY, best_quality
    cdef Slice coding, name
    while accept.length:
        coding = cut(&accept, b',')
        name = cut(&coding, b';')
        encoding = encoding_from_name(name)
        if slice_is(name, b"*", 1):
            other = quality(trimmed(coding))
        elif name.length and encoding != UNKNOWN_ENCODING:
            qualities[encoding] = quality(trimmed(coding))
    # Identity needs no naming to be acceptable, and is what is sent when nothing is: a client that refuses it still gets an answer.
    best_quality = max(qualities[<int>IDENTITY], 0)
    for encoding in range(DEFLATE, IDENTITY, -1):
        if qualities[encoding] < 0:
            qualities[encoding] = other
        if qualities[encoding] > 0 and qualities[encoding] >= best_quality:
            best, best_quality = encoding, qualities[encoding]
    return best


cdef int torn(Failure* failure, const z_stream* stream) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "the compressed body is damaged or ends early: %s",
                stream.msg if stream.msg != NULL else <const char*>b"no end of stream")


cdef int end_of_member(z_stream* stream, int encoding, size_t left, Failure* failure) noexcept nogil:
    """A stream has ended with `left` bytes behind it. 1: that was all; 0: another gzip member begins; -1: failure is filled."""
    if left == 0:
        return 1
    if encoding != GZIP or stream.next_in[0] != 0x1f:
        return fail(failure, INVALID_ARGUMENT, "%zu bytes follow the end of the compressed body", left)
    inflateReset(stream)
    return 0


cdef int inflate_members(z_stream* stream, int encoding, size_t length, size_t most, size_t padding, Buffer* out,
                         Failure* failure) noexcept nogil:
    cdef size_t start = out.length, left = length
    cdef int status
    while True:
        # One byte over `most` is room enough to see that there is more.
        if buffer_reserve(out, min(max(4 * left, <size_t>1024), start + most + 1 - out.length) + padding):
            return fail(failure, UNAVAILABLE, "the server is out of memory")
        stream.avail_out = <unsigned int>min(out.capacity - out.length - padding, start + most + 1 - out.length, <size_t>STEP)
        stream.avail_in = <unsigned int>min(left, <size_t>STEP)
        stream.next_out = out.data + out.length
        left -= stream.avail_in
        status = inflate(stream, Z_NO_FLUSH)
        left += stream.avail_in
        out.length = stream.next_out - out.data
        if out.length - start > most:
            return fail(failure, TOO_LARGE, "the body unpacks to more than %zu bytes; limits are the message size, and 100:1 over 1 MiB",
                        most)
        if status == Z_STREAM_END:
            status = end_of_member(stream, encoding, left, failure)
            if status != 0:
                return min(status, 0)
        elif status == Z_MEM_ERROR:
            return fail(failure, UNAVAILABLE, "the server is out of memory")
        elif status != Z_OK and (status != Z_BUF_ERROR or stream.avail_out):
            return torn(failure, stream)
        elif left == 0 and stream.avail_out:
            return torn(failure, stream)


cdef int inflate_all(int encoding, const uint8_t* data, size_t length, size_t limit, size_t padding, Buffer* out,
                     Failure* failure) noexcept nogil:
    cdef z_stream stream
    cdef size_t start = out.length
    cdef size_t most = min(limit, max(length * MAX_RATIO, <size_t>FREE_OUTPUT))
    cdef int status
    memset(&stream, 0, sizeof(stream))
    stream.next_in = data
    if inflateInit2(&stream, MAX_WBITS + (GZIP_WINDOW if encoding == GZIP else 0)) != Z_OK:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    status = inflate_members(&stream, encoding, length, most, padding, out, failure)
    inflateEnd(&stream)
    if status:
        out.length = start
    return status


cdef int deflate_into(z_stream* stream, size_t length, Buffer* out) noexcept nogil:
    cdef size_t left = length
    cdef int status
    while True:
        if buffer_reserve(out, left // 4 + 128):
            return -1
        stream.next_out = out.data + out.length
        stream.avail_out = <unsigned int>min(out.capacity - out.length, <size_t>STEP)
        stream.avail_in = <unsigned int>min(left, <size_t>STEP)
        left -= stream.avail_in
        status = deflate(stream, Z_FINISH if left == 0 else Z_NO_FLUSH)
        left += stream.avail_in
        out.length = stream.next_out - out.data
        if status == Z_STREAM_END:
            return 0
        if status not in (Z_OK, Z_BUF_ERROR):
            return -1


cdef int deflate_all(int encoding, const uint8_t* data, size_t length, Buffer* out) noexcept nogil:
    cdef z_stream stream
    cdef size_t start = out.length
    cdef int status
    memset(&stream, 0, sizeof(stream))
    stream.next_in = data
    if deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS + (GZIP_WINDOW if encoding == GZIP else 0), MEMORY_LEVEL,
                    Z_DEFAULT_STRATEGY) != Z_OK:
        return -1
    status = deflate_into(&stream, length, out)
    deflateEnd(&stream)
    if status:
        out.length = start
    return status


# --- For the tests: the functions above on Python bytes ------------------------------------------------------------------

def name_to_encoding(bytes name):
    return encoding_from_name(slice_make(<const char*>name, len(name)))


def accept_to_encoding(bytes accept):
    return encoding_accepted(slice_make(<const char*>accept, len(accept)))


def inflate_bytes(int encoding, const uint8_t[::1] data, size_t limit, size_t padding, bytes before):
    """(`before` and behind it what `data` unpacks to, kind and text of the failure); the padding is written over."""
    cdef Buffer out
    cdef Failure failure
    cdef int status
    cdef const uint8_t* first = &data[0] if data.shape[0] else NULL
    memset(&out, 0, sizeof(out))
    if buffer_append(&out, <const char*>before, len(before)):
        raise MemoryError
    try:
        with nogil:
            status = inflate_all(encoding, first, data.shape[0], limit, padding, &out, &failure)
        if status:
            return out.data[:out.length], failure.kind, failure.text.decode()
        memset(out.data + out.length, 0xff, padding)
        return out.data[:out.length], OK, ""
    finally:
        buffer_free(&out)


def deflate_bytes(int encoding, const uint8_t[::1] data, bytes before):
    cdef Buffer out
    cdef const uint8_t* first = &data[0] if data.shape[0] else NULL
    memset(&out, 0, sizeof(out))
    try:
        if buffer_append(&out, <const char*>before, len(before)) or deflate_all(encoding, first, data.shape[0], &out):
            raise MemoryError
        return out.data[:out.length]
    finally:
        buffer_free(&out)
