"""Journals with records as they came: read back to the row, whatever is damaged, refused or written past the page cache."""

import errno
import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.record_block import RecordBlock, RecordBlocks
from serve._core.record_columns import RecordColumns
from serve.recording import journal_writer
from serve.recording.aligned import BLOCK_BYTES, AlignedBuffer
from serve.recording.arrow_schema import journal_schema, to_table
from serve.recording.columns import batches_of, first_of
from serve.recording.files import SystemFiles
from serve.recording.frames import BATCH, FILLER, OVERHEAD, RECORDS, Frame, decode, hash_of, valid_frames
from serve.recording.journal import JournalContents, read_journal
from serve.recording.journal_writer import DIRECT_BYTES, Block, JournalWriter
from serve.recording.lane import JournalLane, JournalPlace, SyncFailed
from serve.recording.pump import PumpStream, RecordPump
from serve.recording.redaction import Redactor
from serve.recording.sink import RecordSink, SinkStream
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec, Redaction
from tests.core.records import Record
from tests.core.test_record_columns import expected, make_part, mixed, streams, tensor, vector_record
from tests.unit.recording import test_redaction
from tests.unit.recording.journals import header
from tests.unit.recording.recorder_parts import FaultyFiles, Plant

VECTOR = (tensor("FP32", (4,)),)
Rows = list[dict[str, Any]]


