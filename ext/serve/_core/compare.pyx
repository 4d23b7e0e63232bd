"""Disagreement of two answers under rules of serve.traffic.CompareRule.

argmax and top_k look at every vector along the last dimension; a row disagrees when one of its vectors does.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from serve._core.failure cimport Failure
from serve._core.memory cimport arena_alloc, arena_free, slice_equal
from serve._core.ort cimport Session, signature_free
from serve._core.runner cimport RunTimes, native_tensors, runner_free, runner_new, runner_run, runner_slice
from serve._core.tensors cimport *

from serve.errors import InternalError, InvalidArgument
from serve import traffic

cdef extern from "compare_values.hpp" namespace "headrace" nogil:
    double value_of "headrace::element_value"(int datatype, const uint8_t* at)
    int64_t largest_of "headrace::largest"(int datatype, const uint8_t* values, int64_t n)
    bint numbers_differ(const ValueRule& rule, int datatype, const uint8_t* a, const uint8_t* b, int64_t n, int64_t width)

cdef struct Pair:
    # One output on both sides, while rows are compared.
    Tensor right
    int64_t[MAX_RANK] shape             # of right
    int64_t elements                    # of a row
    int64_t width                       # of its last dimension
    size_t left_at                      # BYTES: where the next row begins
    size_t right_at


cdef double element_value(int datatype, const uint8_t* at) noexcept nogil:
    return value_of(datatype, at)


cdef int64_t largest(int datatype, const uint8_t* values, int64_t n) noexcept nogil:
    return largest_of(datatype, values, n)


# --- rows ---------------------------------------------------------------------------------------------------------------

cdef size_t framed_bytes(const Tensor* tensor, size_t at, int64_t elements) noexcept nogil:
    """Bytes of so many BYTES elements from `at` on; what is torn ends with the tensor."""
    cdef size_t end = at
    cdef uint32_t length
    while elements > 0 and tensor.nbytes - end >= 4:
        memcpy(&length, tensor.data + end, 4)
        end += min(<size_t>4 + length, tensor.nbytes - end)
        elements -= 1
    return end - at


cdef bint texts_differ(Pair* pair, const Tensor* left) noexcept nogil:
    """The next row of both, and on to the one behind it."""
    cdef size_t n = framed_bytes(left, pair.left_at, pair.elements)
    cdef size_t m = framed_bytes(&pair.right, pair.right_at, pair.elements)
    cdef bint differ = n != m or (n and memcmp(left.data + pair.left_at, pair.right.data + pair.right_at, n) != 0)
    pair.left_at += n
    pair.right_at += m
    return differ


cdef bint row_differs(const CompareOutput* rule, Pair* pair, const Tensor* left, int64_t row) noexcept nogil:
    cdef size_t nbytes = <size_t>pair.elements * datatype_size(left.datatype)
    cdef size_t at = <size_t>row * nbytes
    if left.datatype == DT_BYTES:
        return texts_differ(pair, left)
    if nbytes == 0:
        return False
    if rule.values.kind == COMPARE_EXACT:
        return memcmp(left.data + at, pair.right.data + at, nbytes) != 0
    return numbers_differ(rule.values, left.datatype, left.data + at, pair.right.data + at, pair.elements, pair.width)


cdef bint open_pair(const CompareOutput* rule, Pair* pair, const Tensor* left, Runner* runner, int64_t first, int64_t rows,
                    bint batched) noexcept nogil:
    """False: the two cannot be held against each other."""
    cdef Failure failure
    cdef uint64_t elements
    if runner_slice(runner, rule.right, first, rows, pair.shape, &pair.right, &failure):
        return False
    if left.datatype != pair.right.datatype or left.rank != pair.right.rank:
        return False
    if left.rank and memcmp(left.shape, pair.shape, left.rank * sizeof(int64_t)) != 0:
        return False
    if element_count(left.shape, left.rank, &elements) or (batched and (left.rank == 0 or left.shape[0] != rows)):
        return False
    pair.elements = <int64_t>elements // (rows if batched else 1)
    pair.width = left.shape[left.rank - 1] if left.rank > (1 if batched else 0) else 1
    pair.left_at = pair.right_at = 0
    return left.datatype == DT_BYTES or left.nbytes == pair.right.nbytes == elements * datatype_size(left.datatype)


cdef uint64_t disagreement(const Comparison* comparison, const Tensor* kept, Runner* runner, int64_t first, int64_t rows,
                           bint batched) noexcept nogil:
    cdef Pair[MAX_TENSORS] pairs
    cdef int64_t n_rows = rows if batched else 1
    cdef int64_t row, differing = 0
    cdef int i
    cdef bint differs
    for i in range(comparison.n):
        if not open_pair(&comparison.outputs[i], &pairs[i], &kept[i], runner, first, rows, batched):
            return ALL_ROWS
    for row in range(n_rows):
        differs = False
        for i in range(comparison.n):                       # each one: the cursors of BYTES go on
            if not differs or kept[i].datatype == DT_BYTES:
                differs |= row_differs(&comparison.outputs[i], &pairs[i], &kept[i], row)
        differing += differs
    return <uint64_t>differing * ALL_ROWS // <uint64_t>n_rows if n_rows > 0 else 0


# --- what is kept of the primary ----------------------------------------------------------------------------------------

cdef int find_output(const CompareOutput* rule, Runner* runner, int64_t first, int64_t rows, int64_t* shape, Tensor* view) noexcept nogil:
    """The output of the rule's name; where the comparison expects it in nearly every case."""
    cdef Failure failure
    cdef int i = 0
    if runner_slice(runner, rule.left, first, rows, shape, view, &failure) == 0 and slice_equal(view.name, rule.name):
        return 0
    while runner_slice(runner, i, first, rows, shape, view, &failure) == 0:
        if slice_equal(view.name, rule.name):
            return 0
        i += 1
    return -1


