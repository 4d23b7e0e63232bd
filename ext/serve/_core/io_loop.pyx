import atexit
import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from libcpp.atomic cimport memory_order_acquire, memory_order_relaxed, memory_order_release, memory_order_seq_cst

from serve._core.access_log cimport AccessRing, access_drain, access_ring_free, access_ring_new
from serve._core.answering cimport mark_dirty
from serve._core.batcher cimport batch_destroy, batch_init
from serve._core.call cimport *
from serve._core.connection_io cimport IN_SIZE, accept_some, bury, close_connection, flush_dirty, read_connection
from serve._core.control_queue cimport ControlQueue
from serve._core.debug cimport COUNTS_COPIES
from serve._core.counters cimport counter_add, counter_read
from serve._core.dispatch cimport dispatch_init
from serve._core.http2 cimport http2_destroy, http2_init
from serve._core.ids cimport seed_random
from serve._core.inference cimport dispatch_deadlines, dispatch_done, dispatch_parked, dispatch_pending
from serve._core.io_thread cimport IoCounters, IoThread, Shared
from serve._core.mailbox cimport mailbox_init, mailbox_take, mailbox_take_frames
from serve._core.model_table cimport ModelTable
from serve._core.posix cimport *
from serve._core.record_ring cimport RecordRing, ring_writer_runs, ring_writer_waits
from serve._core.recorder cimport NativeRecorder
from serve._core.shadow cimport shadow_drop_all, shadow_expire, shadow_turn
from serve._core.slow_call cimport dispatch_frame
from serve._core.timeouts cimport begin_drain, sweep

from serve._core.batcher import stop_all as stop_pools

COUNTS_TENSOR_COPIES = bool(COUNTS_COPIES)              # a debug build: "copied_bytes" of the counters is kept

cdef enum:
    MAX_EVENTS = 256
    SWEEP_NS = 250000000
    DEADLINE_SWEEP_NS = 5000000
    POLL_CALLS = 4                  # a turn that brings more is about throughput, and polling would only burn the core
    POLL_PAUSE_NS = 20000000        # no busy-polling for so long after we were in somebody's way


# --- the loop -----------------------------------------------------------------------------------------------------------

cdef inline bint has_mail(IoThread* io) noexcept nogil:
    return io.mailbox.requests.load(memory_order_seq_cst) != NULL or io.mailbox.frames.load(memory_order_seq_cst) != NULL


cdef bint may_poll(IoThread* io, uint64_t now) noexcept nogil:
    """Busy-polling pays while events come quickly and few at a time; never while a thread that works for us could use the core."""
    if io.shared.busy_poll_ns == 0 or io.gap_ns >= io.shared.busy_poll_ns or now < io.poll_again or io.turn_calls > POLL_CALLS:
        return False
    return not ((io.n_lent or io.n_shadows_running) and io.shared.cores_are_scarce)


cdef int poll_events(IoThread* io, epoll_event* events, uint64_t start) noexcept nogil:
    """> 0: events; 0: mail; -1: nothing for a whole busy-poll."""
    cdef uint64_t end = start + io.shared.busy_poll_ns
    cdef rusage before, after
    cdef int n
    getrusage(RUSAGE_THREAD, &before)
    while True:
        n = epoll_wait(io.epoll, events, MAX_EVENTS, 0)
        if n > 0 or has_mail(io):
            counter_add(&io.counters.polls, 1)
            return max(n, 0)
        if now_ns() > end:
            getrusage(RUSAGE_THREAD, &after)
            if after.ru_nivcsw > before.ru_nivcsw:      # the kernel took the core from us for somebody
                io.poll_again = now_ns() + POLL_PAUSE_NS
            return -1
        cpu_pause()


