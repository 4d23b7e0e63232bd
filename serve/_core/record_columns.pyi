# Records of one stream, taken apart into Arrow buffers. serve.recording.columns makes batches of them.
import sys
from typing import Self

from typing_extensions import Buffer, disjoint_base

from serve.records import RecordedTensor

@disjoint_base
class ColumnBuffer:
    """Memory that was a column's, read-only; its owner from then on. Goes back to the columns when nobody looks at it any more."""

    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class RecordColumns:
    def __new__(cls, tensors: tuple[RecordedTensor, ...], max_rows: int = 8192) -> Self: ...
    # Rows that take() would give. Never over max_rows, but for a single record that has more.
    @property
    def n_rows(self) -> int: ...
    # Whether a record did not fit beside the rows, be it by rows or by bytes: the next waits for take().
    @property
    def is_full(self) -> bool: ...
    # Records that were not what the stream says (each became one failed row), and tensors (null), ever.
    @property
    def n_malformed(self) -> int: ...
    # Frees the memory that waits for the next rows, its bytes being returned. The thread that adds and takes.
    def trim(self) -> int: ...
    # Adds the records that lie one after the other from byte `start` on, until there are n_rows rows or more, a record does not fit, or the
    # end. Where the next one begins is returned. Raises ValueError where no record can lie, MemoryError; those before it are added.
    def add(self, records: Buffer, start: int = 0, n_rows: int = ...) -> int: ...
    # For each column of the journal schema: its nulls, and its buffers in Arrow's order, depth first; the elements of a tensor have no
    # bitmap. The first is the column's bitmap, None when nothing is null.
    def take(self) -> list[tuple[int, tuple[ColumnBuffer | None, ...]]]: ...

def add_for_test(columns: RecordColumns, record: bytes, repeats: int = 1) -> tuple[int, float]: ...
