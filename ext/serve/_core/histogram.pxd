"""Log-bucketed counts without a lock: one writer each, any reader. Nothing is sampled and nothing dropped, every add is counted once."""
from libc.stdint cimport UINT64_MAX, uint64_t

from serve._core.counters cimport counter_add

cdef enum:
    # Bucket 0 is <= 1,024 ns; then four a factor of two, up to 2^36 ns (68.7 s); the last is everything longer.
    FIRST_OCTAVE = 10
    LAST_OCTAVE = 36
    N_BUCKETS = (LAST_OCTAVE - FIRST_OCTAVE) * 4 + 2
    # <= 1, 2, 4, ... 65,536, more.
    MAX_SIZE_OCTAVE = 16
    N_SIZE_BUCKETS = MAX_SIZE_OCTAVE + 2

cdef struct Histogram:
    # Durations in ns. Zeroed = empty. Owned by one writing thread; others read with counter_read.
    uint64_t[N_BUCKETS] counts
    uint64_t sum                    # ns, modulo 2^64: 584 years together

cdef struct SizeHistogram:
    # Small integers, such as the rows of a batch. Zeroed = empty. Same ownership.
    uint64_t[N_SIZE_BUCKETS] counts
    uint64_t sum

cdef extern from *:
    int count_leading_zeros "__builtin_clzll"(unsigned long long) nogil


cdef inline int bucket_of(uint64_t ns) noexcept nogil:
    """The i with histogram_bound(i - 1) < ns <= histogram_bound(i)."""
    cdef uint64_t below = min(max(ns, <uint64_t>1 << FIRST_OCTAVE), (<uint64_t>1 << LAST_OCTAVE) + 1) - 1
    cdef int octave = 63 - count_leading_zeros(below)
    return (octave - FIRST_OCTAVE) * 4 + <int>(below >> (octave - 2) & 3) + 1


cdef inline uint64_t histogram_bound(int i) noexcept nogil:
    """Upper bound of bucket i in ns, inclusive; UINT64_MAX for the last."""
    if i <= 0:
        return <uint64_t>1 << FIRST_OCTAVE
    if i >= N_BUCKETS - 1:
        return UINT64_MAX
    return <uint64_t>(5 + (i - 1) % 4) << (FIRST_OCTAVE - 2 + (i - 1) // 4)


cdef inline int size_bucket_of(uint64_t size) noexcept nogil:
    """The i with 2^(i - 1) < size <= 2^i; 0 for 0 as well."""
    cdef uint64_t below = min(max(size, <uint64_t>1), (<uint64_t>1 << MAX_SIZE_OCTAVE) + 1) - 1
    return 63 - count_leading_zeros(below << 1 | 1)


cdef inline void histogram_add(Histogram* histogram, uint64_t ns, uint64_t times) noexcept nogil:
    """`times` durations of `ns`. The owning thread only."""
    counter_add(&histogram.counts[bucket_of(ns)], times)
    counter_add(&histogram.sum, ns * times)


cdef inline void size_histogram_add(SizeHistogram* histogram, uint64_t size, uint64_t times) noexcept nogil:
    """`times` times `size`. The owning thread only."""
    counter_add(&histogram.counts[size_bucket_of(size)], times)
    counter_add(&histogram.sum, size * times)


# Adds what `part` holds now to `into`, which no other thread sees.
cdef void histogram_merge(Histogram* into, const Histogram* part) noexcept nogil
cdef void size_histogram_merge(SizeHistogram* into, const SizeHistogram* part) noexcept nogil
# serve.types.Histogram of a merged histogram: durations in seconds, sizes as they are.
cdef object histogram_value(const Histogram* merged)
cdef object size_histogram_value(const SizeHistogram* merged)
# The sum of several threads' histograms, as serve.types.Histogram.
cdef object histogram_read(Histogram** parts, size_t n_parts)
