"""A parsed JSON document as simdjson's tape (its doc/tape.md), and the repair that lets non-finite numbers through the parser.

A value is one word with its kind in the top byte ('{' '[' '"' 't' 'f' 'n', numbers 'l' int64, 'u' uint64, 'd' double); a number's bits are
the next word. A container's low 32 bits are the index behind its end; a string's payload is the offset of its uint32 length in `strings`.
"""
from libc.math cimport INFINITY, NAN
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from serve._core.memory cimport Arena, Slice, arena_alloc, slice_is, slice_make

cdef extern from "json_parse.hpp" namespace "headrace" nogil:
    enum:
        JSON_DEPTH
        NUMBER_ROOM                 # bytes that put_number may write
    int json_parse(const uint8_t* text, size_t length, uint64_t** tape, const uint8_t** strings)
    void json_release()             # gives back the memory of an unusually large document
    const char* json_error_text(int code)
    bint is_utf8(const uint8_t* data, size_t length)
    char* put_number[Number](char* at, Number value)

cdef extern from "<simdjson.h>" namespace "simdjson" nogil:
    enum: MEMALLOC, DEPTH_ERROR, TAPE_ERROR, NUMBER_ERROR

cdef struct Json:
    # Both belong to the thread's parser, until its next json_parse or json_release.
    uint64_t* tape
    const uint8_t* strings

cdef enum:
    ROOT = 1                        # index of the document's value
    REPAIR_MARGIN = 64              # readable bytes behind the repaired text (simdjson)


cdef inline uint8_t json_kind(const Json* json, size_t at) noexcept nogil:
    return <uint8_t>(json.tape[at] >> 56)


cdef inline bint is_number(uint8_t kind) noexcept nogil:
    return kind == b'l' or kind == b'u' or kind == b'd'


cdef inline size_t json_after(const Json* json, size_t at) noexcept nogil:
    """Index behind the value at `at`."""
    cdef uint8_t kind = json_kind(json, at)
    if kind == b'{' or kind == b'[':
        return <uint32_t>json.tape[at]
    return at + 2 if is_number(kind) else at + 1


cdef inline Slice json_text(const Json* json, size_t at) noexcept nogil:
    """Of a string; UTF-8, unescaped, lives as long as the document."""
    cdef const uint8_t* string = json.strings + (json.tape[at] & ((<uint64_t>1 << 56) - 1))
    cdef uint32_t length
    memcpy(&length, string, 4)
    return slice_make(string + 4, length)


cdef inline double json_double(const Json* json, size_t at) noexcept nogil:
    cdef double value
    memcpy(&value, &json.tape[at + 1], 8)
    return value


# --- numbers that simdjson refuses ----------------------------------------------------------------------------------------
# NaN, Infinity and -Infinity (Python's json and tritonclient write them) become 0.0 in a copy and their values are put on the tape
# afterwards; integers beyond 64 bits get ".0" behind them, so that they are read as doubles. All else stays: the grammar is simdjson's.

cdef inline bint is_bare(uint8_t byte) noexcept nogil:
    return not (byte == b',' or byte == b':' or byte == b'[' or byte == b']' or byte == b'{' or byte == b'}' or byte == b'"'
                or byte == b' ' or byte == b'\n' or byte == b'\r' or byte == b'\t')


cdef inline Slice next_token(const uint8_t* text, size_t length, size_t* at) noexcept nogil:
    """The next run of bare characters outside strings, from *at on; *at moves behind it. Of length 0 when there is none."""
    cdef size_t i = at[0], begin
    while i < length and not is_bare(text[i]):
        i += 1
        if text[i - 1] == b'"':
            while i < length and text[i] != b'"':
                i += 2 if text[i] == b'\\' else 1
            i += 1
    begin = i = min(i, length)
    while i < length and is_bare(text[i]):
        i += 1
    at[0] = i
    return slice_make(text + begin, i - begin)


cdef inline bint non_finite(Slice token, double* value) noexcept nogil:
    if slice_is(token, b"NaN", 3):
        value[0] = NAN
    elif slice_is(token, b"Infinity", 8):
        value[0] = INFINITY
    elif slice_is(token, b"-Infinity", 9):
        value[0] = -INFINITY
    else:
        return False
    return True


cdef inline bint is_beyond_64_bits(Slice token) noexcept nogil:
    """Whether it is an integer that neither int64 nor uint64 holds."""
    cdef bint negative = token.data[0] == b'-'
    cdef uint64_t limit = <uint64_t>1 << 63 if negative else <uint64_t>-1
    cdef uint64_t value = 0, digit
    cdef bint beyond = False
    cdef size_t i
    for i in range(negative, token.length):
        digit = token.data[i] - <uint8_t>c'0'
        if digit > 9:
            return False
        beyond = beyond or value > (limit - digit) // 10
        value = value * 10 + digit
    return beyond


cdef inline int repair_text(const uint8_t* text, size_t length, Arena* arena, Slice* repaired) noexcept nogil:
    """1: `repaired` is a copy that simdjson may take; 0: there is nothing to repair; -1: memory is out."""
    cdef Slice token
    cdef double value
    cdef bint special
    cdef size_t at = 0, done = 0, end
    # An integer beyond 64 bits has 20 characters and something behind it: an eighth more is room enough for its ".0".
    cdef uint8_t* out = NULL
    cdef uint8_t* copy = NULL
    while True:
        token = next_token(text, length, &at)
        if token.length == 0:
            break
        special = non_finite(token, &value)
        if not special and not is_beyond_64_bits(token):
            continue
        if copy == NULL:
            out = copy = <uint8_t*>arena_alloc(arena, length + length // 8 + REPAIR_MARGIN)
            if copy == NULL:
                return -1
        end = at - token.length if special else at
        memcpy(out, text + done, end - done)
        out += end - done
        done = at
        memcpy(out, b"0.0" if special else b".0", 3 if special else 2)
        out += 3 if special else 2
    if copy == NULL:
        return 0
    memcpy(out, text + done, length - done)
    repaired[0] = slice_make(copy, out + (length - done) - copy)
    return 1


cdef inline void restore_numbers(const uint8_t* text, size_t length, const Json* json) noexcept nogil:
    """Puts the non-finite values of the original text on the tape of its repaired copy, which has the same numbers in the same order."""
    cdef Slice token
    cdef double value
    cdef size_t at = 0, node = ROOT
    cdef uint8_t first
    while True:
        token = next_token(text, length, &at)
        if token.length == 0:
            return
        first = token.data[0]
        if first == b't' or first == b'f' or first == b'n':
            continue
        while not is_number(json_kind(json, node)):
            node += 1
        if non_finite(token, &value):
            memcpy(&json.tape[node + 1], &value, 8)
        node += 2


cdef inline int json_read(const uint8_t* text, size_t length, Arena* arena, Json* json) noexcept nogil:
    """Parses a text that has 64 readable bytes behind it: 0 or simdjson's error code."""
    cdef int error = json_parse(text, length, &json.tape, &json.strings)
    cdef Slice repaired
    cdef int status
    if error != TAPE_ERROR and error != NUMBER_ERROR:
        return error
    status = repair_text(text, length, arena, &repaired)
    if status <= 0:
        return MEMALLOC if status else error
    error = json_parse(repaired.data, repaired.length, &json.tape, &json.strings)
    if error == 0:
        restore_numbers(text, length, json)
    return error
