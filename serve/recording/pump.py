"""One turn of the recorder: rings to blocks, blocks past the observers and the redaction to the sink."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import structlog

from serve._core.record_block import RecordBlock, RecordBlocks
from serve._core.record_columns import RecordColumns
from serve.recording.columns import batches_of, first_of
from serve.recording.journal_writer import Block
from serve.recording.ports import Observer, Source
from serve.recording.redaction import Redactor
from serve.recording.sink import RecordSink, SinkStream
from serve.records import RecordStreamSpec

BATCH_ROWS = 1024
BATCH_NS = 100_000_000
# Of records, in a step: a thread that is put aside in the midst of one holds up who waits for its end.
STEP_BYTES = 2_000_000
# Of the rows that an observer draws, so many at once.
OBSERVED_ROWS = 256
# Between two looks at which streams had no rows.
TRIM_NS = 5_000_000_000
# Between two lines in the log about the same kind of trouble.
LOG_NS = 60_000_000_000

_log = structlog.get_logger(__name__)


def go_on() -> None:
    """Does not rest."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a step is taken; as it stands, by a thread in a hurry.

    outside: whatever keeps others from taking a step is let go of inside of it. rest: between any two pieces of work of some hundred
    microseconds, outside. gives_way: few rows are moved while somebody wants the processor.
    """

    outside: Callable[[], AbstractContextManager[None]] = nullcontext
    rest: Callable[[], object] = go_on
    gives_way: bool = False

    def breathe(self) -> None:
        """Others may take a step, and everybody else the processor."""
        with self.outside():
            self.rest()


HURRIED = Pace()


@dataclass(slots=True)
class PumpStream:
    """A stream and where its rows go. since_ns: when its oldest row was first seen, None: there is none. is_idle: nothing was taken of it
    since the last look. columns: for the rows that observers are shown, which happens while another thread moves records of the stream.
    """

    spec: RecordStreamSpec
    redactor: Redactor
    sink: SinkStream
    since_ns: int | None = None
    is_idle: bool = False
    columns: RecordColumns = field(init=False)

    def __post_init__(self) -> None:
        self.columns = RecordColumns(self.spec.tensors)


class RecordPump:
    """One thread at a time: another may take a step while a step breathes, or looks. has_room: whether the disk budget does.

    A block is taken of a stream that has BATCH_ROWS rows or takes no more, or whose oldest is BATCH_NS old. While the disk budget has no
    room, rows are dropped, but for promised ones: these stay where they are, so that the rings fill up and what fails closed does.
    observer_errors: blocks, ever.
    """

    def __init__(
        self, source: Source, sink: RecordSink, *, observers: Sequence[Observer] = (), has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.observer_errors = 0
        self.has_room = True            # as of the last step
        self._source = source
        self._sink = sink
        self._observers = tuple(observers)
        self._has_room = has_room
        self._streams: dict[int, PumpStream] = {}
        self._logged_ns: dict[str, int] = {}
        self._trimmed_ns = 0
        self._n_in_hand = 0             # blocks that were taken and not put
        self._looking = threading.Lock()        # of the observers, and of the columns that they are shown

    def add(self, stream: int, pumped: PumpStream) -> None:
        """A stream of the source, before its first row."""
        self._streams[stream] = pumped
        self._sink.add(pumped.sink)

    def step(self, now_ns: int, *, force: bool = False, pace: Pace = HURRIED) -> int:
        """Does what is due; with `force` all rows are. Returns the rows that were there."""
        has_room = self.has_room = self._has_room()
        if not has_room:
            self._sink.drop_waiting()
        n_seen = 0
        for stream in self._drained(now_ns, pace.gives_way):
            pace.breathe()
            pumped, blocks = self._streams[stream], self._source.blocks(stream)
            if not blocks.n_rows:           # another thread's step took them
                continue
            n_seen += blocks.n_rows
            if pumped.since_ns is None:
                pumped.since_ns = now_ns
            is_enough = blocks.n_rows >= BATCH_ROWS and not self.gave_way
            is_due = force or is_enough or blocks.is_full or now_ns - pumped.since_ns >= BATCH_NS
            is_kept = has_room or (force and pumped.sink.is_promised)
            if is_due and (self._sink.takes(now_ns) if is_kept else not pumped.sink.is_promised):
                pumped.since_ns = None
                self._take(pumped, blocks, now_ns, is_kept=is_kept, pace=pace)
        self._sink.work(now_ns)
        if now_ns - self._trimmed_ns >= TRIM_NS:
            self._trimmed_ns = now_ns
            self._trim()
        return n_seen

    @property
    def gave_way(self) -> bool:
        """Whether the last step left rows where they were, for somebody who wants the processor."""
        return self._source.gave_way

    def is_drained(self) -> bool:
        """Whether no row is in the rings, in the blocks or in a step's hands."""
        is_anywhere = self._n_in_hand or self._source.pending_bytes()
        return not is_anywhere and not any(self._source.blocks(stream).n_rows for stream in tuple(self._streams))

    def _drained(self, now_ns: int, gives_way: bool) -> list[int]:
        try:
            return self._source.drain(STEP_BYTES, gives_way)
        except MemoryError:
            self._tell("no memory for records: they stay in the rings", now_ns)
            return [stream for stream in tuple(self._streams) if self._source.blocks(stream).n_rows]

    def _trim(self) -> None:
        """A stream keeps the memory of its last block for the next: megabytes, that idle ones give back."""
        for stream, pumped in tuple(self._streams.items()):
            blocks = self._source.blocks(stream)
            if pumped.is_idle and not blocks.n_rows and self._looking.acquire(blocking=False):
                blocks.trim()
                pumped.columns.trim()
                self._looking.release()
            pumped.is_idle = True

    def _take(self, pumped: PumpStream, blocks: RecordBlocks, now_ns: int, *, is_kept: bool, pace: Pace) -> None:
        block = blocks.take()
        assert block is not None
        pumped.is_idle = False
        self._n_in_hand += 1
        try:
            if self._looking.acquire(blocking=False):   # else another thread is about it, and may get no processor for long
                try:
                    for observer in self._observers:
                        self._show(observer, pumped, block, now_ns, pace)
                finally:
                    self._looking.release()
            if is_kept:
                self._put(pumped, block, now_ns, pace)
            else:
                self._sink.drop(pumped.sink, block.n_rows)
        finally:
            self._n_in_hand -= 1

    def _put(self, pumped: PumpStream, block: RecordBlock, now_ns: int, pace: Pace) -> None:
        left = block.n_rows
        try:
            for one in _journalled(pumped, block):
                pace.breathe()
                left -= one.rows
                self._sink.put(pumped.sink, one, now_ns)
        except Exception as error:  # noqa: BLE001  what cannot be redacted must not be written; recording goes on with the next rows
            self._lose(pumped, left, error, now_ns)

    def _show(self, observer: Observer, pumped: PumpStream, block: RecordBlock, now_ns: int, pace: Pace) -> None:
        spec = pumped.spec
        try:
            with pace.outside():
                n_rows = observer.draw(spec, block.last_ts_ns, block.first_seq, block.n_rows)
                for batch in first_of(spec.tensors, block, pumped.columns, n_rows, OBSERVED_ROWS):
                    pace.rest()
                    observer.observe(spec, batch)
                    pace.rest()
        except Exception as error:  # noqa: BLE001  whatever statistics choke on, the rows are recorded
            self.observer_errors += 1
            self._tell("statistics could not be made of recorded rows", now_ns, error)

    def _lose(self, pumped: PumpStream, rows: int, error: Exception, now_ns: int) -> None:
        pumped.sink.lost += rows
        self._tell("rows lost: they could not be made ready for the journal", now_ns, error, stream=pumped.sink.name, rows=rows)

    def _tell(self, event: str, now_ns: int, error: Exception | None = None, **values: object) -> None:
        last = self._logged_ns.get(event)
        if last is None or now_ns - last >= LOG_NS:
            self._logged_ns[event] = now_ns
            _log.error(event, **values, error=repr(error), exc_info=error)


def _journalled(pumped: PumpStream, block: RecordBlock) -> Iterator[Block]:
    """The rows as they are journalled: as they came, or redacted."""
    if not pumped.redactor.is_needed:
        yield Block.of_records(block)
        return
    for batch in batches_of(pumped.spec.tensors, [block.records]):
        yield Block.of(pumped.redactor.apply(batch))


__all__ = ["BATCH_NS", "BATCH_ROWS", "HURRIED", "LOG_NS", "OBSERVED_ROWS", "STEP_BYTES", "TRIM_NS", "Pace", "PumpStream", "RecordPump"]
