"""The ONNX Runtime library of the process: function table, environment, errors. Set once by load_library; NULL before."""
from serve._core.failure cimport Failure

cdef void** ort_api() noexcept nogil                                # the function table, called by position: ort_api.pxd
cdef void* ort_environment() noexcept nogil                         # OrtEnv*
cdef void* ort_cpu_memory() noexcept nogil                          # OrtMemoryInfo* of plain host memory
cdef void* ort_allocator() noexcept nogil                           # OrtAllocator* of the library's host strings and arrays
cdef int ort_check(void* status, Failure* failure) noexcept nogil   # 0; -1 with the library's text, status released

# With the GIL: the error is (code, text), or raised. All release the status.
cdef tuple take_error(void* status)
cdef int check(void* status) except -1                              # InternalError
cdef int check_setting(void* status) except -1                      # ConfigurationError
cdef str take_text(char* text)                                      # the library's string as str; frees it
