"""RFC 9112 read strictly: what two readers of HTTP could understand differently is refused, never repaired.

A head is first found (only new bytes are searched, so a head that drips in costs O(n)), then read in one pass. Every byte class is a bit
in KIND and no class holds CR, so each loop ends at the CR of its line at the latest: find_end has proved that there is one.

To edit: each refusal is one call of refuse, and each of its texts has its rule in tests/core/http1_rules.py.
"""
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from serve._core.memory cimport Slice, slice_is, slice_make
from serve._core.posix cimport now_ns

from serve._core.chunked import TOKEN_BYTES, VALUE_BYTES

cdef enum:
    MAX_METHOD_BYTES = 32
    MAX_REQUEST_LINE_BYTES = MAX_METHOD_BYTES + MAX_TARGET_BYTES + 12       # two spaces, the version and CRLF
    MAX_CONTENT_LENGTH_DIGITS = 19

cdef enum:
    HTAB = 9
    LF = 10
    CR = 13
    SP = 32

cdef enum ByteKind:
    IN_TOKEN = 1                    # RFC 9110 5.6.2
    IN_VALUE = 2                    # RFC 9110 5.5: VCHAR, SP, HTAB, obs-text
    IN_TARGET = 4                   # VCHAR but '#'
    IN_NAME = 8                     # RFC 3986 reg-name: unreserved, pct-encoded, sub-delims
    IN_ADDRESS = 16                 # between the brackets of an IPv6 address
    IN_NUMBER = 32

cdef uint8_t[256] KIND
cdef uint8_t[256] LOWER

cdef struct Notes:
    # What the fields said that the head does not keep.
    int hosts
    bint close
    bint keep_alive


cdef int refuse(Head* head, int status, const char* reason) noexcept nogil:
    head.status, head.reason = status, reason
    return -1


cdef inline bint equal_without_case(const uint8_t* data, size_t length, const char* lower_case, size_t lower_length) noexcept nogil:
    cdef size_t i
    if length != lower_length:
        return False
    for i in range(length):
        if LOWER[data[i]] != <uint8_t>lower_case[i]:
            return False
    return True


cdef int http1_header_is(const HeaderField* field, const char* lower_case, size_t length) noexcept nogil:
    return equal_without_case(field.name.data, field.name.length, lower_case, length)


cdef ssize_t find_end(const uint8_t* data, size_t length, size_t* seen, Head* head) noexcept nogil:
    """Bytes of the head with its empty line; 0: that has not come yet; -1: refused. On success every LF of the head follows a CR."""
    cdef size_t limit = min(length, <size_t>MAX_HEAD_BYTES)
    cdef const uint8_t* end = data + limit
    cdef const uint8_t* at = data + min(seen[0], limit)
    if seen[0] <= MAX_REQUEST_LINE_BYTES and limit > MAX_REQUEST_LINE_BYTES and memchr(data, LF, MAX_REQUEST_LINE_BYTES) == NULL:
        return refuse(head, 414, "the request line is longer than a target of 8192 bytes allows")
    while at < end:
        at = <const uint8_t*>memchr(at, LF, end - at)
        if at == NULL:
            break
        if at == data or (at - 1)[0] != CR:
            return refuse(head, 400, "a line ends with LF alone, not with CRLF")
        if at - data >= 3 and (at - 2)[0] == LF:
            return at + 1 - data
        at += 1
    if limit == MAX_HEAD_BYTES:
        return refuse(head, 431, "the request line and the header fields are longer than 65536 bytes")
    seen[0] = limit
    return 0


