"""The slow path: calls that Python answers, as frames through a bounded queue and an eventfd."""
from serve._core.call cimport ControlCall, Frame
from serve._core.posix cimport Mutex

cdef struct Queue:
    Mutex lock                      # guards everything below but wake_fd
    Frame* head
    Frame** tail
    int depth
    int limit                       # frames; cancellations always pass, there is one a call
    int wake_fd

cdef int control_submit(Queue* queue, Frame* frame) noexcept nogil      # 0: taken; -1: full, the frame is still the caller's

cdef class ControlQueue:
    cdef Queue* queue
    cdef dict exchanges             # address of ControlCall -> Exchange, while Python holds it
    cdef object owner               # keeps the mailboxes alive
    cdef void handle(self, Frame* frame, list opened) noexcept
