"""Blocks of records: what goes in comes out row for row, and a frame lies around it."""


import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.record_block import BLOCK_BYTES, RecordBlocks
from serve.recording.arrow_schema import ELEMENTS
from serve.records import RecordedTensor
from tests.core.record_blocks import (
    BYTES,
    MOST_BEHIND,
    PAGE,
    SMALL,
    batches,
    collected,
    mapped,
    pages,
    rows_of,
    sized,
    taken,
)
from tests.core.records import Part, Record
from tests.core.test_record_columns import SHAPES, VECTOR, expected, make_part, streams, tensor, vector_record

# --- rows ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("datatype", ELEMENTS)
def test_every_datatype_comes_out_as_it_went_in(datatype: str) -> None:
    """In every shape; with failed requests and left-out tensors between them, over several blocks."""
    tensors = tuple(tensor(datatype, shape, str(shape)) for shape in SHAPES)
    rng = np.random.default_rng(1)
    records, seq = [], 0
    for number, rows in enumerate([1, 3, 0, 1, 2, 70, 0, 0, 9, 1, 250, 1]):
        parts = [make_part(one, rows, rng) for one in tensors] if rows else []
        if number in {3, 8}:
            parts[number] = Part(None)
        records.append(Record(rows, parts, seq=seq, ts_ns=10 + number, status=200 if rows else 503, error=0 if rows else 5))
        seq += max(rows, 1)
    found = list(collected(tensors, [record.pack() for record in records], 4000))
    assert len(found) > 3
    assert rows_of(tensors, found) == expected(tensors, records)
    starts = np.cumsum([0] + [block.n_rows for block in found])
    assert [block.first_seq for block in found] == starts[:-1].tolist()
    assert found[-1].last_ts_ns == records[-1].ts_ns
    for block in found:
        assert rows_of(tensors, [block])[-1]["ts_ns"] == block.last_ts_ns


@settings(max_examples=150, deadline=None)
@given(streams(), st.sampled_from([0, 300, 2000, 20_000, BLOCK_BYTES]))
def test_round_trip(stream: tuple[tuple[RecordedTensor, ...], list[Record]], limit: int) -> None:
    tensors, records = stream
    packed = [record.pack() for record in records]
    found = list(collected(tensors, packed, limit))
    assert b"".join(bytes(block.records) for block in found) == b"".join(packed)
    assert rows_of(tensors, found) == expected(tensors, records)
    assert [block.n_rows for block in found] == [len(rows_of(tensors, [block])) for block in found]
    assert [block.first_seq for block in found] == [rows_of(tensors, [block])[0]["seq"] for block in found]


