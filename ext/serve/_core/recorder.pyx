import threading

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libcpp.atomic cimport memory_order_relaxed

from serve._core.counters cimport counter_read
from serve._core.memory cimport Slice, slice_make
from serve._core.posix cimport now_ns, sched_getcpu
from serve._core.record cimport *
from serve._core.record_block cimport RecordBlocks, blocks_add, blocks_malformed, blocks_rows
from serve._core.record_ring cimport (
    ring_free, ring_new, ring_oldest, ring_release, ring_used, ring_writer_runs, ring_writer_waits)

from serve.records import StreamReading

cdef enum:
    LOOK_BYTES = 16384                  # between two looks at whether somebody waits: some microseconds of work
    TAKEN_NS = 1000000                  # that takes longer only when the processor is somebody else's meanwhile
    ENOUGH = 1
    GAVE_WAY = 2

POLICIES = {"drop": RECORD_DROP, "block": RECORD_BLOCK, "fail-closed": RECORD_FAIL_CLOSED}
DROPS = ("ring_full", "too_large", "blocked", "memory")


cdef class NativeRecorder:
    """Where I/O threads put records, and where the recorder thread takes them from.

    n_rings: I/O threads, 1 to 16. ring_bytes: of all rings together; each gets its share, rounded up to a power of two. page: a writable
    buffer of at least 88 bytes that stays valid, as serve.recording.page lays it out. Raises ValueError, MemoryError.
    """

    def __cinit__(self, int n_rings, uint64_t ring_bytes, page not None):
        cdef unsigned char[::1] view = page
        if not 1 <= n_rings <= MAX_IO_THREADS:
            raise ValueError(f"{n_rings} rings; want 1 to {MAX_IO_THREADS}")
        if view.nbytes < PAGE_WORDS * 8:
            raise ValueError(f"a page of {view.nbytes} bytes; want {PAGE_WORDS * 8} at least")
        self.page_view, self.page = view, <uint64_t*>&view[0]
        self.specs, self.collected, self.kept, self.lock = [], [], [], threading.Lock()
        for i in range(n_rings):
            self.rings[i] = ring_new(ring_bytes // <uint64_t>n_rings)
            self.n_rings += 1

    def open_stream(self, spec):
        """The id of a version's stream: of an equal spec's, else a new one. Any thread. Raises ValueError when there are too many."""
        with self.lock:
            if spec in self.specs:
                return self.specs.index(spec)
            if self.n_streams == MAX_RECORD_STREAMS:
                raise ValueError(f"{MAX_RECORD_STREAMS} streams have been opened; start the server again to record further versions")
            blocks = RecordBlocks(spec.tensors)
            stream = self.build(self.n_streams, spec)
            self.specs.append(spec)
            self.collected.append(blocks)
            self.buffers[self.n_streams] = &(<RecordBlocks>blocks).buffer
            self.streams[self.n_streams] = stream
            self.n_streams += 1
            return self.n_streams - 1

    cdef RecordStream* build(self, int id, spec) except NULL:
        cdef RecordStream* stream = <RecordStream*>calloc(1, sizeof(RecordStream))
        cdef int i
        if stream == NULL:
            raise MemoryError
        self.streams[id] = stream                   # freed with the recorder, whatever fails below
        stream.id, stream.policy = id, POLICIES[spec.spec.policy]
        stream.below = <uint64_t>(min(max(spec.spec.sampling, 0.0), 1.0) * 2.0**53)
        stream.block_ns = <uint64_t>spec.spec.block_timeout_ms * 1000000
        inputs = [tensor for tensor in spec.tensors if tensor.kind == "in"]
        outputs = [tensor for tensor in spec.tensors if tensor.kind == "out"]
        stream.inputs = <KeptTensor*>calloc(len(inputs) + 1, sizeof(KeptTensor))
        stream.outputs = <KeptTensor*>calloc(len(outputs) + 1, sizeof(KeptTensor))
        stream.tags = <RecordTag*>calloc(len(spec.spec.tags) + 1, sizeof(RecordTag))
        if stream.inputs == NULL or stream.outputs == NULL or stream.tags == NULL:
            raise MemoryError
        for tensor in inputs:
            keep(&stream.inputs[stream.n_inputs], tensor)
            stream.n_inputs += 1
        for tensor in outputs:
            keep(&stream.outputs[stream.n_outputs], tensor)
            stream.n_outputs += 1
        for i, (name, source) in enumerate(spec.spec.tags.items()):
            stream.tags[i].name, stream.tags[i].source.name = self.borrow(name), self.borrow(source.name)
            stream.tags[i].source.is_parameter = source.kind == "parameter"
        stream.n_tags = len(spec.spec.tags)
        return stream

    cdef Slice borrow(self, str text):
        data = text.encode()
        self.kept.append(data)
        return slice_make(<const char*>data, len(data))

    cdef RecordStream* stream(self, int id) except NULL:
        if not 0 <= id < self.n_streams:
            raise ValueError(f"no stream {id}; there are {self.n_streams}")
        return self.streams[id]

    def spec(self, int stream):
        """What was opened under the id."""
        return self.specs[stream]

    def blocks(self, int stream):
        """The stream's records on their way into a journal. The recorder thread's."""
        return self.collected[stream]

    def drain(self, int64_t most, bint gives_way=False):
        """Moves records from the rings into the streams' blocks, with no GIL: about so many bytes at most, till a stream's block is full.

        gives_way: stops after some records, and says so in `gave_way`, when an I/O thread wants the processor that the caller runs on, or
        somebody has had it for a while.

        Returns the ids of streams with rows. One thread at a time. Raises MemoryError when a record found none; it stays in its ring.
        """
        cdef int i, found = 0
        cdef int n = self.n_streams
        with nogil:
            for i in range(self.n_rings):
                found = self.drain_ring(self.rings[(self.first_ring + i) % self.n_rings], &most, gives_way)
                if found < 0 or found == GAVE_WAY:
                    break
            # So that none waits for ever behind a busy one.
            self.first_ring = (self.first_ring + 1) % self.n_rings
        self.gave_way = found == GAVE_WAY
        if found < 0:
            raise MemoryError("the recorder found no memory for a record")
        return [i for i in range(n) if blocks_rows(self.buffers[i])]

    cdef int drain_ring(self, RecordRing* ring, int64_t* most, bint gives_way) noexcept nogil:
        """0; ENOUGH: also when a stream's block is full; -1: memory is out. most: less the bytes that were moved."""
        cdef const RecordHeader* record = ring_oldest(ring)
        cdef int64_t added, look_at = most[0] - LOOK_BYTES
        cdef uint64_t now, before = now_ns()
        while record != NULL:
            if most[0] <= 0:
                return ENOUGH
            if gives_way and most[0] <= look_at:
                now = now_ns()
                if self.holds_up() or now - before > TAKEN_NS:
                    return GAVE_WAY
                look_at, before = most[0] - LOOK_BYTES, now
            added = blocks_add(self.buffers[record.stream], record)
            if added <= 0:
                return ENOUGH if added == 0 else -1
            most[0] -= record.length
            ring_release(ring, record)
            record = ring_oldest(ring)
        return 0

    def is_in_the_way(self):
        """Whether the caller runs on a processor on which an I/O thread is about its work: that one waits, then, for it to stop."""
        return self.holds_up()

    def run_for_test(self, int ring, bint is_running):
        """As if the I/O thread of a ring ran on the caller's processor, or waited."""
        if is_running:
            ring_writer_runs(self.rings[ring])
        else:
            ring_writer_waits(self.rings[ring])

    cdef bint holds_up(self) noexcept nogil:
        cdef int i, cpu = sched_getcpu() + 1                # 0: nobody knows
        for i in range(self.n_rings):
            if cpu and self.rings[i].busy_cpu.load(memory_order_relaxed) == cpu:
                return True
        return False

    def readings(self):
        """serve.records.StreamReading of each stream, since the process began; `appended` is the recorder thread's to say."""
        return [self.reading(i) for i in range(self.n_streams)]

    def reading(self, int number):
        cdef RecordStream* stream = self.stream(number)
        cdef uint64_t sampled = 0, written = 0, refused = 0, left_out = 0
        cdef int i, reason
        dropped = dict.fromkeys(DROPS, 0)
        for i in range(self.n_rings):
            sampled += counter_read(&stream.stats[i].sampled)
            written += counter_read(&stream.stats[i].written)
            refused += counter_read(&stream.stats[i].refused)
            left_out += counter_read(&stream.stats[i].left_out)
            for reason, name in enumerate(DROPS):
                dropped[name] += counter_read(&stream.stats[i].dropped[reason])
        spec = self.specs[number]
        return StreamReading(spec.model, spec.version, sampled=sampled, written=written, dropped=dropped, refused=refused,
                             left_out=left_out, malformed=blocks_malformed(self.buffers[number]))

    def pending_bytes(self):
        """Bytes in the rings that were not drained yet."""
        return sum([ring_used(self.rings[i]) for i in range(self.n_rings)])

    def capacity_bytes(self):
        """Bytes of all rings."""
        return sum([self.rings[i].capacity for i in range(self.n_rings)])

    def __dealloc__(self):
        for i in range(self.n_rings):
            ring_free(self.rings[i])
        for i in range(MAX_RECORD_STREAMS):
            if self.streams[i] != NULL:
                free(self.streams[i].inputs)
                free(self.streams[i].outputs)
                free(self.streams[i].tags)
                free(self.streams[i])


cdef int keep(KeptTensor* kept, tensor) except -1:
    kept.index, kept.max_row_bytes = tensor.index, tensor.max_row_bytes
    kept.has_dynamic_shape = -1 in tensor.shape
    return 0
