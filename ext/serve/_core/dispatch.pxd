"""What becomes of a call: the hooks that the protocols call, each handing on to the module that knows."""
from serve._core.call cimport Hooks

cdef void dispatch_init(Hooks* hooks) noexcept nogil