@pytest.mark.parametrize("rows", [1, 7])
def test_blocks_of_more_rows_than_a_batch(rows: int) -> None:
    """8192 are no multiple of 7, and a batch has the last rows of one block and the first of the next."""
    spec = tensor("INT16", ())
    rng = np.random.default_rng(2)
    records = [
        Record(rows if number % 50 else 0, [make_part(spec, rows, rng)] if number % 50 else [], seq=number * rows)
        for number in range(24_000 // rows)
    ]
    found = list(collected((spec,), [record.pack() for record in records]))
    assert found[0].n_rows > 8192
    made = batches((spec,), found)
    assert len(made) > 2
    assert all(8192 - rows < batch.num_rows <= 8192 for batch in made[:-1])
    assert pa.Table.from_batches(made).to_pylist() == expected((spec,), records)


def test_request_of_more_rows_than_a_batch_is_there_whole() -> None:
    records = [vector_record(5), vector_record(20_000, seq=5), vector_record(2, seq=20_005)]
    [block] = collected((VECTOR,), [record.pack() for record in records])
    assert block.n_rows == 20_007
    made = batches((VECTOR,), [block])
    assert [batch.num_rows for batch in made] == [5, 20_000, 2]
    assert pa.Table.from_batches(made).to_pylist() == expected((VECTOR,), records)


def test_taking_nothing_gives_nothing() -> None:
    blocks = RecordBlocks((VECTOR,))
    assert blocks.take() is None
    blocks.add_for_test(vector_record(3).pack())
    assert (blocks.n_rows, taken(blocks).n_rows) == (3, 3)
    assert (blocks.take(), blocks.n_rows) == (None, 0)


# --- room ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("room", [0, 8, 152])
def test_block_is_full_when_a_record_does_not_fit(room: int) -> None:
    """Not before: records may end exactly where it does."""
    record = sized(160)
    blocks = RecordBlocks((BYTES,), 5 * 160 + room)
    assert [(blocks.add_for_test(record), blocks.is_full) for _ in range(6)] == [(1, False)] * 5 + [(0, True)]
    assert (blocks.add_for_test(record), blocks.n_rows, blocks.is_full) == (0, 5, True)
    assert len(taken(blocks)) == 5 * 160
    assert not blocks.is_full
    assert (blocks.add_for_test(record), blocks.n_rows) == (1, 1)


@pytest.mark.parametrize("n_bytes", [1008, SMALL, 3 << 20])
def test_record_over_the_limit_is_taken_alone(n_bytes: int) -> None:
    records = [sized(200, 0), sized(n_bytes, 1), sized(200, 2), sized(200, 3), sized(n_bytes, 4), sized(n_bytes, 5)]
    found = list(collected((BYTES,), records, 1000))
    assert [bytes(block.records) for block in found] == [records[0], records[1], records[2] + records[3], records[4], records[5]]
    assert rows_of((BYTES,), found)[1]["in_x"] == [1] * (n_bytes - len(Record(parts=[Part(b"", (0,))]).pack()))


@pytest.mark.parametrize(("spec", "record", "fitting"), [
    (VECTOR, vector_record(1000, tags=b"t\0" + b"v" * 12_000 + b"\0"), 2), (tensor("FP64", (1 << 14,)), Record(rows=0), 255),
    (VECTOR, vector_record(1000, tags=b"t\0" + b"v" * 40_000 + b"\0"), 1),
], ids=["texts that every row repeats", "failed rows of large tensors", "one alone"])
def test_block_is_full_when_its_rows_would_take_much_as_columns(spec: RecordedTensor, record: Record, fitting: int) -> None:
    blocks = RecordBlocks((spec,))
    rows = max(record.rows, 1)
    assert [blocks.add_for_test(record.pack()) for _ in range(fitting + 1)] == [rows] * fitting + [0]
    block = taken(blocks)
    assert (block.n_rows, blocks.n_rows, blocks.is_full) == (fitting * rows, 0, False)
    assert block.arrow_bytes == pytest.approx(sum(batch.nbytes for batch in batches((spec,), [block])), rel=0.05)
    assert [blocks.add_for_test(record.pack()) for _ in range(fitting + 1)] == [rows] * fitting + [0]


# --- frames -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("head", "behind"), [(31, 0), (33, 0), (0, 8), (32, MOST_BEHIND + 1), (32, 1 << 20)])
def test_frame_that_has_no_room_is_refused(head: int, behind: int) -> None:
    blocks = RecordBlocks((VECTOR,))
    record = vector_record().pack()
    blocks.add_for_test(record)
    block = taken(blocks)
    with pytest.raises(ValueError, match=f"a head of {head} bytes, and {behind} behind; want 32, and at most {MOST_BEHIND}"):
        block.framed(bytes(head), bytes(behind))
    assert bytes(block.records) == record


sizes = st.lists(st.integers(20, 400).map(lambda n: 8 * n) | st.integers(1000, 30_000).map(lambda n: 8 * n), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 1 << 20), st.lists(st.integers(0, MOST_BEHIND) | st.just(MOST_BEHIND), min_size=2, max_size=3))
def test_frame_lies_around_the_records(n_bytes: list[int], limit: int, behind: list[int]) -> None:
    """At a page, for a disk that is written directly; again and again, as when a disk refuses it. The limit is met to the byte, too."""
    for block in collected((BYTES,), [sized(n, seq) for seq, n in enumerate(n_bytes)], min(limit, sum(n_bytes))):
        records = bytes(block.records)
        assert pa.py_buffer(block.records).address == pages(block)[0] + 32
        for number, n in enumerate(behind):
            head, tail = bytes([number]) * 32, bytes([99 - number]) * n
            frame = block.framed(head, tail)
            assert (pa.py_buffer(frame).address % PAGE, frame.readonly, block.records.readonly) == (0, True, True)
            assert bytes(frame) == head + records + tail
            assert bytes(block.records) == records
            assert 32 + len(records) + MOST_BEHIND <= mapped(block)
