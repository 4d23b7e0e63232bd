from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from serve._core.compare cimport disagreement, element_value, keep_outputs, largest
from serve._core.failure cimport Failure
from serve._core.hash cimport hash64
from serve._core.memory cimport slice_make
from serve._core.routing cimport OUTPUT_CLASS, OUTPUT_FLOAT, OUTPUT_INTEGER, OUTPUT_NONE, OUTPUT_TEXT, Plan, Routed, ShadowCopy
from serve._core.runner cimport runner_slice
from serve._core.tensors cimport (
    DT_BF16, DT_BYTES, DT_FP16, DT_FP32, DT_FP64, MAX_RANK, Signature, datatype_from_name, datatype_name, datatype_size, element_count)

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <stdint.h>
    // An exponent of nothing but ones is an infinity or a NaN. -O3 for this alone: the loop is a vector's worth an instruction then.
    #define HEADRACE_NOT_FINITE(NAME, TYPE) \\
        __attribute__((optimize("O3"))) static bool NAME(const void *data, size_t n, TYPE exponent) { \\
            const TYPE *values = static_cast<const TYPE *>(data); \\
            TYPE found = 0; \\
            for (size_t i = 0; i < n; i++) \\
                found |= (values[i] & exponent) == exponent; \\
            return found != 0; \\
        }
    HEADRACE_NOT_FINITE(headrace_not_finite_16, uint16_t)
    HEADRACE_NOT_FINITE(headrace_not_finite_32, uint32_t)
    HEADRACE_NOT_FINITE(headrace_not_finite_64, uint64_t)
    """
    bint not_finite_16 "headrace_not_finite_16"(const void* data, size_t n, uint16_t exponent)
    bint not_finite_32 "headrace_not_finite_32"(const void* data, size_t n, uint32_t exponent)
    bint not_finite_64 "headrace_not_finite_64"(const void* data, size_t n, uint64_t exponent)


cdef bint has_not_finite(const Tensor* output) noexcept nogil:
    if output.datatype == DT_FP32:
        return not_finite_32(output.data, output.nbytes // 4, 0x7F800000)
    if output.datatype == DT_FP16:
        return not_finite_16(output.data, output.nbytes // 2, 0x7C00)
    if output.datatype == DT_BF16:
        return not_finite_16(output.data, output.nbytes // 2, 0x7F80)
    if output.datatype == DT_FP64:
        return not_finite_64(output.data, output.nbytes // 8, <uint64_t>0x7FF << 52)
    return False


cdef int float_bin(double number) noexcept nogil:
    """The upper half of the float32, its bfloat16 prefix, in the order of the numbers: both zeros are one."""
    cdef float value = <float>number
    cdef uint32_t bits
    if value != value:
        return -1
    if value == 0:
        value = 0
    memcpy(&bits, &value, 4)
    bits >>= 16
    return <int>(~bits & 0xFFFF if bits & 0x8000 else bits | 0x8000)


cdef int text_bin(const Tensor* output, int n_bins) noexcept nogil:
    cdef uint32_t length
    if output.datatype != DT_BYTES or output.nbytes < 4:
        return -1
    memcpy(&length, output.data, 4)
    return <int>(hash64(slice_make(output.data + 4, min(<size_t>length, output.nbytes - 4)), 0) % <uint64_t>n_bins)


cdef int output_bin(int kind, const Tensor* output, bint batched, int n_bins) noexcept nogil:
    cdef int64_t width = output.shape[output.rank - 1] if output.rank > (1 if batched else 0) else 1
    cdef double value
    cdef int64_t found = -1
    if kind == OUTPUT_TEXT:
        return text_bin(output, n_bins)
    if output.datatype == DT_BYTES or width < 1 or output.nbytes < <size_t>width * datatype_size(output.datatype):
        return -1
    value = element_value(output.datatype, output.data)
    if kind == OUTPUT_CLASS:
        found = largest(output.datatype, output.data, width)
    elif kind == OUTPUT_FLOAT:
        found = float_bin(value)
    elif kind == OUTPUT_INTEGER and value == value:
        found = <int64_t>min(max(value, 0.0), <double>(n_bins - 1))
    return <int>min(found, <int64_t>(n_bins - 1))


cdef void observe_answer(Request* request, Runner* runner, int64_t first) noexcept nogil:
    cdef Routed* routed = &request.routed
    cdef const Plan* plan = routed.plan
    cdef const Signature* signature = request.version.signature
    cdef int64_t[MAX_RANK] shape
    cdef Tensor output
    cdef Failure failure
    cdef int i
    if routed.arm >= plan.n_variants or not plan.counts_all and routed.arm != plan.candidate and routed.arm != plan.control:
        return
    for i in range(signature.n_outputs):
        if i != plan.judged_output and (routed.is_not_finite or not plan.check_finite):
            continue
        if runner_slice(runner, i, first, request.binding.rows, shape, &output, &failure):
            continue
        if i == plan.judged_output and plan.output_kind != OUTPUT_NONE:
            routed.bin = output_bin(plan.output_kind, &output, signature.max_batch > 0, plan.n_bins)
        if plan.check_finite and not routed.is_not_finite:
            routed.is_not_finite = has_not_finite(&output)


cdef bint observe_pair(Request* request, Runner* runner, int64_t first) noexcept nogil:
    cdef ShadowCopy* copy = request.shadow
    if not copy.is_shadow:
        copy.primary = keep_outputs(copy.target.comparison, runner, first, request.binding.rows, &request.arena)
        return False
    copy.disagreed = disagreement(copy.target.comparison, copy.primary, runner, first, request.binding.rows,
                                  request.version.signature.max_batch > 0)
    return True


# --- for the tests ------------------------------------------------------------------------------------------------------

cdef dict OUTPUT_KINDS = {"class": OUTPUT_CLASS, "integer": OUTPUT_INTEGER, "float": OUTPUT_FLOAT, "text": OUTPUT_TEXT}


def observe_for_test(str kind not None, str datatype not None, list shape not None, bytes content not None, *, bint batched=True,
                     int n_bins=65536):
    """(bin, whether a NaN or an infinity is in it) of an answer's output."""
    cdef Tensor output
    cdef int64_t[MAX_RANK] dims
    cdef uint64_t elements
    cdef bytes name = datatype.encode()
    memset(&output, 0, sizeof(output))
    output.datatype = datatype_from_name(slice_make(<const char*>name, len(name)))
    output.rank, output.shape = len(shape), dims
    for i, size in enumerate(shape):
        dims[i] = size
    output.data, output.nbytes = <const uint8_t*><const char*>content, len(content)      # at a multiple of 8, as a runner's are
    if element_count(dims, output.rank, &elements) or (
            output.datatype != DT_BYTES and elements * datatype_size(output.datatype) != output.nbytes):
        raise ValueError(f"{len(content)} bytes are no {datatype_name(output.datatype).decode()} of shape {shape}")
    return output_bin(OUTPUT_KINDS[kind], &output, batched, n_bins), has_not_finite(&output)
