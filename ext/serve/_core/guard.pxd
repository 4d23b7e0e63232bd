"""What the inputs of a version may be: ranges and categories that its baseline has seen, checked before a request is queued."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Slice
from serve._core.tensors cimport Binding, Signature

cdef struct Category:
    uint64_t hash
    Slice text                      # BYTES; owned by the Python object
    int64_t number                  # integers; those of UINT64 as their bits
    bint is_taken

cdef struct CategorySet:
    # Open addressing, at most half full. slots NULL: anything is allowed.
    uint64_t mask                   # slots - 1
    Category* slots
    Slice shown                     # the categories as a failure names them; NUL-terminated, owned by the Python object

cdef struct GuardRule:
    # One input's ranges, or its categories. Elements are counted within a row.
    int index                       # in the signature
    int64_t n_limits                # elements of a row; 1: all alike
    const void* low                 # [n_limits] of the input's datatype (float for 16-bit floats), owned by the Python object; NULL: none
    const void* high
    const uint8_t* may_miss         # [n_limits] whether NaN is let through
    CategorySet* sets               # [n_limits]; NULL: none

cdef struct Guard:
    # Owned by a NativeGuard; immutable.
    int n_rules
    GuardRule* rules

# A request that was bound to `signature`, for which the guard was made. 0; -1 and INVALID_ARGUMENT, which names input, row, element, value
# and what is allowed. model: NUL-terminated.
cdef int guard_check(const Guard* guard, const Signature* signature, const Binding* binding, const char* model,
                     Failure* failure) noexcept nogil

cdef class NativeGuard:
    cdef Guard guard
    cdef readonly tuple inputs      # serve.types.TensorSpec
    cdef list kept                  # bytes that the native structs borrow
    cdef int add_range(self, GuardRule* rule, object limits) except -1
    cdef int add_categories(self, GuardRule* rule, object limits, bint is_text) except -1
