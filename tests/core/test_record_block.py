"""Blocks of records: what goes in comes out row for row, whatever becomes of the memory, and whatever a record claims."""

import gc
import mmap
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.record_block import BLOCK_BYTES, RecordBlock, RecordBlocks
from serve._core.record_columns import RecordColumns
from serve._core.tensors import KINDS
from serve.recording.arrow_schema import ELEMENTS, journal_schema
from serve.recording.columns import batch_of, batches_of
from serve.records import RecordedTensor
from tests.core.records import HEADER, Part, Record, framed
from tests.core.test_record_columns import SHAPES, TEXT, VECTOR, check_layout, expected, make_part, mixed, streams, tensor, vector_record

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


def held_by_process() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE


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


# --- memory -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n_bytes", [200, 300_000], ids=["few", "many"])
def test_pages_go_back_and_are_used_again(n_bytes: int) -> None:
    """Two places in turn; not while somebody looks at them, from whatever thread they come back."""
    blocks, seen = RecordBlocks((BYTES,)), []
    for seq in range(8):
        blocks.add_for_test(sized(n_bytes, seq))
        held = [taken(blocks)]
        assert bytes(held[0].records) == sized(n_bytes, seq)
        seen.append(pages(held[0])[0])
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    assert seen == [seen[0], seen[1]] * 4
    assert seen[0] != seen[1]


def test_pages_that_somebody_looks_at_are_not_used_again() -> None:
    blocks, views = RecordBlocks((BYTES,)), []
    for seq in range(12):
        blocks.add_for_test(sized(8000, seq))
        block = taken(blocks)
        views.append(block.records if seq % 2 else block.framed(HEAD, b"behind"))
        del block
    gc.collect()
    assert len({pa.py_buffer(view).address - 32 * (seq % 2) for seq, view in enumerate(views)}) == 12
    for seq, view in enumerate(views):
        assert bytes(view) == (sized(8000, seq) if seq % 2 else HEAD + sized(8000, seq) + b"behind")


@pytest.mark.parametrize("n_records", [1, 32, 33, 34, 35, 40, 900])
def test_streams_of_few_rows_hold_little_and_grow(n_records: int) -> None:
    """What was there before is still there, in the same order; also where the pages were used before."""
    blocks, records = RecordBlocks((BYTES,)), [sized(2000, seq) for seq in range(n_records)]
    for _ in range(4):
        assert [blocks.add_for_test(record) for record in records] == [1] * n_records
        block = taken(blocks)
        assert bytes(block.records) == b"".join(records)
        assert mapped(block) == (SMALL_MAPPED if len(block) <= SMALL_MAPPED - MOST_BEHIND - 32 else FULL_MAPPED)
        assert pages(block)[0] % FULL_MAPPED == 0, "a huge page, if it is large"
        del block


def test_a_burst_does_not_hold_its_memory_for_ever() -> None:
    """A stream that has become quiet writes into small pages again."""
    blocks, sizes = RecordBlocks((BYTES,)), []
    for n_bytes in [1_000_000] * 4 + [200] * 6:
        blocks.add_for_test(sized(n_bytes))
        sizes.append(mapped(taken(blocks)))
    assert sizes[:4] == [FULL_MAPPED] * 4
    assert sizes[-3:] == [SMALL_MAPPED] * 3


@pytest.mark.parametrize("n_bytes", [200, 100_000, 4 << 20])
def test_no_memory_is_left_behind(n_bytes: int) -> None:
    """Neither of records over the limit, nor of pages that grew, nor where many are taken before one comes back, nor of the owners."""
    def use(blocks: RecordBlocks) -> None:
        for _ in range(10):
            several = []
            for record in (small, large) * 2:
                if not blocks.add_for_test(record):
                    several.append(taken(blocks))
                    blocks.add_for_test(record)
                if record is large:
                    several.append(taken(blocks))
        blocks.add_for_test(large)

    small, large, before = sized(200), sized(n_bytes), held_by_process()
    for _ in range(100):
        use(RecordBlocks((BYTES,), 1 << 20))
    assert held_by_process() - before < 8 << 20


def test_trimmed_blocks_hold_no_memory_for_the_next_rows() -> None:
    blocks = RecordBlocks((BYTES,))
    assert blocks.trim() == 0
    blocks.add_for_test(sized(8000, 1))
    block = taken(blocks)
    assert blocks.trim() == 0, "the block has it"
    del block
    assert blocks.trim() == SMALL_MAPPED
    assert blocks.trim() == 0
    for held in (2 * FULL_MAPPED, 0):
        for seq in range(2):            # one is the spare, the other waits for the next rows
            blocks.add_for_test(sized(1_000_000, seq))
            taken(blocks)
        assert not held or blocks.trim() == held
    blocks.add_for_test(sized(8000, 7))
    assert blocks.trim() == FULL_MAPPED, "rows stay where they are"
    block = taken(blocks)
    assert bytes(block.records) == sized(8000, 7)
    del block
    assert blocks.trim() == 0, "pages for many rows that had few were let go"


def test_block_outlives_its_owner_and_views_outlive_both() -> None:
    blocks = RecordBlocks((VECTOR,))
    record = vector_record(3, tags=b"who\0Ada\0").pack()
    blocks.add_for_test(record)
    block = taken(blocks)
    blocks.add_for_test(vector_record(4).pack())
    del blocks
    gc.collect()
    assert bytes(block.records) == record
    views = [block.records, block.framed(HEAD, b"abc")[32:-3], block.records[:]]
    del block
    gc.collect()
    for _ in range(20):                 # what would come to lie there, were it free
        other = RecordBlocks((VECTOR,))
        other.add_for_test(vector_record(9).pack())
        assert taken(other).n_rows == 9
    while views:
        assert [bytes(view) for view in views] == [record] * len(views)
        views.pop()
        gc.collect()


def test_blocks_come_back_while_others_are_taken() -> None:
    """From another thread, at any time: no block is written over before it is gone."""
    blocks = RecordBlocks((BYTES,), 3000)
    given_away: queue.Queue[tuple[int, RecordBlock] | None] = queue.Queue(4)
    wrong = []

    def look() -> None:
        while (item := given_away.get()) is not None:
            seq, block = item
            if bytes(block.records) != sized(200 + 8 * (seq % 700), seq):
                wrong.append(seq)

    thread = threading.Thread(target=look)
    thread.start()
    for seq in range(3000):
        blocks.add_for_test(sized(200 + 8 * (seq % 700), seq))
        given_away.put((seq, taken(blocks)))
    given_away.put(None)
    thread.join()
    assert wrong == []


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


# --- records that lie ---------------------------------------------------------------------------------------------------

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
