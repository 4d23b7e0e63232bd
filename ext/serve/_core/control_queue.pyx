cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free

from serve._core.control_frame cimport (
    FRAME_CANCEL, FRAME_END, FRAME_HALF_CLOSE, FRAME_MESSAGE, FRAME_OPEN, FRAME_RELEASE, FRAME_RESPONSE, FRAME_TAKEN)
from serve._core.mailbox cimport frame_free, frame_new, mailbox_post_frame
from serve._core.memory cimport Buffer, buffer_append
from serve._core.posix cimport EFD_CLOEXEC, EFD_NONBLOCK, close, drain, eventfd, mutex_destroy, mutex_init, mutex_lock, mutex_unlock, wake


cdef int control_submit(Queue* queue, Frame* frame) noexcept nogil:
    cdef bint full, was_empty
    frame.next = NULL
    mutex_lock(&queue.lock)
    full = queue.depth >= queue.limit and frame.kind != FRAME_CANCEL
    was_empty = queue.head == NULL
    if not full:
        queue.tail[0] = frame
        queue.tail = &frame.next
        queue.depth += 1
    mutex_unlock(&queue.lock)
    if full:
        return -1
    if was_empty:
        wake(queue.wake_fd)
    return 0


cdef int fill(Buffer* buffer, bytes data) except -1:
    if buffer_append(buffer, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
        raise MemoryError
    return 0


@cython.no_gc_clear                                     # its owner is needed to release it, in whatever cycle it ends
cdef class Exchange:
    """One call in Python's hands: read its fields, answer it once. Dropped unanswered, it ends as an internal error.

    protocol: "http" or "grpc". HTTP: `respond` once. gRPC: `send` any number of messages, then `finish` once; tell of each message that
    is `taken`, or no more come when there are 64, or 1 MiB of them.
    """
    cdef ControlCall* control
    cdef object owner                       # keeps the mailbox alive
    cdef bint is_finished
    cdef readonly str protocol
    cdef readonly str method
    cdef readonly str path
    cdef readonly str query
    cdef readonly dict headers
    cdef readonly bytes body
    cdef readonly unsigned long long deadline_ns
    cdef object sink
    cdef list early                          # events that came before anybody asked for them

    cdef int post(self, Frame* frame) except -1:
        mailbox_post_frame(self.control.mailbox, frame)
        return 0

    cdef Frame* frame(self, int kind) except NULL:
        if self.is_finished:
            raise RuntimeError(f"{self.path} was answered before")
        cdef Frame* frame = frame_new(self.control, kind)
        if frame == NULL:
            raise MemoryError
        return frame

    def respond(self, int status, bytes body not None, headers=()):
        """The whole HTTP answer. headers: pairs of str, names in lower case."""
        pairs = list(headers)
        if any([mark in part for pair in pairs for part in pair for mark in "\0\r\n"]):
            raise ValueError(f"{self.path}: a header of the answer has a NUL or a line end in it: {pairs}")
        text = "".join([f"{name}\0{value}\0" for name, value in pairs]).encode("latin-1")
        cdef Frame* frame = self.frame(FRAME_RESPONSE)
        frame.status = status
        fill(&frame.head, text)
        fill(&frame.body, body)
        self.is_finished = True
        self.post(frame)

    def send(self, bytes message not None):
        """One gRPC message."""
        cdef Frame* frame = self.frame(FRAME_MESSAGE)
        fill(&frame.body, message)
        self.post(frame)

    def taken(self, size_t n_bytes):
        """A message of so many bytes that `events` was told of is worked on: another may come."""
        cdef Frame* frame
        if self.is_finished:
            return
        frame = self.frame(FRAME_TAKEN)
        frame.taken = n_bytes
        self.post(frame)

    def finish(self, int code=0, str text=""):
        """gRPC status and message; nothing follows."""
        if not 0 <= code <= 16:
            raise ValueError(f"gRPC status {code}; want 0 to 16")
        cdef Frame* frame = self.frame(FRAME_END)
        frame.status = code
        fill(&frame.head, text.encode() + b"\0")
        self.is_finished = True
        self.post(frame)

    @property
    def finished(self):
        return self.is_finished

    @property
    def events(self):
        """Set by the control plane, called with ("message", bytes), ("half_close", b"") or ("cancel", b""); earlier ones are told then."""
        return self.sink

    @events.setter
    def events(self, sink not None):
        self.sink = sink
        early, self.early = self.early, []
        for kind, data in early:
            sink(kind, data)

    cdef int tell(self, str kind, bytes data) except -1:
        if self.sink is None:
            self.early.append((kind, data))
        else:
            self.sink(kind, data)
        return 0

    def __dealloc__(self):
        cdef Frame* frame
        if self.control == NULL:
            return
        if not self.is_finished:
            frame = frame_new(self.control, FRAME_END if self.protocol == "grpc" else FRAME_RESPONSE)
            if frame != NULL:
                frame.status = 13 if self.protocol == "grpc" else 500
                mailbox_post_frame(self.control.mailbox, frame)
        frame = frame_new(self.control, FRAME_RELEASE)
        if frame != NULL:
            mailbox_post_frame(self.control.mailbox, frame)


cdef Exchange exchange_new(Frame* frame, object owner):
    cdef Exchange exchange = Exchange.__new__(Exchange)
    exchange.owner = owner
    parts = PyBytes_FromStringAndSize(<char*>frame.head.data, frame.head.length).decode("latin-1").split("\0")
    exchange.protocol = "grpc" if frame.is_grpc else "http"
    exchange.method, exchange.path, exchange.query = parts[0], parts[1], parts[2]
    exchange.headers = {}
    for name, value in zip(parts[3::2], parts[4::2]):
        exchange.headers[name] = f"{exchange.headers[name]}, {value}" if name in exchange.headers else value
    exchange.body = PyBytes_FromStringAndSize(<char*>frame.body.data, frame.body.length)
    exchange.deadline_ns = frame.deadline_ns
    exchange.early = []
    exchange.control = frame.control                 # last: nothing above may answer it
    return exchange


cdef class ControlQueue:
    """Frames from the I/O threads. `take` from the thread that runs the event loop only."""

    def __cinit__(self, int limit=1024):
        self.exchanges = {}
        self.queue = <Queue*>calloc(1, sizeof(Queue))
        if self.queue == NULL:
            raise MemoryError
        mutex_init(&self.queue.lock, NULL)
        self.queue.tail = &self.queue.head
        self.queue.limit = limit
        self.queue.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)

    def fileno(self):
        """An eventfd that is readable while frames wait: for `loop.add_reader`."""
        return self.queue.wake_fd

    def take(self):
        """The new exchanges since the last call; events of older ones are handed to their `events`.

        What an `events` raises goes to sys.unraisablehook.
        """
        cdef Frame* frame
        cdef Frame* following
        drain(self.queue.wake_fd)
        mutex_lock(&self.queue.lock)                 # native threads hold it for a few instructions: no need to drop the GIL
        frame = self.queue.head
        self.queue.head = NULL
        self.queue.tail = &self.queue.head
        self.queue.depth = 0
        mutex_unlock(&self.queue.lock)
        opened = []
        while frame != NULL:
            following = frame.next
            self.handle(frame, opened)
            frame_free(frame)
            frame = following
        return opened

    cdef void handle(self, Frame* frame, list opened) noexcept:     # what one call's `events` raises costs no other call anything
        cdef Exchange exchange
        key = <uintptr_t>frame.control
        if frame.kind == FRAME_OPEN:
            exchange = exchange_new(frame, self.owner)
            self.exchanges[key] = exchange
            opened.append(exchange)
            return
        exchange = self.exchanges.get(key)
        if exchange is None:
            return
        kind = {FRAME_MESSAGE: "message", FRAME_HALF_CLOSE: "half_close", FRAME_CANCEL: "cancel"}[frame.kind]
        exchange.tell(kind, PyBytes_FromStringAndSize(<char*>frame.body.data, frame.body.length))

    def release(self, Exchange exchange not None):
        """The control plane is done with it: no more events."""
        self.exchanges.pop(<uintptr_t>exchange.control, None)

    def __dealloc__(self):
        cdef Frame* frame
        if self.queue == NULL:
            return
        while self.queue.head != NULL:
            frame = self.queue.head
            self.queue.head = frame.next
            free(frame.control if frame.kind == FRAME_OPEN else NULL)
            frame_free(frame)
        close(self.queue.wake_fd)
        mutex_destroy(&self.queue.lock)
        free(self.queue)
