"""XXH3-64 (xxHash 0.8, XXH_INLINE_ALL: header only), the hash of every assignment and sampling decision."""
from libc.stdint cimport uint64_t

from serve._core.memory cimport Slice

cdef uint64_t hash64(Slice data, uint64_t seed) noexcept nogil
