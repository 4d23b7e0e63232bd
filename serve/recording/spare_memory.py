"""Memory of a process that seals: what a row group frees stays, as the next one takes as much, until there has been none for a while.

An allocator that hands pages back at once has the kernel clear them for every row group anew: a sixth of what sealing costs.
"""

import ctypes
from dataclasses import dataclass

import pyarrow as pa

IDLE_NS = 10_000_000_000

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_FROM, _TRIM_FROM = 32 << 20, 256 << 20


def keep_freed() -> None:
    """For the whole process. Arrow's pool becomes jemalloc's where there is one: it keeps what was freed for about a second."""
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM)


def give_back() -> None:
    """What is free, of Arrow's pool and of malloc's."""
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)


@dataclass(slots=True)
class SpareMemory:
    """When to give back. used_ns: when it was last of use; None when it was given back since."""

    used_ns: int | None = None

    def use(self, now_ns: int) -> None:
        """Something was sealed."""
        self.used_ns = now_ns

    def rest(self, now_ns: int) -> None:
        """Nothing was to be sealed: gives back, once, after IDLE_NS of that."""
        if self.used_ns is not None and now_ns - self.used_ns >= IDLE_NS:
            give_back()
            self.used_ns = None


__all__ = ["IDLE_NS", "SpareMemory", "give_back", "keep_freed"]
