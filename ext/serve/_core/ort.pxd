"""Sessions of ONNX Runtime: loaded models, with what they take and give. The library itself is ort_library."""
from libc.stdint cimport int64_t

from serve._core.tensors cimport Signature

cdef class Session:
    """A loaded model. Runs may be concurrent. Immutable after __cinit__."""
    cdef void* handle               # OrtSession*; released in __dealloc__
    cdef readonly str path
    cdef readonly str device        # "cpu" or "cuda:N"
    cdef readonly int device_id     # N; -1 on the CPU
    cdef readonly tuple inputs      # serve.types.TensorSpec
    cdef readonly tuple outputs
    cdef readonly dict dimensions   # tensor name -> names of its dimensions, "" where the model gives none
    cdef readonly dict metadata     # the model's own key -> value
    cdef readonly str producer
    cdef readonly str graph_name
    cdef readonly str description
    cdef readonly int64_t model_version
    cdef list names                 # the encoded names that input_names and output_names borrow
    cdef int n_inputs
    cdef int n_outputs
    cdef const char** input_names   # [n_inputs], for Run
    cdef const char** output_names
    cdef Signature* signature_for(self, int64_t max_batch) except NULL      # caller frees with signature_free

cdef void signature_free(Signature* signature) noexcept nogil