cdef Tensor* keep_outputs(const Comparison* comparison, Runner* runner, int64_t first, int64_t rows, Arena* arena) noexcept nogil:
    cdef Tensor* kept = <Tensor*>arena_alloc(arena, comparison.n * sizeof(Tensor))
    cdef int64_t[MAX_RANK] shape
    cdef Tensor view
    cdef uint8_t* data
    cdef int i
    if kept == NULL:
        return NULL
    for i in range(comparison.n):
        if find_output(&comparison.outputs[i], runner, first, rows, shape, &view):
            return NULL
        kept[i] = view
        kept[i].shape = <int64_t*>arena_alloc(arena, <size_t>view.rank * sizeof(int64_t))
        data = <uint8_t*>arena_alloc(arena, view.nbytes)
        if kept[i].shape == NULL or data == NULL:
            return NULL
        memcpy(kept[i].shape, shape, <size_t>view.rank * sizeof(int64_t))
        if view.nbytes:
            memcpy(data, view.data, view.nbytes)
        kept[i].data = data
    return kept


# --- rules --------------------------------------------------------------------------------------------------------------

cdef dict KINDS = {"argmax": COMPARE_ARGMAX, "tolerance": COMPARE_TOLERANCE, "top_k": COMPARE_TOP_K, "exact": COMPARE_EXACT}


cdef str text_of(Slice name):
    return (<const char*>name.data)[:name.length].decode("utf-8", "replace")


cdef int index_of(const Signature* signature, bytes name):
    cdef int i
    for i in range(signature.n_outputs):
        if name == (<const char*>signature.outputs[i].name.data)[:signature.outputs[i].name.length]:
            return i
    return -1


cdef bint is_float(int datatype) noexcept nogil:
    return datatype in (DT_FP16, DT_BF16, DT_FP32, DT_FP64)


cdef object default_rule(const TensorSpec* spec):
    """serve.traffic.Shadow says which."""
    name = text_of(spec.name)
    if not is_float(spec.datatype):
        return traffic.CompareRule(name, "exact")
    if spec.rank >= 2 and spec.shape[spec.rank - 1] > 1:
        return traffic.CompareRule(name, "argmax")
    return traffic.CompareRule(name, "tolerance", atol=1e-5, rtol=1e-3)


cdef int64_t width_of(const TensorSpec* spec, bint batched) noexcept nogil:
    """Elements of the last dimension; 1: there is only the batch. -1: dynamic."""
    return spec.shape[spec.rank - 1] if spec.rank > (1 if batched else 0) else 1


cdef int check_rule(object rule, const TensorSpec* spec, bint batched) except -1:
    """A rule that could never find a difference would be a comparison that always passes."""
    cdef int64_t width = width_of(spec, batched)
    where = f"rule {rule.rule} of output {rule.output!r}"
    if rule.rule not in KINDS:
        raise InvalidArgument(f"{where}: want argmax, tolerance, top_k or exact")
    if rule.rule == "exact":
        return 0
    if spec.datatype in (DT_BYTES, DT_BOOL):
        raise InvalidArgument(f"{where}: its datatype is {datatype_name(spec.datatype).decode()}, which only `exact` compares")
    if rule.rule == "argmax" and width == 1:
        raise InvalidArgument(f"{where}: a row has one value, so that it always agrees; use tolerance or exact")
    if rule.rule == "top_k" and not 1 <= rule.k <= MAX_TOP_K:
        raise InvalidArgument(f"{where}: k is {rule.k}; want 1 to {MAX_TOP_K}")
    if rule.rule == "top_k" and 0 <= width <= rule.k:
        raise InvalidArgument(f"{where}: the {rule.k} largest of {width} values always agree; use a smaller k")
    if rule.rule == "top_k" and not 0 < rule.min_overlap <= 1:
        raise InvalidArgument(f"{where}: min_overlap is {rule.min_overlap}; want more than 0, at most 1")
    return 0


