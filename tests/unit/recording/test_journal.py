"""Journals: what is written is read, what is damaged is found and counted, what fails leaves nothing behind."""

import errno
from pathlib import Path

import pyarrow as pa
import pytest

from serve.recording.arrow_schema import LABELS_JOURNAL
from serve.recording.files import SystemFiles
from serve.recording.frames import OVERHEAD, claim, encode, frame_bytes, hash_of
from serve.recording.journal import JournalContents, read_journal
from serve.recording.journal_writer import Block, JournalWriter
from serve.recording.stream_header import StreamHeader
from tests.unit.recording.recorder_parts import FaultyFiles

HEADER = StreamHeader(table="labels", replica="r", epoch=3, journal=7, model="m", created_ns=1_700_000_000_123_456_789)


def batch(first: int, n: int, text: str = "") -> pa.RecordBatch:
    rows = [
        {"ts_ns": 1, "seq": seq, "request_id": f"id-{seq}", "row": 0, "model": "m", "name": "label", "text": text}
        for seq in range(first, first + n)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=LABELS_JOURNAL)


def new_writer(folder: Path, files: SystemFiles | None = None) -> JournalWriter:
    return JournalWriter(files or SystemFiles(), folder, HEADER, LABELS_JOURNAL)


def seqs(contents: JournalContents) -> list[int]:
    return [seq for one in contents.read() for seq in one["seq"].to_pylist()]


def closed_journal(folder: Path, sizes: tuple[int, ...]) -> Path:
    writer = new_writer(folder)
    first = 0
    for n in sizes:
        writer.append(batch(first, n))
        first += n
    writer.end()
    writer.sync()
    writer.publish()
    return folder / "3-7.journal"


def frame_starts(data: bytes) -> list[int]:
    starts, offset = [], 0
    while offset < len(data):
        starts.append(offset)
        found = claim(memoryview(data), offset)
        assert found is not None
        offset = found.end
    return starts


