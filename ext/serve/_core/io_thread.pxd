"""The state of one I/O thread: declarations only. `dispatch` holds what it does with a call, `io_loop` how it waits, reads and writes."""
from libc.stdint cimport uint64_t
from libcpp.atomic cimport atomic

from serve._core.batch_queue cimport Batch
from serve._core.call cimport CallPool, Connection, Hooks, Limits, Mailbox, Request
from serve._core.control_queue cimport Queue
from serve._core.model_table cimport Reader, Snapshot
from serve._core.posix cimport Thread
from serve._core.record_ring cimport RecordRing

cdef struct IoCounters:
    # Written by the thread, read by Python; relaxed.
    uint64_t accepted
    uint64_t closed
    uint64_t refused_connections        # over max_connections
    uint64_t http_requests              # calls, inferences among them
    uint64_t grpc_requests
    uint64_t control_calls
    uint64_t refused_in_flight          # in-flight bytes
    uint64_t refused_control            # control queue full
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t turns
    uint64_t inline_batches
    uint64_t polls                      # waits that ended while busy-polling
    uint64_t held_bytes                 # bodies of requests in flight, and answers that are not sent
    uint64_t shadow_bytes               # of them, of requests that are shadows now

cdef struct Shared:
    # One per server; set before the threads start, but for the atomics in Server.
    Limits limits
    int n_threads
    uint64_t busy_poll_ns               # longest busy-poll; 0: never
    bint cores_are_scarce               # fewer cores than threads that may want one
    IoCounters** counters               # [n_threads], to add up held bytes and connections
    uint64_t* record_page               # words that survive the process, of its NativeRecorder; NULL: nothing is recorded

cdef cppclass IoThread:
    # Owned by its Server; after start() by its own thread, but for stopping, the mailbox and the counters.
    Hooks hooks
    CallPool calls
    Mailbox mailbox
    Reader reader
    Shared* shared
    Queue* control
    atomic[Snapshot*]* table
    Snapshot* snapshot                  # of this turn
    atomic[int] phase                   # 0 serving, 1 draining, 2 stopping
    IoCounters counters
    Connection* connections
    Connection* graveyard               # closed in this turn: events of the turn may still name them
    Connection* dirty                   # to be flushed at the end of the turn, linked by dirty_next
    Request* pending                    # requests decoded in this turn, oldest first
    Request** pending_tail
    Request* deadlines                  # requests in flight that have one
    int n_lent                          # requests in queues and with instance threads
    Request* shadows                    # answered, waiting to run again on a shadow version; oldest first
    Request** shadows_tail
    size_t shadow_bytes                 # that they hold
    int n_shadows_waiting
    Request* shadows_out                # submitted and not back, by call_next
    int n_shadows_running               # of them
    bint shadows_blocked                # the last time there was no capacity for them
    RecordRing* ring                    # records on their way to the recorder; NULL: nothing is recorded
    Request* parked                     # finished, waiting for room in the ring; oldest first
    Request** parked_tail
    int n_parked
    Batch batch                         # for inline runs
    int index
    int epoll
    int listener_http
    int listener_grpc
    atomic[int] accepting               # the listening sockets are in use; stays 0 once it is
    bint accept_paused                  # no descriptor is left: the listeners are not listened to until the next sweep
    bint draining
    uint64_t drain_from
    uint64_t next_sweep
    uint64_t next_deadlines
    uint64_t next_second
    uint64_t turn_calls                 # calls that the last turn with any brought
    uint64_t gap_ns                     # moving average of the gaps between events
    uint64_t poll_again                 # busy-polling is off until then: another thread wanted the core
    Thread thread