cdef Comparison* comparison_new(const Signature* left, const Signature* right, tuple rules) except NULL:
    cdef Comparison* comparison
    cdef CompareOutput* output
    if not rules:
        rules = tuple([default_rule(&left.outputs[i]) for i in range(left.n_outputs)
                       if index_of(right, text_of(left.outputs[i].name).encode()) >= 0])
    if not 1 <= len(rules) <= MAX_TENSORS:
        raise InvalidArgument(f"{len(rules)} outputs to compare; want 1 to {MAX_TENSORS} that both versions have")
    comparison = <Comparison*>calloc(1, sizeof(Comparison))
    if comparison == NULL:
        raise MemoryError
    try:
        comparison.outputs = <CompareOutput*>calloc(len(rules), sizeof(CompareOutput))
        if comparison.outputs == NULL:
            raise MemoryError
        for rule in rules:
            output = &comparison.outputs[comparison.n]
            output.left, output.right = index_of(left, rule.output.encode()), index_of(right, rule.output.encode())
            if output.left < 0 or output.right < 0:
                raise InvalidArgument(f"output {rule.output!r} is to be compared, and one of the two versions has none of that name")
            check_rule(rule, &left.outputs[output.left], left.max_batch > 0)
            output.name = right.outputs[output.right].name
            output.values.kind, output.values.k = KINDS[rule.rule], rule.k
            output.values.atol, output.values.rtol, output.values.min_overlap = rule.atol, rule.rtol, rule.min_overlap
            comparison.n += 1
    except BaseException:
        comparison_free(comparison)
        raise
    return comparison


cdef void comparison_free(Comparison* comparison) noexcept nogil:
    if comparison != NULL:
        free(comparison.outputs)
        free(comparison)


# --- for the tests: two sessions, driven from Python --------------------------------------------------------------------

cdef class CompareHarness:
    """Runners of a primary and a shadow with the given max_batch (0: not batched), and a comparison under rules."""
    cdef Session left
    cdef Session right
    cdef Signature* left_signature
    cdef Signature* right_signature
    cdef Runner* left_runner
    cdef Runner* right_runner
    cdef Comparison* comparison

    def __cinit__(self, Session left not None, Session right not None, int64_t max_batch, tuple rules=()):
        self.left, self.right = left, right
        self.left_signature, self.right_signature = left.signature_for(max_batch), right.signature_for(max_batch)
        self.comparison = comparison_new(self.left_signature, self.right_signature, rules)
        self.left_runner, self.right_runner = runner_new(left, self.left_signature), runner_new(right, self.right_signature)

    def __dealloc__(self):
        comparison_free(self.comparison)
        runner_free(self.left_runner)
        runner_free(self.right_runner)
        if self.left_signature != NULL:
            signature_free(self.left_signature)
        if self.right_signature != NULL:
            signature_free(self.right_signature)

    @property
    def rules(self):
        """(output, left, right, kind) of each."""
        return [(text_of(o.name), o.left, o.right, o.values.kind) for o in self.comparison.outputs[:self.comparison.n]]

    def compare(self, list left, list right):
        """Millionths of the rows that disagree, for each request. left, right: requests, each a list of (shape, bytes) per input."""
        cdef Arena arena
        cdef Tensor*** inputs
        cdef Tensor** kept
        cdef int64_t* rows
        cdef int n = len(left)
        cdef int64_t first = 0
        cdef bint batched = self.left_signature.max_batch > 0
        memset(&arena, 0, sizeof(arena))
        try:
            inputs = <Tensor***>arena_alloc(&arena, n * sizeof(void*))
            kept = <Tensor**>arena_alloc(&arena, n * sizeof(void*))
            rows = <int64_t*>arena_alloc(&arena, n * sizeof(int64_t))
            run_requests(self.left_runner, &arena, left, inputs, rows, batched)
            for i in range(n):
                kept[i] = keep_outputs(self.comparison, self.left_runner, first, rows[i], &arena)
                if kept[i] == NULL:
                    raise InternalError("the outputs cannot be kept")
                first += rows[i]
            run_requests(self.right_runner, &arena, right, inputs, rows, batched)
            first = 0
            found = []
            for i in range(n):
                found.append(disagreement(self.comparison, kept[i], self.right_runner, first, rows[i], batched))
                first += rows[i]
            return found
        finally:
            arena_free(&arena)


cdef int run_requests(Runner* runner, Arena* arena, list requests, Tensor*** inputs, int64_t* rows, bint batched) except -1:
    cdef RunTimes times
    cdef Failure failure
    for i, request in enumerate(requests):
        inputs[i] = native_tensors(arena, request)
        rows[i] = request[0][0][0] if batched else 1
    if runner_run(runner, inputs, rows, len(requests), &times, &failure):
        raise InternalError(failure.text.decode())
    return 0


def element_value_for_test(int datatype, bytes content not None):
    return element_value(datatype, <const uint8_t*><const char*>content)
