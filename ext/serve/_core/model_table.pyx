import threading

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libcpp.atomic cimport memory_order_seq_cst

from serve._core.counters cimport counter_acquire, counter_add, counter_publish, counter_read
from serve._core.engine cimport NativeVersion
from serve._core.failure cimport NOT_FOUND, UNAVAILABLE, fail
from serve._core.memory cimport slice_equal, slice_make
from serve._core.routing_plan cimport NativePlan


cdef inline uint64_t hash_name(Slice name) noexcept nogil:
    """FNV-1a: names are short, and the table is built by the operator, not by clients."""
    cdef uint64_t value = 14695981039346656037ULL
    cdef size_t i
    for i in range(name.length):
        value = (value ^ name.data[i]) * 1099511628211ULL
    return value


cdef inline int shown_bytes(Slice name) noexcept nogil:
    return <int>min(name.length, <size_t>128)


cdef const ModelEntry* snapshot_find(const Snapshot* snapshot, Slice name, Failure* failure) noexcept nogil:
    cdef uint64_t hash = hash_name(name)
    cdef int mask = snapshot.n_slots - 1
    cdef int slot = <int>(hash & <uint64_t>mask)
    cdef ModelEntry* entry
    while True:
        entry = snapshot.slots[slot]
        if entry == NULL and snapshot.generation == 0:
            fail(failure, UNAVAILABLE, b"the server is starting; try again")
            return NULL
        if entry == NULL:
            fail(failure, NOT_FOUND, b"Request for unknown model: '%.*s' is not found", shown_bytes(name), <const char*>name.data)
            return NULL
        if entry.hash == hash and slice_equal(entry.name, name):
            break
        slot = (slot + 1) & mask
    if entry.n_versions == 0:
        fail(failure, UNAVAILABLE, b"Request for unknown model: '%.*s' has no available versions", shown_bytes(name),
             <const char*>name.data)
        return NULL
    return entry


cdef int entry_version(const ModelEntry* entry, Slice number, Version** version, Failure* failure) noexcept nogil:
    cdef Slice name = entry.name
    cdef int i
    if number.length == 0:
        if entry.default == NULL:
            return fail(failure, UNAVAILABLE, b"Request for unknown model: '%.*s' has no default version", shown_bytes(name),
                        <const char*>name.data)
        version[0] = entry.default
        return 0
    for i in range(entry.n_versions):
        if slice_equal(entry.versions[i].key, number):
            version[0] = entry.versions[i].version
            return 0
    return fail(failure, NOT_FOUND, b"Request for unknown model: '%.*s' version %.*s is not found", shown_bytes(name),
                <const char*>name.data, shown_bytes(number), <const char*>number.data)


cdef class Names:
    """Encoded names that a snapshot borrows, and the versions and plans that it points to."""
    cdef list encoded
    cdef list pointed_to

    def __cinit__(self):
        self.encoded = []
        self.pointed_to = []

    cdef Slice borrow(self, str text):
        data = text.encode()
        self.encoded.append(data)
        return slice_make(<const char*>data, len(data))


cdef void snapshot_free(Snapshot* snapshot) noexcept nogil:
    cdef int i
    if snapshot == NULL:
        return
    for i in range(snapshot.n_models):
        free(snapshot.models[i].versions)
    free(snapshot.models)
    free(snapshot.slots)
    free(snapshot)


cdef int fill_entry(ModelEntry* entry, str name, dict versions, default, plan, Names names) except -1:
    entry.name = names.borrow(name)
    entry.hash = hash_name(entry.name)
    entry.versions = <VersionKey*>calloc(max(1, len(versions)), sizeof(VersionKey))
    if entry.versions == NULL:
        raise MemoryError
    for key, version in versions.items():
        entry.versions[entry.n_versions].key = names.borrow(key)
        entry.versions[entry.n_versions].version = (<NativeVersion?>version).version
        entry.n_versions += 1
        names.pointed_to.append(version)
    if default is not None:
        entry.default = (<NativeVersion?>default).version
        names.pointed_to.append(default)
    if plan is not None:
        if (<NativePlan?>plan).model != name:
            raise ValueError(f"a plan of {plan.model} cannot route {name}")
        entry.plan = (<NativePlan>plan).plan
        names.pointed_to.append(plan)
        names.pointed_to.extend((<NativePlan>plan).versions)
    return 0


cdef Snapshot* build(uint64_t generation, dict models, Names names) except NULL:
    """models: name -> ({key: NativeVersion}, default NativeVersion or None, NativePlan or None)."""
    cdef Snapshot* snapshot = <Snapshot*>calloc(1, sizeof(Snapshot))
    cdef int slot
    if snapshot == NULL:
        raise MemoryError
    try:
        snapshot.generation = generation
        snapshot.n_slots = 8
        while snapshot.n_slots < 2 * len(models):
            snapshot.n_slots *= 2
        snapshot.slots = <ModelEntry**>calloc(snapshot.n_slots, sizeof(void*))
        snapshot.models = <ModelEntry*>calloc(max(1, len(models)), sizeof(ModelEntry))
        if snapshot.slots == NULL or snapshot.models == NULL:
            raise MemoryError
        for name, (versions, default, plan) in models.items():
            snapshot.n_models += 1
            fill_entry(&snapshot.models[snapshot.n_models - 1], name, versions, default, plan, names)
            slot = <int>(snapshot.models[snapshot.n_models - 1].hash & <uint64_t>(snapshot.n_slots - 1))
            while snapshot.slots[slot] != NULL:
                slot = (slot + 1) & (snapshot.n_slots - 1)
            snapshot.slots[slot] = &snapshot.models[snapshot.n_models - 1]
    except BaseException:
        snapshot_free(snapshot)
        raise
    return snapshot


