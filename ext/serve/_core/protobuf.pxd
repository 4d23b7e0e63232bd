"""The protobuf wire format: keys, varints, lengths, groups (protobuf.dev, "Encoding"), read from and written to plain memory.

As strict as the reference parsers: keys and lengths take at most 5 bytes, numbers at most 10, field 0 and unmatched groups are refused.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serve._core.memory cimport Slice

cdef enum WireType:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_GROUP = 3
    WIRE_END_GROUP = 4
    WIRE_FIXED32 = 5

cdef enum:
    MAX_GROUPS = 64                 # groups inside each other

cdef struct Cursor:
    # What is left of a message. Borrowed.
    const uint8_t* at
    const uint8_t* end

cdef extern from * nogil:
    int leading_zeros "__builtin_clzll"(unsigned long long)


cdef inline Cursor cursor_of(Slice message) noexcept nogil:
    cdef Cursor cursor
    cursor.at, cursor.end = message.data, message.data + message.length
    return cursor


cdef inline bint get_long_varint(Cursor* cursor, int longest, uint64_t* value) noexcept nogil:
    """Bits over 64 are dropped."""
    cdef const uint8_t* at = cursor.at
    cdef uint64_t result = 0
    cdef int shift = 0
    while at < cursor.end and shift < 7 * longest:
        result |= <uint64_t>(at[0] & 127) << shift
        if at[0] < 128:
            cursor.at, value[0] = at + 1, result
            return True
        shift += 7
        at += 1
    return False


cdef inline bint get_varint(Cursor* cursor, uint64_t* value) noexcept nogil:
    if cursor.at < cursor.end and cursor.at[0] < 128:
        value[0] = cursor.at[0]
        cursor.at += 1
        return True
    return get_long_varint(cursor, 10, value)


cdef inline bint get_key(Cursor* cursor, uint32_t* key) noexcept nogil:
    """Field number * 8 + wire type."""
    cdef uint64_t value = 0
    if cursor.at < cursor.end and cursor.at[0] < 128:
        value = cursor.at[0]
        cursor.at += 1
    elif not get_long_varint(cursor, 5, &value) or value >> 32:
        return False
    key[0] = <uint32_t>value
    return value > 7


cdef inline bint get_bytes(Cursor* cursor, Slice* content) noexcept nogil:
    """The content of a length-delimited field."""
    cdef uint64_t length = 0
    if cursor.at < cursor.end and cursor.at[0] < 128:
        length = cursor.at[0]
        cursor.at += 1
    elif not get_long_varint(cursor, 5, &length):
        return False
    if length > <size_t>(cursor.end - cursor.at):
        return False
    content.data, content.length = cursor.at, length
    cursor.at += length
    return True


cdef inline bint skip_bytes(Cursor* cursor, size_t length) noexcept nogil:
    if length > <size_t>(cursor.end - cursor.at):
        return False
    cursor.at += length
    return True


cdef inline bint skip_scalar(Cursor* cursor, uint32_t key) noexcept nogil:
    """The content behind a key that is not of a group."""
    cdef uint64_t ignored
    cdef Slice content
    if key & 7 == WIRE_VARINT:
        return get_varint(cursor, &ignored)
    if key & 7 == WIRE_FIXED64:
        return skip_bytes(cursor, 8)
    if key & 7 == WIRE_BYTES:
        return get_bytes(cursor, &content)
    if key & 7 == WIRE_FIXED32:
        return skip_bytes(cursor, 4)
    return False


cdef inline bint skip_field(Cursor* cursor, uint32_t key) noexcept nogil:
    """The content behind a key of any kind, groups with all that is in them."""
    cdef uint32_t[MAX_GROUPS] opened
    cdef int depth = 0
    while True:
        if key & 7 == WIRE_GROUP:
            if depth == MAX_GROUPS:
                return False
            opened[depth] = key >> 3
            depth += 1
        elif key & 7 == WIRE_END_GROUP:
            if depth == 0 or opened[depth - 1] != key >> 3:
                return False
            depth -= 1
        elif not skip_scalar(cursor, key):
            return False
        if depth == 0:
            return True
        if not get_key(cursor, &key):
            return False


cdef inline bint is_utf8(Slice text) noexcept nogil:
    """RFC 3629: no overlong forms, no surrogates, nothing over U+10FFFF."""
    cdef const uint8_t* at = text.data
    cdef const uint8_t* end = text.data + text.length
    cdef uint64_t eight
    cdef uint8_t lead, low, high
    cdef int more
    while at < end:
        if end - at >= 8:
            memcpy(&eight, at, 8)
            if eight & <uint64_t>0x8080808080808080 == 0:
                at += 8
                continue
        lead = at[0]
        at += 1
        if lead < 0x80:
            continue
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        if lead < 0xC2 or lead > 0xF4 or end - at < more:
            return False
        low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
        high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
        while more:
            if not low <= at[0] <= high:
                return False
            low, high = 0x80, 0xBF
            at += 1
            more -= 1
    return True


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    return <size_t>(70 - leading_zeros(value | 1)) // 7


cdef inline size_t field_size(size_t length) noexcept nogil:
    """Of a length-delimited field with a number up to 15."""
    return 1 + varint_size(length) + length


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    while value > 127:
        at[0] = <uint8_t>value | 128
        value >>= 7
        at += 1
    at[0] = <uint8_t>value
    return at + 1


cdef inline uint8_t* put_header(uint8_t* at, int number, size_t length) noexcept nogil:
    """Key and length of a length-delimited field with a number up to 15."""
    at[0] = <uint8_t>(number << 3 | WIRE_BYTES)
    return put_varint(at + 1, length)


cdef inline uint8_t* put_bytes(uint8_t* at, int number, const void* data, size_t length) noexcept nogil:
    at = put_header(at, number, length)
    if length:
        memcpy(at, data, length)
    return at + length
