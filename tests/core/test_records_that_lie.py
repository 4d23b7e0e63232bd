"""Records that are not what they claim: counted, read as failed rows or nulls, and never a byte of others."""


import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.record_block import BLOCK_BYTES, RecordBlocks
from serve._core.record_columns import RecordColumns
from serve._core.tensors import KINDS
from serve.recording.columns import batch_of, batches_of
from tests.core.record_blocks import (
    collected,
    rows_of,
    taken,
)
from tests.core.records import HEADER, Part, Record, framed
from tests.core.test_record_columns import TEXT, VECTOR, check_layout, expected, mixed, vector_record


@pytest.mark.parametrize("lies", [
    {"rows": -1}, {"rows": -(2**31)}, {"rows": 2**31 - 1}, {"rows": (1 << 20) + 1}, {"id_length": 65535}, {"tags_length": 65535},
], ids=str)
def test_header_that_lies_is_counted_at_once_and_becomes_a_failed_row(lies: dict[str, int]) -> None:
    blocks = RecordBlocks((VECTOR,))
    honest = [vector_record(2, seq=1), vector_record(seq=4)]
    added = [blocks.add_for_test(one) for one in (honest[0].pack(), vector_record(seq=3).pack(**lies), honest[1].pack())]
    assert (added, blocks.n_malformed) == ([2, 1, 1], 1)
    block = taken(blocks)
    *before, lie, after = rows_of((VECTOR,), [block])
    assert [*before, after] == expected((VECTOR,), honest)
    assert (lie["row"], lie["seq"], lie["in_x"], lie["error"]) == (-1, 3, None, KINDS["INTERNAL"])
    assert (block.n_rows, blocks.n_malformed) == (4, 1)


def test_record_that_ends_anywhere_is_a_failed_row() -> None:
    """At multiples of 8, as rings have it; with sanitizers, reading one byte more ends the test."""
    tensors, record = mixed()
    whole = record.pack()
    lengths = range(HEADER.size, len(whole), 8)
    found = list(collected(tensors, [record.pack(length=length)[:length] for length in lengths], 1000))
    assert sum(block.n_rows for block in found) == len(lengths)
    for row in rows_of(tensors, found):
        assert (row["row"], row["seq"], row["error"]) == (-1, 9, KINDS["INTERNAL"])
        assert [row[one.column] for one in tensors] == [None] * 5


def test_tensor_that_is_not_what_the_stream_says_is_counted_and_null() -> None:
    """Once, however often it is refused."""
    record = Record(2, [Part(bytes(31)), Part(framed([b"a", b"b"]), (1,))])
    blocks = RecordBlocks((VECTOR, TEXT), len(record.pack()))
    assert [(blocks.add_for_test(record.pack()), blocks.n_malformed) for _ in range(3)] == [(2, 1), (0, 1), (0, 1)]
    rows = rows_of((VECTOR, TEXT), [taken(blocks)])
    assert [(row["row"], row["in_x"], row["in_words"]) for row in rows] == [(0, None, [b"a"]), (1, None, [b"b"])]


flips = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)


def flipped(record: bytes, places: list[tuple[int, int]], first: int) -> bytes:
    data = bytearray(record)
    for at, value in places:
        data[first + at % (len(data) - first)] = value
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(flips, min_size=1, max_size=6), st.sampled_from([500, 1500, BLOCK_BYTES]))
def test_block_claims_the_rows_that_reading_gives(records: list[list[tuple[int, int]]], limit: int) -> None:
    """Whatever bytes are flipped but those of the length, which the ring answers for; honest records beside them come out as they were."""
    tensors, record = mixed()
    honest, claims = record.pack(), list[int]()
    packed = [one for places in records for one in (flipped(honest, places, 4), honest)]
    found = list(collected(tensors, packed, limit, claims))
    made = list(batches_of(tensors, [block.records for block in found]))
    for batch in made:
        check_layout(batch)
    assert sum(block.n_rows for block in found) == sum(claims) == sum(batch.num_rows for batch in made)
    for block in found:
        assert block.n_rows == sum(batch.num_rows for batch in batches_of(tensors, [block.records]))
    table, ends = pa.Table.from_batches(made), np.cumsum(claims).tolist()
    for number, end in enumerate(ends):
        if number % 2:
            assert table.slice(end - 3, 3).to_pylist() == record.expected(tensors)