cdef bint is_host(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """uri-host [ ":" port ] (RFC 9110 section 7.2): both the name and the port may be empty."""
    cdef const uint8_t* start = at
    if at < end and at[0] == c"[":
        at += 1
        while at < end and KIND[at[0]] & IN_ADDRESS:
            at += 1
        if at == end or at[0] != c"]" or at - start < 3:
            return False
        at += 1
    else:
        while at < end and KIND[at[0]] & IN_NAME:
            at += 1
    if at < end and at[0] == c":":
        at += 1
        while at < end and KIND[at[0]] & IN_NUMBER:
            at += 1
    return at == end


cdef void split_path(const uint8_t* start, const uint8_t* end, Head* head) noexcept nogil:
    cdef const uint8_t* mark = <const uint8_t*>memchr(start, c"?", end - start)
    if mark == NULL:
        head.path, head.query = slice_make(start, end - start), slice_make(end, 0)
    else:
        head.path, head.query = slice_make(start, mark - start), slice_make(mark + 1, end - mark - 1)


cdef int read_absolute_form(const uint8_t* start, const uint8_t* end, Head* head) noexcept nogil:
    """http://authority[/path][?query]: RFC 9112 section 3.2.2 makes every server accept it, and ignore Host for it."""
    cdef size_t length = end - start
    cdef const uint8_t* at = start
    if length >= 7 and equal_without_case(start, 7, "http://", 7):
        at += 7
    elif length >= 8 and equal_without_case(start, 8, "https://", 8):
        at += 8
    else:
        return refuse(head, 400, "the request target is neither a path, nor an http URI, nor *")
    cdef const uint8_t* authority = at
    while at < end and at[0] != c"/" and at[0] != c"?":
        at += 1
    if at == authority or not is_host(authority, at):
        return refuse(head, 400, "the URI in the request line has no valid host")
    split_path(at, end, head)
    if head.path.length == 0:
        # The same as "/": point at the one before the authority, so that path lies in the caller's bytes all the same.
        head.path = slice_make(authority - 1, 1)
    return 0


cdef int read_target(const uint8_t* start, const uint8_t* end, Head* head) noexcept nogil:
    if slice_is(head.method, b"CONNECT", 7):
        return refuse(head, 501, "CONNECT is not implemented: this is no proxy")
    if start[0] == c"/":
        split_path(start, end, head)
        return 0
    if end - start == 1 and start[0] == c"*":
        split_path(start, end, head)
        if slice_is(head.method, b"OPTIONS", 7):
            return 0
        return refuse(head, 400, "the request target * is for OPTIONS alone")
    return read_absolute_form(start, end, head)


cdef bint is_version(const uint8_t* at) noexcept nogil:
    """Ten bytes: HTTP-version and CRLF."""
    return memcmp(at, b"HTTP/", 5) == 0 and KIND[at[5]] & IN_NUMBER and at[6] == c"." and KIND[at[7]] & IN_NUMBER \
        and at[8] == CR and at[9] == LF


cdef int read_request_line(const uint8_t** cursor, const uint8_t* end, Head* head) noexcept nogil:
    cdef const uint8_t* at = cursor[0]
    cdef const uint8_t* target
    cdef const uint8_t* target_end
    while KIND[at[0]] & IN_TOKEN:
        at += 1
    head.method = slice_make(cursor[0], at - cursor[0])
    if head.method.length == 0 or at[0] != SP:
        return refuse(head, 400, "the request line does not begin with a method and one space")
    if head.method.length > MAX_METHOD_BYTES:
        return refuse(head, 501, "the method is longer than 32 bytes")
    target = at = at + 1
    while KIND[at[0]] & IN_TARGET:
        at += 1
    target_end = at
    if at == target or at[0] != SP:
        return refuse(head, 400, "the request target is not visible ASCII without a fragment, followed by one space")
    if at - target > MAX_TARGET_BYTES:
        return refuse(head, 414, "the request target is longer than 8192 bytes")
    at += 1
    if end - at < 10 or not is_version(at):
        return refuse(head, 400, "the request line does not end with HTTP/, a digit, a point and a digit")
    if at[5] != c"1" or at[7] > c"1":
        return refuse(head, 505, "the version is neither HTTP/1.0 nor HTTP/1.1")
    head.minor = at[7] - c"0"
    cursor[0] = at + 10
    return read_target(target, target_end, head)


cdef int read_content_length(Slice value, Head* head) noexcept nogil:
    cdef uint64_t number = 0
    cdef size_t i
    if head.content_length >= 0:
        return refuse(head, 400, "there is more than one Content-Length")
    for i in range(value.length):
        if not KIND[value.data[i]] & IN_NUMBER:
            return refuse(head, 400, "Content-Length is not a decimal number")
        number = number * 10 + (value.data[i] - c"0")
    if value.length == 0:
        return refuse(head, 400, "Content-Length is not a decimal number")
    if value.length > MAX_CONTENT_LENGTH_DIGITS or number > INT64_MAX:
        return refuse(head, 413, "Content-Length has more than 19 digits or is over 2^63 - 1")
    head.content_length = <int64_t>number
    return 0


cdef int read_connection(Slice value, Notes* notes) noexcept nogil:
    """A comma-separated list of options (RFC 9110 section 7.6.1); those unknown to us are ignored."""
    cdef const uint8_t* at = value.data
    cdef const uint8_t* end = at + value.length
    cdef const uint8_t* start
    cdef const uint8_t* stop
    while at < end:
        while at < end and (at[0] == SP or at[0] == HTAB):
            at += 1
        start = at
        while at < end and at[0] != c",":
            at += 1
        stop = at
        while stop > start and ((stop - 1)[0] == SP or (stop - 1)[0] == HTAB):
            stop -= 1
        notes.close |= equal_without_case(start, stop - start, "close", 5)
        notes.keep_alive |= equal_without_case(start, stop - start, "keep-alive", 10)
        at += 1
    return 0


cdef int read_meaning(const HeaderField* field, Notes* notes, Head* head) noexcept nogil:
    """The five fields that frame a request; all others are the caller's."""
    cdef Slice value = field.value
    if field.name.length == 4 and http1_header_is(field, "host", 4):
        notes.hosts += 1
        if notes.hosts > 1:
            return refuse(head, 400, "there is more than one Host")
        if not is_host(value.data, value.data + value.length):
            return refuse(head, 400, "Host is not a host with an optional port")
    elif field.name.length == 14 and http1_header_is(field, "content-length", 14):
        return read_content_length(value, head)
    elif field.name.length == 17 and http1_header_is(field, "transfer-encoding", 17):
        if head.chunked:
            return refuse(head, 400, "there is more than one Transfer-Encoding")
        if not equal_without_case(value.data, value.length, "chunked", 7):
            return refuse(head, 501, "Transfer-Encoding is not chunked, the only one implemented")
        head.chunked = True
    elif field.name.length == 10 and http1_header_is(field, "connection", 10):
        return read_connection(value, notes)
    elif field.name.length == 6 and http1_header_is(field, "expect", 6):
        if not equal_without_case(value.data, value.length, "100-continue", 12):
            return refuse(head, 417, "Expect is not 100-continue, the only one implemented")
        head.expect_continue = True
    return 0


cdef int refuse_name(const uint8_t* start, const uint8_t* at, Head* head) noexcept nogil:
    if at == start and (at[0] == SP or at[0] == HTAB):
        return refuse(head, 400, "a line begins with white space (obsolete line folding)")
    if at[0] == SP or at[0] == HTAB:
        return refuse(head, 400, "white space before the colon of a header field")
    return refuse(head, 400, "a header field does not begin with a token and a colon")


cdef int read_field(const uint8_t** cursor, Notes* notes, Head* head) noexcept nogil:
    cdef const uint8_t* at = cursor[0]
    cdef const uint8_t* value
    cdef const uint8_t* value_end
    cdef HeaderField* field
    while KIND[at[0]] & IN_TOKEN:
        at += 1
    if at == cursor[0] or at[0] != c":":
        return refuse_name(cursor[0], at, head)
    if head.n_headers == MAX_HEADERS:
        return refuse(head, 431, "there are more than 100 header fields")
    field = &head.headers[head.n_headers]
    head.n_headers += 1
    field.name = slice_make(cursor[0], at - cursor[0])
    at += 1
    while at[0] == SP or at[0] == HTAB:
        at += 1
    value = at
    while KIND[at[0]] & IN_VALUE:
        at += 1
    if at[0] != CR or at[1] != LF:
        return refuse(head, 400, "a header field has a control byte in its value")
    value_end = at
    while value_end > value and ((value_end - 1)[0] == SP or (value_end - 1)[0] == HTAB):
        value_end -= 1
    field.value = slice_make(value, value_end - value)
    cursor[0] = at + 2
    return read_meaning(field, notes, head)


cdef int weigh(const Notes* notes, Head* head) noexcept nogil:
    """What only all fields together can tell: framing (RFC 9112 section 6) and persistence (section 9.3)."""
    if head.minor == 1 and notes.hosts == 0:
        return refuse(head, 400, "HTTP/1.1 needs a Host")
    if head.chunked and head.minor == 0:
        return refuse(head, 400, "HTTP/1.0 has no Transfer-Encoding")
    if head.chunked and head.content_length >= 0:
        return refuse(head, 400, "both Transfer-Encoding and Content-Length")
    head.keep_alive = not notes.close and (head.minor == 1 or notes.keep_alive)
    # RFC 9110 section 10.1.1: HTTP/1.0 cannot expect, and without content there is nothing to continue with.
    head.expect_continue = head.expect_continue and head.minor == 1 and (head.chunked or head.content_length > 0)
    return 0


cdef ssize_t http1_parse_head(const uint8_t* data, size_t length, size_t* seen, Head* head) noexcept nogil:
    cdef ssize_t size = find_end(data, length, seen, head)
    cdef const uint8_t* at = data
    cdef const uint8_t* end
    cdef Notes notes
    if size <= 0:
        return size
    end = data + size - 2
    head.n_headers, head.content_length, head.status = 0, -1, 0
    head.reason = NULL
    head.chunked = head.keep_alive = head.expect_continue = False
    notes.hosts = notes.close = notes.keep_alive = 0
    if at[0] == CR and at[1] == LF:
        at += 2
    if at[0] == CR:
        return refuse(head, 400, "more than one empty line, or a CR alone, before the request line")
    if read_request_line(&at, end, head):
        return -1
    while at < end:
        if read_field(&at, &notes, head):
            return -1
    return -1 if weigh(&notes, head) else size


cdef int mark(uint8_t* table, bytes members, int value) except -1:
    cdef uint8_t byte
    for byte in members:
        table[byte] |= value
    return 0


cdef int fill_kinds() except -1:
    digits, letters = b"0123456789", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    visible = bytes(range(0x21, 0x7F))
    mark(KIND, TOKEN_BYTES, IN_TOKEN)
    mark(KIND, VALUE_BYTES, IN_VALUE)
    mark(KIND, visible.replace(b"#", b""), IN_TARGET)
    mark(KIND, b"-._~%!$&'()*+,;=" + digits + letters, IN_NAME)
    mark(KIND, b"abcdefABCDEF:." + digits, IN_ADDRESS)
    mark(KIND, digits, IN_NUMBER)
    for byte in range(256):
        LOWER[byte] = bytes([byte]).lower()[0]
    return 0


fill_kinds()


# For the tests: the functions above on Python's bytes, copied to blocks of exactly their size so that a sanitizer sees each wrong read.

cdef void* exact_copy(bytes data) except NULL:
    cdef void* copy = malloc(max(len(data), 1))
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*>data, len(data))
    return copy


