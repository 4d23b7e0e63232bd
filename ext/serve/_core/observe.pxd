"""What is seen of an answer in the thread that ran it: by a judge, its judged output's bin and whether every float is finite; by a shadow's
comparison, what the primary answered and what the shadow did."""
from libc.stdint cimport int64_t

from serve._core.call cimport Request
from serve._core.runner cimport Runner
from serve._core.tensors cimport Tensor

# For requests whose plan counts for a judge: sets request.routed.bin and is_not_finite from rows [first, first + rows of the request) of
# the runner's outputs.
cdef void observe_answer(Request* request, Runner* runner, int64_t first) noexcept nogil
# For requests with a ShadowCopy: keeps what a primary answered; holds a shadow's answer against it. True: it is a shadow, nothing is to be
# encoded.
cdef bint observe_pair(Request* request, Runner* runner, int64_t first) noexcept nogil

# serve.traffic.JudgedOutput of the first row of an output: a bin below n_bins; -1: it has none (NaN, no element).
cdef int output_bin(int kind, const Tensor* output, bint batched, int n_bins) noexcept nogil
cdef bint has_not_finite(const Tensor* output) noexcept nogil       # NaN or an infinity; False for what is no float


cdef inline bint is_shadow(const Request* request) noexcept nogil:
    return request.shadow != NULL and request.shadow.is_shadow