@settings(max_examples=100, deadline=None)
@given(flips)
def test_who_looks_and_who_reads_agree_on_what_is_malformed(places: list[tuple[int, int]]) -> None:
    tensors, record = mixed()
    blocks, columns = RecordBlocks(tensors), RecordColumns(tensors)
    data = flipped(record.pack(), places, 4)
    assert blocks.add_for_test(data) == (columns.add(data) and columns.n_rows)
    assert blocks.n_malformed == columns.n_malformed


# --- RecordColumns.add --------------------------------------------------------------------------------------------------

GOOD = vector_record(2).pack()


@pytest.mark.parametrize("rest", [
    GOOD[:-1], GOOD[: HEADER.size - 1], GOOD[:4], b"\1", bytes(len(GOOD)), vector_record(2).pack(length=HEADER.size - 1),
    vector_record(2).pack(length=len(GOOD) + 1), vector_record(2).pack(length=2**32 - 1), b"\xff" * 500,
    vector_record(2).pack(length=len(GOOD) - 4),
], ids=["a byte short", "half a header", "a length", "a byte", "zeros", "below a header", "too long", "huge", "ones", "no multiple of 8"])
def test_bytes_that_are_no_record_are_refused(rest: bytes) -> None:
    """The records before them are there."""
    columns = RecordColumns((VECTOR,))
    with pytest.raises(ValueError, match=f"no record at byte 0 of {len(rest)}$"):
        columns.add(rest)
    assert columns.n_rows == 0
    with pytest.raises(ValueError, match=f"no record at byte {2 * len(GOOD)} of {2 * len(GOOD) + len(rest)}"):
        columns.add(GOOD + GOOD + rest)
    assert batch_of((VECTOR,), columns).to_pylist() == 2 * vector_record(2).expected((VECTOR,))
    assert columns.add(GOOD + rest, 0, 2) == len(GOOD), "what is not wanted is not looked at"


@pytest.mark.parametrize(("n_rows", "max_rows"), [(1, 100), (2, 100), (5, 100), (6, 100), (1000, 100), (1000, 8), (1000, 1), (5, 6)])
def test_adding_stops_at_so_many_rows_or_when_full_and_goes_on_from_there(n_rows: int, max_rows: int) -> None:
    """A request is there whole."""
    records = [vector_record(rows, seq=10 * number) for number, rows in enumerate([1, 3, 2, 5, 1, 1, 7, 2])]
    data, made, at = b"".join(record.pack() for record in records), list[dict[str, object]](), 0
    columns = RecordColumns((VECTOR,), max_rows)
    assert columns.add(data, 0, 0) == columns.n_rows == 0
    while at < len(data):
        at = columns.add(data, at, n_rows)
        assert n_rows <= columns.n_rows < n_rows + 7 or columns.is_full or at == len(data)
        assert columns.n_rows <= max(max_rows, 7)
        assert columns.add(data, at, n_rows) == at
        made += batch_of((VECTOR,), columns).to_pylist()
    assert made == expected((VECTOR,), records)


@settings(max_examples=300, deadline=None)
@given(flips, st.integers(0, 3))
def test_flipped_bytes_never_lead_out_of_the_bytes(places: list[tuple[int, int]], start: int) -> None:
    """Those of the length too: a record, or a ValueError, and never more than there is."""
    tensors, record = mixed()
    whole = record.pack()
    data = whole * start + flipped(whole, places, 0) + whole
    columns = RecordColumns(tensors)
    try:
        at = columns.add(data, start * len(whole))
    except ValueError:
        at = 0
    assert at in {0, len(data)} or columns.is_full
    check_layout(batch_of(tensors, columns))
