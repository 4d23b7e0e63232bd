"""Counters with one writer each: a relaxed load and store compile to a plain add, and race detectors accept them."""
from libc.stdint cimport uint8_t, uint64_t

cdef struct Pins:
    # Requests of one I/O thread that hold one snapshot; that thread alone writes. One cache line.
    uint64_t taken
    uint64_t dropped
    uint8_t[48] padding

cdef extern from * nogil:
    """
    static inline void headrace_counter_add(uint64_t *counter, uint64_t n) {
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
    }
    static inline void headrace_counter_set(uint64_t *counter, uint64_t value) { __atomic_store_n(counter, value, __ATOMIC_RELAXED); }
    // Whoever reads the new value sees everything written before it: for counters whose reader frees what the writer used.
    static inline void headrace_counter_publish(uint64_t *counter, uint64_t n) {
        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELEASE);
    }
    static inline uint64_t headrace_counter_acquire(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }
    static inline uint64_t headrace_counter_read(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }
    """
    void counter_add "headrace_counter_add"(uint64_t* counter, uint64_t n)
    void counter_set "headrace_counter_set"(uint64_t* counter, uint64_t value)
    void counter_publish "headrace_counter_publish"(uint64_t* counter, uint64_t n)
    uint64_t counter_acquire "headrace_counter_acquire"(const uint64_t* counter)
    uint64_t counter_read "headrace_counter_read"(const uint64_t* counter)
