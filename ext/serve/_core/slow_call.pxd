"""Calls that Python answers: handed over as frames, answered by frames (control_queue)."""
from serve._core.call cimport Call, Frame
from serve._core.io_thread cimport IoThread

cdef void open_control(IoThread* io, Call* call) noexcept nogil             # HTTP: with its whole body. gRPC: messages follow
cdef void control_data(IoThread* io, Call* call) noexcept nogil             # gRPC: call.body grew
cdef void control_end(IoThread* io, Call* call) noexcept nogil              # gRPC: the client has sent everything
cdef void control_gone(IoThread* io, Call* call) noexcept nogil             # the call is about to be freed
cdef void dispatch_frame(IoThread* io, Frame* frame) noexcept nogil         # the control plane says something; takes the frame