cdef bint is_reachable(ModelTable table, Snapshot* snapshot, list turns):
    cdef int i
    cdef uint64_t turn, dropped
    for i in range(min(<int>len(turns), table.n_readers)):
        turn = turns[i]
        if turn & 1 and table.readers[i].turn.load(memory_order_seq_cst) == turn:
            return True                             # still inside the turn in which the swap happened
    for i in range(MAX_IO_THREADS):
        dropped = counter_acquire(&snapshot.pins[i].dropped)        # before taken, never after
        if counter_read(&snapshot.pins[i].taken) != dropped:
            return True
    return False


cdef class ModelTable:
    """Publishes snapshots to the I/O threads of one server. Python may call it from any thread."""

    def __cinit__(self):
        self.lock = threading.Lock()
        self.retired = []
        self.serving = Names()
        self.current.store(build(0, {}, <Names>self.serving))

    cdef int add_reader(self, Reader* reader) except -1:
        with self.lock:
            if self.n_readers == MAX_IO_THREADS:
                raise ValueError(f"{self.n_readers + 1} I/O threads; at most {MAX_IO_THREADS}")
            self.readers[self.n_readers] = reader
            self.n_readers += 1
        return 0

    cdef int forget_readers(self) except -1:
        with self.lock:
            self.n_readers = 0
        return 0

    def publish(self, dict models):
        """Swap in {name: ({version or label: NativeVersion}, default or None, NativePlan or None)}; returns the generation.

        Never blocks traffic. A plan takes the requests that name no version; the default those of a model without one. Raises TypeError,
        ValueError for a plan of another model; nothing is changed then.
        """
        names = Names()
        cdef Snapshot* old
        cdef uint64_t generation = 0
        with self.lock:
            old = self.current.exchange(build(self.generation + 1, models, names))      # pairs with Reader.turn in the I/O loop
            self.generation += 1
            turns = [self.readers[i].turn.load(memory_order_seq_cst) for i in range(self.n_readers)]
            self.retired.append((<uintptr_t>old, self.serving, turns))
            self.serving = names
            freed, _ = self.collect()
            generation = self.generation
        freed.clear()
        return generation

    def reclaim(self):
        """Free retired snapshots that nothing can reach any more, and let go of their versions. Returns how many are left."""
        with self.lock:
            freed, n_left = self.collect()
        freed.clear()
        return n_left

    cdef tuple collect(self):
        """With the lock held. (What freed ones kept alive, for the caller to drop without it, as that may take long; how many are left.)"""
        kept, freed = [], []
        for address, names, turns in self.retired:
            if is_reachable(self, <Snapshot*><uintptr_t>address, turns):
                kept.append((address, names, turns))
            else:
                snapshot_free(<Snapshot*><uintptr_t>address)
                freed.append(names)
        self.retired = kept
        return freed, len(kept)

    def holds(self, version_or_plan):
        """Whether the current or a retired snapshot still points to this NativeVersion or NativePlan.

        A plan that is not held counts nothing any more: its next reading is final. Call reclaim before.
        """
        with self.lock:
            return any([version_or_plan in (<Names>names).pointed_to
                        for names in [self.serving] + [names for _, names, _ in self.retired]])

    def __dealloc__(self):
        # No I/O thread exists any more: the server that runs them holds a reference until they are joined.
        if self.retired is not None:
            for address, _, _ in self.retired:
                snapshot_free(<Snapshot*><uintptr_t>address)
        snapshot_free(self.current.load())


# --- For the tests: readers without threads -------------------------------------------------------------------------------

cdef class ReaderHarness:
    """What an I/O thread does with the table: turns, and pins of requests. index: of its pins."""
    cdef ModelTable table
    cdef Reader* reader
    cdef Snapshot* snapshot
    cdef int index

    def __cinit__(self, ModelTable table not None, int index):
        self.table, self.index = table, index
        self.reader = new Reader()
        self.reader.turn.store(0)
        table.add_reader(self.reader)

    def begin_turn(self):
        """Returns the generation of the snapshot that the turn sees."""
        self.reader.turn.store(self.reader.turn.load(memory_order_seq_cst) + 1, memory_order_seq_cst)
        self.snapshot = self.table.current.load(memory_order_seq_cst)
        return self.snapshot.generation

    def end_turn(self):
        self.snapshot = NULL
        self.reader.turn.store(self.reader.turn.load(memory_order_seq_cst) + 1, memory_order_seq_cst)

    def pin(self):
        """A request of this turn; returns what drops it."""
        counter_add(&self.snapshot.pins[self.index].taken, 1)
        return <uintptr_t>&self.snapshot.pins[self.index]

    def drop(self, pins):
        counter_publish(&(<Pins*><uintptr_t>pins).dropped, 1)

    def find(self, bytes name, bytes number=b""):
        """(model, number) of the version found, or (failure kind, text)."""
        cdef Version* version = NULL
        cdef Failure failure
        cdef const ModelEntry* entry = snapshot_find(self.snapshot, slice_make(<const char*>name, len(name)), &failure)
        if entry == NULL or entry_version(entry, slice_make(<const char*>number, len(number)), &version, &failure):
            return failure.kind, (<bytes>failure.text).decode("utf-8", "replace")
        return (<const char*>version.model.data)[:version.model.length], (<const char*>version.number.data)[:version.number.length]

    def close(self):
        """With every reader of the table closed, too."""
        self.table.forget_readers()

    def __dealloc__(self):
        del self.reader
