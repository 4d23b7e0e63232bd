"""A data plane that needs no server, a disk that fails, and the books of a home."""

import errno
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from serve._core.record_block import BLOCK_BYTES as RECORDS_BYTES
from serve._core.record_block import RecordBlocks
from serve.recording.aligned import BLOCK_BYTES
from serve.recording.files import Bytes, SystemFiles
from serve.recording.journal import JournalContents, read_journal
from serve.recording.lane import JournalPlace
from serve.recording.layout import JOURNALS
from serve.recording.page import DROPS, PageNumbers, RecordPage, next_epoch, read_page
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec, StreamReading
from tests.core.records import Part, Record, framed

X = RecordedTensor("in", "x", "FP32", (4,), 0)
TEXT = RecordedTensor("in", "text", "BYTES", (1,), 1)
Y = RecordedTensor("out", "y", "INT64", (1,), 0)
MS = 1_000_000
# Of the source's requests of one row of the default tensors, at most.
RECORD_BYTES = 200
# Of a drain that gives way, at least.
LOOK_BYTES = 65536
S = 1000 * MS


def stream_spec(
    version: str = "1", spec: RecordingSpec | None = None, tensors: tuple[RecordedTensor, ...] = (X, TEXT, Y)
) -> RecordStreamSpec:
    return RecordStreamSpec("digits", version, "sha256:00", tensors, spec or RecordingSpec(), {"git": "abc"})


class FakeSource:
    """Fulfils serve.recording.ports.Source with rings of `capacity` records; rows as the native recorder numbers and counts them."""

    def __init__(self, page: RecordPage, capacity: int = 1 << 20, limit: int = RECORDS_BYTES) -> None:
        self.ring: deque[tuple[int, bytes, int]] = deque()
        self.memory_errors = 0
        self.gave_way = False
        # How often the next callers are in the way of an I/O thread.
        self.n_in_the_way = 0
        self._words = page.buffer.cast("Q")
        self._capacity = capacity
        self._limit = limit
        self._specs: list[RecordStreamSpec] = []
        self._blocks: list[RecordBlocks] = []
        self._sampled: list[int] = []
        self._dropped: list[int] = []

    def open_stream(self, spec: RecordStreamSpec) -> int:
        if spec in self._specs:
            return self._specs.index(spec)
        self._specs.append(spec)
        self._blocks.append(RecordBlocks(spec.tensors, self._limit))
        self._sampled.append(0)
        self._dropped.append(0)
        return len(self._specs) - 1

    def produce(self, stream: int, rows: int, records: int = 1) -> None:
        """Requests of `rows` rows each."""
        for _ in range(records):
            seq = self._words[3]
            self._words[3] += rows
            self._sampled[stream] += rows
            if len(self.ring) >= self._capacity:
                self._words[5] += rows
                self._dropped[stream] += rows
            else:
                self.ring.append((stream, self._record(stream, seq, rows), rows))

    def _record(self, stream: int, seq: int, rows: int) -> bytes:
        values = {
            "in_x": np.arange(rows * 4, dtype=np.float32).tobytes(), "in_text": framed([b"text-%d" % (seq + i) for i in range(rows)]),
            "out_y": (np.arange(rows, dtype=np.int64) + seq).tobytes(),
        }
        parts = [Part(values[tensor.column]) for tensor in self._specs[stream].tensors]
        return Record(rows, parts, seq=seq, request_id=b"id-%d" % seq, tags=b"who\0user-%d\0" % (seq % 3)).pack()

    def blocks(self, stream: int) -> RecordBlocks:
        return self._blocks[stream]

    def is_in_the_way(self) -> bool:
        self.n_in_the_way -= self.n_in_the_way > 0
        return self.n_in_the_way > 0

    def drain(self, most: int, gives_way: bool = False) -> list[int]:
        if self.memory_errors:
            self.memory_errors -= 1
            raise MemoryError
        look_at = most - LOOK_BYTES
        self.gave_way = False
        while self.ring and most > 0:
            if gives_way and most <= look_at and self.n_in_the_way:
                self.gave_way = True
                break
            stream, record, rows = self.ring[0]
            most -= len(record)
            if self._blocks[stream].add_for_test(record) != rows:
                break
            self.ring.popleft()
        return [i for i, blocks in enumerate(self._blocks) if blocks.n_rows]

    def readings(self) -> list[StreamReading]:
        return [
            StreamReading(spec.model, spec.version, sampled=self._sampled[i], written=self._sampled[i] - self._dropped[i],
                          dropped={"ring_full": self._dropped[i]})
            for i, spec in enumerate(self._specs)
        ]

    def pending_bytes(self) -> int:
        return sum(len(record) for _, record, _ in tuple(self.ring))

    def capacity_bytes(self) -> int:
        return self._capacity * 256


