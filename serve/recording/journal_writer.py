"""One open journal: appended to frame by frame, synced, and renamed when it is closed."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from serve._core.record_block import RecordBlock
from serve.recording.aligned import BLOCK_BYTES, AlignedBuffer, to_block
from serve.recording.files import Bytes, Files
from serve.recording.frames import BATCH, END, HEADER, OVERHEAD, RECORDS, decode, encode, filler, frame_bytes, hash_of
from serve.recording.layout import JournalName
from serve.recording.stream_header import StreamHeader

# A smaller frame is not worth the wait for the disk: it goes to the page cache.
DIRECT_BYTES = 128 << 10

# The C library gives the block of the last batch again, warm; Arrow's own pool has given its pages back by then.
_POOL = pa.system_memory_pool()


@dataclass(frozen=True, slots=True)
class Block:
    """Rows as they are journalled: records as they came (RECORDS), or a record batch as an Arrow IPC message (BATCH).

    place: where the records lie, with room for the rest of their frame around them.
    """

    payload: memoryview
    rows: int
    kind: int = BATCH
    place: RecordBlock | None = None

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> "Block":
        """batch: without dictionaries. Raises MemoryError (pyarrow's)."""
        return cls(memoryview(batch.serialize(memory_pool=_POOL)).cast("B"), batch.num_rows)

    @classmethod
    def of_records(cls, records: RecordBlock) -> "Block":
        """The records, without a copy."""
        return cls(records.records, records.n_rows, RECORDS, records)

    @property
    def arrow_bytes(self) -> int:
        """Bytes once the rows are columns, about."""
        return self.place.arrow_bytes if self.place is not None else len(self.payload)

    @property
    def frame_bytes(self) -> int:
        """Bytes in a journal."""
        return frame_bytes(len(self.payload))


class JournalWriter:
    """A journal `<epoch>-<n>.open` in `folder`. One thread. n_bytes: whole frames; synced_bytes: of them, surely on the disk.

    n_rows: appended. arrow_bytes: that they take when they are read, about. buffer: for Arrow frames of DIRECT_BYTES and more; without one
    nothing bypasses the page cache, as nothing does where the file system does not let it. Raises OSError when it cannot be made; nothing
    is left behind then that would be read.
    """

    def __init__(
        self, files: Files, folder: Path, header: StreamHeader, schema: pa.Schema, buffer: AlignedBuffer | None = None,
    ) -> None:
        self.number = header.journal
        self.n_bytes = 0
        self.synced_bytes = 0
        self.n_rows = 0
        self.arrow_bytes = 0
        self._files = files
        self._folder = folder
        self._buffer = buffer
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
        is_direct = self._is_direct(block)
        if is_direct and (gap := _gap(self.n_bytes)):
            self._append([self._filler(gap, self.n_bytes)])
        offset, end = self.n_bytes, self.n_bytes + block.frame_bytes
        head, tail = encode(block.kind, block.payload, rows=block.rows, before=self.n_rows, seed=self._seed, offset=offset)
        if is_direct:
            behind = tail + self._filler(gap, end, block.rows) if (gap := _gap(end)) else tail
            self._append_direct(self._framed(block, head, behind))
        else:
            self._append([head, block.payload, tail])
        self._unsynced.append((offset, end, block.rows))
        self.n_rows += block.rows
        self.arrow_bytes += block.arrow_bytes

    def end_after(self, block: Block) -> int:
        """What n_bytes will be once a block is appended."""
        if not self._is_direct(block):
            return self.n_bytes + block.frame_bytes
        end = self.n_bytes + _gap(self.n_bytes) + block.frame_bytes
        return end + _gap(end)

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
            self._append(encode(END, memoryview(b""), rows=0, before=self.n_rows, seed=self._seed, offset=self.n_bytes))

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
        head, tail = encode(HEADER, memoryview(payload), rows=0, before=0, seed=0, offset=0)
        self._append([head, payload, tail])
        self._seed = hash_of(head)

    def _filler(self, n_bytes: int, offset: int, rows: int = 0) -> bytes:
        """rows: of the frame right before it."""
        return filler(n_bytes, before=self.n_rows + rows, seed=self._seed, offset=offset)

    def _is_direct(self, block: Block) -> bool:
        return self._buffer is not None and len(block.payload) >= DIRECT_BYTES

    def _framed(self, block: Block, head: bytes, behind: bytes) -> memoryview:
        """What begins at one of the disk's blocks and ends at another, in memory that does so too."""
        assert self._buffer is not None
        return block.place.framed(head, behind) if block.place is not None else self._buffer.put([head, block.payload, behind])

    def _append(self, pieces: Sequence[Bytes]) -> None:
        """Whole frames, all of them or none."""
        with self._whole_or_nothing():
            self._write(pieces, self.n_bytes)
        self.n_bytes += sum(len(piece) for piece in pieces)

    def _append_direct(self, data: memoryview) -> None:
        """As _append, past the page cache where the file system does that."""
        with self._whole_or_nothing():
            try:
                written = self._files.write_direct(self._fd, data, self.n_bytes)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                    raise
                self._buffer, written = None, 0             # it does not
            if written < len(data):
                self._write([data[written:]], self.n_bytes + written)
        self.n_bytes += len(data)

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._has_rest = True
            # Where even that fails, the next frame is written over it, and a reader finds a torn end.
            with suppress(OSError):
                self._files.truncate(self._fd, self.n_bytes)
                self._has_rest = False
            raise

    def _write(self, pieces: Sequence[Bytes], offset: int) -> None:
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
        return None if frame is None or frame.rows != rows else Block(frame.payload, rows, frame.kind)

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


def _gap(offset: int) -> int:
    """Bytes of the filler that puts the next frame at a block, 0 where it would be at one."""
    gap = to_block(offset)
    return gap + BLOCK_BYTES if 0 < gap < OVERHEAD else gap


__all__ = ["DIRECT_BYTES", "Block", "JournalWriter"]
