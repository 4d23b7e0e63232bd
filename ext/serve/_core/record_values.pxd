"""Under record_column: memory that goes to Python and comes back, bits, and values that are stored in another form than they came in."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

cdef extern from * nogil:
    """
    static inline void *headrace_swap(void **slot, void *value) { return __atomic_exchange_n(slot, value, __ATOMIC_ACQ_REL); }
    """
    void* swap_pointer "headrace_swap"(void** slot, void* value)

cdef enum:
    BLOCK_HEADER = 64               # before the bytes, which are aligned to as much: the capacity, for whoever gets the block back

cdef struct Growing:
    # One buffer. data is NULL until it is needed; a block's bytes are not cleared.
    uint8_t* data
    size_t capacity                 # bytes
    size_t hint                     # bytes that it lately came to
    void* spare                     # a block that Python gave back, for the next data; any thread, atomic


cdef inline size_t growing_trim(Growing* growing) noexcept nogil:
    """Frees the spare, and forgets how large it came to. Returns the bytes that were spare."""
    cdef void* block = swap_pointer(&growing.spare, NULL)
    cdef size_t capacity = (<size_t*>block)[0] if block != NULL else 0
    free(block)
    growing.hint = 0
    return capacity


cdef inline size_t growing_free(Growing* growing) noexcept nogil:
    if growing.data != NULL:
        free(growing.data - BLOCK_HEADER)
    growing.data = NULL
    return growing_trim(growing)


cdef inline uint8_t* growing_give(Growing* growing, size_t used) noexcept nogil:
    """Its bytes, for growing_return; it starts anew, about as large."""
    cdef uint8_t* data = growing.data
    growing.hint = max(used, growing.hint - growing.hint // 4)
    growing.data = NULL
    growing.capacity = 0
    return data


cdef inline void growing_return(Growing* growing, uint8_t* data) noexcept nogil:
    """The block of `data`, which growing once held, becomes its spare."""
    free(swap_pointer(&growing.spare, data - BLOCK_HEADER))


cdef inline int growing_move(Growing* growing, size_t used, size_t capacity) noexcept nogil:
    """Into a block of at least `capacity` bytes, with the first `used`. 0, or -1 when memory is out (it stays as it was).

    The spare is taken unless it is too small, or so large that a burst long over would be held for ever.
    """
    cdef void* block = swap_pointer(&growing.spare, NULL)
    cdef size_t spare = (<size_t*>block)[0] if block != NULL else 0
    if block != NULL and not capacity <= spare <= 4 * capacity + 65536:
        free(block)
        block = NULL
    if block == NULL:
        if posix_memalign(&block, BLOCK_HEADER, BLOCK_HEADER + capacity):
            return -1
        (<size_t*>block)[0] = capacity
    if growing.data != NULL:
        memcpy(<uint8_t*>block + BLOCK_HEADER, growing.data, used)
        free(growing.data - BLOCK_HEADER)
    growing.data, growing.capacity = <uint8_t*>block + BLOCK_HEADER, (<size_t*>block)[0]
    return 0


cdef inline int growing_reserve(Growing* growing, size_t used, size_t needed) noexcept nogil:
    """Room for `needed` bytes in all, of which `used` are there. 0, or -1 when memory is out (it stays as it was)."""
    if needed <= growing.capacity and growing.data != NULL:
        return 0
    return growing_move(growing, used, max(max(needed, 2 * used), max(growing.hint, <size_t>256)))


# --- values -------------------------------------------------------------------------------------------------------------

cdef inline void set_bits(uint8_t* bits, int64_t first, int64_t last, bint value) noexcept nogil:
    """Bits first to last - 1, the least significant of a byte first, as in every Arrow bitmap."""
    cdef int64_t byte = first >> 3
    cdef int64_t end = last >> 3
    cdef uint8_t above = <uint8_t>(0xFF << (first & 7))     # in the first byte
    cdef uint8_t below = <uint8_t>((1 << (last & 7)) - 1)   # in the last
    if first >= last:
        return
    if byte == end:
        above &= below
        below = 0
    bits[byte] = bits[byte] | above if value else bits[byte] & ~above
    if end > byte + 1:
        memset(bits + byte + 1, 0xFF if value else 0, end - byte - 1)
    if below:
        bits[end] = bits[end] | below if value else bits[end] & ~below


cdef inline void pack_bits(uint8_t* bits, int64_t at, const uint8_t* values, int64_t n) noexcept nogil:
    """n bytes, each nonzero or zero, as bits from bit `at` on; the rest of the last byte is cleared when it is begun here."""
    cdef uint64_t SEVENS = <uint64_t>0x7F7F7F7F7F7F7F7F
    cdef uint64_t GATHER = <uint64_t>0x0102040810204080
    cdef uint64_t eight
    cdef int64_t i = 0
    while i < n and at & 7:
        set_bits(bits, at, at + 1, values[i] != 0)
        at += 1
        i += 1
    while n - i >= 8:
        memcpy(&eight, values + i, 8)
        # 1 in the lowest bit of each byte that is not zero; the product gathers byte k's at bit 56 + k, and no two terms meet.
        eight = ((((eight & SEVENS) + SEVENS) | eight) & ~SEVENS) >> 7
        bits[at >> 3] = <uint8_t>((eight * GATHER) >> 56)
        at += 8
        i += 8
    if i < n:
        bits[at >> 3] = 0
        while i < n:
            bits[at >> 3] |= <uint8_t>((values[i] != 0) << (at & 7))
            at += 1
            i += 1


cdef inline void widen_bf16(uint8_t* floats, const uint8_t* values, int64_t n) noexcept nogil:
    """The upper half of a float32 is what a bfloat16 is."""
    cdef uint32_t* wide = <uint32_t*>floats
    cdef uint16_t half
    cdef int64_t i
    for i in range(n):
        memcpy(&half, values + 2 * i, 2)
        wide[i] = <uint32_t>half << 16


cdef inline bint holds_elements(const uint8_t* data, size_t nbytes, uint64_t elements) noexcept nogil:
    """Whether these are exactly so many elements of BYTES, each behind its uint32 length."""
    cdef size_t at = 0
    cdef uint32_t length
    while elements > 0:
        if nbytes - at < 4:
            return False
        memcpy(&length, data + at, 4)
        if length > nbytes - at - 4:
            return False
        at += 4 + <size_t>length
        elements -= 1
    return at == nbytes


cdef inline int32_t put_elements(uint8_t* out, int32_t end, int32_t* offsets, const uint8_t* data, int64_t elements) noexcept nogil:
    """The elements' bytes behind `end` in out, and where each ends; returns the last end. They were looked at by holds_elements."""
    cdef uint32_t length
    cdef int64_t i
    for i in range(elements):
        memcpy(&length, data, 4)
        memcpy(out + end, data + 4, length)
        data += 4 + <size_t>length
        end += <int32_t>length
        offsets[i] = end
    return end


cdef inline void repeat_offset(int32_t* offsets, int32_t step, int64_t n) noexcept nogil:
    """offsets[1 .. n], each `step` behind the one before."""
    cdef int64_t i
    cdef int32_t end = offsets[0]
    for i in range(1, n + 1):
        end += step
        offsets[i] = end
