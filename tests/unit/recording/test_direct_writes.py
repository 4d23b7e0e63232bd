"""Large frames bypass the page cache: whole blocks, fillers around them, and the same promises as for all others."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pytest

from serve.recording import journal_writer
from serve.recording.aligned import BLOCK_BYTES, AlignedBuffer
from serve.recording.arrow_schema import LABELS_JOURNAL
from serve.recording.frames import BATCH, FILLER, OVERHEAD, Frame, decode, hash_of, valid_frames
from serve.recording.journal import JournalContents, read_journal
from serve.recording.journal_writer import DIRECT_BYTES, Block, JournalWriter
from tests.unit.recording.recorder_parts import FaultyFiles
from tests.unit.recording.test_journal import HEADER, batch, seqs

LARGE = 3000            # rows of this schema that take more than DIRECT_BYTES


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


def new_writer(folder: Path, files: FaultyFiles) -> JournalWriter:
    return JournalWriter(files, folder, HEADER, LABELS_JOURNAL, AlignedBuffer())


def fill(writer: JournalWriter, *sizes: int, first: int = 0) -> int:
    for n in sizes:
        block = Block.of(batch(first, n))
        end = writer.end_after(block)
        writer.append_block(block)
        assert writer.n_bytes == end
        first += n
    return first


def closed(writer: JournalWriter, folder: Path) -> JournalContents:
    writer.end()
    writer.sync()
    writer.publish()
    return read_journal(folder / "3-7.journal")


def frames(folder: Path) -> list[Frame]:
    data = memoryview((folder / "3-7.journal").read_bytes())
    head = decode(data, 0, 0)
    assert head is not None
    return list(valid_frames(data, head.end, hash_of(data)))


def is_whole(found: JournalContents, rows: int) -> bool:
    return seqs(found) == list(range(rows)) and found.is_complete and not found.bad_frames and not found.torn_rows


@pytest.mark.parametrize("sizes", [(LARGE,), (5, LARGE, 7, 9, LARGE, LARGE, 1), (LARGE, LARGE), (3,)])
def test_large_and_small_frames_are_read_back(tmp_path: Path, files: FaultyFiles, sizes: tuple[int, ...]) -> None:
    writer = new_writer(tmp_path, files)
    total = fill(writer, *sizes)
    assert seqs(read_journal(tmp_path / "3-7.open")) == list(range(total))
    assert is_whole(closed(writer, tmp_path), total)
    assert files.n_direct == sizes.count(LARGE)
    found = frames(tmp_path)
    large = [frame for frame in found if frame.kind == BATCH and len(frame.payload) >= DIRECT_BYTES]
    assert len(large) == sizes.count(LARGE)
    assert all(frame.offset % BLOCK_BYTES == 0 for frame in large)
    after = [found[found.index(frame) + 1] for frame in large]
    assert all(frame.end % BLOCK_BYTES == 0 for frame in after if frame.kind == FILLER)
    assert all(len(frame.payload) <= BLOCK_BYTES + OVERHEAD and not any(frame.payload) for frame in found if frame.kind == FILLER)


def test_a_file_system_that_does_not_do_it(tmp_path: Path, files: FaultyFiles) -> None:
    writer = new_writer(tmp_path, files)
    files.faults["write_direct"] = errno.EINVAL
    total = fill(writer, 5, LARGE)
    files.faults.clear()
    total = fill(writer, LARGE, first=total)
    assert is_whole(closed(writer, tmp_path), total)
    assert files.n_direct == 0


@pytest.mark.parametrize("room", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 33, 100_000])
def test_a_disk_that_fills_up_in_the_middle_of_a_large_frame(tmp_path: Path, files: FaultyFiles, room: int) -> None:
    writer = new_writer(tmp_path, files)
    total = fill(writer, LARGE)
    n_bytes = writer.n_bytes
    files.room = room
    with pytest.raises(OSError, match="No space"):
        writer.append(batch(total, LARGE))
    assert (writer.n_bytes, (tmp_path / "3-7.open").stat().st_size) == (n_bytes, n_bytes)
    files.room = None
    total = fill(writer, LARGE, first=total)
    assert is_whole(closed(writer, tmp_path), total)


def test_a_disk_that_fills_up_after_the_filler_before_a_large_frame(tmp_path: Path, files: FaultyFiles) -> None:
    writer = new_writer(tmp_path, files)
    total = fill(writer, 5)
    files.faults["write_direct"] = errno.ENOSPC
    for _ in range(2):                  # tried again, it is not filled up again
        with pytest.raises(OSError, match="No space"):
            writer.append(batch(total, LARGE))
        assert writer.n_bytes % BLOCK_BYTES == 0
    files.faults.clear()
    assert is_whole(closed(writer, tmp_path), total)
    assert [frame.kind for frame in frames(tmp_path)].count(FILLER) == 1


@pytest.mark.parametrize("written", [0, 10, BLOCK_BYTES, 100_000])
def test_a_short_direct_write(tmp_path: Path, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    writer = new_writer(tmp_path, files)
    monkeypatch.setattr(files, "write_direct", lambda fd, data, offset: os.pwrite(fd, data[:written], offset))
    assert is_whole((fill(writer, 5, LARGE, 5), closed(writer, tmp_path))[1], LARGE + 10)


def test_what_a_failed_sync_leaves_in_doubt_is_read_back(tmp_path: Path, files: FaultyFiles) -> None:
    writer = new_writer(tmp_path, files)
    total = fill(writer, LARGE, 4)
    writer.sync()
    fill(writer, LARGE, 7, first=total)
    files.faults["fdatasync"] = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    blocks, n_lost = writer.salvage()
    assert ([block.rows for block in blocks], n_lost) == ([LARGE, 7], 0)
    writer.cut()
    files.faults.clear()
    for block in blocks:
        writer.append_block(block)
    assert is_whole(closed(writer, tmp_path), total + LARGE + 7)


def test_every_flipped_byte_is_found(tmp_path: Path, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "DIRECT_BYTES", 1000)
    writer = new_writer(tmp_path, files)
    total = fill(writer, 3, 40, 2)
    closed(writer, tmp_path)
    assert files.n_direct == 1
    path = tmp_path / "3-7.journal"
    good = path.read_bytes()
    start = next(frame.offset for frame in frames(tmp_path) if frame.kind == FILLER)
    for offset in range(start, len(good), 7):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 4]) + good[offset + 1 :])
        found = read_journal(path)
        assert found.bad_frames == 1, offset
        assert len(seqs(found)) + found.bad_rows == total, offset


def test_the_buffer_is_of_whole_pages_and_does_not_stay_large() -> None:
    buffer = AlignedBuffer()
    small: list[bytes | memoryview] = [b"abc", memoryview(b"defgh")]
    large: list[bytes | memoryview] = [bytes(20 << 20)]
    for pieces in (small, large, small):
        assert bytes(buffer.put(pieces)) == b"".join(pieces)
    assert pa.py_buffer(buffer.put([b"x"])).address % BLOCK_BYTES == 0
    assert len(buffer._memory) <= 8 << 20
