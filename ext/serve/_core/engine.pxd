"""A loaded version as Python holds it: builds the native Version, warms it, reads its counters."""
from serve._core.batcher cimport InstancePool
from serve._core.guard cimport NativeGuard
from serve._core.ort cimport Session
from serve._core.recorder cimport NativeRecorder
from serve._core.tensors cimport Signature
from serve._core.version cimport Version

cdef class NativeVersion:
    cdef Version* version
    cdef Signature* signature
    cdef readonly Session session
    cdef readonly InstancePool pool         # whose threads run it
    cdef readonly str model
    cdef readonly str number
    cdef readonly int max_batch_size        # rows; 0: not batched
    cdef readonly tuple inputs              # serve.types.TensorSpec
    cdef readonly tuple outputs
    cdef NativeRecorder recorder            # None: nothing of it is recorded
    cdef NativeGuard guarded                # None: its inputs are held against nothing
    cdef list kept                          # encoded names and labels that the native structs borrow
    cdef int narrow(self) except -1
    cdef int take_labels(self, dict class_labels) except -1
    cdef (int, int) queue_state(self)
