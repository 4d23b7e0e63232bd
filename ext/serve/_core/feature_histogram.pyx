"""The kernels are in feature_histogram.hpp; here buffers are checked, and hashes looked up. feature_histogram.pyi says what is what."""
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc

from serve._core.hash cimport hash64
from serve._core.memory cimport slice_make
from serve._core.tensors cimport *

cdef extern from "feature_histogram.hpp" namespace "headrace" nogil:
    enum: FOURIER_BLOCK
    enum: N_SPECIAL
    cdef struct Rows:
        const uint8_t* values
        int datatype
        int64_t stride
        int64_t n_rows
        const uint8_t* validity
        int64_t validity_offset
        const int32_t* marks
    cdef struct Sums:
        int64_t* counts
        double* moments
    int histogram_add(const Frozen& frozen, const Rows& rows, const Sums& sums, bint portable)
    bint row_is_valid "headrace::is_valid"(const Rows& rows, int64_t row)
    bint read_row(int datatype, const uint8_t* at, int64_t n, float* row)
    void add_features "headrace::fourier_add"(
        const float* x, int64_t n, const float* weights, const double* phases, int64_t D, double* sums)

cdef extern from "<cmath>" namespace "std" nogil:
    float next_float "std::nextafter"(float x, float towards)

cdef enum:
    MAX_ELEMENTS = 0x10000000000        # 2^40, of a buffer: products below stay far from 2^63


# --- buffers ------------------------------------------------------------------------------------------------------------

cdef Rows rows_of(const uint8_t[::1] values, int datatype, int64_t offset, int64_t stride, int64_t n_rows, int64_t width,
                  const uint8_t[::1] validity, int64_t validity_offset) except *:
    """Raises ValueError for rows that are not inside the buffers."""
    cdef Rows rows
    cdef int64_t size = datatype_size(datatype) if DT_BOOL < datatype <= DT_FP64 else 0
    if size == 0:
        raise ValueError(f"datatype {datatype} has no numbers that can be counted")
    if not (0 <= offset < MAX_ELEMENTS and 0 <= width <= stride < MAX_ELEMENTS and 0 <= n_rows < MAX_ELEMENTS):
        raise ValueError(f"offset = {offset}, stride = {stride}, n_rows = {n_rows}: want 0 or more, and a stride of at least {width}")
    if n_rows and (n_rows - 1 > (MAX_ELEMENTS - offset - width) // max(stride, 1)
                   or (offset + (n_rows - 1) * stride + width) * size > values.shape[0]):
        raise ValueError(f"{n_rows} rows of {stride} elements from {offset} on are not inside {values.shape[0]} bytes")
    if values.shape[0] and <size_t>&values[0] % <size_t>size:
        raise ValueError(f"values begin at an address that is no multiple of {size}")
    check_validity(validity, validity_offset, n_rows)
    rows.values = &values[0] + offset * size if values.shape[0] else NULL
    rows.datatype, rows.stride, rows.n_rows = datatype, stride, n_rows
    rows.validity, rows.validity_offset = &validity[0] if validity is not None else NULL, validity_offset
    rows.marks = NULL
    return rows


cdef int check_validity(const uint8_t[::1] validity, int64_t offset, int64_t n_rows) except -1:
    if validity is not None and not (0 <= offset < MAX_ELEMENTS and 0 < validity.shape[0] and offset + n_rows <= validity.shape[0] * 8):
        raise ValueError(f"{n_rows} rows from bit {offset} on are not inside a bitmap of {validity.shape[0]} bytes")
    return 0


# --- histograms ---------------------------------------------------------------------------------------------------------

