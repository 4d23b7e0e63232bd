"""What comes back to an I/O thread: finished requests, and frames of the control plane. Any thread posts, its own takes."""
from serve._core.call cimport ControlCall, Frame, Mailbox, Request

cdef Frame* frame_new(ControlCall* control, int kind) noexcept nogil
cdef void frame_free(Frame* frame) noexcept nogil

cdef int mailbox_init(Mailbox* mailbox) noexcept nogil
cdef void mailbox_post(Mailbox* mailbox, Request* first, Request* last) noexcept nogil
cdef void mailbox_post_frame(Mailbox* mailbox, Frame* frame) noexcept nogil
cdef Request* mailbox_take(Mailbox* mailbox) noexcept nogil                         # oldest first
cdef Frame* mailbox_take_frames(Mailbox* mailbox) noexcept nogil                    # oldest first
