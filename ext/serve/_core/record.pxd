"""A recorded request on its way from an I/O thread to the recorder: its stream, and its bytes in a ring. Declarations only.

A record is a RecordHeader, then the texts (request id, variant, trace id, tags) without separators, padded to 8 bytes; then, when
rows > 0, for each tensor of the stream, inputs first: a RecordedPart, its row shape (n_dims int64_t, only where the stream's row shape is
dynamic), its bytes as in tensors.Tensor (BYTES: framed elements of all rows), padded to 8 bytes.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from serve._core.memory cimport Slice
from serve._core.routing cimport Source
from serve._core.tensors cimport Tensor
from serve._core.version cimport MAX_IO_THREADS

cdef enum RecordPolicy:
    RECORD_DROP = 0
    RECORD_BLOCK = 1
    RECORD_FAIL_CLOSED = 2

cdef enum RecordDrop:
    # serve.records.StreamReading.dropped, in this order.
    DROPPED_RING_FULL = 0
    DROPPED_TOO_LARGE = 1
    DROPPED_BLOCKED = 2
    DROPPED_MEMORY = 3
    N_RECORD_DROPS = 4

cdef enum:
    # Words of the page that survives the process; serve.recording.page has them all.
    PAGE_ASSIGNED = 3
    PAGE_DROPPED = 5                    # and RecordDrop
    PAGE_WORDS = 11

cdef enum:
    MAX_RECORD_STREAMS = 4096
    RECORD_HAS_UNIT = 1                 # RecordHeader.flags
    SKIP_STREAM = -1                    # RecordHeader.stream: nothing more before the ring's end

cdef struct RecordHeader:
    uint32_t length                     # of the whole record, a multiple of 8
    int32_t stream
    int64_t ts_ns                       # wall clock, the request's first byte
    uint64_t seq                        # of its first row; the others follow
    uint64_t batch_id                   # 0: it was never run
    uint64_t generation                 # of the plan that routed it; 0: none
    uint64_t unit                       # hash of its sticky key, with RECORD_HAS_UNIT
    uint32_t queue_us
    uint32_t compute_us
    uint32_t total_us
    int32_t rows                        # 0: it failed: one row of the table, with row = -1 and no tensors
    int16_t status                      # HTTP status, whatever the protocol
    uint8_t protocol                    # version.Protocol
    uint8_t flags
    int16_t error                       # failure.Kind
    uint16_t id_length
    uint16_t variant_length
    uint16_t trace_length               # 0 or 32
    uint16_t tags_length                # "name\0value\0..."
    uint8_t[6] padding

cdef struct RecordedPart:
    uint64_t nbytes
    int32_t is_left_out                 # over max_row_bytes: null in every row; nbytes is 0
    int32_t n_dims

cdef struct RecordStats:
    # One per stream and I/O thread; that thread alone writes. Rows, but for the last two.
    uint64_t sampled
    uint64_t written                    # into the ring
    uint64_t[N_RECORD_DROPS] dropped
    uint64_t refused                    # requests
    uint64_t left_out                   # tensors

cdef struct KeptTensor:
    int index                           # in the signature
    size_t max_row_bytes                # 0: no limit
    bint has_dynamic_shape              # of a row

cdef struct RecordTag:
    Slice name
    Source source

cdef struct RecordStream:
    # Owned by the NativeRecorder for as long as the process lives; immutable but for the counters.
    int id
    uint64_t below                      # of 2^53: sampled when the id's hash is below
    int policy
    uint64_t block_ns
    int n_inputs
    KeptTensor* inputs
    int n_outputs
    KeptTensor* outputs
    int n_tags
    RecordTag* tags
    RecordStats[MAX_IO_THREADS] stats

cdef struct RecordNote:
    # In the arena of a request that is recorded, from the sampling decision to the record. Texts are the body's or the arena's.
    Slice id                        # UTF-8
    Slice trace                     # 32 hex digits, or empty
    Slice tags                      # "name\0value\0..."
    Tensor* outputs                 # [stream's n_outputs] the kept rows; data NULL: left out. NULL until a run has answered
    uint64_t promised               # ring bytes reserved for it
    uint64_t t_parked
    bint gave_up                    # it has waited for room long enough

cdef inline size_t padded(size_t n) noexcept nogil:
    return (n + 7) & ~<size_t>7
