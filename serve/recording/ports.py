"""What the recorder needs of the rest of the worker; tests fill these with fakes."""

from typing import Protocol

import pyarrow as pa

from serve._core.record_block import RecordBlocks
from serve.records import RecordStreamSpec, StreamReading


class Source(Protocol):
    """Where recorded requests come from; `serve._core.recorder.NativeRecorder` in production."""

    def open_stream(self, spec: RecordStreamSpec, /) -> int:
        """The id of an equal spec's stream, else of a new one. Raises ValueError when there are too many."""

    def blocks(self, stream: int, /) -> RecordBlocks: ...

    def drain(self, most: int, gives_way: bool = False, /) -> list[int]:
        """Moves about `most` bytes at most from the rings into the streams' blocks, fewer when a block is full. Raises MemoryError.

        gives_way: fewer as well, and gave_way says so, when somebody wants the processor. Returns the streams with rows.
        """

    @property
    def gave_way(self) -> bool: ...

    def is_in_the_way(self) -> bool:
        """Whether the caller runs on a processor on which an I/O thread is about its work: that one waits, then, for it to stop."""

    def readings(self) -> list[StreamReading]:
        """By stream id. From any thread."""

    def pending_bytes(self) -> int: ...

    def capacity_bytes(self) -> int: ...


class Observer(Protocol):
    """Who wants to see rows before they are redacted: statistics. On the recorder's thread; what it raises is logged and counted."""

    def draw(self, stream: RecordStreamSpec, at_ns: int, seq: int, n_rows: int) -> int:
        """How many of n_rows rows it wants to see, from the first on. Each row is offered once at most, stored afterwards or not: none
        while another thread looks. seq: of the first. at_ns: when the last was received.
        """

    def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
        """Some of the rows that it has drawn."""


__all__ = ["Observer", "Source"]
