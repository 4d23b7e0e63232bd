"""Two answers held against each other, row by row, output by output."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from serve._core.memory cimport Arena, Slice
from serve._core.runner cimport Runner
from serve._core.tensors cimport Signature, Tensor

cdef extern from "compare_values.hpp" namespace "headrace" nogil:
    enum: MAX_TOP_K
    cdef struct ValueRule "headrace::Rule":
        int kind                        # CompareKind
        double atol
        double rtol
        int k
        double min_overlap

cdef enum CompareKind:
    COMPARE_ARGMAX = 1
    COMPARE_TOLERANCE = 2
    COMPARE_TOP_K = 3
    COMPARE_EXACT = 4

cdef struct CompareOutput:
    # One rule: the primary's output `left` against the shadow's output `right`, as indices into their signatures.
    Slice name                          # of both; borrowed from the shadow's signature
    int left                            # in the signature that the comparison was built for; other primaries are searched by name
    int right
    ValueRule values

cdef struct Comparison:
    int n                               # at most MAX_TENSORS
    CompareOutput* outputs

cdef enum:
    ALL_ROWS = 1000000                  # every row disagrees, in millionths

# Copies of the outputs that a comparison needs, rows [first, first + rows) of the runner, in the arena: [comparison.n] tensors. NULL:
# memory is out, or an output could not be read.
cdef Tensor* keep_outputs(const Comparison* comparison, Runner* runner, int64_t first, int64_t rows, Arena* arena) noexcept nogil
# Share of the rows in which any output disagrees, in millionths. kept: what keep_outputs made of the primary; runner: of the shadow,
# rows [first, first + rows). A shape or datatype that differs is a disagreement of every row. batched: the first dimension is rows.
cdef uint64_t disagreement(const Comparison* comparison, const Tensor* kept, Runner* runner, int64_t first, int64_t rows,
                           bint batched) noexcept nogil
# Comparison of two signatures under rules (tuple of serve.traffic.CompareRule; () is the default). Raises InvalidArgument for an output
# that one of them lacks, or a rule that does not fit the output. Borrows from `right`. comparison_free takes NULL.
cdef Comparison* comparison_new(const Signature* left, const Signature* right, tuple rules) except NULL
cdef void comparison_free(Comparison* comparison) noexcept nogil

# The value of a numeric or BOOL element. 64-bit integers are rounded.
cdef double element_value(int datatype, const uint8_t* at) noexcept nogil
# Index of the largest of n numeric elements, the first of equals; NaN is smaller than everything. -1: no element, or nothing but NaN.
cdef int64_t largest(int datatype, const uint8_t* values, int64_t n) noexcept nogil
