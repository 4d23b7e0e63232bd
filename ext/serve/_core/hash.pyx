from libc.stdint cimport uint64_t

from serve._core.memory cimport slice_make

cdef extern from * nogil:
    """
    #define XXH_INLINE_ALL
    #include <xxhash.h>
    """
    uint64_t XXH3_64bits_withSeed(const void* data, size_t length, uint64_t seed)


cdef uint64_t hash64(Slice data, uint64_t seed) noexcept nogil:
    return XXH3_64bits_withSeed(data.data, data.length, seed)


# For the tests: hash64 on Python bytes.

def hash64_for_test(bytes data not None, uint64_t seed=0):
    return hash64(slice_make(<const char*>data, len(data)), seed)
