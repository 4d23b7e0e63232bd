"""Histograms over frozen edges, codes of categories, and random Fourier features, from Arrow buffers and without the GIL.

Nothing here is called by native threads: the recorder's thread calls it from Python, a batch at a time.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef extern from "feature_histogram.hpp" namespace "headrace" nogil:
    cdef struct Frozen:
        int64_t n_features
        int64_t capacity                # edges of a feature, padded with +inf; a power of two
        const double* edges             # [n_features][capacity]
        const float* narrow             # the same as float32, rounded up
        const double* centre            # [n_features]
        const double* scale             # [n_features]

cdef class FrozenBins:
    cdef Frozen frozen                  # its arrays are the object's own
    cdef double* doubles                # edges, centre, scale
    cdef float* floats                  # narrow

cdef class CategoryTable:
    cdef readonly int32_t n_keys
    cdef int64_t n_places               # a power of two, at least twice n_keys
    cdef uint64_t* hashes               # [n_places]
    cdef int32_t* codes                 # [n_places], -1: empty

    cdef void put(self, uint64_t key, int32_t code) noexcept nogil
    cdef int32_t find(self, uint64_t key) noexcept nogil        # n_keys: none of them
    cdef int32_t code_of(self, uint64_t key, uint64_t* least, int64_t n_least) noexcept nogil
