"""Memory that a disk can be written from directly, past the page cache.

A copy into the page cache, the pages for it and their way to the disk later took half of what it cost to record a row, and push
the server's working set, and the host's, out of caches (docs/decisions/0006-recording-gives-way.md). O_DIRECT wants memory, offset and
length in multiples of the disk's blocks: open(2), NOTES.
"""

import mmap
from collections.abc import Sequence

BLOCK_BYTES = 4096
# What is kept between two writes; a larger buffer is made for its write.
_KEPT_BYTES = 8 << 20


def to_block(offset: int) -> int:
    """Bytes to the next multiple of BLOCK_BYTES."""
    return -offset % BLOCK_BYTES


class AlignedBuffer:
    """One thread."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, 1 << 20))

    def put(self, pieces: Sequence[bytes | memoryview]) -> memoryview:
        """The pieces one after the other; valid until the next call."""
        n_bytes = sum(len(piece) for piece in pieces)
        if n_bytes > len(self._memory) or len(self._memory) > _KEPT_BYTES >= n_bytes:
            self._memory = memoryview(mmap.mmap(-1, 1 << (n_bytes - 1).bit_length()))
        end = 0
        for piece in pieces:
            start, end = end, end + len(piece)
            self._memory[start:end] = piece
        return self._memory[:end]


__all__ = ["BLOCK_BYTES", "AlignedBuffer", "to_block"]
