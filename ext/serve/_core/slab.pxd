"""An allocator for one thread: free lists of a few block sizes. nghttp2 makes and drops a dozen small objects a stream."""
from libc.stdint cimport uint64_t

from serve._core.nghttp2 cimport nghttp2_mem

cdef enum:
    SLAB_STEP = 64                  # block sizes: multiples of it ...
    SLAB_CLASSES = 33               # ... up to 2 KiB; larger ones are malloc's
    SLAB_KEEP = 16384               # free blocks kept of one size

cdef struct SlabBlock:
    # Before each block. While it is free, `next` links it into its list.
    SlabBlock* next
    uint64_t size_class             # 0: from malloc

cdef struct Slab:
    # Owned by one thread; blocks must come back to the slab that they came from.
    SlabBlock* free[SLAB_CLASSES]
    int n_free[SLAB_CLASSES]
    uint64_t live                   # blocks handed out
    nghttp2_mem mem                 # the same functions, as nghttp2 wants them

cdef void slab_init(Slab* slab) noexcept nogil
cdef void slab_destroy(Slab* slab) noexcept nogil
