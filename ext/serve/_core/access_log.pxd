"""One record a call, on its way from an I/O thread to Python: a bounded ring with one writer and one reader, never in each other's way."""
from libc.stdint cimport uint8_t, uint64_t
from libcpp.atomic cimport atomic

cdef enum:
    ACCESS_RECORDS = 16384          # of a ring; a power of two
    ACCESS_METHOD = 16              # bytes kept of each text
    ACCESS_PATH = 128
    ACCESS_VERSION = 20
    ACCESS_VARIANT = 64
    ACCESS_ID = 36

cdef enum AccessProtocol:
    ACCESS_HTTP1 = 0
    ACCESS_HTTP2 = 1
    ACCESS_GRPC = 2

cdef struct AccessRecord:
    uint64_t wall_ns                # end of the call, since 1970; a label
    uint64_t duration_ns            # from its first byte to its last answer in the send buffer
    uint64_t request_bytes          # of the body or the messages, as they came
    uint64_t answer_bytes           # of the body or the framed messages, as they were sent
    int status                      # HTTP status, or of gRPC calls the gRPC code
    uint8_t protocol                # AccessProtocol
    uint8_t n_method                # bytes used of the texts below, none of which ends in NUL
    uint8_t n_path
    uint8_t n_version
    uint8_t n_variant
    uint8_t n_id
    char[ACCESS_METHOD] method
    char[ACCESS_PATH] path          # without the query
    char[ACCESS_VERSION] version    # model version that answered an inference
    char[ACCESS_VARIANT] variant    # and the plan's arm
    char[ACCESS_ID] id              # request id

cdef cppclass AccessRing:
    # Owned by the server. What it has no room for is dropped and counted.
    AccessRecord* records           # [ACCESS_RECORDS]
    atomic[uint64_t] written        # records, ever; the I/O thread writes
    atomic[uint64_t] taken          # records, ever; Python writes
    atomic[uint64_t] dropped

cdef AccessRing* access_ring_new() except NULL
cdef void access_ring_free(AccessRing* ring) noexcept nogil
cdef AccessRecord* access_slot(AccessRing* ring) noexcept nogil         # the next record, to be filled; NULL: full, and counted
cdef void access_publish(AccessRing* ring) noexcept nogil               # the record in the slot is complete
cdef int access_drain(AccessRing* ring, list records) except -1         # appends a dict for each
