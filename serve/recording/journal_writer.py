"""One open journal: appended to frame by frame, synced, and renamed when it is closed."""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from serve.recording.files import Bytes, Files
from serve.recording.frames import BATCH, END, HEADER, decode, encode, frame_bytes, hash_of
from serve.recording.layout import JournalName
from serve.recording.stream_header import StreamHeader


@dataclass(frozen=True, slots=True)
class Block:
    """Rows as they are journalled: a record batch as an Arrow IPC message."""

    payload: memoryview
    rows: int

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> "Block":
        """batch: without dictionaries. Raises MemoryError (pyarrow's)."""
        return cls(memoryview(batch.serialize()).cast("B"), batch.num_rows)

    @property
    def frame_bytes(self) -> int:
        """Bytes in a journal."""
        return frame_bytes(len(self.payload))


class JournalWriter:
    """A journal `<epoch>-<n>.open` in `folder`. One thread. n_bytes: whole frames; synced_bytes: of them, surely on the disk.

    n_rows: appended. Raises OSError when it cannot be made; nothing is left behind then that would be read.
    """

    def __init__(self, files: Files, folder: Path, header: StreamHeader, schema: pa.Schema) -> None:
        self.number = header.journal
        self.n_bytes = 0
        self.synced_bytes = 0
        self.n_rows = 0
        self._files = files
        self._folder = folder
        self._path = folder / JournalName(header.epoch, header.journal, "open").file
        self._closed_path = folder / JournalName(header.epoch, header.journal, "journal").file
        self._seed = 0
        self._unsynced: list[tuple[int, int, int]] = []     # where each frame since the last sync begins and ends, and its rows
        self._has_rest = False                              # of a write that failed, behind n_bytes
        self._is_named = False                              # its name is surely on the disk
        self._is_renamed = False
        self._fd = files.create(self._path)
        try:
            self._put_header(header, schema)
        except OSError:
            self.discard()
            raise

    @property
    def unsynced_bytes(self) -> int:
        return self.n_bytes - self.synced_bytes

    def append(self, batch: pa.RecordBatch) -> None:
        """Raises OSError; the journal is as it was before then."""
        self.append_block(Block.of(batch))

    def append_block(self, block: Block) -> None:
        """As append."""
        offset = self.n_bytes
        self._put(BATCH, block.payload, block.rows)
        self._unsynced.append((offset, self.n_bytes, block.rows))
        self.n_rows += block.rows

    def sync(self) -> None:
        """Raises OSError: then nobody knows what of the frames since the last sync is on the disk, and a later sync that succeeds does not
        say that they are. `salvage` them, and `cut`.
        """
        self._files.fdatasync(self._fd)
        if not self._is_named:
            self._files.sync_folder(self._folder)
            self._is_named = True
        self.synced_bytes = self.n_bytes
        self._unsynced.clear()

    def salvage(self) -> tuple[list[Block], int]:
        """The frames since the last sync, read back and checked; and the rows of those that cannot be had."""
        blocks, n_lost = [], 0
        for offset, end, rows in self._unsynced:
            block = self._reread(offset, end, rows)
            if block is None:
                n_lost += rows
            else:
                blocks.append(block)
        return blocks, n_lost

    def cut(self) -> None:
        """Takes the frames since the last sync away. Raises OSError; they are still there then."""
        self._files.truncate(self._fd, self.synced_bytes)
        self.n_rows -= sum(rows for _, _, rows in self._unsynced)
        self.n_bytes = self.synced_bytes
        self._unsynced.clear()
        self._has_rest = False

    def end(self) -> None:
        """Says in the journal that nothing is missing at its end, if the disk takes that; no rows can follow."""
        with suppress(OSError):
            if self._has_rest:
                self._files.truncate(self._fd, self.n_bytes)
            self._put(END, memoryview(b""), 0)

    def publish(self) -> None:
        """Gives it the name of a closed journal. Raises OSError; the name is as before, or the new one is not surely on the disk."""
        if not self._is_renamed:
            self._files.rename(self._path, self._closed_path)
            self._is_renamed = True
        self._files.sync_folder(self._folder)
        self._close()

    def discard(self) -> None:
        """Removes a journal without rows. What cannot be removed is read as a journal without rows."""
        self._close()
        with suppress(OSError):
            self._files.remove(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        with suppress(OSError):                             # what it could say, the sync before it has said
            self._files.close(fd)

    def _put_header(self, header: StreamHeader, schema: pa.Schema) -> None:
        text = header.to_json().encode()
        payload = len(text).to_bytes(4, "little") + text + schema.serialize().to_pybytes()
        self._seed = self._put(HEADER, memoryview(payload), 0)

    def _put(self, kind: int, payload: memoryview, rows: int) -> int:
        """Appends a frame; its hash."""
        head, tail = encode(kind, payload, rows=rows, before=self.n_rows, seed=self._seed, offset=self.n_bytes)
        try:
            self._write([memoryview(head), payload, memoryview(tail)])
        except OSError:
            self._has_rest = True
            # Where even that fails, the next frame is written over it, and a reader finds a torn end.
            with suppress(OSError):
                self._files.truncate(self._fd, self.n_bytes)
                self._has_rest = False
            raise
        self.n_bytes += frame_bytes(len(payload))
        return hash_of(head)

    def _write(self, pieces: Sequence[Bytes]) -> None:
        offset = self.n_bytes
        left = [memoryview(piece) for piece in pieces if len(piece)]
        while left:
            written = self._files.pwritev(self._fd, left, offset)
            if written <= 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(self._path))
            offset += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]

    def _reread(self, offset: int, end: int, rows: int) -> Block | None:
        try:
            data = self._pread(end - offset, offset)
        except OSError:
            return None
        # Its place is part of what a frame's hash covers: the seed makes up for the offset that the copy has lost.
        frame = decode(memoryview(data), 0, self._seed + offset)
        return None if frame is None or frame.rows != rows else Block(frame.payload, rows)

    def _pread(self, n_bytes: int, offset: int) -> bytes:
        pieces = []
        while n_bytes:
            piece = self._files.pread(self._fd, n_bytes, offset)
            if not piece:
                break
            pieces.append(piece)
            n_bytes -= len(piece)
            offset += len(piece)
        return b"".join(pieces)


__all__ = ["Block", "JournalWriter"]
