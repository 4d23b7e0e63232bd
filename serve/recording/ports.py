"""What the recorder needs of the rest of the worker; tests fill these with fakes."""

from typing import Protocol, TypeVar

import pyarrow as pa

from serve.records import RecordStreamSpec, StreamReading


class Rows(Protocol):
    """Rows of one stream that were drained and not taken; `serve._core.record_columns.RecordColumns` in production."""

    @property
    def n_rows(self) -> int: ...

    @property
    def is_full(self) -> bool:
        """Whether what comes next waits until these are taken."""

    def trim(self) -> int:
        """Frees the memory that waits for the next rows. Returns its bytes."""


RowsT = TypeVar("RowsT", bound=Rows)
RowsT_co = TypeVar("RowsT_co", bound=Rows, covariant=True)


class Source(Protocol[RowsT_co]):
    """Where recorded requests come from; `serve._core.recorder.NativeRecorder` in production."""

    def open_stream(self, spec: RecordStreamSpec, /) -> int:
        """The id of an equal spec's stream, else of a new one. Raises ValueError when there are too many."""

    def columns(self, stream: int, /) -> RowsT_co: ...

    def drain(self) -> list[int]:
        """Moves what is in the rings into the columns, until the rings are empty or a stream's columns are full. Raises MemoryError."""

    def readings(self) -> list[StreamReading]:
        """By stream id. From any thread."""

    def pending_bytes(self) -> int: ...

    def capacity_bytes(self) -> int: ...


class Observer(Protocol):
    """Who wants to see the rows before they are redacted: statistics."""

    def observe(self, stream: RecordStreamSpec, batch: pa.RecordBatch) -> None:
        """On the recorder's thread, each batch once, whether or not it is stored afterwards. What it raises is logged and counted."""


__all__ = ["Observer", "Rows", "RowsT", "Source"]
