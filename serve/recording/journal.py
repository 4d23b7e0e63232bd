"""A journal as it is read back: everything in it that checks, and a count of what does not.

    frame 1        header: u32 length, StreamHeader as JSON, the Arrow schema message
    frames 2..     rows: records as they came (ext/serve/_core/record.pxd), or an Arrow record-batch message each (uncompressed, no
                   dictionaries): where they are redacted, and of labels
    last frame     end; missing when the worker died, or while it appends

`frames` says what a frame looks like, `journal_writer` writes them. A journal that is being appended to can be read at any time.
"""

import itertools
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from serve.recording.columns import batches_of
from serve.recording.frames import BATCH, END, OVERHEAD, ROWS, Frame, claim, decode, hash_of, true_hash, valid_frames
from serve.recording.stream_header import StreamHeader

# Of a file that is closed: its bytes never change, so that they can be looked at where they are.
_CLOSED = (".journal", ".bad")
_COUNTS = 1 << 32


@dataclass(frozen=True, slots=True)
class JournalContents:
    """header, schema: None when they are damaged or were never written whole; then no row can be read and all are bad.

    frames: those with rows. rows: theirs, that `read` gives. torn_rows: of the frame that the file ends in the middle of. bad_frames:
    stretches of one or more frames that do not check; bad_rows: theirs. They are exact where a good frame follows, or the end; at the torn
    or bad end of a journal without one they are what the frame itself says. is_complete: the end frame is there: nothing was cut off.
    n_bytes: of the file.
    """

    header: StreamHeader | None
    schema: pa.Schema | None
    frames: tuple[Frame, ...]
    rows: int
    torn_rows: int
    bad_frames: int
    bad_rows: int
    is_complete: bool
    n_bytes: int

    def read(self) -> Iterator[pa.RecordBatch]:
        """The rows, in the journal's order; of journal_schema(header.tensors), or LABELS_JOURNAL. Raises MemoryError."""
        for kind, frames in itertools.groupby(self.frames, lambda frame: frame.kind):
            if kind == BATCH:
                yield from (pa.ipc.read_record_batch(pa.py_buffer(frame.payload), self.schema) for frame in frames)
            else:
                assert self.header is not None
                yield from batches_of(self.header.tensors, (frame.payload for frame in frames))


@dataclass(slots=True)
class _Count:
    rows: int = 0
    torn_rows: int = 0
    bad_frames: int = 0
    bad_rows: int = 0
    is_complete: bool = False


def read_journal(source: Path | IO[bytes]) -> JournalContents:
    """source: a journal, or one that was opened for reading (it stays open; its position does not matter).

    What it holds lies in the file's pages where it was closed, else in memory. Raises OSError (FileNotFoundError: it was sealed or renamed
    meanwhile) and InvalidArgument for a journal of a later release.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _read(_content(file))
    return _read(_content(source))


def _content(file: IO[bytes]) -> bytes | mmap.mmap:
    # A journal that is open may be cut back by a failed write: touching a page that was cut off would kill this process.
    if not str(file.name).endswith(_CLOSED):
        file.seek(0)
        return file.read()
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:                                      # it is empty
        return b""


def _read(content: bytes | mmap.mmap) -> JournalContents:
    data = memoryview(content)
    head, frames, n_damaged = _frames(data)
    count = _count(data, head.end if head else 0, frames)
    count.bad_frames += n_damaged
    header, schema = None, None
    if head is None:
        count.bad_rows += count.rows
        count.rows = 0
    else:
        header, schema = _parse_header(head)
    with_rows = tuple(frame for frame in frames if frame.kind in ROWS) if head is not None else ()
    return JournalContents(
        header, schema, with_rows, count.rows, count.torn_rows, count.bad_frames, count.bad_rows, count.is_complete, len(data))


def _frames(data: memoryview) -> tuple[Frame | None, list[Frame], int]:
    """The header, the frames after it that check, and how many frames are damaged although they can be read."""
    head = decode(data, 0, 0)
    if head is not None:
        return head, list(valid_frames(data, head.end, hash_of(data))), 0
    if len(data) < OVERHEAD:
        return None, [], 0
    # The frames hang on the hash that the header had. It may still say so, with its content damaged: they can be counted, not read.
    if frames := list(valid_frames(data, 0, hash_of(data))):
        return None, frames, 0
    # Or its content still comes to that, and only the hash was hit.
    should = true_hash(data)
    frames = list(valid_frames(data, 0, should)) if should is not None else []
    return (claim(data, 0), frames, 1) if frames else (None, [], 0)


def _parse_header(head: Frame) -> tuple[StreamHeader, pa.Schema]:
    n_json = int.from_bytes(head.payload[:4], "little")
    header = StreamHeader.from_json(bytes(head.payload[4 : 4 + n_json]))
    return header, pa.ipc.read_schema(pa.py_buffer(head.payload[4 + n_json :]))


def _count(data: memoryview, start: int, frames: list[Frame]) -> _Count:
    """frames: every one that checks, from `start` on."""
    count, offset, before = _Count(), start, 0
    for frame in frames:
        missing = (frame.before - before) % _COUNTS
        if frame.offset != offset:
            count.bad_frames += 1
            count.bad_rows += missing
        count.rows += frame.rows
        count.is_complete = frame.kind == END
        before += missing + frame.rows
        offset = frame.end
    _count_tail(data, offset, before, count)
    return count


def _count_tail(data: memoryview, offset: int, before: int, count: _Count) -> None:
    """What comes after the last frame that checks, each frame taken at its word."""
    while offset < len(data):
        claimed = claim(data, offset)
        if claimed is None or claimed.before != before % _COUNTS:
            count.bad_frames += len(data) - offset >= OVERHEAD
            return
        if claimed.end > len(data):
            count.torn_rows += claimed.rows
            return
        count.bad_frames += 1
        count.bad_rows += claimed.rows
        before += claimed.rows
        offset = claimed.end


__all__ = ["JournalContents", "read_journal"]
