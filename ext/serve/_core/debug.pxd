"""What debug and sanitizer builds (HEADRACE_DEBUG) do besides. In others all of it compiles to nothing."""
from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #ifdef HEADRACE_DEBUG
    #define HEADRACE_COUNTS_COPIES 1
    #define HEADRACE_COUNT_COPY(counter, n) ((void)__atomic_fetch_add((counter), (n), __ATOMIC_RELAXED))
    #define HEADRACE_KEEPS_FREE 0
    #else
    #define HEADRACE_COUNTS_COPIES 0
    #define HEADRACE_COUNT_COPY(counter, n) ((void)(counter), (void)(n))
    #define HEADRACE_KEEPS_FREE 1
    #endif
    """
    # Bytes of tensors that were copied after they were read from a socket.
    bint COUNTS_COPIES "HEADRACE_COUNTS_COPIES"
    void count_copy "HEADRACE_COUNT_COPY"(uint64_t* counter, size_t n)
    # Free lists are used. Without them a sanitizer sees who uses what is freed.
    bint KEEPS_FREE "HEADRACE_KEEPS_FREE"
