from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from libcpp.atomic cimport memory_order_acquire, memory_order_relaxed, memory_order_release

from serve._core.record cimport SKIP_STREAM


cdef RecordRing* ring_new(uint64_t capacity) except NULL:
    cdef RecordRing* ring = new RecordRing()
    cdef void* data = NULL
    ring.capacity = 4096
    while ring.capacity < capacity:
        ring.capacity *= 2
    if posix_memalign(&data, 4096, ring.capacity):
        del ring
        raise MemoryError
    # Every page is there before a request needs it.
    memset(data, 0, ring.capacity)
    ring.data = <uint8_t*>data
    ring.seen = ring.reserved = 0
    ring.busy_cpu.store(0)
    ring.written.store(0)
    ring.read.store(0)
    return ring


cdef void ring_free(RecordRing* ring) noexcept nogil:
    if ring != NULL:
        free(ring.data)
        del ring


cdef bint ring_takes(const RecordRing* ring, uint64_t length) noexcept nogil:
    return length <= ring.capacity // RING_SHARE


# --- the writer ---------------------------------------------------------------------------------------------------------

cdef inline uint64_t kept_free(const RecordRing* ring) noexcept nogil:
    return ring.reserved + ring.capacity // RING_SHARE if ring.reserved else 0


cdef bint has_free(RecordRing* ring, uint64_t bytes, uint64_t beside) noexcept nogil:
    cdef uint64_t written = ring.written.load(memory_order_relaxed)
    if written - ring.seen + bytes + beside <= ring.capacity:
        return True
    ring.seen = ring.read.load(memory_order_acquire)
    return written - ring.seen + bytes + beside <= ring.capacity


cdef uint8_t* ring_room(RecordRing* ring, uint64_t length, bint is_promised) noexcept nogil:
    cdef uint64_t at = ring.written.load(memory_order_relaxed) & (ring.capacity - 1)
    cdef uint64_t to_end = ring.capacity - at
    cdef uint64_t skipped = to_end if length > to_end else 0
    cdef RecordHeader* marker
    if not ring_takes(ring, length) or not has_free(ring, length + skipped, 0 if is_promised else kept_free(ring)):
        return NULL
    if not skipped:
        return ring.data + at
    marker = <RecordHeader*>(ring.data + at)            # everything is a multiple of 8, so the marker always fits
    marker.length, marker.stream = <unsigned int>to_end, SKIP_STREAM
    ring.written.store(ring.written.load(memory_order_relaxed) + to_end, memory_order_release)
    return ring.data


cdef void ring_publish(RecordRing* ring, uint64_t length) noexcept nogil:
    ring.written.store(ring.written.load(memory_order_relaxed) + length, memory_order_release)


cdef bint ring_reserve(RecordRing* ring, uint64_t length) noexcept nogil:
    """The wrap at the end may waste one record's length, hence the share that stays free."""
    if not ring_takes(ring, length) or not has_free(ring, length, ring.reserved + ring.capacity // RING_SHARE):
        return False
    ring.reserved += length
    return True


cdef void ring_unreserve(RecordRing* ring, uint64_t length) noexcept nogil:
    ring.reserved -= length


# --- the reader ---------------------------------------------------------------------------------------------------------

cdef const RecordHeader* ring_oldest(RecordRing* ring) noexcept nogil:
    cdef uint64_t at = ring.read.load(memory_order_relaxed)
    cdef const RecordHeader* record
    while at != ring.written.load(memory_order_acquire):
        record = <const RecordHeader*>(ring.data + (at & (ring.capacity - 1)))
        if record.stream != SKIP_STREAM:
            return record
        at += record.length
        ring.read.store(at, memory_order_release)
    return NULL


cdef void ring_release(RecordRing* ring, const RecordHeader* record) noexcept nogil:
    ring.read.store(ring.read.load(memory_order_relaxed) + record.length, memory_order_release)
