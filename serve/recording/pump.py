"""One turn of the recorder: rings to columns, columns to batches, batches past the observers and the redaction to the sink."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import pyarrow as pa
import structlog

from serve.recording.journal_writer import Block
from serve.recording.ports import Observer, RowsT, Source
from serve.recording.redaction import Redactor
from serve.recording.sink import RecordSink, SinkStream
from serve.records import RecordedTensor, RecordStreamSpec

BATCH_ROWS = 1024
BATCH_NS = 100_000_000
# Between two looks at which streams had no rows.
TRIM_NS = 5_000_000_000
# Between two lines in the log about the same kind of trouble.
LOG_NS = 60_000_000_000

_log = structlog.get_logger(__name__)


def go_on() -> None:
    """Does not breathe."""


@dataclass(slots=True)
class PumpStream:
    """A stream and where its rows go. since_ns: when its oldest row was first seen in the columns, None: there is none. is_idle: no batch
    was made of it since the last look.
    """

    spec: RecordStreamSpec
    redactor: Redactor
    sink: SinkStream
    since_ns: int | None = None
    is_idle: bool = False


class RecordPump(Generic[RowsT]):
    """One thread. batch_of: takes the rows of columns, which start anew. has_room: whether the disk budget does.

    A batch is made of a stream that has BATCH_ROWS rows or takes no more, or whose oldest is BATCH_NS old. While the disk budget has no
    room, rows are dropped, but for promised ones: these stay where they are, so that the rings fill up and what fails closed does.
    observer_errors: batches, ever.
    """

    def __init__(
        self, source: Source[RowsT], sink: RecordSink, batch_of: Callable[[tuple[RecordedTensor, ...], RowsT], pa.RecordBatch], *,
        observers: Sequence[Observer] = (), has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.observer_errors = 0
        self.has_room = True            # as of the last step
        self._source = source
        self._sink = sink
        self._batch_of = batch_of
        self._observers = tuple(observers)
        self._has_room = has_room
        self._streams: dict[int, PumpStream] = {}
        self._logged_ns: dict[str, int] = {}
        self._trimmed_ns = 0

    def add(self, stream: int, pumped: PumpStream) -> None:
        """A stream of the source, before its first row."""
        self._streams[stream] = pumped
        self._sink.add(pumped.sink)

    def step(self, now_ns: int, *, force: bool = False, breathe: Callable[[], object] = go_on) -> int:
        """Does what is due; with `force` all rows are. Returns the rows that were in the columns.

        breathe: called between any two pieces of work of a few hundred microseconds.
        """
        has_room = self.has_room = self._has_room()
        if not has_room:
            self._sink.drop_waiting()
        n_seen = 0
        for stream in self._drained(now_ns):
            breathe()
            pumped, columns = self._streams[stream], self._source.columns(stream)
            n_rows = columns.n_rows
            n_seen += n_rows
            if pumped.since_ns is None:
                pumped.since_ns = now_ns
            is_due = force or n_rows >= BATCH_ROWS or columns.is_full or now_ns - pumped.since_ns >= BATCH_NS
            is_kept = has_room or (force and pumped.sink.is_promised)
            if is_due and (self._sink.takes(now_ns) if is_kept else not pumped.sink.is_promised):
                pumped.since_ns = None
                self._take(pumped, columns, now_ns, is_kept=is_kept, breathe=breathe)
        self._sink.work(now_ns)
        if now_ns - self._trimmed_ns >= TRIM_NS:
            self._trimmed_ns = now_ns
            self._trim()
        return n_seen

    def is_drained(self) -> bool:
        """Whether no row is in the rings or the columns."""
        return not self._source.pending_bytes() and not any(self._source.columns(stream).n_rows for stream in tuple(self._streams))

    def _drained(self, now_ns: int) -> list[int]:
        try:
            return self._source.drain()
        except MemoryError:
            self._tell("no memory for records: they stay in the rings", now_ns)
            return [stream for stream in tuple(self._streams) if self._source.columns(stream).n_rows]

    def _trim(self) -> None:
        """A stream keeps the memory of its last batch for the next: 1.7 MB and more, that idle ones give back."""
        for stream, pumped in tuple(self._streams.items()):
            columns = self._source.columns(stream)
            if pumped.is_idle and not columns.n_rows:
                columns.trim()
            pumped.is_idle = True

    def _take(self, pumped: PumpStream, columns: RowsT, now_ns: int, *, is_kept: bool, breathe: Callable[[], object]) -> None:
        n_rows = columns.n_rows
        pumped.is_idle = False
        try:
            batch = self._batch_of(pumped.spec.tensors, columns)
        except Exception as error:  # noqa: BLE001  recording goes on with the next rows, and these are counted
            self._lose(pumped, n_rows - columns.n_rows, error, now_ns)
            return
        breathe()
        self._show(pumped.spec, batch, now_ns)
        breathe()
        if not is_kept:
            self._sink.drop(pumped.sink, batch.num_rows)
            return
        try:
            block = Block.of(pumped.redactor.apply(batch))
        except Exception as error:  # noqa: BLE001  what cannot be redacted must not be written
            self._lose(pumped, batch.num_rows, error, now_ns)
            return
        breathe()
        self._sink.put(pumped.sink, block, now_ns)

    def _show(self, spec: RecordStreamSpec, batch: pa.RecordBatch, now_ns: int) -> None:
        for observer in self._observers:
            try:
                observer.observe(spec, batch)
            except Exception as error:  # noqa: BLE001  whatever statistics choke on, the rows are recorded
                self.observer_errors += 1
                self._tell("statistics could not be made of recorded rows", now_ns, error)

    def _lose(self, pumped: PumpStream, rows: int, error: Exception, now_ns: int) -> None:
        pumped.sink.lost += rows
        self._tell("rows lost: they could not be made into a batch", now_ns, error, stream=pumped.sink.name, rows=rows)

    def _tell(self, event: str, now_ns: int, error: Exception | None = None, **values: object) -> None:
        last = self._logged_ns.get(event)
        if last is None or now_ns - last >= LOG_NS:
            self._logged_ns[event] = now_ns
            _log.error(event, **values, error=repr(error), exc_info=error)


__all__ = ["BATCH_NS", "BATCH_ROWS", "LOG_NS", "TRIM_NS", "PumpStream", "RecordPump", "go_on"]
