"""ONNX Runtime through its C API, by index: library, environment, session. Index table: the released header, append-only."""
from libc.stdint cimport int64_t

from serve._core.failure cimport Failure
from serve._core.tensors cimport Signature

cdef void** ort_api() noexcept nogil                                # the function table; NULL before load_library
cdef int ort_check(void* status, Failure* failure) noexcept nogil   # 0; -1 with the library's text, status released

cdef class Session:
    """A loaded model. Runs may be concurrent. Immutable after __init__."""
    cdef void* handle               # OrtSession*; released in __dealloc__
    cdef readonly str path
    cdef readonly str device        # "cpu" or "cuda:N"
    cdef readonly tuple inputs      # serve.types.TensorSpec
    cdef readonly tuple outputs
    cdef list names                 # the encoded names that input_names and output_names borrow
    cdef int n_inputs
    cdef int n_outputs
    cdef const char** input_names   # [n_inputs], for Run
    cdef const char** output_names
    cdef Signature* signature_for(self, int64_t max_batch) except NULL      # caller frees with signature_free

cdef void signature_free(Signature* signature) noexcept nogil
