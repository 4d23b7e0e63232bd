"""One column of a batch of records: its buffers, and how rows are added to it, once they were looked at and there is room."""
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from serve._core.record_values cimport *
from serve._core.tensors cimport MAX_RANK

cdef enum:
    PLAIN                               # a fixed number of elements a row
    LISTED                              # one dynamic dimension, or no elements at all: a list
    SHAPED                              # more: a list and the row's shape

cdef enum:
    AS_IS
    BITS                                # BOOL
    WIDENED                             # BF16
    FRAMED                              # BYTES

ctypedef size_t (*GrowingAction)(Growing* growing) noexcept nogil      # growing_trim, growing_free

cdef struct Nulls:
    # Bits are written up to run_start; from there to the last row all are null, or none is.
    int64_t count
    int64_t run_start
    bint run_is_null
    Growing bits

cdef struct TextColumn:
    bint is_nullable                    # null where it is empty
    int32_t end                         # bytes
    int64_t filled                      # rows whose offsets are written
    Nulls nulls
    Growing offsets
    Growing data
    # Of the record that is being added.
    const uint8_t* text
    int64_t length

cdef struct TensorColumn:
    # First what every record touches.
    int form                            # PLAIN, LISTED, SHAPED
    int stored                          # AS_IS, BITS, WIDENED, FRAMED
    bint has_dims                       # a record says the row's shape
    bint is_null                        # in the record that is being added; as are the next four
    const uint8_t* data
    size_t nbytes
    const int64_t* dims
    int64_t elements                    # of a row
    size_t item                         # bytes of an element in a record; 0: framed
    int64_t row_elements                # PLAIN
    Growing values
    Nulls nulls
    size_t item_bits                    # of an element in `values`; 0: framed
    int64_t n_elements                  # in `values`; not PLAIN
    int32_t n_bytes                     # in `values`; FRAMED
    int64_t n_sizes                     # in `sizes`
    Growing offsets                     # FRAMED: of the elements
    Growing lists                       # not PLAIN: offsets of the rows' elements
    Growing ranks                       # SHAPED: offsets of the rows' shapes
    Growing sizes                       # SHAPED: int64
    int rank
    int64_t[MAX_RANK] shape             # of a row, -1 where dynamic

cdef struct RowBuffer:
    # What grows with the rows: bits a row, and bytes beside them (the first offset).
    Growing* growing
    size_t row_bits
    size_t extra


# --- room ---------------------------------------------------------------------------------------------------------------

cdef inline size_t row_bytes(const RowBuffer* buffer, int64_t rows) noexcept nogil:
    return ((<size_t>rows * buffer.row_bits + 7) >> 3) + buffer.extra


cdef inline int reserve_bits(Nulls* nulls, bint is_null, int64_t n, int64_t rows) noexcept nogil:
    if not is_null and nulls.count == 0:
        return 0
    # Bits are written late: behind run_start there are none yet, and an earlier batch may have left a block too small for n.
    return growing_reserve(&nulls.bits, (nulls.run_start + 7) >> 3, (n + rows + 7) >> 3)


cdef inline int reserve_tensor(TensorColumn* tensor, int64_t n, int64_t rows) noexcept nogil:
    cdef int64_t count = 0 if tensor.is_null else rows * tensor.elements
    cdef int64_t last = tensor.n_elements + count
    if reserve_bits(&tensor.nulls, tensor.is_null, n, rows):
        return -1
    if tensor.stored == FRAMED:
        if growing_reserve(&tensor.values, tensor.n_bytes, tensor.n_bytes + (0 if tensor.is_null else tensor.nbytes - 4 * count)):
            return -1
        if tensor.form != PLAIN and growing_reserve(&tensor.offsets, 4 * (tensor.n_elements + 1), 4 * (last + 1)):
            return -1
        (<int32_t*>tensor.offsets.data)[0] = 0
    elif tensor.form != PLAIN and growing_reserve(
            &tensor.values, (tensor.n_elements * tensor.item_bits + 7) >> 3, (last * tensor.item_bits + 7) >> 3):
        return -1
    if tensor.form == SHAPED:
        return growing_reserve(&tensor.sizes, 8 * tensor.n_sizes, 8 * (tensor.n_sizes + (0 if tensor.is_null else rows * tensor.rank)))
    return 0


cdef inline size_t each_of_text(TextColumn* column, GrowingAction action) noexcept nogil:
    return action(&column.nulls.bits) + action(&column.offsets) + action(&column.data)


cdef inline size_t each_of_tensor(TensorColumn* tensor, GrowingAction action) noexcept nogil:
    return (action(&tensor.nulls.bits) + action(&tensor.values) + action(&tensor.offsets) + action(&tensor.lists) + action(&tensor.ranks)
            + action(&tensor.sizes))


# --- a record, looked at ------------------------------------------------------------------------------------------------

