"""Request ids: UUID version 7 (RFC 9562 section 5.7) from a generator of random numbers that each thread owns.

Ids are labels, not secrets: whoever sees some of them can compute the next ones.
"""
from libc.stdint cimport uint64_t

cdef enum:
    RANDOM_WORDS = 4                # uint64_t of a generator's state, owned by one thread
    UUID_TEXT = 36                  # bytes, no NUL


cdef inline uint64_t rotate_left(uint64_t x, int n) noexcept nogil:
    return x << n | x >> (64 - n)


cdef inline uint64_t random_next(uint64_t* state) noexcept nogil:
    """64 random bits: xoshiro256** 1.0 (Blackman and Vigna, 2018)."""
    cdef uint64_t result = rotate_left(state[1] * 5, 7) * 9
    cdef uint64_t shifted = state[1] << 17
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = rotate_left(state[3], 45)
    return result


# Fills state[RANDOM_WORDS] from the kernel, after any fork. 0, or -1 when the kernel has no random numbers (state is then unusable).
cdef int seed_random(uint64_t* state) noexcept nogil
# 36 bytes, lower case, not NUL-terminated. unix_ms: milliseconds since 1970, 48 bits of them are used.
cdef void uuid7_text(uint64_t unix_ms, uint64_t* random_state, char* text) noexcept nogil
