"""Rows on their way into journals, when the disk takes them and when it does not.

What an append refused waits here, and nothing more is taken then: rows stay in the recorder's blocks and rings, whose bounds are the
bounds of everything. A sync that failed gives back what it did not sync, at most MAX_UNSYNCED_BYTES. Either is tried again with pauses.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from serve.recording.backoff import Backoff
from serve.recording.journal_writer import Block
from serve.recording.lane import JournalLane, SyncFailed
from serve.recording.page import RecordPage

# Synced early when there is more: what a failed sync gives back is held in memory.
MAX_UNSYNCED_BYTES = 64 << 20

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class SinkStream:
    """One stream's lane and what became of its rows. appended: that are in journals. over_budget: dropped. lost: taken and not kept.

    is_promised: its clients were answered because there was room for the rows: they are never dropped for the disk budget's sake. shown:
    the most that `appended` ever was: a counter never goes back.
    """

    name: str
    lane: JournalLane
    is_promised: bool = False
    appended: int = 0
    over_budget: int = 0
    lost: int = 0
    shown: int = 0


class RecordSink:
    """One thread. appended_ns, synced_ns: when that last succeeded, monotonic; None: never. written_bytes: of rows' frames, ever."""

    def __init__(self, page: RecordPage, fsync_ns: int) -> None:
        self.backoff = Backoff()
        self.appended_ns: int | None = None
        self.synced_ns: int | None = None
        self.written_bytes = 0
        self._page = page
        self._fsync_ns = fsync_ns
        self._streams: list[SinkStream] = []
        self._waiting: deque[tuple[SinkStream, Block]] = deque()
        self._unsynced_bytes = 0
        self._checked_ns = 0            # when it last saw to it that everything is synced

    @property
    def waiting_bytes(self) -> int:
        return sum(len(block.payload) for _, block in tuple(self._waiting))

    @property
    def unsynced_bytes(self) -> int:
        return sum(stream.lane.unsynced_bytes for stream in self._streams)

    @property
    def open_bytes(self) -> int:
        return sum(stream.lane.open_bytes for stream in self._streams)

    def add(self, stream: SinkStream) -> None:
        """A stream whose rows may come."""
        self._streams.append(stream)

    def takes(self, now_ns: int) -> bool:
        """Whether rows can be put now: nothing waits."""
        return not self._waiting and self.backoff.may_try(now_ns)

    def put(self, stream: SinkStream, block: Block, now_ns: int) -> None:
        """Rows to be appended, now or when the disk takes them."""
        self._waiting.append((stream, block))
        if self.backoff.may_try(now_ns):
            self._try(now_ns, must_sync=self._fsync_ns == 0)

    def work(self, now_ns: int) -> None:
        """What is due: rows that wait, journals to be closed, a sync."""
        if self.backoff.may_try(now_ns):
            self._try(now_ns, must_sync=now_ns - self._checked_ns >= self._fsync_ns or self.backoff.is_failing, must_close=True)

    def sync(self, now_ns: int) -> bool:
        """Appends what waits and syncs everything, without regard to pauses. Whether that is done."""
        self._try(now_ns, must_sync=True)
        return not self._waiting and not self.backoff.is_failing

    def close(self, now_ns: int) -> None:
        """Closes the journals. What the disk does not take is lost, and counted."""
        for _ in range(2):              # what the first round's syncs give back may find another journal
            self._try(now_ns, must_sync=True)
            for stream in self._streams:
                try:
                    self._on_lane(stream, stream.lane.close)
                except OSError as error:
                    self._failed(error, now_ns)
        for stream, block in self._waiting:
            stream.lost += block.rows
        self._waiting.clear()

    def drop_waiting(self) -> None:
        """The disk budget has no room for what waits, but for what was promised."""
        kept = deque[tuple[SinkStream, Block]]()
        for stream, block in self._waiting:
            if stream.is_promised:
                kept.append((stream, block))
            else:
                self.drop(stream, block.rows)
        self._waiting = kept

    def drop(self, stream: SinkStream, rows: int) -> None:
        """Rows for which the disk budget has no room."""
        self._page.drop(rows)
        stream.over_budget += rows

    def _try(self, now_ns: int, *, must_sync: bool, must_close: bool = False) -> None:
        try:
            self._push(now_ns)
            if must_close:
                self._close_due(now_ns)
            if must_sync or self._unsynced_bytes >= MAX_UNSYNCED_BYTES:
                self._sync(now_ns)
        except OSError as error:
            self._failed(error, now_ns)
        else:
            if must_sync and self.backoff.succeeded():
                _log.warning("the disk takes records again")

    def _push(self, now_ns: int) -> None:
        while self._waiting:
            stream, block = self._waiting[0]
            writer = stream.lane.ready(now_ns)
            n_bytes = writer.n_bytes
            self._page.begin_append(writer.number, writer.end_after(block), block.rows)
            writer.append_block(block)
            self._page.end_append()
            self._waiting.popleft()
            stream.appended += block.rows
            stream.shown = max(stream.shown, stream.appended)
            self.appended_ns = now_ns
            self.written_bytes += writer.n_bytes - n_bytes
            self._unsynced_bytes += writer.n_bytes - n_bytes

    def _close_due(self, now_ns: int) -> None:
        for stream in self._streams:
            if stream.lane.is_due(now_ns):
                self._on_lane(stream, stream.lane.close)
            stream.lane.publish()

    def _sync(self, now_ns: int) -> None:
        self._checked_ns = now_ns
        for stream in self._streams:
            self._on_lane(stream, stream.lane.sync)
        self._unsynced_bytes = 0
        self.synced_ns = now_ns

    def _on_lane(self, stream: SinkStream, action: Callable[[], None]) -> None:
        try:
            action()
        except SyncFailed as failure:
            self._page.take_back(failure.n_rows)
            stream.appended -= failure.n_rows
            stream.lost += failure.n_lost
            self._waiting.extendleft((stream, block) for block in reversed(failure.blocks))
            if failure.n_lost:
                _log.error("rows lost: a journal could not be synced, nor read back", stream=stream.name, rows=failure.n_lost)
            raise

    def _failed(self, error: OSError, now_ns: int) -> None:
        if self.backoff.failed(error, now_ns):
            _log.error(
                "the disk refuses records; it is tried again, and rows that find no room meanwhile are dropped and counted",
                error=str(error), file=error.filename,
            )


__all__ = ["MAX_UNSYNCED_BYTES", "RecordSink", "SinkStream"]
