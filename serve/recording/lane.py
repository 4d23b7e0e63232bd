"""The journals of one stream, one after the other: opened at the first rows, closed when large or old, given up when a sync fails."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from serve.recording.aligned import AlignedBuffer
from serve.recording.files import Files
from serve.recording.journal_writer import Block, JournalWriter
from serve.recording.stream_header import StreamHeader

SEAL_BYTES = 128 << 20
SEAL_NS = 300_000_000_000


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where the journals of one epoch go. folder: `journals` of the home, which exists. numbers: from 1 over all streams, records and
    labels; threads may share it. A journal of seal_bytes, or seal_ns old, is closed. buffer: as JournalWriter's; one thread's.
    """

    files: Files
    folder: Path
    seal_bytes: int = SEAL_BYTES
    seal_ns: int = SEAL_NS
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    buffer: AlignedBuffer | None = None


class SyncFailed(OSError):
    """A sync failed. blocks: what was taken out of the journal for it, to be appended again. n_lost: rows that could not be had."""

    def __init__(self, error: OSError, blocks: list[Block], n_lost: int) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.blocks = blocks
        self.n_lost = n_lost

    @property
    def n_rows(self) -> int:
        """Rows that are in no journal any more."""
        return sum(block.rows for block in self.blocks) + self.n_lost


class JournalLane:
    """One thread. header: of the journal with that number."""

    def __init__(self, place: JournalPlace, schema: pa.Schema, header: Callable[[int], StreamHeader]) -> None:
        self._place = place
        self._schema = schema
        self._header = header
        self._writer: JournalWriter | None = None
        self._opened_ns = 0
        self._unpublished: list[JournalWriter] = []

    @property
    def unsynced_bytes(self) -> int:
        return self._writer.unsynced_bytes if self._writer else 0

    @property
    def open_bytes(self) -> int:
        return self._writer.n_bytes if self._writer else 0

    def ready(self, now_ns: int) -> JournalWriter:
        """The journal to append to. Raises OSError."""
        if self._writer is None:
            header = self._header(next(self._place.numbers))
            self._writer = JournalWriter(self._place.files, self._place.folder, header, self._schema, self._place.buffer)
            self._opened_ns = now_ns
        return self._writer

    def sync(self) -> None:
        """Everything appended is surely on the disk. Raises SyncFailed; there is no open journal then."""
        if self._writer is None or not self._writer.unsynced_bytes:
            return
        try:
            self._writer.sync()
        except OSError as error:
            raise self._given_up(self._writer, error) from error

    def is_due(self, now_ns: int) -> bool:
        """Whether it is time to close the journal."""
        writer = self._writer
        if writer is None:
            return False
        # What reads it holds its rows as columns.
        n_bytes = max(writer.n_bytes, writer.arrow_bytes)
        return n_bytes >= self._place.seal_bytes or now_ns - self._opened_ns >= self._place.seal_ns

    def close(self) -> None:
        """Closes the journal, if there is one. Raises SyncFailed; OSError: it is closed, and `publish` gives it its name."""
        if self._writer is not None:
            self._writer.end()
            self.sync()
            self._retire(self._writer)
        self.publish()

    def publish(self) -> None:
        """Closed journals get their names, if any could not be given before. Raises OSError."""
        while self._unpublished:
            self._unpublished[0].publish()
            del self._unpublished[0]

    def _retire(self, writer: JournalWriter) -> None:
        self._writer = None
        if writer.n_rows:
            self._unpublished.append(writer)
        else:
            writer.discard()

    def _given_up(self, writer: JournalWriter, error: OSError) -> SyncFailed:
        """The kernel says once that it could not write, and may have forgotten what it had to write."""
        blocks, n_lost = writer.salvage()
        try:
            writer.cut()
        except OSError:
            # They cannot be taken out, so they are not written twice: what is readable of them is there.
            blocks, n_lost = [], 0
        writer.end()
        with suppress(OSError):
            writer.sync()
        self._retire(writer)
        return SyncFailed(error, blocks, n_lost)


__all__ = ["SEAL_BYTES", "SEAL_NS", "JournalLane", "JournalPlace", "SyncFailed"]
