"""A unit's bit is chosen by the low bits of its hash; the draws of an assignment use the high ones, of other hashes."""
import zlib

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from libcpp.atomic cimport memory_order_relaxed

cdef enum:
    SET_BYTES = 131072              # UNIT_BITS / 8

cdef extern from * nogil:
    int bits_of "__builtin_popcountll"(unsigned long long)


cdef bint units_add(UnitSet* units, uint64_t unit) noexcept nogil:
    cdef uint64_t place = unit & <uint64_t>(UNIT_BITS - 1)
    cdef uint64_t bit = <uint64_t>1 << (place & 63)
    cdef int word = <int>(place >> 6)
    if units.words[word].load(memory_order_relaxed) & bit:      # known ones, by far the most, cost no locked instruction
        return False
    if units.words[word].fetch_or(bit, memory_order_relaxed) & bit:
        return False
    units.count.fetch_add(1, memory_order_relaxed)
    return True


cdef bint units_has(const UnitSet* units, uint64_t unit) noexcept nogil:
    cdef uint64_t place = unit & <uint64_t>(UNIT_BITS - 1)
    return units.words[<int>(place >> 6)].load(memory_order_relaxed) >> (place & 63) & 1


cdef UnitSet* units_new() except NULL:
    cdef UnitSet* units = <UnitSet*>calloc(1, sizeof(UnitSet))
    if units == NULL:
        raise MemoryError
    return units


cdef bytes packed(const UnitSet* units):
    cdef bytearray plain = bytearray(SET_BYTES)
    cdef char* out = plain
    cdef uint64_t word
    cdef int i
    for i in range(UNIT_WORDS):
        word = units.words[i].load(memory_order_relaxed)
        memcpy(out + 8 * i, &word, 8)
    return zlib.compress(plain, 1)


cdef int unpack_into(UnitSet* units, bytes data) except -1:
    """Adds what `packed` wrote; nothing is changed when it is not that."""
    cdef const char* source
    cdef uint64_t word, before
    cdef int i
    if not data:
        return 0
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(data, SET_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"not a set of units: {error}") from error
    if len(plain) != SET_BYTES or not decompressor.eof:
        raise ValueError(f"not a set of units: {len(plain)} bytes and more or fewer than the {<int>SET_BYTES} wanted")
    source = <const char*><bytes>plain
    for i in range(UNIT_WORDS):
        memcpy(&word, source + 8 * i, 8)
        if word:
            before = units.words[i].fetch_or(word, memory_order_relaxed)
            units.count.fetch_add(bits_of(word & ~before), memory_order_relaxed)
    return 0


cdef class UnitMemory:
    """Which units had an error that counted, and which had an output that counted, in one rollout. Each set holds 2^20 bits, 128 KiB."""

    def __cinit__(self):
        self.failing = units_new()
        self.seen = units_new()

    @property
    def n_failing(self):
        """Bits that are set: units with an error, less those that share a bit."""
        return self.failing.count.load(memory_order_relaxed)

    @property
    def n_seen(self):
        return self.seen.count.load(memory_order_relaxed)

    def failing_bytes(self):
        """The set, compressed with zlib, for `restore`."""
        return packed(self.failing)

    def seen_bytes(self):
        return packed(self.seen)

    def restore(self, bytes failing not None, bytes seen not None):
        """Add what failing_bytes and seen_bytes gave; b"" adds nothing. Raises ValueError: they are not that."""
        unpack_into(self.failing, failing)
        unpack_into(self.seen, seen)

    def __dealloc__(self):
        free(self.failing)
        free(self.seen)


# For the tests: the native functions on one set.

def add_for_test(UnitMemory memory not None, list units not None):
    """units_add of each to the failing set."""
    return [bool(units_add(memory.failing, unit)) for unit in units]


def has_for_test(UnitMemory memory not None, list units not None):
    return [bool(units_has(memory.failing, unit)) for unit in units]