class Shelf:
    """Records that can be told apart, packed into blocks; what they should become."""

    def __init__(self, tensors: tuple[RecordedTensor, ...] = VECTOR) -> None:
        self.tensors = tensors
        self.rows: Rows = []
        self._rng = np.random.default_rng(4)
        self._seq = 0

    def records(self, *rows: int) -> list[Record]:
        """Requests of so many rows each; 0: one that failed."""
        made = []
        for n in rows:
            parts = [make_part(one, n, self._rng) for one in self.tensors] if n else []
            made.append(Record(n, parts, seq=self._seq, status=200 if n else 503, request_id=b"%d" % self._seq, tags=b"a\0b\0"))
            self._seq += max(n, 1)
        self.rows += expected(self.tensors, made)
        return made

    def block(self, *rows: int) -> RecordBlock:
        return block_of(self.tensors, self.records(*rows))

    def large(self) -> RecordBlock:
        """One that is written directly."""
        made = self.block(*[3, 0, 1] * (DIRECT_BYTES // 350))
        assert len(made) >= DIRECT_BYTES
        return made


def block_of(tensors: tuple[RecordedTensor, ...], records: Iterable[Record]) -> RecordBlock:
    blocks = RecordBlocks(tensors)
    for record in records:
        assert blocks.add_for_test(record.pack()) > 0
    block = blocks.take()
    assert block is not None
    return block


def new_writer(
    folder: Path, tensors: tuple[RecordedTensor, ...] = VECTOR, files: SystemFiles | None = None, buffer: AlignedBuffer | None = None,
) -> JournalWriter:
    return JournalWriter(files or SystemFiles(), folder, header(1, tensors=tensors), journal_schema(tensors), buffer)


def put(writer: JournalWriter, block: Block) -> None:
    end, n_rows = writer.end_after(block), writer.n_rows
    writer.append_block(block)
    assert (writer.n_bytes, writer.n_rows) == (end, n_rows + block.rows)


def closed(writer: JournalWriter, folder: Path) -> Path:
    writer.end()
    writer.sync()
    writer.publish()
    return folder / "1-1.journal"


def rows_of(contents: JournalContents) -> Rows:
    found = []
    for batch in contents.read():
        batch.validate(full=True)
        found += batch.to_pylist()
    assert len(found) == contents.rows
    return found


def all_frames(data: bytes) -> list[Frame]:
    """Fillers and the end too, but for the header."""
    head = decode(memoryview(data), 0, 0)
    assert head is not None
    return list(valid_frames(memoryview(data), head.end, hash_of(data)))


def read_whole(path: Path) -> JournalContents:
    """A journal in which nothing is amiss."""
    contents = read_journal(path)
    assert (contents.is_complete, contents.bad_frames, contents.bad_rows, contents.torn_rows) == (True, 0, 0, 0)
    return contents


# --- written and read ---------------------------------------------------------------------------------------------------

def test_records_are_read_while_open_and_when_closed(tmp_path: Path) -> None:
    tensors, _ = mixed()
    shelf = Shelf(tensors)
    writer = new_writer(tmp_path, tensors)
    blocks = [shelf.block(1, 0, 3), shelf.block(2), shelf.block(0), shelf.block(*[7] * 40)]
    for block in blocks:
        put(writer, Block.of_records(block))
    opened = read_journal(tmp_path / "1-1.open")
    assert (rows_of(opened), opened.is_complete) == (shelf.rows, False)
    contents = read_whole(closed(writer, tmp_path))
    assert rows_of(contents) == rows_of(contents) == shelf.rows
    assert [(frame.kind, frame.rows, bytes(frame.payload)) for frame in contents.frames] == [
        (RECORDS, block.n_rows, bytes(block.records)) for block in blocks]
    assert contents.schema == journal_schema(tensors)


@settings(max_examples=50, deadline=None)
@given(streams(), st.lists(st.integers(1, 5), min_size=20, max_size=20), st.booleans())
def test_whatever_is_recorded_is_read(
    tmp_path_factory: pytest.TempPathFactory, stream: tuple[tuple[RecordedTensor, ...], list[Record]], sizes: list[int], is_direct: bool,
) -> None:
    """A few records a frame; the batches are as large as they would be out of one."""
    tensors, records = stream
    folder, left = tmp_path_factory.mktemp("journal"), list(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_writer, "DIRECT_BYTES", 400)
        writer = new_writer(folder, tensors, FaultyFiles(), AlignedBuffer() if is_direct else None)
        for n in sizes:
            if left:
                put(writer, Block.of_records(block_of(tensors, left[:n])))
            left = left[n:]
    contents = read_whole(closed(writer, folder))
    assert rows_of(contents) == expected(tensors, records)
    assert sum(1 for _ in contents.read()) == bool(records)


def test_records_and_batches_take_turns(tmp_path: Path) -> None:
    shelf, writer = Shelf(), new_writer(tmp_path)
    for number in range(6):
        block = shelf.block(2, 0, 5)
        batches = [Block.of(batch) for batch in batches_of(VECTOR, [block.records])]
        for one in batches if number in {1, 2, 4} else [Block.of_records(block)]:
            put(writer, one)
    contents = read_whole(closed(writer, tmp_path))
    assert [frame.kind for frame in contents.frames] == [RECORDS, BATCH, BATCH, RECORDS, BATCH, RECORDS]
    assert rows_of(contents) == shelf.rows


def test_frames_of_records_are_what_the_format_says(tmp_path: Path) -> None:
    """The bytes, taken apart by hand."""
    shelf, writer = Shelf(), new_writer(tmp_path)
    blocks, starts = [shelf.block(2), shelf.block(0, 3)], []
    for block in blocks:
        starts.append(writer.n_bytes)
        put(writer, Block.of_records(block))
    data = closed(writer, tmp_path).read_bytes()
    for start, block, before in zip(starts, blocks, (0, 2), strict=True):
        assert (data[start : start + 4], data[start + 4], start % 8) == (b"HJNL", 5, 0)
        numbers = [int.from_bytes(data[start + at : start + at + size], "little") for at, size in ((8, 8), (16, 4), (20, 4))]
        assert numbers == [len(block), block.n_rows, before]
        assert data[start + OVERHEAD : start + OVERHEAD + len(block)] == bytes(block.records)


def test_memory_that_was_written_can_be_used_again_at_once(tmp_path: Path) -> None:
    shelf, writer, blocks = Shelf(), new_writer(tmp_path, buffer=AlignedBuffer()), RecordBlocks(VECTOR)
    for number in range(6):
        for record in shelf.records(*[1, 0, 2] * (400 if number % 2 else 3)):
            blocks.add_for_test(record.pack())
        block = blocks.take()
        assert block is not None
        writer.append_block(Block.of_records(block))
        del block
    assert rows_of(read_journal(closed(writer, tmp_path))) == shelf.rows


def test_rows_of_records_that_lie_are_as_many_as_the_frame_says(tmp_path: Path) -> None:
    blocks, writer = RecordBlocks(VECTOR), new_writer(tmp_path)
    honest = vector_record(2, seq=1)
    for record in (honest.pack(), vector_record(3).pack(rows=-1), vector_record(3).pack(rows=5000), vector_record(3).pack(id_length=9999)):
        assert blocks.add_for_test(record) > 0
    block = blocks.take()
    assert block is not None
    assert (block.n_rows, blocks.n_malformed) == (2 + 1 + 5000 + 1, 3)
    put(writer, Block.of_records(block))
    contents = read_journal(closed(writer, tmp_path))
    assert (contents.rows, sum(batch.num_rows for batch in contents.read())) == (5004, 5004)
    assert rows_of(contents)[:2] == honest.expected(VECTOR)


# --- damage -------------------------------------------------------------------------------------------------------------

def damaged_journal(folder: Path, buffer: AlignedBuffer | None) -> tuple[Path, list[Rows]]:
    """A small one, and the rows of its frames."""
    shelf, writer, frames = Shelf(), new_writer(folder, files=FaultyFiles(), buffer=buffer), []
    for rows in ((2,), (0, 3), (1,)):
        n_before = len(shelf.rows)
        put(writer, Block.of_records(shelf.block(*rows)))
        frames.append(shelf.rows[n_before:])
    return closed(writer, folder), frames


@pytest.mark.parametrize("is_direct", [False, True])
def test_every_flipped_bit_is_found_and_its_rows_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_direct: bool) -> None:
    """However a frame is damaged, the other frames are read, no row is read that was not written, and readable + bad are all rows."""
    monkeypatch.setattr(journal_writer, "DIRECT_BYTES", 250)
    path, written = damaged_journal(tmp_path, AlignedBuffer() if is_direct else None)
    whole = path.read_bytes()
    frames = all_frames(whole)
    with_rows = [frame for frame in frames if frame.kind == RECORDS]
    assert [frame.kind for frame in frames].count(FILLER) == (2 if is_direct else 0)
    for at, bit in places(frames, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        contents = read_journal(path)
        assert contents.bad_frames == 1, f"bit {bit} of byte {at}"
        assert contents.rows + contents.bad_rows == 7, f"bit {bit} of byte {at}"
        if contents.header is not None:
            left = [rows for frame, rows in zip(with_rows, written, strict=True) if not frame.offset <= at < frame.end]
            assert rows_of(contents) == [row for rows in left for row in rows], f"bit {bit} of byte {at}"
        else:
            assert (at < frames[0].offset, contents.rows, contents.frames) == (True, 0, ())
        assert contents.is_complete == (at < frames[-1].offset)


def places(frames: list[Frame], n_bytes: int) -> Iterator[tuple[int, int]]:
    """Each bit of the frames with rows, of every frame's head, and of the end; of what is zeros or JSON one here and there."""
    for at in range(n_bytes):
        frame = next((one for one in frames if one.offset <= at < one.end), None)
        if frame is None or (frame.kind == FILLER and at >= frame.offset + OVERHEAD):
            if at % 29 == 0:
                yield at, at % 8
        else:
            yield from ((at, bit) for bit in range(8))


def test_every_cut_is_found(tmp_path: Path) -> None:
    path, written = damaged_journal(tmp_path, None)
    whole = path.read_bytes()
    frames = all_frames(whole)
    for length in range(frames[0].offset, len(whole)):
        path.write_bytes(whole[:length])
        contents = read_journal(path)
        n_whole = sum(frame.end <= length for frame in frames)
        assert rows_of(contents) == [row for rows in written[:n_whole] for row in rows]
        torn = frames[n_whole].rows if length - frames[n_whole].offset >= OVERHEAD else 0
        assert (contents.torn_rows, contents.bad_frames, contents.is_complete) == (torn, 0, False), f"cut at {length}"


# --- past the page cache ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", ["L", "sLsLLs", "LbBsL", "BLBbs", "ssb"])
def test_direct_and_cached_writes_read_back_the_same(tmp_path: Path, sizes: str) -> None:
    """Small and large records, small and large batches, in one journal: as without a buffer."""
    found = []
    for buffer in (AlignedBuffer(), None):
        files, shelf = FaultyFiles(), Shelf()
        folder = tmp_path / str(buffer is None)
        folder.mkdir()
        writer = new_writer(folder, VECTOR, files, buffer)
        for size in sizes:
            block = shelf.large() if size in "LB" else shelf.block(2, 0, 1)
            if size in "bB":
                [batch] = batches_of(VECTOR, [block.records])
                put(writer, Block.of(batch))
            else:
                put(writer, Block.of_records(block))
        path = closed(writer, folder)
        contents = read_whole(path)
        assert rows_of(contents) == shelf.rows
        found.append([(frame.kind, frame.rows, bytes(frame.payload)) for frame in contents.frames if frame.kind == RECORDS])
        frames = all_frames(path.read_bytes())
        large = [frame for frame in frames if frame.kind in {RECORDS, BATCH} and len(frame.payload) >= DIRECT_BYTES]
        assert files.n_direct == (len(large) if buffer else 0) == (sizes.count("L") + sizes.count("B") if buffer else 0)
        assert all(frame.offset % BLOCK_BYTES == 0 for frame in large) or buffer is None
    assert found[0] == found[1]


@pytest.mark.parametrize("written", [None, 0, 5000], ids=["a file system that does not do it", "nothing", "some pages"])
def test_a_direct_write_that_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int | None) -> None:
    """What was made ready for the disk goes to the page cache."""
    def write(fd: int, data: memoryview, offset: int) -> int:
        assert pa.py_buffer(data).address == pa.py_buffer(block.records).address - OVERHEAD, "in place, without a copy"
        if written is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.pwrite(fd, data[:written], offset)

    files, shelf = FaultyFiles(), Shelf()
    writer = new_writer(tmp_path, VECTOR, files, AlignedBuffer())
    monkeypatch.setattr(files, "write_direct", write)
    for block in (shelf.block(1), shelf.large(), shelf.block(2), shelf.large()):
        writer.append_block(Block.of_records(block))
    assert rows_of(read_whole(closed(writer, tmp_path))) == shelf.rows


@pytest.mark.parametrize("is_full", [True, False])
def test_a_block_that_the_disk_refused_is_appended_again(tmp_path: Path, is_full: bool) -> None:
    """Elsewhere in the journal, too: its frame is made anew, around the same records."""
    files, shelf = FaultyFiles(), Shelf()
    writer = new_writer(tmp_path, VECTOR, files, AlignedBuffer())
    put(writer, Block.of_records(shelf.block(3)))
    refused = Block.of_records(shelf.large())
    for _ in range(2):
        files.room, files.faults = (20_000, {}) if is_full else (None, {"write_direct": errno.EIO})
        with pytest.raises(OSError, match=r"No space|Input/output"):
            writer.append_block(refused)
        files.room, files.faults = None, {}
        assert rows_of(read_journal(tmp_path / "1-1.open")) == shelf.rows[:3]
    put(writer, Block.of_records(block_of(VECTOR, [vector_record(2, seq=10**6)])))
    put(writer, refused)
    rows = rows_of(read_whole(closed(writer, tmp_path)))
    assert rows == shelf.rows[:3] + vector_record(2, seq=10**6).expected(VECTOR) + shelf.rows[3:]


# --- lanes --------------------------------------------------------------------------------------------------------------

def new_lane(folder: Path, files: SystemFiles, buffer: AlignedBuffer | None = None, seal_bytes: int = 1 << 30) -> JournalLane:
    place = JournalPlace(files, folder, seal_bytes, buffer=buffer)
    return JournalLane(place, journal_schema(VECTOR), lambda number: header(number, tensors=VECTOR))


def test_a_journal_is_due_when_its_rows_take_much_as_columns(tmp_path: Path) -> None:
    """What reads it has them in memory: a request's texts in each of its rows."""
    lane, record = new_lane(tmp_path, SystemFiles(), seal_bytes=20 << 20), vector_record(1000, tags=b"t\0" + b"v" * 7000 + b"\0")
    for is_due in (False, False, True):
        lane.ready(0).append_block(Block.of_records(block_of(VECTOR, [record])))
        assert lane.is_due(0) == is_due
    assert lane.open_bytes < 200_000


@pytest.mark.parametrize("buffer", [None, AlignedBuffer()], ids=["cached", "direct"])
def test_records_that_a_failed_sync_gave_back_go_into_another_journal(tmp_path: Path, buffer: AlignedBuffer | None) -> None:
    """After the memory that they came from was used for others."""
    files, shelf = FaultyFiles(), Shelf()
    lane = new_lane(tmp_path, files, buffer)
    lane.ready(0).append_block(Block.of_records(shelf.block(2, 0)))
    lane.sync()
    n_synced, written = len(shelf.rows), [shelf.large(), shelf.block(1), shelf.large(), shelf.block(0, 4)]
    for block in written:
        lane.ready(0).append_block(Block.of_records(block))
    payloads, n_rows = [bytes(block.records) for block in written], [block.n_rows for block in written]
    del written, block
    gc.collect()
    files.once = {"fdatasync": [errno.EIO]}
    with pytest.raises(SyncFailed, match="Input/output") as caught:
        lane.sync()
    failed = caught.value
    assert [(one.kind, one.rows, bytes(one.payload)) for one in failed.blocks] == [
        (RECORDS, rows, payload) for rows, payload in zip(n_rows, payloads, strict=True)]
    assert (failed.n_lost, failed.n_rows) == (0, sum(n_rows))
    for one in failed.blocks:
        lane.ready(0).append_block(one)
    lane.close()
    first, second = (rows_of(read_whole(tmp_path / f"1-{number}.journal")) for number in (1, 2))
    assert (first, second) == (shelf.rows[:n_synced], shelf.rows[n_synced:])
    assert files.n_direct == (4 if buffer else 0)


def test_records_that_cannot_be_read_back_are_lost_and_counted(tmp_path: Path) -> None:
    files, shelf = FaultyFiles(), Shelf()
    writer = new_writer(tmp_path, VECTOR, files, AlignedBuffer())
    for block in (shelf.block(1, 1), shelf.large(), shelf.block(3)):
        writer.append_block(Block.of_records(block))
    files.once = {"pread": [0, errno.EIO]}
    blocks, n_lost = writer.salvage()
    assert ([block.rows for block in blocks], n_lost) == ([2, 3], len(shelf.rows) - 5)
    files.corrupt = True
    assert writer.salvage() == ([], len(shelf.rows))


# --- taken apart --------------------------------------------------------------------------------------------------------

def test_batches_outlive_the_blocks_that_they_came_from() -> None:
    shelf = Shelf(mixed()[0])
    blocks = [shelf.block(*[1, 0, 5] * 30), shelf.block(4)]
    made = list(batches_of(shelf.tensors, [block.records for block in blocks]))
    del blocks
    gc.collect()
    for _ in range(4):
        Shelf(shelf.tensors).block(9, 9, 9)
    assert [row for batch in made for row in batch.to_pylist()] == shelf.rows
    assert list(batches_of(VECTOR, [])) == list(batches_of(VECTOR, [memoryview(b"")])) == []


@pytest.mark.parametrize("spoiled", [b"x", bytes(200), vector_record().pack()[:-8]], ids=["short", "zeros", "cut"])
def test_a_block_that_is_none_is_refused(spoiled: bytes) -> None:
    good = bytes(Shelf().block(*[1] * 9000).records)
    found = batches_of(VECTOR, [memoryview(good), memoryview(spoiled)])
    assert next(found).num_rows == 8192
    with pytest.raises(ValueError, match="no record at byte 0"):
        next(found)


LOOKED_AT = [1, 0, 3, 1, 1, 250, 0, 0, 2, 1, 40, 1, 1, 1, 9, 1, 0]


@pytest.mark.parametrize(("n_rows", "most"), [(0, 5), (1, 1), (3, 2), (5, 1024), (7, 1), (200, 7), (10_000, 100), (1 << 40, 1024)])
def test_the_first_rows_of_a_block(n_rows: int, most: int) -> None:
    """In batches of so many, and what its last request has more; looking changes nothing."""
    shelf = Shelf()
    block, columns = shelf.block(*LOOKED_AT), RecordColumns(VECTOR)
    for _ in range(2):
        batches = list(first_of(VECTOR, block, columns, n_rows, most))
        assert [row for batch in batches for row in batch.to_pylist()] == shelf.rows[:n_rows]
        assert all(most <= batch.num_rows < most + max(LOOKED_AT) for batch in batches[:-1])
        assert columns.n_rows == 0


def test_the_first_rows_are_no_larger_batches_than_any() -> None:
    block = Shelf().block(*[1] * 9000)
    assert [batch.num_rows for batch in first_of(VECTOR, block, RecordColumns(VECTOR), 8900, 20_000)] == [8192, 708]


def test_rows_that_a_look_left_behind_are_not_shown_to_the_next() -> None:
    """A look that was broken off may go on; between two batches, others look through the same columns."""
    shelf = Shelf()
    block, columns = shelf.block(*[1, 2] * 50), RecordColumns(VECTOR)
    columns.add(block.records, 0, 7)
    broken_off = first_of(VECTOR, block, columns, 100, 10)
    assert next(broken_off).to_pylist() == shelf.rows[:10]
    other = vector_record(4, seq=9)
    [batch] = first_of(VECTOR, block_of(VECTOR, [other]), columns, 4, 10)
    assert batch.to_pylist() == other.expected(VECTOR)
    assert [row for batch in broken_off for row in batch.to_pylist()] == shelf.rows[10:100]


# --- redaction ----------------------------------------------------------------------------------------------------------

def journalled(home: Path, spec: RecordStreamSpec, blocks: Sequence[list[Record]]) -> tuple[pa.Table, set[int]]:
    """The table that the recorder makes of these records, a block at a time, and the kinds of the frames that have it."""
    home.mkdir()
    plant = Plant.build(home)
    redactor = Redactor(spec, lambda: test_redaction.KEY)
    recorded = replace(spec, tensors=redactor.tensors)

    def make_header(number: int) -> StreamHeader:
        return StreamHeader.of_stream(recorded, replica="r", epoch=plant.page.epoch, journal=number, created_ns=1)

    sink = RecordSink(plant.page, 0)
    pump = RecordPump(plant.source, sink)
    lane = JournalLane(plant.place, redactor.schema, make_header)
    pump.add(plant.source.open_stream(spec), PumpStream(spec, redactor, SinkStream("1", lane)))
    for number, records in enumerate(blocks):
        plant.source.ring.extend((0, record.pack(), max(record.rows, 1)) for record in records)
        while not pump.is_drained():
            pump.step(number, force=True)
    sink.close(len(blocks))
    plant.page.close_cleanly()
    plant.page.release()
    contents = read_whole(next(plant.place.folder.iterdir()))
    assert contents.header is not None
    return to_table(list(contents.read()), contents.header), {frame.kind for frame in contents.frames}


def test_redacted_and_plain_streams_give_the_same_table_but_for_the_redaction(tmp_path: Path) -> None:
    shelf = Shelf(test_redaction.TENSORS)
    blocks = [shelf.records(*sizes) for sizes in ([2, 1, 0, 1], [1] * 900, [0, 0, 30], [64] * 150)]
    redactions = (
        Redaction("tags", "mask"), Redaction("in_name", "hash"), Redaction("in_grid", "drop"), Redaction("in_age", "bucket", (0.0,)))
    spec = RecordStreamSpec("m", "1", "sha256:00", shelf.tensors)
    plain, kinds = journalled(tmp_path / "plain", spec, blocks)
    assert (kinds, plain.num_rows) == ({RECORDS}, len(shelf.rows))
    redacted, kinds = journalled(tmp_path / "redacted", replace(spec, spec=RecordingSpec(redact=redactions)), blocks)
    assert kinds == {BATCH}
    touched = [one.column for one in redactions]
    assert redacted.drop_columns(touched).replace_schema_metadata(None).equals(plain.drop_columns(touched).replace_schema_metadata(None))
    assert plain["seq"].to_pylist() == [row["seq"] for row in shelf.rows]
    assert redacted["tags"].to_pylist() == [[("a", "***")]] * len(shelf.rows)
    assert redacted["in_grid"].null_count == len(shelf.rows)
    names = plain["in_name"].to_pylist()
    assert redacted["in_name"].to_pylist() == [None if name is None else test_redaction.hashed(name) for name in names]
    ages = [None if row["in_age"] is None else 0.0 if row["in_age"] >= 0 else -np.inf for row in shelf.rows]
    assert redacted["in_age"].to_pylist() == ages