cdef bytes inside(Slice slice, const uint8_t* block, size_t size):
    """The bytes of a slice, which must lie in the block."""
    if slice.data < block or slice.data + slice.length > block + size:
        raise AssertionError("a slice points out of the bytes given")
    return slice.data[:slice.length]


cdef dict head_as_dict(const Head* head, const uint8_t* block, size_t size):
    fields = [(inside(head.headers[i].name, block, size), inside(head.headers[i].value, block, size)) for i in range(head.n_headers)]
    return {"method": inside(head.method, block, size), "path": inside(head.path, block, size), "query": inside(head.query, block, size),
            "minor": head.minor, "headers": fields, "content_length": head.content_length, "chunked": bool(head.chunked),
            "keep_alive": bool(head.keep_alive), "expect_continue": bool(head.expect_continue)}


def parse_head(bytes data, size_t seen=0):
    """(size, seen, head): head is a dict of the fields of Head; when refused size is -1 and the dict has only status and reason."""
    cdef Head head
    cdef uint8_t* block = <uint8_t*>exact_copy(data)
    try:
        size = http1_parse_head(block, len(data), &seen, &head)
        if size < 0:
            return size, seen, {"status": head.status, "reason": head.reason.decode()}
        return size, seen, head_as_dict(&head, block, len(data)) if size else None
    finally:
        free(block)


def header_is(bytes name, bytes lower_case):
    cdef HeaderField field
    field.name = slice_make(<const char*>name, len(name))
    return bool(http1_header_is(&field, lower_case, len(lower_case)))


def time_parse_head(bytes data, int repeats):
    """Mean nanoseconds of one http1_parse_head of a complete head."""
    cdef Head head
    cdef const uint8_t* bytes_ = data
    cdef size_t length = len(data), seen
    cdef ssize_t total = 0
    cdef uint64_t start, stop
    cdef int left = repeats
    with nogil:
        start = now_ns()
        while left > 0:
            left -= 1
            seen = 0
            total += http1_parse_head(bytes_, length, &seen, &head)
        stop = now_ns()
    if total != <ssize_t>length * repeats:
        raise ValueError("not one complete, valid head")
    return (stop - start) / <double>repeats