cdef class FrozenBins:
    def __cinit__(self, const double[:, ::1] edges not None, const double[::1] centre not None, const double[::1] scale not None):
        cdef int64_t n = edges.shape[0], capacity = edges.shape[1] + 1
        cdef int64_t i, j
        if n < 1 or capacity < 32 or capacity & (capacity - 1) or centre.shape[0] != n or scale.shape[0] != n:
            raise ValueError(f"edges of shape ({n}, {capacity - 1}) with {centre.shape[0]} centres, {scale.shape[0]} scales: want as many "
                             "of each, and one edge fewer than a power of two that is at least 32")
        self.doubles = <double*>malloc((n * capacity + 2 * n) * sizeof(double))
        self.floats = <float*>malloc(n * capacity * sizeof(float))
        if self.doubles == NULL or self.floats == NULL:
            raise MemoryError
        for i in range(n):
            for j in range(capacity):
                self.doubles[i * capacity + j] = edges[i, j] if j + 1 < capacity else INFINITY
                self.floats[i * capacity + j] = not_below(self.doubles[i * capacity + j])
            self.doubles[n * capacity + i] = centre[i]
            self.doubles[n * capacity + n + i] = scale[i]
        self.frozen.n_features, self.frozen.capacity = n, capacity
        self.frozen.edges, self.frozen.narrow = self.doubles, self.floats
        self.frozen.centre, self.frozen.scale = self.doubles + n * capacity, self.doubles + n * capacity + n

    def __dealloc__(self):
        free(self.doubles)
        free(self.floats)

    def add(self, const uint8_t[::1] values not None, int datatype, int64_t offset, int64_t stride, int64_t n_rows,
            const uint8_t[::1] validity, int64_t validity_offset, int64_t[:, ::1] counts not None, double[:, ::1] moments=None,
            const int32_t[::1] marks=None, bint portable=False):
        cdef Rows rows = rows_of(values, datatype, offset, stride, n_rows, self.frozen.n_features, validity, validity_offset)
        cdef Sums sums
        cdef int64_t n_counted = self.frozen.n_features * (1 if marks is None else 2)
        if counts.shape[0] != n_counted or counts.shape[1] != self.frozen.capacity + N_SPECIAL:
            raise ValueError(
                f"counts of shape ({counts.shape[0]}, {counts.shape[1]}): want ({n_counted}, {self.frozen.capacity + N_SPECIAL})")
        if moments is not None and (moments.shape[0] != self.frozen.n_features or moments.shape[1] != 4):
            raise ValueError(f"moments of shape ({moments.shape[0]}, {moments.shape[1]}): want ({self.frozen.n_features}, 4)")
        if marks is not None and marks.shape[0] != n_rows:
            raise ValueError(f"{marks.shape[0]} marks for {n_rows} rows")
        if n_rows == 0:
            return
        rows.marks = &marks[0] if marks is not None else NULL
        sums.counts, sums.moments = &counts[0, 0], &moments[0, 0] if moments is not None else NULL
        with nogil:
            histogram_add(self.frozen, rows, sums, portable)


cdef float not_below(double edge) noexcept nogil:
    """The least float32 that is no less: x >= edge and x >= not_below(edge) are the same for every float32 x."""
    cdef float narrow = <float>edge
    return next_float(narrow, <float>INFINITY) if narrow < edge else narrow


# --- categories ---------------------------------------------------------------------------------------------------------

