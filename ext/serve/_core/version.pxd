"""A loaded model version as the native threads see it: signature, queue, runners and counters. Plain struct, built by Python."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.histogram cimport Histogram, SizeHistogram
from serve._core.memory cimport Slice
from serve._core.runner cimport Runner
from serve._core.tensors cimport Signature

cdef enum:
    MAX_IO_THREADS = 16
    MAX_INSTANCES = 64                      # instance threads of a pool, and runners of a version
    MAX_THREADS = MAX_IO_THREADS + MAX_INSTANCES
    MAX_PREFERRED = 16
    N_RUN_ESTIMATES = 24                    # run time by power of two of rows

cdef enum Protocol:
    HTTP = 0
    GRPC = 1
    N_PROTOCOLS = 2

cdef enum Stage:
    RECEIVE = 0                             # first byte of the call to the queue
    QUEUE = 1
    GATHER = 2
    RUN = 3
    SCATTER = 4                             # outputs readable to answer encoded
    SEND = 5                                # back on the I/O thread to handed to the socket
    TOTAL = 6
    N_STAGES = 7

cdef enum Rejection:
    REJECTED_QUEUE_FULL = 0
    REJECTED_DEADLINE = 1
    REJECTED_CANCELLED = 2
    REJECTED_INVALID = 3
    FAILED_RUN = 4
    N_REJECTIONS = 5

cdef struct BatchCounters:
    uint64_t executions
    uint64_t gather_ns
    uint64_t run_ns
    uint64_t scatter_ns

cdef struct VersionStats:
    # One per thread and version, allocated at that thread's first use; that thread alone writes.
    Histogram[N_PROTOCOLS][N_STAGES] stages             # one entry a request
    uint64_t[N_PROTOCOLS] success
    uint64_t[N_REJECTIONS] rejections
    uint64_t rejection_ns                               # of all of them
    uint64_t submitted                                  # I/O threads: given to the queue
    uint64_t completed                                  # and come back, in whatever way
    uint64_t rows                                       # of successful runs
    uint64_t executions
    uint64_t last_wall_ms
    SizeHistogram batch_sizes                           # rows of an execution
    Histogram[N_RUN_ESTIMATES] runs                     # of the model alone, by power of two of rows
    Histogram waits                                     # of the oldest request of each run: from the queue to its start
    BatchCounters* batches                              # [max_batch + 1] by rows; 0: more than the table holds
    int n_batches

cdef struct Version:
    # Settings: immutable once built.
    Slice model                             # name; owned by the Python object
    Slice number                            # "1"
    const Signature* signature
    int instances                           # concurrent runs
    int64_t max_batch                       # rows; 1 when the model is not batched
    int n_preferred
    int64_t[MAX_PREFERRED] preferred        # ascending
    uint64_t delay_ns
    uint64_t default_timeout_ns             # 0: none
    int queue_limit                         # requests
    bint may_inline                         # CPU: the I/O thread may run it
    void* pool                              # batcher.Pool whose threads run it; outlives the version
    Slice** class_labels                    # [n_outputs] -> [n labels] or NULL
    int* n_labels                           # [n_outputs]
    void* recording                         # record.RecordStream of its records; NULL: none. Outlives the version
    const void* guard                       # guard.Guard that its inputs are held against; NULL: none
    # Guarded by the pool's lock.
    void* buckets                           # batcher.Bucket list: queued requests by shape
    void* spare                             # one empty Bucket, kept
    int depth                               # queued requests, shadows not among them
    int n_shadows                           # queued shadows
    int running                             # runs in progress
    int n_free
    Runner* free[MAX_INSTANCES]             # [instances] runners not in use
    Version* active_next                    # pool's list of versions with queued requests
    bint active
    # Written by whoever runs, read by I/O threads; relaxed.
    uint64_t inline_from                    # no inline runs before this time: one took far too long
    uint64_t watched_until                  # a run took long, or was descheduled: until then their CPU time is taken
    uint64_t[N_RUN_ESTIMATES] run_ns        # moving average by power of two of rows; 0: not measured
    VersionStats* stats[MAX_THREADS]        # slot published once by its thread