def test_what_is_appended_is_read_while_open_and_when_closed(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    path = tmp_path / "3-7.open"
    assert (read_journal(path).header, read_journal(path).rows) == (HEADER, 0)
    writer.append(batch(0, 5))
    writer.append(batch(5, 3, "text of another length"))
    contents = read_journal(path)
    assert (seqs(contents), contents.rows, contents.is_complete) == (list(range(8)), 8, False)
    assert contents.schema == LABELS_JOURNAL
    writer.end()
    writer.sync()
    writer.publish()
    with (tmp_path / "3-7.journal").open("rb") as file:
        contents = read_journal(file)
    assert (contents.header, seqs(contents), contents.is_complete) == (HEADER, list(range(8)), True)
    assert (contents.bad_frames, contents.bad_rows, contents.torn_rows) == (0, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["3-7.journal"]


def test_every_flipped_byte_is_found_and_its_rows_counted(tmp_path: Path) -> None:
    """However the bytes of a frame are damaged, the other frames are read, and readable + bad rows are all rows."""
    path = closed_journal(tmp_path, (2, 3, 1))
    whole = path.read_bytes()
    starts = frame_starts(whole)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        contents = read_journal(path)
        where = sum(start <= at for start in starts) - 1
        assert contents.bad_frames >= 1, f"byte {at} of frame {where}"
        assert contents.rows + contents.bad_rows == 6, f"byte {at} of frame {where}"
        lost = {1: {0, 1}, 2: {2, 3, 4}, 3: {5}}.get(where, set())
        if contents.header is not None:
            assert seqs(contents) == [seq for seq in range(6) if seq not in lost], f"byte {at} of frame {where}"
        else:
            assert (where, contents.rows, contents.frames) == (0, 0, ())
        assert contents.is_complete == (where != 4)


def test_the_hash_of_the_header_alone_can_be_made_up_for(tmp_path: Path) -> None:
    path = closed_journal(tmp_path, (2, 3))
    damaged = bytearray(path.read_bytes())
    damaged[24] ^= 1
    path.write_bytes(damaged)
    contents = read_journal(path)
    assert (contents.header, seqs(contents), contents.bad_frames) == (HEADER, [0, 1, 2, 3, 4], 1)


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = closed_journal(tmp_path, (2, 3, 1))
    whole = path.read_bytes()
    starts = frame_starts(whole)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        contents = read_journal(path)
        assert not contents.is_complete
        n_whole = sum(start <= length for start in starts[1:])      # frames before the cut
        assert contents.rows == [0, 0, 2, 5, 6][n_whole]
        rest = length - starts[n_whole]
        torn = [0, 2, 3, 1, 0][n_whole] if rest >= OVERHEAD else 0
        assert (contents.torn_rows, contents.bad_frames) == (torn, 0), f"cut at {length}"
        assert contents.n_bytes == length


def test_two_damaged_frames_in_a_row_are_counted_to_the_row(tmp_path: Path) -> None:
    path = closed_journal(tmp_path, (4, 5, 6, 7))
    data = bytearray(path.read_bytes())
    starts = frame_starts(bytes(data))
    data[starts[2] : starts[4]] = b"\xff" * (starts[4] - starts[2])
    path.write_bytes(data)
    contents = read_journal(path)
    assert (contents.rows, contents.bad_rows, contents.bad_frames) == (4 + 7, 5 + 6, 1)


def test_a_frame_inside_a_client_s_text_is_not_taken_for_one(tmp_path: Path) -> None:
    """Where a damaged frame is searched for the next one, the client's bytes must not become rows."""
    inner = Block.of(batch(100, 1))
    forged = b"".join([*encode(2, inner.payload, rows=1, before=0, seed=0, offset=0)[:1], bytes(inner.payload)])
    schema = pa.schema([("data", pa.binary())])
    writer = JournalWriter(SystemFiles(), tmp_path, HEADER, schema)
    for shift in range(8):                  # one of them lies at a multiple of 8
        writer.append(pa.RecordBatch.from_pylist([{"data": b"x" * shift + forged}], schema=schema))
    path = tmp_path / "3-7.open"
    data = bytearray(path.read_bytes())
    for start in frame_starts(bytes(data))[1:8]:
        data[start + 8] ^= 0x40             # its length
    path.write_bytes(data)
    contents = read_journal(path)
    assert (contents.rows, contents.bad_rows) == (1, 7)
    assert next(contents.read())["data"].to_pylist()[0].endswith(forged)


def test_a_frame_of_another_journal_does_not_check(tmp_path: Path) -> None:
    """Blocks of a file that was there before a crash, or a frame at another place than where it was written."""
    path = closed_journal(tmp_path, (2, 2))
    data = path.read_bytes()
    starts = frame_starts(data)
    path.write_bytes(data[: starts[1]] + data[starts[2] : starts[3]] + data[starts[1] :])
    contents = read_journal(path)
    assert seqs(contents) == []
    assert contents.bad_frames > 0


@pytest.mark.parametrize("room", [0, 1, 31, 32, 40, 300])
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, room: int) -> None:
    files = FaultyFiles()
    writer = new_writer(tmp_path, files)
    writer.append(batch(0, 2))
    before = (tmp_path / "3-7.open").read_bytes()
    files.room = room
    with pytest.raises(OSError, match="No space left") as caught:
        writer.append(batch(2, 50))
    assert caught.value.errno == errno.ENOSPC
    assert ((tmp_path / "3-7.open").read_bytes(), writer.n_rows) == (before, 2)
    files.room = None
    writer.append(batch(2, 1))
    assert seqs(read_journal(tmp_path / "3-7.open")) == [0, 1, 2]


def test_a_rest_that_cannot_be_cut_off_is_written_over(tmp_path: Path) -> None:
    files = FaultyFiles()
    writer = new_writer(tmp_path, files)
    writer.append(batch(0, 2))
    files.room, files.faults = 500, {"truncate": errno.EIO}
    with pytest.raises(OSError, match="No space left"):
        writer.append(batch(2, 50))
    assert (seqs(read_journal(tmp_path / "3-7.open")), read_journal(tmp_path / "3-7.open").torn_rows) == ([0, 1], 50)
    files.room, files.faults = None, {}
    writer.append(batch(2, 1))
    writer.end()
    writer.sync()
    writer.publish()
    contents = read_journal(tmp_path / "3-7.journal")
    assert (seqs(contents), contents.is_complete, contents.bad_frames) == ([0, 1, 2], True, 0)


def test_a_journal_that_cannot_be_begun_is_not_left_behind(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.room = 100
    with pytest.raises(OSError, match="No space left"):
        new_writer(tmp_path, files)
    assert list(tmp_path.iterdir()) == []
    assert read_journal_of(tmp_path, b"").header is None
    assert read_journal_of(tmp_path, b"HJNL").header is None


def read_journal_of(folder: Path, data: bytes) -> JournalContents:
    path = folder / "1-1.journal"
    path.write_bytes(data)
    return read_journal(path)


def test_what_a_failed_sync_leaves_in_doubt_is_read_back_and_cut_off(tmp_path: Path) -> None:
    files = FaultyFiles()
    writer = new_writer(tmp_path, files)
    writer.append(batch(0, 2))
    writer.sync()
    writer.append(batch(2, 3))
    writer.append(batch(5, 4))
    files.once = {"fdatasync": [errno.EIO]}
    with pytest.raises(OSError, match="Input/output error"):
        writer.sync()
    blocks, n_lost = writer.salvage()
    assert ([block.rows for block in blocks], n_lost) == ([3, 4], 0)
    writer.cut()
    assert (seqs(read_journal(tmp_path / "3-7.open")), writer.n_rows, writer.unsynced_bytes) == ([0, 1], 2, 0)
    for block in blocks:
        writer.append_block(block)
    assert seqs(read_journal(tmp_path / "3-7.open")) == list(range(9))


@pytest.mark.parametrize("fault", ["pread", "corrupt"])
def test_what_cannot_be_read_back_is_counted(tmp_path: Path, fault: str) -> None:
    files = FaultyFiles()
    writer = new_writer(tmp_path, files)
    writer.append(batch(0, 2))
    writer.append(batch(2, 3))
    if fault == "pread":
        files.once = {"pread": [errno.EIO]}
    else:
        files.corrupt = True
    blocks, n_lost = writer.salvage()
    assert ([block.rows for block in blocks], n_lost) == (([3], 2) if fault == "pread" else ([], 5))


def test_frames_are_what_the_format_says(tmp_path: Path) -> None:
    """The bytes, taken apart by hand."""
    data = closed_journal(tmp_path, (2, 3)).read_bytes()
    first, second, third, end = frame_starts(data)
    assert [data[start : start + 4] for start in (first, second, third, end)] == [b"HJNL"] * 4
    assert [data[start + 4] for start in (first, second, third, end)] == [1, 2, 2, 3]
    assert [int.from_bytes(data[start + 16 : start + 20], "little") for start in (second, third, end)] == [2, 3, 0]
    assert [int.from_bytes(data[start + 20 : start + 24], "little") for start in (second, third, end)] == [0, 2, 5]
    n_payload = int.from_bytes(data[8:16], "little")
    assert frame_bytes(n_payload) == second
    assert hash_of(data) == int.from_bytes(data[24:32], "little")
    n_json = int.from_bytes(data[32:36], "little")
    assert StreamHeader.from_json(data[36 : 36 + n_json]) == HEADER
    assert all(start % 8 == 0 for start in (first, second, third, end))
