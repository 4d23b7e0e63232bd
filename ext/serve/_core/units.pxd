"""Sets of units (hashes of sticky keys) as bitmaps: any thread asks, nobody locks.

A unit is one bit, chosen by its hash. Two units may share a bit: then the second one is taken for known and does not count, whichever arm
it is in, so a crowded set loses power, never validity.
"""
from libc.stdint cimport uint64_t
from libcpp.atomic cimport atomic

cdef enum:
    UNIT_BITS = 1048576                 # of a set: 128 KiB
    UNIT_WORDS = 16384

cdef struct UnitSet:
    atomic[uint64_t] words[UNIT_WORDS]
    atomic[uint64_t] count              # bits that are set

cdef bint units_add(UnitSet* units, uint64_t unit) noexcept nogil           # True: it was not there
cdef bint units_has(const UnitSet* units, uint64_t unit) noexcept nogil

cdef class UnitMemory:
    # What one rollout remembers across generations: failing and seen units. Built by Python, handed to each of its plans.
    cdef UnitSet* failing
    cdef UnitSet* seen
