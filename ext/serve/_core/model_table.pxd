"""The immutable snapshot from names to versions that I/O threads read without a lock and Python replaces while traffic runs."""
from libc.stdint cimport uint64_t
from libcpp.atomic cimport atomic

from serve._core.counters cimport Pins
from serve._core.failure cimport Failure
from serve._core.memory cimport Slice
from serve._core.routing cimport Plan
from serve._core.version cimport MAX_IO_THREADS, Version

cdef struct VersionKey:
    Slice key                       # "2" or "stable"; borrowed from the table's Python names
    Version* version

cdef struct ModelEntry:
    Slice name
    uint64_t hash
    int n_versions                  # 0: known, and nothing of it is ready
    VersionKey* versions            # numbers and labels
    Version* default                # when a request names no version and no plan is in force
    Plan* plan                      # NULL: none; owned by a NativePlan that the table's Names keep alive

cdef struct Snapshot:
    uint64_t generation
    int n_slots                     # power of two
    ModelEntry** slots              # open addressing; NULL: free
    int n_models
    ModelEntry* models
    Pins[MAX_IO_THREADS] pins       # requests in flight on this snapshot

cdef cppclass Reader:
    # One I/O thread's quiescent-state marker: odd inside a turn, even while it may block.
    atomic[uint64_t] turn

cdef class ModelTable:
    cdef atomic[Snapshot*] current
    cdef readonly uint64_t generation
    cdef Reader* readers[MAX_IO_THREADS]
    cdef int n_readers
    cdef object lock                # threading.Lock: publishing, and closing versions in threads
    cdef list retired               # [(address of Snapshot, objects kept alive, reader turns at the swap)]
    cdef object serving             # what the current snapshot borrows from
    cdef int add_reader(self, Reader* reader) except -1             # before its thread starts
    cdef int forget_readers(self) except -1                         # after the threads are joined
    cdef tuple collect(self)

# The model, or NULL and why (NOT_FOUND, UNAVAILABLE).
cdef const ModelEntry* snapshot_find(const Snapshot* snapshot, Slice name, Failure* failure) noexcept nogil
# 0 and *version, or -1 and why (NOT_FOUND, UNAVAILABLE). An empty number means the default.
cdef int entry_version(const ModelEntry* entry, Slice number, Version** version, Failure* failure) noexcept nogil
