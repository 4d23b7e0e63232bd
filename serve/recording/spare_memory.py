"""Memory of a process that seals: what a row group frees stays, as the next one takes as much, until there has been none for a while.

An allocator that hands pages back at once has the kernel clear them anew for every journal and every column: a sixth of what sealing
costs. Arrow's own pool keeps its pages; the C library's malloc is told to.
"""

import ctypes
from dataclasses import dataclass

import pyarrow as pa

IDLE_NS = 10_000_000_000

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_FROM, _TRIM_FROM = 32 << 20, 256 << 20


def keep_freed() -> None:
    """For the whole process. Nothing where the C library is not glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM)


def give_back() -> None:
    """What is free, of Arrow's pool and of malloc's."""
    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@dataclass(slots=True)
class SpareMemory:
    """When to give back: whenever nothing was sealed for IDLE_NS, as merges and joins leave memory too. Times are of the monotonic clock.

    since_ns: when something was sealed, or given back, last.
    """

    since_ns: int = 0

    def use(self, now_ns: int) -> None:
        """Something was sealed."""
        self.since_ns = now_ns

    def rest(self, now_ns: int) -> None:
        """Nothing was to be sealed."""
        if now_ns - self.since_ns >= IDLE_NS:
            give_back()
            self.since_ns = now_ns


__all__ = ["IDLE_NS", "SpareMemory", "give_back", "keep_freed"]
