from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from serve._core.debug cimport KEEPS_FREE


cdef void* slab_malloc(size_t size, void* user) noexcept nogil:
    cdef Slab* slab = <Slab*>user
    cdef size_t size_class = (size + SLAB_STEP - 1) // SLAB_STEP
    cdef SlabBlock* block
    if size_class == 0:
        size_class = 1
    if size_class >= SLAB_CLASSES:
        block = <SlabBlock*>malloc(sizeof(SlabBlock) + size) if size < (<size_t>1 << 40) else NULL
        size_class = 0
    else:
        block = slab.free[size_class]
        if block != NULL:
            slab.free[size_class] = block.next
            slab.n_free[size_class] -= 1
        else:
            block = <SlabBlock*>malloc(sizeof(SlabBlock) + size_class * SLAB_STEP)
    if block == NULL:
        return NULL
    block.size_class = size_class
    slab.live += 1
    return block + 1


cdef void slab_free(void* data, void* user) noexcept nogil:
    cdef Slab* slab = <Slab*>user
    cdef SlabBlock* block
    if data == NULL:
        return
    block = <SlabBlock*>data - 1
    slab.live -= 1
    if not KEEPS_FREE or block.size_class == 0 or slab.n_free[block.size_class] >= SLAB_KEEP:
        free(block)
        return
    block.next = slab.free[block.size_class]
    slab.free[block.size_class] = block
    slab.n_free[block.size_class] += 1


cdef void* slab_calloc(size_t count, size_t size, void* user) noexcept nogil:
    cdef void* data
    if size and count > (<size_t>1 << 40) // size:
        return NULL
    data = slab_malloc(count * size, user)
    if data != NULL:
        memset(data, 0, count * size)
    return data


cdef void* slab_realloc(void* data, size_t size, void* user) noexcept nogil:
    cdef SlabBlock* block
    cdef void* grown
    cdef size_t held
    if data == NULL:
        return slab_malloc(size, user)
    block = <SlabBlock*>data - 1
    if block.size_class == 0:
        return realloc_large(block, size)
    held = block.size_class * SLAB_STEP
    if size <= held:
        return data
    grown = slab_malloc(size, user)
    if grown != NULL:
        memcpy(grown, data, held)
        slab_free(data, user)
    return grown


cdef void* realloc_large(SlabBlock* block, size_t size) noexcept nogil:
    cdef SlabBlock* grown = <SlabBlock*>realloc(block, sizeof(SlabBlock) + size) if size < (<size_t>1 << 40) else NULL
    return NULL if grown == NULL else grown + 1


cdef void slab_init(Slab* slab) noexcept nogil:
    memset(slab, 0, sizeof(Slab))
    slab.mem.mem_user_data = slab
    slab.mem.malloc = slab_malloc
    slab.mem.free = slab_free
    slab.mem.calloc = slab_calloc
    slab.mem.realloc = slab_realloc


cdef void slab_destroy(Slab* slab) noexcept nogil:
    """Only free blocks are known here: the sessions that use the slab are deleted before."""
    cdef SlabBlock* block
    cdef int i
    for i in range(SLAB_CLASSES):
        while slab.free[i] != NULL:
            block = slab.free[i]
            slab.free[i] = block.next
            free(block)


# --- For the tests: the functions above on a slab of their own ------------------------------------------------------------

def exercise_for_test(list operations):
    """Each operation is (name, slot, size): malloc, calloc, realloc or free of one of 64 slots, whose bytes are filled and checked.

    Returns (blocks live at the end, blocks live after everything is freed). Raises AssertionError when bytes did not keep.
    """
    cdef Slab slab
    cdef void* slots[64]
    cdef size_t sizes[64]
    cdef unsigned char* bytes_
    cdef size_t i
    memset(slots, 0, sizeof(slots))
    memset(sizes, 0, sizeof(sizes))
    slab_init(&slab)
    for name, slot, size in operations:
        if name == "free":
            slab_free(slots[<int>slot], &slab)
            slots[<int>slot], sizes[<int>slot] = NULL, 0
            continue
        if name == "realloc":
            kept = min(sizes[<int>slot], <size_t>size)
            slots[<int>slot] = slab_realloc(slots[<int>slot], size, &slab)
            bytes_ = <unsigned char*>slots[<int>slot]
            for i in range(kept):
                if bytes_[i] != <unsigned char>((<size_t>slot + i) & 255):
                    raise AssertionError(f"slot {slot}: byte {i} changed")
        else:
            slab_free(slots[<int>slot], &slab)
            slots[<int>slot] = slab_malloc(size, &slab) if name == "malloc" else slab_calloc(1, size, &slab)
            bytes_ = <unsigned char*>slots[<int>slot]
            if name == "calloc":
                for i in range(<size_t>size):
                    if bytes_[i]:
                        raise AssertionError(f"slot {slot}: byte {i} is not cleared")
        sizes[<int>slot] = size
        for i in range(<size_t>size):
            bytes_[i] = <unsigned char>((<size_t>slot + i) & 255)
    live = slab.live
    for slot in range(64):
        slab_free(slots[<int>slot], &slab)
    after = slab.live
    slab_destroy(&slab)
    return live, after