cdef inline bint dims_fit(TensorColumn* tensor, int n_dims) noexcept nogil:
    """Whether a row of this shape may stand in the column; counts its elements."""
    cdef int64_t size
    cdef int i
    tensor.elements = 1
    if n_dims != tensor.rank:
        return False
    for i in range(n_dims):
        size = tensor.dims[i]
        if not 0 <= size <= INT32_MAX or (tensor.shape[i] >= 0 and tensor.shape[i] != size):
            return False
        tensor.elements *= size
        if tensor.elements > INT32_MAX:
            return False
    return True


cdef inline bint tensor_fits(TensorColumn* tensor, int n_dims, int64_t rows) noexcept nogil:
    if tensor.has_dims and (not dims_fit(tensor, n_dims) or rows * tensor.elements > INT32_MAX):
        return False
    if tensor.stored == FRAMED:
        return tensor.nbytes <= INT32_MAX and holds_elements(tensor.data, tensor.nbytes, <uint64_t>(rows * tensor.elements))
    return tensor.nbytes == <size_t>(rows * tensor.elements) * tensor.item


# --- a record, written --------------------------------------------------------------------------------------------------

cdef inline void add_nulls(Nulls* nulls, bint is_null, int64_t n, int64_t rows) noexcept nogil:
    if is_null != nulls.run_is_null:
        set_bits(nulls.bits.data, nulls.run_start, n, not nulls.run_is_null)
        nulls.run_start, nulls.run_is_null = n, is_null
    if is_null:
        nulls.count += rows


cdef inline void end_nulls(Nulls* nulls, int64_t n) noexcept nogil:
    """The last run, and zeros to the end of the byte."""
    if nulls.count:
        set_bits(nulls.bits.data, nulls.run_start, n, not nulls.run_is_null)
        set_bits(nulls.bits.data, n, (n + 7) & ~<int64_t>7, False)


cdef inline void forget_nulls(Nulls* nulls) noexcept nogil:
    nulls.count, nulls.run_start, nulls.run_is_null = 0, 0, False


cdef inline void add_text(TextColumn* column, int64_t n, int64_t rows) noexcept nogil:
    cdef int32_t* offsets = <int32_t*>column.offsets.data
    cdef int64_t i
    if column.is_nullable:
        add_nulls(&column.nulls, column.length == 0, n, rows)
        if column.length == 0:
            return
        repeat_offset(offsets + column.filled, 0, n - column.filled)
    for i in range(n + 1, n + rows + 1):
        memcpy(column.data.data + column.end, column.text, column.length)
        column.end += <int32_t>column.length
        offsets[i] = column.end
    column.filled = n + rows


cdef inline void put_values(TensorColumn* tensor, int64_t first, int64_t count) noexcept nogil:
    if tensor.stored == AS_IS:
        memcpy(tensor.values.data + first * tensor.item, tensor.data, count * tensor.item)
    elif tensor.stored == FRAMED:
        tensor.n_bytes = put_elements(
            tensor.values.data, tensor.n_bytes, <int32_t*>tensor.offsets.data + first + 1, tensor.data, count)
    elif tensor.stored == BITS:
        pack_bits(tensor.values.data, first, tensor.data, count)
    else:
        widen_bf16(tensor.values.data + 4 * first, tensor.data, count)


cdef inline void put_nothing(TensorColumn* tensor, int64_t first, int64_t count) noexcept nogil:
    """What stands under a null: PLAIN values are there all the same."""
    if tensor.stored == FRAMED:
        repeat_offset(<int32_t*>tensor.offsets.data + first, 0, count)
    elif tensor.stored == BITS:
        set_bits(tensor.values.data, first, first + count, False)
    else:
        memset(tensor.values.data + (first * tensor.item_bits >> 3), 0, count * tensor.item_bits >> 3)


cdef inline void add_listed(TensorColumn* tensor, int64_t n, int64_t rows) noexcept nogil:
    cdef int64_t elements = 0 if tensor.is_null else tensor.elements
    cdef int rank = 0 if tensor.is_null else tensor.rank
    if rows * elements:
        put_values(tensor, tensor.n_elements, rows * elements)
        tensor.n_elements += rows * elements
    repeat_offset(<int32_t*>tensor.lists.data + n, <int32_t>elements, rows)
    if tensor.form == SHAPED:
        repeat_offset(<int32_t*>tensor.ranks.data + n, rank, rows)
        for _ in range(rows if rank else 0):
            memcpy(tensor.sizes.data + 8 * tensor.n_sizes, tensor.dims, 8 * rank)
            tensor.n_sizes += rank


cdef inline void add_tensor(TensorColumn* tensor, int64_t n, int64_t rows) noexcept nogil:
    add_nulls(&tensor.nulls, tensor.is_null, n, rows)
    if tensor.form != PLAIN:
        add_listed(tensor, n, rows)
    elif tensor.is_null:
        put_nothing(tensor, n * tensor.row_elements, rows * tensor.row_elements)
    else:
        put_values(tensor, n * tensor.row_elements, rows * tensor.row_elements)
