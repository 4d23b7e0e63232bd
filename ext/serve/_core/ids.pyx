"""Request ids natively: 48 bits of milliseconds, 74 random bits, written as text. Order within a millisecond is not promised."""
from libc.stdint cimport uint64_t

from serve._core.posix cimport now_ns

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void*, size_t, unsigned int)

cdef const char* HEX_DIGITS = b"0123456789abcdef"


cdef int seed_random(uint64_t* state) noexcept nogil:
    # Up to 256 bytes come whole and uninterrupted (getrandom(2)). All zeros would stay zeros.
    cdef ssize_t n = getrandom(state, RANDOM_WORDS * sizeof(uint64_t), 0)
    return -1 if n != <ssize_t>(RANDOM_WORDS * sizeof(uint64_t)) or (state[0] | state[1] | state[2] | state[3]) == 0 else 0


cdef inline char* write_hex(char* at, uint64_t bits, int n_digits) noexcept nogil:
    """The lowest n_digits hexadecimal digits; returns the byte behind them."""
    cdef int i
    for i in range(n_digits - 1, -1, -1):
        at[i] = HEX_DIGITS[bits & 15]
        bits >>= 4
    return at + n_digits


cdef inline char* write_dash(char* at) noexcept nogil:
    at[0] = c"-"
    return at + 1


cdef void uuid7_text(uint64_t unix_ms, uint64_t* random_state, char* text) noexcept nogil:
    cdef uint64_t a = random_next(random_state), b = random_next(random_state)
    cdef char* at = write_dash(write_hex(text, unix_ms >> 16, 8))
    at = write_dash(write_hex(at, unix_ms, 4))
    at = write_dash(write_hex(at, 0x7000 | a >> 52, 4))
    at = write_dash(write_hex(at, 0x8000 | b >> 50, 4))
    write_hex(at, b, 12)


# For the tests: the functions above on a generator of Python's own.

cdef class Generator:
    cdef uint64_t[RANDOM_WORDS] state

    def __cinit__(self, tuple words=()):
        cdef int i
        if not words:
            if seed_random(self.state):
                raise OSError("no random numbers from the kernel")
            return
        for i in range(RANDOM_WORDS):
            self.state[i] = words[i]

    def next(self):
        return random_next(self.state)

    def uuid7(self, uint64_t unix_ms):
        cdef char[UUID_TEXT] text
        uuid7_text(unix_ms, self.state, text)
        return text[:UUID_TEXT].decode()

    def time_uuid7(self, int repeats):
        """Mean nanoseconds of one uuid7_text."""
        cdef char[UUID_TEXT] text
        cdef int left = repeats
        cdef uint64_t start, stop
        with nogil:
            start = now_ns()
            while left > 0:
                left -= 1
                uuid7_text(1700000000000, self.state, text)
            stop = now_ns()
        return (stop - start) / <double>repeats
