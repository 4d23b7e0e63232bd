from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libcpp.atomic cimport memory_order_acquire, memory_order_relaxed, memory_order_release

from serve._core.posix cimport CLOCK_REALTIME, clock_gettime, timespec

cdef tuple PROTOCOLS = ("http/1.1", "http/2", "grpc")


cdef AccessRing* access_ring_new() except NULL:
    cdef AccessRing* ring = new AccessRing()
    ring.written.store(0)
    ring.taken.store(0)
    ring.dropped.store(0)
    ring.records = <AccessRecord*>calloc(ACCESS_RECORDS, sizeof(AccessRecord))
    if ring.records == NULL:
        del ring
        raise MemoryError
    return ring


cdef void access_ring_free(AccessRing* ring) noexcept nogil:
    if ring != NULL:
        free(ring.records)
        del ring


cdef AccessRecord* access_slot(AccessRing* ring) noexcept nogil:
    cdef uint64_t written = ring.written.load(memory_order_relaxed)
    cdef AccessRecord* record = &ring.records[written % ACCESS_RECORDS]
    cdef timespec now
    if written - ring.taken.load(memory_order_acquire) == ACCESS_RECORDS:       # acquire: Python has read what is overwritten now
        ring.dropped.fetch_add(1, memory_order_relaxed)
        return NULL
    clock_gettime(CLOCK_REALTIME, &now)
    record.wall_ns = <uint64_t>now.tv_sec * 1000000000 + now.tv_nsec
    return record


cdef void access_publish(AccessRing* ring) noexcept nogil:
    ring.written.store(ring.written.load(memory_order_relaxed) + 1, memory_order_release)


cdef inline str text_of(const char* text, int length):
    return text[:length].decode("utf-8", "backslashreplace")


cdef dict record_of(const AccessRecord* record):
    return {
        "protocol": PROTOCOLS[<int>record.protocol], "method": text_of(record.method, record.n_method),
        "path": text_of(record.path, record.n_path),
        "status": record.status, "request_bytes": record.request_bytes, "answer_bytes": record.answer_bytes,
        "duration_ns": record.duration_ns,
        "version": text_of(record.version, record.n_version), "variant": text_of(record.variant, record.n_variant),
        "request_id": text_of(record.id, record.n_id), "wall_ns": record.wall_ns,
    }


cdef int access_drain(AccessRing* ring, list records) except -1:
    cdef uint64_t end = ring.written.load(memory_order_acquire)
    cdef uint64_t at = ring.taken.load(memory_order_relaxed)
    while at != end:
        records.append(record_of(&ring.records[at % ACCESS_RECORDS]))
        at += 1
        ring.taken.store(at, memory_order_release)
    return 0