cdef class CategoryTable:
    def __cinit__(self, list keys not None):
        cdef int64_t i
        cdef uint64_t found
        cdef bytes key
        self.n_keys, self.n_places = <int32_t>len(keys), 16
        while self.n_places < 2 * len(keys):
            self.n_places *= 2
        self.hashes = <uint64_t*>calloc(self.n_places, sizeof(uint64_t))
        self.codes = <int32_t*>malloc(self.n_places * sizeof(int32_t))
        if self.hashes == NULL or self.codes == NULL:
            raise MemoryError
        for i in range(self.n_places):
            self.codes[i] = -1
        for i, key in enumerate(keys):
            found = hash64(slice_make(<const char*>key, len(key)), 0)
            if self.find(found) != self.n_keys:
                raise ValueError(f"category {key!r} is named twice")
            self.put(found, <int32_t>i)

    def __dealloc__(self):
        free(self.hashes)
        free(self.codes)

    cdef void put(self, uint64_t key, int32_t code) noexcept nogil:
        cdef int64_t place = key & (self.n_places - 1)
        while self.codes[place] >= 0:
            place = (place + 1) & (self.n_places - 1)
        self.hashes[place], self.codes[place] = key, code

    cdef int32_t find(self, uint64_t key) noexcept nogil:
        cdef int64_t place = key & (self.n_places - 1)
        while self.codes[place] >= 0:
            if self.hashes[place] == key:
                return self.codes[place]
            place = (place + 1) & (self.n_places - 1)
        return self.n_keys

    cdef int32_t code_of(self, uint64_t key, uint64_t* least, int64_t n_least) noexcept nogil:
        """As find; an unknown key may be among the least ones."""
        cdef int32_t code = self.find(key)
        if code == self.n_keys:
            keep_least(least, n_least, key)
        return code

    def encode_bytes(self, const int32_t[::1] offsets not None, const uint8_t[::1] data not None, const uint8_t[::1] validity,
                     int64_t validity_offset, int32_t[::1] codes not None, uint64_t[::1] unseen=None):
        cdef int64_t n = offsets.shape[0] - 1
        cdef int64_t row
        cdef Rows rows
        cdef uint64_t key
        cdef const uint8_t* at = &data[0] if data.shape[0] else NULL
        cdef uint64_t* least = &unseen[0] if unseen is not None and unseen.shape[0] else NULL
        cdef int64_t n_least = unseen.shape[0] if unseen is not None else 0
        check_validity(validity, validity_offset, max(n, 0))
        if n < 0 or codes.shape[0] != n:
            raise ValueError(f"{codes.shape[0]} codes for {n} values")
        for row in range(n):
            if not 0 <= offsets[row] <= offsets[row + 1] <= data.shape[0]:
                raise ValueError(f"value {row} is not inside {data.shape[0]} bytes")
        rows.validity, rows.validity_offset = &validity[0] if validity is not None else NULL, validity_offset
        with nogil:
            for row in range(n):
                if not row_is_valid(rows, row):
                    codes[row] = self.n_keys + 1
                    continue
                key = hash64(slice_make(at + offsets[row], offsets[row + 1] - offsets[row]), 0)
                codes[row] = self.code_of(key, least, n_least)

    def encode_integers(self, const int64_t[::1] values not None, const uint8_t[::1] validity, int64_t validity_offset,
                        int32_t[::1] codes not None, uint64_t[::1] unseen=None):
        cdef int64_t n = values.shape[0]
        cdef int64_t row
        cdef Rows rows
        cdef char[24] text
        cdef uint64_t key
        cdef uint64_t* least = &unseen[0] if unseen is not None and unseen.shape[0] else NULL
        cdef int64_t n_least = unseen.shape[0] if unseen is not None else 0
        cdef int length
        check_validity(validity, validity_offset, n)
        if codes.shape[0] != n:
            raise ValueError(f"{codes.shape[0]} codes for {n} values")
        rows.validity, rows.validity_offset = &validity[0] if validity is not None else NULL, validity_offset
        with nogil:
            for row in range(n):
                if not row_is_valid(rows, row):
                    codes[row] = self.n_keys + 1
                    continue
                length = snprintf(text, sizeof(text), "%lld", <long long>values[row])
                key = hash64(slice_make(text, length), 0)
                codes[row] = self.code_of(key, least, n_least)


cdef void keep_least(uint64_t* least, int64_t n, uint64_t key) noexcept nogil:
    """Puts a hash among the n least, which ascend and are padded with 2^64 - 1."""
    cdef int64_t at
    cdef int64_t low = 0, high = n
    if n == 0 or key >= least[n - 1]:
        return
    while low < high:
        at = (low + high) // 2
        if least[at] < key:
            low = at + 1
        else:
            high = at
    if least[low] == key:
        return
    at = n - 1
    while at > low:
        least[at] = least[at - 1]
        at -= 1
    least[low] = key


# --- embeddings ---------------------------------------------------------------------------------------------------------

def fourier_add(const uint8_t[::1] values not None, int datatype, int64_t offset, int64_t stride, int64_t n_rows,
                const uint8_t[::1] validity, int64_t validity_offset, const int64_t[::1] chosen not None,
                const float[:, ::1] weights not None, const double[::1] phases not None, double[::1] sums not None):
    cdef int64_t n = weights.shape[0], D = weights.shape[1]
    cdef Rows rows = rows_of(values, datatype, offset, stride, n_rows, n, validity, validity_offset)
    cdef int64_t i, added = 0
    cdef int64_t size = datatype_size(datatype)
    cdef float* x
    if n < 1 or D < 1 or D % FOURIER_BLOCK or phases.shape[0] != D or sums.shape[0] != D:
        raise ValueError(
            f"weights of shape ({n}, {D}), {phases.shape[0]} phases, {sums.shape[0]} sums: want as many, a multiple of {FOURIER_BLOCK}")
    for i in range(chosen.shape[0]):
        if not 0 <= chosen[i] < n_rows:
            raise ValueError(f"row {chosen[i]} of {n_rows} is chosen")
    x = <float*>malloc(n * sizeof(float))
    if x == NULL:
        raise MemoryError
    with nogil:
        for i in range(chosen.shape[0]):
            if row_is_valid(rows, chosen[i]) and read_row(datatype, rows.values + chosen[i] * stride * size, n, x):
                add_features(x, n, &weights[0, 0], &phases[0], D, &sums[0])
                added += 1
        free(x)
    return added