class FaultyFiles(SystemFiles):
    """room: bytes until the disk is full, a write that does not fit being short first. faults: method -> errno, as long as it is there;
    once: method -> errnos of its next calls. corrupt: what is read back is not what was written. slow_s: of every write.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.faults: dict[str, int] = {}
        self.once: dict[str, list[int]] = {}
        self.corrupt = False
        self.slow_s = 0.0
        self.n_syncs = 0
        self.n_direct = 0

    def _meet(self, method: str) -> None:
        number = self.once[method].pop(0) if self.once.get(method) else self.faults.get(method)
        if number:
            raise OSError(number, os.strerror(number), method)

    def create(self, path: Path) -> int:
        self._meet("create")
        return super().create(path)

    def pwritev(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        self._meet("pwritev")
        time.sleep(self.slow_s)
        if self.room is None:
            return super().pwritev(fd, pieces, offset)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        piece = memoryview(pieces[0])[: self.room]
        self.room -= len(piece)
        return super().pwritev(fd, [piece], offset)

    def write_direct(self, fd: int, data: memoryview, offset: int) -> int:
        self._meet("write_direct")
        if self.room is not None:
            return self.pwritev(fd, [data], offset)
        time.sleep(self.slow_s)
        address = pa.py_buffer(data).address
        assert (address % BLOCK_BYTES, len(data) % BLOCK_BYTES, offset % BLOCK_BYTES) == (0, 0, 0), "what a disk takes directly"
        self.n_direct += 1
        try:
            return super().write_direct(fd, data, offset)
        except OSError as error:        # the file system of the temporary folder does not do it; what is tested is all else
            if error.errno != errno.EINVAL:
                raise
            return super().pwritev(fd, [data], offset)

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        self._meet("pread")
        data = super().pread(fd, min(n_bytes, 1 << 16), offset)
        return data[:-1] + bytes([data[-1] ^ 1]) if self.corrupt else data

    def truncate(self, fd: int, n_bytes: int) -> None:
        self._meet("truncate")
        if self.room is not None:
            self.room += os.fstat(fd).st_size - n_bytes
        super().truncate(fd, n_bytes)

    def fdatasync(self, fd: int) -> None:
        self._meet("fdatasync")
        self.n_syncs += 1
        super().fdatasync(fd)

    def rename(self, old: Path, new: Path) -> None:
        self._meet("rename")
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._meet("remove")
        super().remove(path)

    def sync_folder(self, path: Path) -> None:
        self._meet("sync_folder")
        super().sync_folder(path)


@dataclass
class Plant:
    """A home with its page, a source and a disk."""

    home: Path
    page: RecordPage
    source: FakeSource
    files: FaultyFiles
    place: JournalPlace

    @classmethod
    def build(
        cls, home: Path, *, capacity: int = 1 << 20, limit: int = RECORDS_BYTES, seal_bytes: int = 1 << 30, seal_ns: int = 1000 * S
    ) -> "Plant":
        page = RecordPage(home, next_epoch(home))
        files = FaultyFiles()
        place = JournalPlace(files, home / JOURNALS, seal_bytes, seal_ns)
        return cls(home, page, FakeSource(page, capacity, limit), files, place)

    def journals(self) -> list[JournalContents]:
        paths = sorted((self.home / JOURNALS).iterdir(), key=lambda path: int(path.stem.partition("-")[2]))
        return [read_journal(path) for path in paths]

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.home / JOURNALS).iterdir())

    def stored(self) -> list[int]:
        """Every seq that is found in the journals, sorted."""
        return sorted(seq for journal in self.journals() for batch in journal.read() for seq in batch["seq"].to_pylist())

    def check_books(self) -> PageNumbers:
        """numbered = stored + dropped + lost to the row, by the page and by the journals; nothing is stored twice."""
        numbers = read_page(self.home / f"{self.page.epoch}.page")
        stored = self.stored()
        assert len(set(stored)) == len(stored), "a row was stored twice"
        assert numbers.appended == len(stored)
        assert numbers.assigned == len(stored) + sum(numbers.dropped.values()) + numbers.lost
        assert set(numbers.dropped) == set(DROPS)
        return numbers