cdef int block(IoThread* io, epoll_event* events, uint64_t now) noexcept nogil:
    cdef int n
    cdef int timeout_ms = 1 if io.shadows != NULL or io.parked != NULL else 5 if io.deadlines != NULL else 20 if io.draining else 250
    if io.next_sweep > now:
        timeout_ms = min(timeout_ms, <int>((io.next_sweep - now) // 1000000) + 1)
    io.mailbox.sleeping.store(1, memory_order_seq_cst)  # then look once more: pairs with wake_if_sleeping
    ring_writer_waits(io.ring)
    n = epoll_wait(io.epoll, events, MAX_EVENTS, 0 if has_mail(io) else timeout_ms)
    ring_writer_runs(io.ring)
    io.mailbox.sleeping.store(0, memory_order_seq_cst)
    return max(n, 0)


cdef int wait_events(IoThread* io, epoll_event* events) noexcept nogil:
    cdef uint64_t start
    cdef uint64_t gap
    cdef int n = 0
    if io.shadows != NULL and not io.shadows_blocked:   # nothing else to do: their turn
        return max(epoll_wait(io.epoll, events, MAX_EVENTS, 0), 0)
    start = now_ns()
    if not has_mail(io):
        n = poll_events(io, events, start) if may_poll(io, start) else -1
        n = block(io, events, start) if n < 0 else n
        gap = min(now_ns() - start, 4 * io.shared.busy_poll_ns)
        io.gap_ns = io.gap_ns - io.gap_ns // 4 + gap // 4
        return n
    return max(epoll_wait(io.epoll, events, MAX_EVENTS, 0), 0)


cdef void take_mail(IoThread* io) noexcept nogil:
    cdef Request* request = mailbox_take(&io.mailbox)
    cdef Request* next_request
    cdef Frame* frame = mailbox_take_frames(&io.mailbox)
    cdef Frame* next_frame
    cdef uint64_t now = now_ns() if request != NULL else 0
    while request != NULL:
        next_request = request.next
        dispatch_done(io, request, now)
        request = next_request
    while frame != NULL:
        next_frame = frame.next
        dispatch_frame(io, frame)
        frame = next_frame


cdef void handle_event(IoThread* io, epoll_event* event, uint8_t* buffer) noexcept nogil:
    cdef Connection* connection
    if event.data.ptr == &io.listener_http:
        accept_some(io, &io.listener_http)
    elif event.data.ptr == &io.listener_grpc:
        accept_some(io, &io.listener_grpc)
    elif event.data.ptr == &io.mailbox:
        drain(io.mailbox.wake_fd)
    else:
        connection = <Connection*>event.data.ptr
        if not connection.open:
            return
        mark_dirty(io, connection)
        if event.events & ~<uint32_t>EPOLLOUT:
            if connection.reading_paused or connection.broken:
                close_connection(io, connection)        # not even listening: it is an error or a hang-up
            else:
                read_connection(io, connection, buffer)


cdef inline void set_second(IoThread* io) noexcept nogil:
    io.hooks.wall_ms, io.hooks.wall_offset = wall_ms(), wall_ns() - now_ns()
    imf_fixdate(io.hooks.date, sizeof(io.hooks.date))


cdef void tick(IoThread* io, uint64_t now) noexcept nogil:
    if now >= io.next_second:
        io.next_second = now + 1000000000
        set_second(io)
    if io.phase.load(memory_order_acquire) and not io.draining:
        begin_drain(io, now)
        shadow_drop_all(io)
    if now >= io.next_sweep:
        io.next_sweep = now + (SWEEP_NS // 10 if io.draining else SWEEP_NS)
        sweep(io, now)
    if io.deadlines != NULL and now >= io.next_deadlines:
        io.next_deadlines = now + DEADLINE_SWEEP_NS
        dispatch_deadlines(io, now)
    if io.shadows != NULL or io.shadows_out != NULL:
        shadow_expire(io, now)
    if io.parked != NULL:
        dispatch_parked(io, now, False)


cdef void run_turn(IoThread* io, epoll_event* events, int n, uint8_t* buffer) noexcept nogil:
    cdef int i
    cdef uint64_t before = counter_read(&io.counters.http_requests) + counter_read(&io.counters.grpc_requests)
    cdef uint64_t calls
    io.hooks.now = now_ns()
    io.snapshot = io.table.load(memory_order_seq_cst)
    counter_add(&io.counters.turns, 1)
    for i in range(n):
        handle_event(io, &events[i], buffer)
    calls = counter_read(&io.counters.http_requests) + counter_read(&io.counters.grpc_requests) - before
    if calls:
        io.turn_calls = calls
    take_mail(io)
    tick(io, io.hooks.now)
    while True:
        dispatch_pending(io)
        flush_dirty(io)
        if io.pending == NULL:                          # a flush may have let pipelined requests in
            break
    if io.shadows != NULL:
        io.shadows_blocked = n == 0 and shadow_turn(io, now_ns()) == 0
    bury(io)


cdef void* io_main(void* argument) noexcept nogil:
    cdef IoThread* io = <IoThread*>argument
    cdef epoll_event* events = <epoll_event*>malloc(MAX_EVENTS * sizeof(epoll_event))
    cdef uint8_t* buffer = <uint8_t*>malloc(IN_SIZE + 64)
    cdef int n
    ask_short_slices()
    while events != NULL and buffer != NULL and io.phase.load(memory_order_acquire) < 2:
        n = wait_events(io, events)
        io.reader.turn.store(io.reader.turn.load(memory_order_relaxed) + 1, memory_order_seq_cst)      # odd: may hold a snapshot
        run_turn(io, events, n, buffer)
        io.reader.turn.store(io.reader.turn.load(memory_order_relaxed) + 1, memory_order_seq_cst)
    free(events)
    free(buffer)
    return NULL


cdef void close_all(IoThread* io) noexcept nogil:
    """After join. What is queued is taken back: nobody is left to read its answer."""
    io.hooks.now = now_ns()
    while io.connections != NULL:
        close_connection(io, io.connections)
    dispatch_pending(io)
    shadow_drop_all(io)


cdef void collect_all(IoThread* io) noexcept nogil:
    """With the instance pools stopped: nothing is lent to them any more."""
    take_mail(io)
    dispatch_parked(io, now_ns(), True)
    bury(io)


# --- Python's side ------------------------------------------------------------------------------------------------------

cdef set alive = set()           # started and not stopped: nothing may free what a native thread uses


@atexit.register
def stop_all():
    """Native threads end before the interpreter does; batcher's hook runs after this one."""
    for server in list(alive):
        server.stop()


def forget_all():
    """In a forked child the threads do not exist: touch nothing."""
    alive.clear()


os.register_at_fork(after_in_child=forget_all)


cdef class Server:
    """I/O threads over listening sockets.

    http, grpc: lists of non-blocking listening sockets, one per I/O thread, or empty; both speak every protocol. The sockets, the table and
    the queue are kept alive until the threads are joined. access_log: note every call, for drain_access_log. Raises ValueError for lists of
    unequal length.
    """
    cdef Shared shared
    cdef IoThread* threads[16]
    cdef readonly int count
    cdef int n_started
    cdef bint running
    cdef bint access_log
    cdef readonly tuple sockets
    cdef readonly ModelTable table
    cdef readonly ControlQueue control
    cdef NativeRecorder recorder

    def __init__(self, list http, list grpc, ModelTable table not None, ControlQueue control not None, *,
                 size_t max_body=64 << 20, size_t max_in_flight=1 << 30, int max_connections=2000, int max_streams=1000,
                 double header_timeout_s=10, double idle_timeout_s=75, double deadline_cap_s=60, size_t min_body_rate=1024,
                 int busy_poll_us=200, bint cores_are_scarce=True,
                 bint access_log=False, NativeRecorder recorder=None):
        count = max(len(http), len(grpc))
        if not 1 <= count <= 16 or len(http) not in (0, count) or len(grpc) not in (0, count):
            raise ValueError(f"{len(http)} HTTP and {len(grpc)} gRPC sockets; want 1 to 16 of each, or none of one")
        self.sockets, self.table, self.control = (http, grpc), table, control
        control.owner = self
        self.access_log = access_log
        limits = &self.shared.limits
        limits.max_body, limits.max_in_flight = max_body, max_in_flight
        limits.max_connections, limits.max_streams = max_connections, max_streams
        limits.header_ns, limits.idle_ns = <uint64_t>(header_timeout_s * 1e9), <uint64_t>(idle_timeout_s * 1e9)
        limits.deadline_cap_ns, limits.min_body_rate = <uint64_t>(deadline_cap_s * 1e9), min_body_rate
        self.shared.busy_poll_ns, self.shared.cores_are_scarce = <uint64_t>busy_poll_us * 1000, cores_are_scarce
        self.recorder = recorder
        if recorder is not None and recorder.n_rings < count:
            raise ValueError(f"a recorder of {recorder.n_rings} rings for {count} I/O threads")
        self.shared.record_page = recorder.page if recorder is not None else <uint64_t*>NULL
        self.shared.counters = <IoCounters**>calloc(16, sizeof(void*))
        if self.shared.counters == NULL:
            raise MemoryError
        for index in range(count):
            self.add_thread(index, http[index].fileno() if http else -1, grpc[index].fileno() if grpc else -1)
        self.shared.n_threads = count

    cdef int add_thread(self, int index, int http, int grpc) except -1:
        cdef IoThread* io = new IoThread()
        self.threads[index] = io
        self.count += 1
        memset(&io.hooks, 0, sizeof(io.hooks))
        memset(&io.calls, 0, sizeof(io.calls))
        memset(&io.counters, 0, sizeof(io.counters))
        memset(&io.batch, 0, sizeof(io.batch))
        io.epoll = io.mailbox.wake_fd = -1
        io.connections = io.graveyard = io.dirty = NULL
        io.pending = io.deadlines = NULL
        io.pending_tail = &io.pending
        io.snapshot = NULL
        io.draining = False
        io.n_lent = 0
        io.shadows = io.shadows_out = NULL
        io.shadows_tail = &io.shadows
        io.shadow_bytes = 0
        io.n_shadows_waiting = io.n_shadows_running = 0
        io.shadows_blocked = False
        io.ring = self.recorder.rings[index] if self.recorder is not None else <RecordRing*>NULL
        io.parked = NULL
        io.parked_tail = &io.parked
        io.n_parked = 0
        io.accept_paused = False
        io.accepting.store(1)
        io.turn_calls = 0
        io.drain_from = io.next_deadlines = io.next_sweep = io.next_second = io.poll_again = 0
        io.gap_ns = 4 * self.shared.busy_poll_ns
        io.phase.store(0)
        io.reader.turn.store(0)
        io.index, io.listener_http, io.listener_grpc = index, http, grpc
        io.shared, io.control, io.table = &self.shared, self.control.queue, &self.table.current
        self.shared.counters[index] = &io.counters
        io.hooks.limits, io.hooks.pool, io.hooks.held_bytes = &self.shared.limits, &io.calls, &io.counters.held_bytes
        set_second(io)
        dispatch_init(&io.hooks)
        if http2_init(&io.hooks) or batch_init(&io.batch) or mailbox_init(&io.mailbox):
            raise MemoryError
        if seed_random(io.hooks.random):
            raise OSError("getrandom: the kernel has no random numbers")
        if self.access_log:
            io.hooks.access = access_ring_new()
        io.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.watch(io, io.mailbox.wake_fd, &io.mailbox)
        if http >= 0:
            self.watch(io, http, &io.listener_http)
        if grpc >= 0:
            self.watch(io, grpc, &io.listener_grpc)
        return 0

    cdef int watch(self, IoThread* io, int fd, void* tag) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.ptr = tag
        if epoll_ctl(io.epoll, EPOLL_CTL_ADD, fd, &event):
            raise OSError(errno, "epoll_ctl")
        return 0

    def start(self):
        """Start the I/O threads. Raises RuntimeError when one does not start or they run already."""
        cdef int i
        if self.running:
            raise RuntimeError("the I/O threads run already")
        if self.table.n_readers:
            raise RuntimeError("the model table serves another server")
        self.running = True
        alive.add(self)
        for i in range(self.count):
            self.table.add_reader(&self.threads[i].reader)
        for i in range(self.count):
            if start_thread(&self.threads[i].thread, io_main, self.threads[i], b"io"):
                raise RuntimeError(f"I/O thread {i} does not start")
            self.n_started += 1

    def drain(self):
        """Ask clients to go, finish what is in flight, accept no more. Poll `is_accepting` to see when the listening sockets can be
        closed, `connections` to see when it is done."""
        self.set_phase(1)

    @property
    def is_accepting(self):
        """Whether an I/O thread still uses its listening sockets."""
        cdef int i
        for i in range(self.count):
            if self.threads[i].accepting.load(memory_order_acquire):
                return True
        return False

    cdef int set_phase(self, int phase) except -1:
        cdef int i
        for i in range(self.count):
            self.threads[i].phase.store(phase, memory_order_release)
            wake(self.threads[i].mailbox.wake_fd)
        return 0

    def stop(self):
        """Stop and join the I/O threads, then every instance thread; close every connection. Idempotent."""
        cdef int i
        if not self.running:
            return
        self.set_phase(2)
        with nogil:
            for i in range(self.n_started):
                thread_join(self.threads[i].thread, NULL)
        self.n_started = 0
        for i in range(self.count):
            close_all(self.threads[i])
        stop_pools()
        for i in range(self.count):
            collect_all(self.threads[i])
        self.table.forget_readers()
        self.running = False
        alive.discard(self)

    @property
    def connections(self):
        """Open connections."""
        return sum([row["accepted"] - row["closed"] for row in self.counters()])

    def counters(self):
        """One dict of counts per I/O thread. Reads are relaxed: fields may be a turn apart."""
        return [self.counters_of(i) for i in range(self.count)]

    def drain_access_log(self):
        """The calls that ended since the last time, as dicts, oldest first for each I/O thread. Empty while the access log is off.

        protocol: "http/1.1", "http/2" or "grpc". status: of HTTP, 499 for a call that ended unanswered; or the gRPC code. One caller only.
        """
        records = []
        for index in range(self.count):
            if self.threads[index].hooks.access != NULL:
                access_drain(self.threads[index].hooks.access, records)
        return records

    cdef dict counters_of(self, int index):
        cdef IoCounters* c = &self.threads[index].counters
        cdef AccessRing* access = self.threads[index].hooks.access
        return {
            "accepted": counter_read(&c.accepted), "closed": counter_read(&c.closed),
            "refused_connections": counter_read(&c.refused_connections),
            "http_requests": counter_read(&c.http_requests), "grpc_requests": counter_read(&c.grpc_requests),
            "control_calls": counter_read(&c.control_calls), "refused_in_flight": counter_read(&c.refused_in_flight),
            "refused_control": counter_read(&c.refused_control), "bytes_received": counter_read(&c.bytes_received),
            "bytes_sent": counter_read(&c.bytes_sent), "turns": counter_read(&c.turns), "inline_batches": counter_read(&c.inline_batches),
            "polls": counter_read(&c.polls), "held_bytes": counter_read(&c.held_bytes),
            "live_calls": counter_read(&self.threads[index].calls.live_calls),
            "live_requests": counter_read(&self.threads[index].calls.live_requests),
            "copied_bytes": counter_read(&self.threads[index].hooks.copied_bytes),
            "access_dropped": access.dropped.load(memory_order_relaxed) if access != NULL else 0,
        }

    def __dealloc__(self):
        cdef int i                     # never running here: see alive
        for i in range(self.count):
            http2_destroy(&self.threads[i].hooks)
            batch_destroy(&self.threads[i].batch)
            take_mail(self.threads[i])              # what Python posted after the thread had ended
            pool_clear(&self.threads[i].calls)
            access_ring_free(self.threads[i].hooks.access)
            close(self.threads[i].mailbox.wake_fd)
            close(self.threads[i].epoll)
            del self.threads[i]
        free(self.shared.counters)
