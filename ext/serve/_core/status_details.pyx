from libc.stdint cimport uint8_t
from libc.string cimport strlen

from serve._core.memory cimport arena_alloc, arena_free, slice_make
from serve._core.protobuf cimport field_size, put_bytes, put_header

cdef const char* TYPE_URL = b"type.googleapis.com/google.rpc.ErrorInfo"
cdef const char* DOMAIN = b"headrace"
cdef const char* ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef Slice base64_text(Arena* arena, const uint8_t* data, size_t length) noexcept nogil:
    cdef uint8_t* out = <uint8_t*>arena_alloc(arena, (length + 2) // 3 * 4)
    cdef size_t i = 0, n = 0
    cdef unsigned int bits
    if out == NULL:
        return slice_make(NULL, 0)
    while i < length:
        bits = <unsigned int>data[i] << 16
        if i + 1 < length:
            bits |= <unsigned int>data[i + 1] << 8
        if i + 2 < length:
            bits |= data[i + 2]
        out[n] = ALPHABET[bits >> 18]
        out[n + 1] = ALPHABET[bits >> 12 & 63]
        out[n + 2] = ALPHABET[bits >> 6 & 63]
        out[n + 3] = ALPHABET[bits & 63]
        n += 4
        i += 3
    return slice_make(out, n - (i - length))            # gRPC wants no padding


cdef Slice status_details(Arena* arena, int code, const char* message, const char* reason) noexcept nogil:
    cdef size_t text = strlen(message)
    cdef size_t info = 0, packed = 0
    cdef uint8_t* data
    cdef uint8_t* at
    if reason != NULL:
        info = field_size(strlen(reason)) + field_size(strlen(DOMAIN))
        packed = field_size(strlen(TYPE_URL)) + field_size(info)
    data = at = <uint8_t*>arena_alloc(arena, 2 + field_size(text) + (field_size(packed) if packed else 0))
    if data == NULL:
        return slice_make(NULL, 0)
    at[0], at[1] = 1 << 3, <uint8_t>code                # codes are 0 to 16
    at = put_bytes(at + 2, 2, message, text)
    if packed:
        at = put_header(at, 3, packed)
        at = put_bytes(at, 1, TYPE_URL, strlen(TYPE_URL))
        at = put_header(at, 2, info)
        at = put_bytes(at, 1, reason, strlen(reason))
        at = put_bytes(at, 2, DOMAIN, strlen(DOMAIN))
    return base64_text(arena, data, at - data)


# --- For the tests ------------------------------------------------------------------------------------------------------

def status_details_for_test(int code, bytes message not None, bytes reason=None):
    """The header's value."""
    cdef Arena arena
    cdef const char* name = NULL
    if reason is not None:
        name = reason
    arena.newest = NULL
    arena.cursor = arena.end = NULL
    arena.total = 0
    text = status_details(&arena, code, message, name)
    value = text.data[:text.length]
    arena_free(&arena)
    return value
