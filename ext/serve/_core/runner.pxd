"""Buffers and values of one concurrent run of a session: gather, run, slices of the answer. One thread at a time."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Arena
from serve._core.ort cimport Session
from serve._core.tensors cimport Signature, Tensor

cdef struct RunTimes:
    # Monotonic ns.
    uint64_t gathered
    uint64_t ran
    uint64_t scattered              # outputs readable on the host (BYTES framed, device copied)

cdef struct Runner                  # private to runner.pyx

cdef Runner* runner_new(Session session, const Signature* signature) except NULL        # the caller keeps both alive
cdef void runner_free(Runner* runner) noexcept nogil
# Runs `count` bound requests as one batch: inputs[r][i] is input i of request r, rows[r] its rows. -1: failure says why.
cdef int runner_run(Runner* runner, Tensor*** inputs, const int64_t* rows, int count, RunTimes* times, Failure* failure) noexcept nogil
# A view of rows [first, first + rows) of output `index`; shape is the caller's, of MAX_RANK; valid until the next runner_run.
# Unbatched: everything.
cdef int runner_slice(Runner* runner, int index, int64_t first, int64_t rows, int64_t* shape, Tensor* view,
                      Failure* failure) noexcept nogil
# Gives back what the last run left (outputs of dynamic shape) before the next run would; slices of it are gone. Optional.
cdef void runner_release(Runner* runner) noexcept nogil
cdef uint64_t runner_copied_bytes(const Runner* runner) noexcept nogil      # debug builds: bytes gathered, ever

# For the harnesses of the tests: tensors of a list of (shape, bytes), in the arena; names and datatypes are not set.
cdef Tensor** native_tensors(Arena* arena, list tensors) except NULL
