"""Calls that Python answers: handed over as frames, answered by frames (control_queue)."""
from libc.stdint cimport uint8_t

from serve._core.call cimport Call, Frame
from serve._core.io_thread cimport IoThread

cdef void open_control(IoThread* io, Call* call) noexcept nogil             # HTTP: with its whole body. gRPC: messages follow
cdef void send_down(IoThread* io, Call* call, int kind, const uint8_t* data, size_t length) noexcept nogil
cdef void control_message(IoThread* io, Call* call, const uint8_t* data, size_t length, bint packed) noexcept nogil
cdef void control_gone(IoThread* io, Call* call) noexcept nogil             # the call is about to be freed
cdef void dispatch_frame(IoThread* io, Frame* frame) noexcept nogil         # the control plane says something; takes the frame
