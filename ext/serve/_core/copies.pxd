"""Bytes of tensors that were copied after they were read from a socket: counted in debug builds, nothing at all in others."""
from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifdef HEADRACE_DEBUG
    #define HEADRACE_COUNTS_COPIES 1
    #define HEADRACE_COUNT_COPY(counter, n) ((void)__atomic_fetch_add((counter), (n), __ATOMIC_RELAXED))
    #else
    #define HEADRACE_COUNTS_COPIES 0
    #define HEADRACE_COUNT_COPY(counter, n) ((void)(counter), (void)(n))
    #endif
    """
    bint COUNTS_COPIES "HEADRACE_COUNTS_COPIES"
    void count_copy "HEADRACE_COUNT_COPY"(uint64_t* counter, size_t n)
