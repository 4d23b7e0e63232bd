"""Reading histograms: the sum of what the threads have counted, as values for Python."""
from libc.stdint cimport uint64_t
from libc.string cimport memset

from serve._core.counters cimport counter_read

from serve import types

cdef tuple BOUNDS = tuple(histogram_bound(i) / 1e9 for i in range(N_BUCKETS - 1))
cdef tuple SIZE_BOUNDS = tuple(float(1 << i) for i in range(N_SIZE_BUCKETS - 1))


cdef void histogram_merge(Histogram* into, const Histogram* part) noexcept nogil:
    cdef int i
    for i in range(N_BUCKETS):
        into.counts[i] += counter_read(&part.counts[i])
    into.sum += counter_read(&part.sum)


cdef void size_histogram_merge(SizeHistogram* into, const SizeHistogram* part) noexcept nogil:
    cdef int i
    for i in range(N_SIZE_BUCKETS):
        into.counts[i] += counter_read(&part.counts[i])
    into.sum += counter_read(&part.sum)


cdef object histogram_value(const Histogram* merged):
    counts = tuple([merged.counts[i] for i in range(N_BUCKETS)])
    return types.Histogram(BOUNDS, counts, merged.sum / 1e9)


cdef object size_histogram_value(const SizeHistogram* merged):
    counts = tuple([merged.counts[i] for i in range(N_SIZE_BUCKETS)])
    return types.Histogram(SIZE_BOUNDS, counts, <double>merged.sum)


cdef object histogram_read(Histogram** parts, size_t n_parts):
    cdef Histogram merged
    cdef size_t i
    memset(&merged, 0, sizeof(merged))
    for i in range(n_parts):
        histogram_merge(&merged, parts[i])
    return histogram_value(&merged)


def histogram_bounds():
    """Upper bounds of the buckets of durations in ns, ascending, each inclusive; the last one, for whatever is longer, is 2^64 - 1."""
    return tuple([histogram_bound(i) for i in range(N_BUCKETS)])


# For the tests: the inline functions of the .pxd, and histograms of several threads.

cdef enum:
    N_PARTS = 4


def bucket(uint64_t ns):
    return bucket_of(ns)


def size_bucket(uint64_t size):
    return size_bucket_of(size)


cdef class Recorder:
    """Four histograms of durations and of sizes, as four threads would own them."""
    cdef Histogram[N_PARTS] parts
    cdef SizeHistogram[N_PARTS] size_parts

    def __cinit__(self):
        memset(self.parts, 0, sizeof(self.parts))
        memset(self.size_parts, 0, sizeof(self.size_parts))

    def add(self, int part, const uint64_t[::1] values, uint64_t times=1, int rounds=1):
        """All values, `rounds` times over, without the GIL: values are ns and sizes at once."""
        if not 0 <= part < N_PARTS:
            raise IndexError(part)
        cdef Histogram* durations = &self.parts[part]
        cdef SizeHistogram* sizes = &self.size_parts[part]
        cdef Py_ssize_t i
        with nogil:
            while rounds > 0:
                rounds -= 1
                for i in range(values.shape[0]):
                    histogram_add(durations, values[i], times)
                    size_histogram_add(sizes, values[i], times)

    def durations(self):
        cdef Histogram* parts[N_PARTS]
        for i in range(N_PARTS):
            parts[i] = &self.parts[i]
        return histogram_read(parts, N_PARTS)

    def sizes(self):
        cdef SizeHistogram merged
        memset(&merged, 0, sizeof(merged))
        for i in range(N_PARTS):
            size_histogram_merge(&merged, &self.size_parts[i])
        return size_histogram_value(&merged)
