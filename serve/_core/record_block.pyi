# Records of one stream as bytes, as a journal takes them. serve.recording.columns makes batches of them. ext/serve/_core/record_block.pxd.
import sys
from typing import Self

from typing_extensions import disjoint_base

from serve.records import RecordedTensor

BLOCK_BYTES: int

@disjoint_base
class RecordBlock:
    """Records that were taken: its owner's from then on. The memory goes back to the blocks when nobody looks at it any more."""

    # Rows of the table, the number of the first, and when the last record was received (ns since the epoch).
    n_rows: int
    first_seq: int
    last_ts_ns: int
    # What the rows take as columns, about: the texts of a request, once in its record, are in each of its rows then.
    arrow_bytes: int
    # Bytes of the records.
    def __len__(self) -> int: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
    # The records, read-only.
    @property
    def records(self) -> memoryview: ...
    # The head of a frame, the records and what is behind them, in one piece and at a page's begin; valid until the next call. head: 32
    # bytes. behind: at most 8192. Raises ValueError.
    def framed(self, head: bytes, behind: bytes) -> memoryview: ...

@disjoint_base
class RecordBlocks:
    def __new__(cls, tensors: tuple[RecordedTensor, ...], limit: int = ...) -> Self: ...
    # Columns of the same tensors, empty, for whoever wants to look at some records.
    # Rows that take() would give.
    @property
    def n_rows(self) -> int: ...
    # Whether a record did not fit behind the others: the next waits for take(). limit: bytes; one record may have more. Nor are there more
    # than 32 MiB as columns.
    @property
    def is_full(self) -> bool: ...
    # Records that were not what the stream says (which become failed rows), and tensors (null), ever.
    @property
    def n_malformed(self) -> int: ...
    # None where there is no row.
    def take(self) -> RecordBlock | None: ...
    # Frees the memory that waits for the next rows, its bytes being returned. The thread that takes.
    def trim(self) -> int: ...
    def add_for_test(self, record: bytes) -> int: ...
