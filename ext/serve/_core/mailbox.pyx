from libc.stdlib cimport calloc, free

from libcpp.atomic cimport memory_order_acquire, memory_order_relaxed, memory_order_seq_cst

from serve._core.memory cimport buffer_free
from serve._core.posix cimport EFD_CLOEXEC, EFD_NONBLOCK, eventfd, wake

ctypedef fused Item:
    Request
    Frame


cdef Frame* frame_new(ControlCall* control, int kind) noexcept nogil:
    cdef Frame* frame = <Frame*>calloc(1, sizeof(Frame))
    if frame != NULL:
        frame.control, frame.kind = control, kind
    return frame


cdef void frame_free(Frame* frame) noexcept nogil:
    buffer_free(&frame.head)
    buffer_free(&frame.body)
    free(frame)


cdef int mailbox_init(Mailbox* mailbox) noexcept nogil:
    mailbox.requests.store(NULL)
    mailbox.frames.store(NULL)
    mailbox.sleeping.store(0)
    mailbox.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    return -1 if mailbox.wake_fd < 0 else 0


cdef inline void wake_if_sleeping(Mailbox* mailbox) noexcept nogil:
    # Pairs with the loop: it announces its sleep, then looks into the boxes once more. Both sides are sequentially consistent.
    if mailbox.sleeping.load(memory_order_seq_cst) and mailbox.sleeping.exchange(0, memory_order_seq_cst):
        wake(mailbox.wake_fd)


cdef void mailbox_post(Mailbox* mailbox, Request* first, Request* last) noexcept nogil:
    """Post a chain. `first` is the newest: taking reverses. The chain is the I/O thread's from the exchange on."""
    cdef Request* before = mailbox.requests.load(memory_order_relaxed)
    while True:
        last.next = before
        if mailbox.requests.compare_exchange_weak(before, first, memory_order_seq_cst, memory_order_relaxed):
            break
    wake_if_sleeping(mailbox)


cdef void mailbox_post_frame(Mailbox* mailbox, Frame* frame) noexcept nogil:
    cdef Frame* before = mailbox.frames.load(memory_order_relaxed)
    while True:
        frame.next = before
        if mailbox.frames.compare_exchange_weak(before, frame, memory_order_seq_cst, memory_order_relaxed):
            break
    wake_if_sleeping(mailbox)


cdef Item* oldest_first(Item* newest) noexcept nogil:
    cdef Item* oldest = NULL
    cdef Item* following
    while newest != NULL:
        following = newest.next
        newest.next = oldest
        oldest = newest
        newest = following
    return oldest


cdef Request* mailbox_take(Mailbox* mailbox) noexcept nogil:
    if mailbox.requests.load(memory_order_relaxed) == NULL:     # the common case, without the exchange's bus lock
        return NULL
    return oldest_first(mailbox.requests.exchange(NULL, memory_order_acquire))


cdef Frame* mailbox_take_frames(Mailbox* mailbox) noexcept nogil:
    if mailbox.frames.load(memory_order_relaxed) == NULL:
        return NULL
    return oldest_first(mailbox.frames.exchange(NULL, memory_order_acquire))
