"""What an I/O thread holds: connections, calls on them, and the inference requests that leave it for an instance thread.

A Call is one exchange on the wire: an HTTP/1.1 request or an HTTP/2 stream. It never leaves its I/O thread. A Request is one
inference: it owns its bytes, so that an instance thread can work on it while its call, or the whole connection, goes away.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from libcpp.atomic cimport atomic

from serve._core.access_log cimport AccessRing
from serve._core.counters cimport Pins
from serve._core.failure cimport Failure
from serve._core.http1 cimport ChunkDecoder
from serve._core.memory cimport Arena, Buffer, Slice
from serve._core.nghttp2 cimport nghttp2_session, nghttp2_session_callbacks
from serve._core.record cimport RecordNote
from serve._core.routing cimport Routed, ShadowCopy
from serve._core.slab cimport Slab
from serve._core.tensors cimport Binding, InferRequest
from serve._core.version cimport Version

cdef enum CallKind:
    CALL_UNROUTED = 0
    CALL_LIVE = 1                   # liveness, answered by the I/O thread
    CALL_INFER = 2                  # one inference
    CALL_INFER_STREAM = 3           # ModelStreamInfer: each message is an inference
    CALL_CONTROL = 4                # the control plane answers
    CALL_REFUSED = 5                # already answered with an error; what still arrives is dropped

cdef enum:
    CALL_BROKEN = -1

cdef enum:
    # Call.deadline_ns of a call whose header is no time-out: it is refused.
    BAD_TIMEOUT_MS = 0xFFFFFFFFFFFFFFFE             # x-request-timeout-ms
    BAD_GRPC_TIMEOUT = 0xFFFFFFFFFFFFFFFF

cdef enum ConnectionProtocol:
    PROTOCOL_UNKNOWN = 0
    PROTOCOL_HTTP1 = 1
    PROTOCOL_HTTP2 = 2

cdef enum Goodbye:
    # How far the drain of an HTTP/2 connection is.
    GOODBYE_NOT_SAID = 0
    GOODBYE_ANNOUNCED = 1           # a GOAWAY that still allows every stream is submitted
    GOODBYE_ASKED = 2               # and behind it a PING: its answer tells that the peer has seen the GOAWAY
    GOODBYE_FINAL = 3               # the GOAWAY that names the last stream is submitted

cdef struct Limits:
    # Set before the threads start; immutable.
    size_t max_body                 # bytes of a message or body, also unpacked
    size_t max_in_flight            # bytes of the worker
    int max_connections             # of the worker
    int max_streams                 # of a connection
    uint64_t header_ns
    uint64_t idle_ns
    uint64_t deadline_cap_ns
    size_t min_body_rate            # bytes a second

cdef struct Field:
    # A header, in the call's arena; names in lower case.
    Slice name
    Slice value
    Field* next

cdef cppclass Mailbox:
    # Finished requests, and frames of the control plane, on their way to one I/O thread. Any thread posts, Python included, so there
    # is no lock that a descheduled poster could hold. Push one chain, take all: no ABA.
    atomic[Request*] requests
    atomic[Frame*] frames
    atomic[int] sleeping            # the thread is, or is about to be, blocked in epoll_wait
    int wake_fd

cdef struct Request:
    # Owned by its I/O thread; lent to a queue and an instance thread between submit and the mailbox.
    Call* call                      # NULL once the call is gone. Only the I/O thread reads it
    Request* call_next              # requests of the call, in order of arrival
    Request* next                   # turn's list, mailbox, free list
    Mailbox* mailbox
    Version* version                # routed to; valid while pins is held
    Routed routed                   # by which plan, to which arm
    ShadowCopy* shadow              # in the arena; NULL: not sampled
    bint counted                    # by its arm, ahead of its return. Only the I/O thread touches it
    RecordNote* record              # in the arena; NULL: not recorded
    uint64_t batch_id               # of the run that answered it; 0: none has
    Pins* pins
    # Guarded by the pool's lock.
    void* bucket                    # batcher.Bucket; not NULL while queued
    Request* queue_next
    Request* queue_previous
    # The inference.
    Buffer body                     # what was received, with room for json_codec's padding
    const uint8_t* message          # in body: the protobuf message, or the whole HTTP body
    size_t message_length
    Arena arena                     # decoded headers and converted tensors
    InferRequest infer
    Binding binding
    Failure failure
    int protocol                    # version.Protocol
    bint stream                     # a message of ModelStreamInfer
    int accept_encoding             # compression.Encoding the client takes for an HTTP body
    uint64_t deadline_ns            # monotonic; 0: none
    bint deadline_is_timeout        # the OIP `timeout` parameter: 503, not 504
    bint deadline_listed
    Request* deadline_next          # requests of the I/O thread with a deadline
    Request* deadline_previous
    bint lent
    bint done
    size_t held_bytes               # what it counts for in the in-flight budget
    # Monotonic ns.
    uint64_t t_received
    uint64_t t_queued
    uint64_t t_started
    uint64_t t_gathered
    uint64_t t_ran
    uint64_t t_scattered
    uint64_t t_encoded
    # The answer.
    Buffer reply                    # gRPC: one framed message; HTTP: the body
    int64_t reply_json_length       # Inference-Header-Content-Length; -1: plain JSON
    int reply_encoding

cdef struct Call:
    Connection* connection
    Call* next                      # calls of the connection, in order of arrival
    Call* previous
    int32_t stream_id
    int kind
    bint is_grpc
    Arena arena                     # header fields
    Slice method
    Slice path
    Slice query
    Field* fields                   # newest first, for the control plane
    int n_fields
    size_t field_bytes
    int64_t json_length             # Inference-Header-Content-Length; -1: not sent; -2: unreadable
    int64_t content_length
    int content_encoding            # compression.Encoding; also grpc-encoding
    int accept_encoding
    uint64_t deadline_ns            # grpc-timeout, x-request-timeout-ms
    Slice request_id                # x-request-id, or ours
    Slice traceparent               # as the client gave it; empty: it did not
    bint keep_alive
    bint takes_interim              # HTTP/1.1, by a client that did not ask us to close
    uint64_t t_opened               # first byte of the call
    uint64_t t_received             # and of the inference: a stream's last message
    size_t received                 # bytes of the body, as they came
    size_t sent                     # bytes of the answer's body
    Buffer body
    size_t body_used                # gRPC streams: bytes of body already taken as messages
    size_t held_bytes               # what it counts for in the in-flight budget
    bint half_closed                # the client has sent everything
    Request* requests               # oldest first
    Request** requests_tail
    int n_requests
    bint errors_end_stream          # triton_grpc_error: an error ends the stream with its status
    Slice model                     # HTTP: from the path
    Slice number                    # version or label
    ControlCall* control
    # The answer.
    bint answered                   # headers are on their way (HTTP/2), or everything is in the connection's buffer (HTTP/1.1)
    bint ended                      # nothing will be added
    int status                      # HTTP status
    int grpc_status
    Slice message                   # grpc-message, arena
    Slice details                   # grpc-status-details-bin, arena
    const char* content_type
    int64_t reply_json_length
    int reply_encoding
    Field* reply_fields
    Slice version_served            # x-headrace-version, -variant and -generation
    Slice variant_served
    Slice generation_served
    Buffer out                      # body, or framed gRPC messages
    size_t out_sent
    size_t held_out                 # what of it counts for the in-flight budget
    uint64_t t_sent                 # HTTP/2: when the answer last grew, or the peer took some of it
    bint deferred                   # nghttp2 waits for more of out
    uint64_t t_grown                # last byte of the body; before the first, of the head

cdef struct ControlCall:
    # A call in the hands of Python. Freed by the I/O thread when Python has released it.
    Call* call                      # NULL once the call is gone. Only the I/O thread touches it
    Mailbox* mailbox
    bint answered                   # Python's last word has arrived: it need not be told that the call is gone
    # Messages that Python has and has not begun with. Only the I/O thread touches these.
    int n_untaken
    size_t untaken_bytes
    bint is_behind                  # whole messages wait in the call's body for Python to take some; the client gets no more window

cdef struct Frame:
    # Owned by whoever holds it; its bytes are its own.
    Frame* next
    ControlCall* control
    int kind                        # control_frame.FrameKind
    bint is_grpc
    int status
    size_t taken
    uint64_t deadline_ns
    Buffer head                     # down: "METHOD\0path\0query\0name\0value\0..."; up: "name\0value\0...", or the gRPC text
    Buffer body

cdef struct Connection:
    # Owned by its I/O thread.
    int fd
    int protocol
    bint open
    bint dirty                      # on the turn's list of connections to flush
    bint listening_out              # EPOLLOUT is armed
    bint not_listening_in           # EPOLLIN is disarmed
    bint reading_paused             # the peer is ahead of us
    bint broken                     # close once everything is flushed, without lingering
    bint closing                    # close once everything is flushed
    bint lingering                  # our side is shut, the peer's rest is dropped
    bint peer_done                  # the peer has shut its side: what is whole is answered, then the connection is closed
    bint probed                     # HTTP/1.1, after peer_done: the peer was sent something that a closed socket answers with a reset
    int goodbye                     # HTTP/2: Goodbye
    void* owner                     # IoThread
    Hooks* hooks
    Connection* next
    Connection* previous
    Connection* dirty_next
    Call* calls                     # oldest first
    Call* last_call
    int n_calls
    uint64_t t_progress             # last byte received or call finished; for idle and linger
    uint64_t t_head                 # HTTP/1.1: first byte of a head that is not complete; 0: none
    uint64_t t_body                 # a body is being received since; 0: none
    size_t body_received
    size_t lingered
    Buffer out
    size_t out_sent
    size_t held_out                 # what of it counts for the in-flight budget
    int n_underway                  # bytes that the peer had not acknowledged when last looked at
    uint64_t t_sent                 # while the socket is full: when the peer last took something
    # HTTP/2
    nghttp2_session* session
    bint id_is_indexed              # the peer's HPACK table holds the name x-request-id
    # HTTP/1.1
    Buffer input                    # bytes not parsed yet
    size_t seen                     # of them, searched for the end of a head
    Call* receiving                 # the call whose body is being received
    bint chunked
    ChunkDecoder chunks
    size_t body_left
    bint continue_due               # the client waits for 100 (Continue), and earlier answers go first

cdef struct Hooks:
    # What the protocols tell their I/O thread. Filled by dispatch.
    void (*on_headers)(void* owner, Call* call) noexcept nogil                  # header fields complete: route it
    void (*on_data)(void* owner, Call* call) noexcept nogil                     # call.body grew (gRPC streams)
    void (*on_end)(void* owner, Call* call) noexcept nogil                      # the client has sent everything
    void (*on_gone)(void* owner, Call* call) noexcept nogil                     # about to be freed
    bint (*has_room)(void* owner) noexcept nogil                                # in-flight bytes are within the limit; if not, counted
    uint64_t* held_bytes            # of this thread's calls and requests, a counter
    Limits* limits
    CallPool* pool
    nghttp2_session_callbacks* callbacks
    Slab slab                       # nghttp2's small objects
    AccessRing* access              # where calls are noted; NULL: the access log is off
    uint64_t copied_bytes           # debug builds: of bodies, before the gather
    uint64_t now                    # monotonic ns of this turn
    uint64_t wall_ms                # of this second, for labels
    uint64_t wall_offset            # ns to add to a monotonic time for the wall clock's, as of this second
    bint draining                   # answers ask the client to go
    char[32] date                   # IMF-fixdate of this second
    uint64_t[4] random              # ids' generator

cdef struct CallPool:
    # Free lists of one I/O thread; only it takes and gives.
    Call* calls
    int n_calls
    Request* requests
    int n_requests
    size_t kept_bytes               # capacity that free requests and calls hold
    uint64_t live_calls
    uint64_t live_requests

cdef Call* call_new(Connection* connection, uint64_t now) noexcept nogil            # appended to the connection; NULL: memory is out
cdef void call_free(Call* call) noexcept nogil                                      # unlinks; runs hooks.on_gone
# Bytes of a body. 0; CALL_BROKEN: memory is out; else a failure.Kind to refuse the call with. expected: its whole length, 0 when unknown.
cdef int call_append(Call* call, const uint8_t* data, size_t length, size_t expected) noexcept nogil
cdef int call_grown(Call* call, size_t length) noexcept nogil                       # the same, for bytes that were read into the body
cdef void call_release_held(Call* call, size_t length) noexcept nogil               # so many bytes of the body have gone elsewhere
cdef void call_hold(Call* call, size_t length) noexcept nogil                       # so many bytes are held elsewhere on its behalf
cdef void call_hold_out(Call* call) noexcept nogil                                  # the length of out has changed
cdef int call_add_field(Call* call, Slice name, Slice value) noexcept nogil         # copies and interprets; -1: refuse (431 or memory)
cdef void call_refuse(Call* call, int kind, const char* text) noexcept nogil        # prepares an error answer of its protocol
# grpc_status, grpc-message (percent-encoded) and details; reason: failure.KIND_NAME or NULL.
cdef void call_fail_grpc(Call* call, int code, const char* text, const char* reason) noexcept nogil
cdef void call_answer_http(Call* call, int status, const char* content_type) noexcept nogil
cdef Request* request_new(CallPool* pool) noexcept nogil
cdef void request_free(CallPool* pool, Request* request) noexcept nogil
cdef void pool_clear(CallPool* pool) noexcept nogil
cdef void call_attach(Call* call, Request* request) noexcept nogil
