"""Blocks of records, and what is in them, for the tests of them."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from serve._core.record_block import BLOCK_BYTES, RecordBlock, RecordBlocks
from serve.recording.arrow_schema import journal_schema
from serve.recording.columns import batches_of
from serve.records import RecordedTensor
from tests.core.records import Part, Record
from tests.core.test_record_columns import tensor

PAGE = 4096
HEAD = bytes(range(32))
MOST_BEHIND = 2 * PAGE
SMALL = 64 << 10
# What is mapped for a stream of few rows, and of many.
SMALL_MAPPED = SMALL + 3 * PAGE
FULL_MAPPED = 2 << 20
BYTES = tensor("UINT8", (-1,))


def sized(n_bytes: int, seq: int = 0) -> bytes:
    """A record of BYTES that has as many, a multiple of 8."""
    empty = len(Record(parts=[Part(b"", (0,))]).pack())
    n = n_bytes - empty
    record = Record(parts=[Part(bytes([seq % 251]) * n, (n,))], seq=seq).pack()
    assert len(record) == n_bytes
    return record


def taken(blocks: RecordBlocks) -> RecordBlock:
    block = blocks.take()
    assert block is not None
    return block


def collected(
    tensors: tuple[RecordedTensor, ...], records: Iterable[bytes], limit: int = BLOCK_BYTES, claims: list[int] | None = None,
) -> Iterator[RecordBlock]:
    """As the recorder does it: a block is taken when a record does not fit, and at the end. claims: gets the rows of each record."""
    blocks = RecordBlocks(tensors, limit)
    for record in records:
        if (rows := blocks.add_for_test(record)) == 0:
            assert blocks.is_full
            yield taken(blocks)
            rows = blocks.add_for_test(record)
        assert rows > 0
        if claims is not None:
            claims.append(rows)
    if (last := blocks.take()) is not None:
        yield last


def batches(tensors: tuple[RecordedTensor, ...], blocks: Iterable[RecordBlock]) -> list[pa.RecordBatch]:
    found = list(batches_of(tensors, [block.records for block in blocks]))
    for batch in found:
        batch.validate(full=True)
        assert batch.schema.equals(journal_schema(tensors))
    return found


def rows_of(tensors: tuple[RecordedTensor, ...], blocks: Iterable[RecordBlock]) -> list[dict[str, object]]:
    return [row for batch in batches(tensors, blocks) for row in batch.to_pylist()]


def pages(block: RecordBlock) -> tuple[int, int]:
    """Where they are, and how many bytes: the records, and what is around them."""
    buffer = pa.py_buffer(block)
    return buffer.address, buffer.size


def mapped(block: RecordBlock) -> int:
    return pages(block)[1]
