"""Slices, arenas and growable buffers: who owns which byte. Plain structs, no Python, nothing raises."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, strlen

cdef struct Slice:
    # Borrowed bytes; the owner is named where the slice is stored.
    const uint8_t* data
    size_t length

cdef struct ArenaBlock:
    ArenaBlock* older
    size_t capacity                 # bytes behind this header

cdef struct Arena:
    # Bump allocator of one request: everything in it dies with the request. Owned by the request.
    ArenaBlock* newest
    uint8_t* cursor
    uint8_t* end
    size_t total                    # bytes of all blocks, for the in-flight budget

cdef struct Buffer:
    # Growable bytes with one owner.
    uint8_t* data
    size_t length
    size_t capacity

cdef enum:
    ARENA_BLOCK = 4096 - 16         # first block; later ones double up to 1 MiB or fit the allocation


cdef inline Slice slice_of(const char* text) noexcept nogil:
    cdef Slice slice
    slice.data, slice.length = <const uint8_t*>text, strlen(text)
    return slice


cdef inline Slice slice_make(const void* data, size_t length) noexcept nogil:
    cdef Slice slice
    slice.data, slice.length = <const uint8_t*>data, length
    return slice


cdef inline bint slice_equal(Slice a, Slice b) noexcept nogil:
    return a.length == b.length and (a.length == 0 or memcmp(a.data, b.data, a.length) == 0)


cdef inline bint slice_is(Slice a, const char* text, size_t length) noexcept nogil:
    return a.length == length and memcmp(a.data, text, length) == 0


cdef inline void* arena_grow(Arena* arena, size_t size) noexcept nogil:
    """A new block that holds at least `size` bytes (rounded); returns its first byte or NULL."""
    cdef size_t capacity = ARENA_BLOCK if arena.newest == NULL else min(arena.newest.capacity * 2, <size_t>1 << 20)
    if size > (<size_t>1 << 40):
        return NULL
    capacity = max(capacity, size)
    cdef ArenaBlock* block = <ArenaBlock*>malloc(sizeof(ArenaBlock) + capacity)
    if block == NULL:
        return NULL
    block.older, block.capacity = arena.newest, capacity
    arena.newest = block
    arena.total += capacity
    cdef uint8_t* first = <uint8_t*>(block + 1)
    arena.cursor, arena.end = first + size, first + capacity
    return first


cdef inline void* arena_alloc(Arena* arena, size_t size) noexcept nogil:
    """`size` bytes aligned to 8, not cleared; NULL when memory is out. Valid until arena_reset."""
    size = (size + 7) & ~<size_t>7
    cdef uint8_t* at = arena.cursor
    if at != NULL and size <= <size_t>(arena.end - at):
        arena.cursor += size
        return at
    return arena_grow(arena, size)


cdef inline Slice arena_copy(Arena* arena, const void* data, size_t length) noexcept nogil:
    """A copy of the bytes; data is NULL when memory is out."""
    cdef void* copy = arena_alloc(arena, length)
    if copy != NULL and length:
        memcpy(copy, data, length)
    return slice_make(copy, length)


cdef inline void arena_reset(Arena* arena) noexcept nogil:
    """Forget everything; the first block is kept for the next request."""
    cdef ArenaBlock* block = arena.newest
    cdef ArenaBlock* older
    if block == NULL:
        return
    while block.older != NULL:
        older = block.older
        free(block)
        block = older
    arena.newest = block
    arena.total = block.capacity
    arena.cursor = <uint8_t*>(block + 1)
    arena.end = arena.cursor + block.capacity


cdef inline void arena_free(Arena* arena) noexcept nogil:
    arena_reset(arena)
    free(arena.newest)
    arena.newest = NULL
    arena.cursor = arena.end = NULL
    arena.total = 0


cdef inline Buffer buffer_empty() noexcept nogil:
    cdef Buffer buffer
    buffer.data = NULL
    buffer.length = buffer.capacity = 0
    return buffer


cdef inline int buffer_reserve(Buffer* buffer, size_t extra) noexcept nogil:
    """Room for `extra` more bytes. 0, or -1 when memory is out (the buffer stays as it was)."""
    cdef size_t capacity
    cdef uint8_t* grown
    if extra <= buffer.capacity - buffer.length:
        return 0
    if extra > (<size_t>1 << 40):
        return -1
    capacity = max(buffer.length + extra, buffer.capacity * 2)
    capacity = max(capacity, <size_t>512)
    grown = <uint8_t*>realloc(buffer.data, capacity)
    if grown == NULL:
        return -1
    buffer.data, buffer.capacity = grown, capacity
    return 0


cdef inline int buffer_append(Buffer* buffer, const void* data, size_t length) noexcept nogil:
    if buffer_reserve(buffer, length):
        return -1
    if length:
        memcpy(buffer.data + buffer.length, data, length)
        buffer.length += length
    return 0


cdef inline void buffer_free(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    buffer.data = NULL
    buffer.length = buffer.capacity = 0
