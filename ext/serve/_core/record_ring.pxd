"""A bounded ring of whole records, from one I/O thread to the recorder: one writer and one reader, never in each other's way."""
from libc.stdint cimport uint8_t, uint64_t
from libcpp.atomic cimport atomic, memory_order_relaxed

from serve._core.posix cimport sched_getcpu
from serve._core.record cimport RecordHeader

cdef enum:
    # A record may take 1/8 of a ring; while room is promised, as much stays free for what the wrap at the end wastes.
    RING_SHARE = 8

cdef cppclass RecordRing:
    # Owned by the NativeRecorder.
    uint8_t* data
    uint64_t capacity                   # bytes, a power of two
    uint64_t seen                       # the writer's last look at `read`
    uint64_t reserved                   # the writer: bytes promised to requests that run
    uint8_t[40] padding
    atomic[int] busy_cpu                # the processor that the writer runs on, and 1; 0 while it waits. The writer's
    uint8_t[60] beside
    atomic[uint64_t] written            # bytes, ever; the writer's
    uint8_t[56] between
    atomic[uint64_t] read               # bytes, ever; the reader's

cdef RecordRing* ring_new(uint64_t capacity) except NULL
cdef void ring_free(RecordRing* ring) noexcept nogil
cdef bint ring_takes(const RecordRing* ring, uint64_t length) noexcept nogil    # some day: a record of that length is not too large

# The writer. Room for a record of `length` bytes, a multiple of 8, or NULL; is_promised: it was reserved. Publish makes it the reader's.
cdef uint8_t* ring_room(RecordRing* ring, uint64_t length, bint is_promised) noexcept nogil
cdef void ring_publish(RecordRing* ring, uint64_t length) noexcept nogil
cdef bint ring_reserve(RecordRing* ring, uint64_t length) noexcept nogil
cdef void ring_unreserve(RecordRing* ring, uint64_t length) noexcept nogil

# Where it is about its work; nothing where there is no ring.
cdef inline void ring_writer_waits(RecordRing* ring) noexcept nogil:
    if ring != NULL:
        ring.busy_cpu.store(0, memory_order_relaxed)

cdef inline void ring_writer_runs(RecordRing* ring) noexcept nogil:
    if ring != NULL:
        ring.busy_cpu.store(sched_getcpu() + 1, memory_order_relaxed)

# The reader. The oldest record, or NULL. Release gives its room back.
cdef const RecordHeader* ring_oldest(RecordRing* ring) noexcept nogil
cdef void ring_release(RecordRing* ring, const RecordHeader* record) noexcept nogil

cdef inline uint64_t ring_used(RecordRing* ring) noexcept nogil:
    return ring.written.load() - ring.read.load()
