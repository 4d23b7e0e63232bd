"""Labels into journals, one lane a model, by a thread of its own: what arrives while it writes goes into the next append (group commit).

A label is in a journal when its future is done, or none of its submission is: it is answered for. What was answered for and then given
back by a sync that failed is written again; what cannot be is lost and counted.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import structlog

from serve import clock
from serve.errors import HeadraceError, Unavailable
from serve.recording.arrow_schema import LABELS_JOURNAL
from serve.recording.backoff import Backoff
from serve.recording.journal_writer import Block
from serve.recording.label_batch import labels_batch
from serve.recording.lane import JournalLane, JournalPlace, SyncFailed
from serve.recording.stream_header import StreamHeader
from serve.records import Label

# Labels that may wait for the thread; more are refused.
MAX_WAITING = 1 << 17
# Between two looks at what is to be synced or closed, at most.
_WAIT_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """replica, epoch: for the journals' headers. fsync_ns: between two syncs; 0: each append."""

    replica: str
    epoch: int
    fsync_ns: int


@dataclass(frozen=True, slots=True)
class _Submission:
    model: str
    labels: tuple[Label, ...]
    durable: bool
    ts_ns: int
    done: "Future[None]" = field(default_factory=Future)


class LabelWriter:
    """Runs from its making until it is closed. Methods from any thread. place: shared with the recorder; `seq` is not."""

    def __init__(self, place: JournalPlace, settings: LabelSettings) -> None:
        self._place = place
        self._settings = settings
        self._changed = threading.Condition()
        self._queue: list[_Submission] = []
        self._n_waiting = 0
        self._is_closing = False
        self._counts: dict[tuple[str, str], int] = {}
        self._lanes: dict[str, JournalLane] = {}
        self._given_back: deque[tuple[str, Block]] = deque()
        self._backoff = Backoff()
        self._synced_ns = clock.monotonic_ns()
        self._next_seq = 0
        self._thread = threading.Thread(target=self._run, name="label writer", daemon=True)
        self._thread.start()

    def submit(self, model: str, labels: Sequence[Label], *, durable: bool = False) -> "Future[None]":
        """Done when the labels are in a journal; with `durable` when they are surely on the disk. All of them, or none.

        Never blocks. The future raises Unavailable when they could not be written, InvalidArgument for a label that cannot be kept. Raises
        Unavailable when too many wait, or the writer is closed. Where a failed sync cannot be undone, labels may be found although the
        future raised.
        """
        submission = _Submission(model, tuple(labels), durable, clock.wall_ns())
        with self._changed:
            if self._is_closing:
                raise Unavailable("labels are not taken any more: the server stops; send them to another one")
            if self._n_waiting + len(labels) > MAX_WAITING and self._queue:
                raise Unavailable(f"{self._n_waiting} labels wait to be written, of at most {MAX_WAITING}; try again later")
            self._queue.append(submission)
            self._n_waiting += len(labels)
            self._changed.notify()
        return submission.done

    def counts(self) -> Mapping[tuple[str, str], int]:
        """(model, result) -> labels. appended: answered for. failed: refused with an error. lost: answered for, and then given up."""
        return dict(self._counts)

    def close(self, timeout_s: float) -> bool:
        """Writes what waits, syncs and closes the journals; takes no more. Whether the disk let go of the thread in time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closing, min(_WAIT_S, max(self._settings.fsync_ns / 1e9, 0.01)))
                group, self._queue, self._n_waiting = self._queue, [], 0
                is_last = self._is_closing
            try:
                self._commit([one for one in group if one.done.set_running_or_notify_cancel()])
                self._maintain(clock.monotonic_ns())
            except Exception as error:  # noqa: BLE001  whoever waits must be told, and the next group may do better
                _log.exception("labels could not be written")
                for one in group:
                    self._refuse(one, error)
        self._close_lanes()

    def _commit(self, group: list[_Submission]) -> None:
        for model in dict.fromkeys(one.model for one in group):
            ours = [one for one in group if one.model == model]
            is_synced = self._settings.fsync_ns == 0
            self._write(model, [one for one in ours if not one.durable and not is_synced])
            self._write_durable(model, [one for one in ours if one.durable or is_synced])

    def _write(self, model: str, group: list[_Submission]) -> None:
        for one in self._append(model, group):
            self._accept(one)

    def _write_durable(self, model: str, group: list[_Submission]) -> None:
        """What is not yet synced is synced first: a failure then concerns this group alone, which can be refused as a whole."""
        if not group:
            return
        self._sync_lane(model)
        appended = self._append(model, group)
        if not appended:
            return
        try:
            self._lanes[model].sync()
        except OSError as error:
            self._failed(error)
            for one in appended:
                self._refuse(one, _refusal(error))
        else:
            for one in appended:
                self._accept(one)

    def _append(self, model: str, group: list[_Submission]) -> list[_Submission]:
        """Those whose labels are in the journal now; the others are refused."""
        block, group = self._block(group)
        if block is None:
            return []
        try:
            self._lane(model).ready(clock.monotonic_ns()).append_block(block)
        except OSError as error:
            self._failed(error)
            for one in group:
                self._refuse(one, _refusal(error))
            return []
        self._next_seq += block.rows
        return group

    def _block(self, group: list[_Submission]) -> tuple[Block | None, list[_Submission]]:
        """The labels of all, or of those that can be kept: the others are refused."""
        try:
            labels = [(one.ts_ns, label) for one in group for label in one.labels]
            return (Block.of(labels_batch(group[0].model, labels, self._next_seq)) if labels else None), group
        except HeadraceError as error:
            if len(group) == 1:
                self._refuse(group[0], error)
                return None, []
        good = [one for one in group if self._block([one])[0] is not None]
        return self._block(good) if good else (None, [])

    def _accept(self, one: _Submission) -> None:
        self._count(one.model, "appended", len(one.labels))
        one.done.set_result(None)

    def _refuse(self, one: _Submission, error: Exception) -> None:
        if not one.done.done():
            self._count(one.model, "failed", len(one.labels))
            one.done.set_exception(error)

    def _count(self, model: str, result: str, n: int) -> None:
        self._counts[model, result] = self._counts.get((model, result), 0) + n

    def _lane(self, model: str) -> JournalLane:
        if model not in self._lanes:
            self._lanes[model] = JournalLane(self._place, LABELS_JOURNAL, lambda number: self._header(model, number))
        return self._lanes[model]

    def _header(self, model: str, number: int) -> StreamHeader:
        return StreamHeader(
            table="labels", replica=self._settings.replica, epoch=self._settings.epoch, journal=number, model=model,
            created_ns=clock.wall_ns())

    def _maintain(self, now_ns: int) -> None:
        """Journals that are large or old, labels that a failed sync gave back, the sync that is due."""
        if not self._backoff.may_try(now_ns):
            return
        try:
            self._write_given_back(now_ns)
            for model, lane in self._lanes.items():
                if lane.is_due(now_ns):
                    self._on_lane(model, close=True)
                lane.publish()
            if now_ns - self._synced_ns >= self._settings.fsync_ns or self._backoff.is_failing:
                self._synced_ns = now_ns
                for model in self._lanes:
                    self._on_lane(model)
        except OSError as error:
            self._failed(error)
        else:
            if self._backoff.succeeded():
                _log.warning("the disk takes labels again")

    def _sync_lane(self, model: str) -> None:
        try:
            self._on_lane(model)
        except OSError as error:
            self._failed(error)

    def _on_lane(self, model: str, *, close: bool = False) -> None:
        lane = self._lane(model)
        try:
            lane.close() if close else lane.sync()
        except SyncFailed as failure:
            self._given_back.extend((model, block) for block in failure.blocks)
            self._lose(model, failure.n_lost)
            raise

    def _write_given_back(self, now_ns: int) -> None:
        while self._given_back:
            model, block = self._given_back[0]
            self._lane(model).ready(now_ns).append_block(block)
            self._given_back.popleft()

    def _close_lanes(self) -> None:
        for _ in range(2):              # what the first round's syncs give back may find another journal
            try:
                self._write_given_back(clock.monotonic_ns())
                for model in self._lanes:
                    self._on_lane(model, close=True)
            except OSError as error:
                self._failed(error)
        for model, block in self._given_back:
            self._lose(model, block.rows)

    def _lose(self, model: str, n: int) -> None:
        if n:
            self._count(model, "lost", n)
            _log.error("labels lost: a journal could not be synced, and they could not be written again", model=model, labels=n)

    def _failed(self, error: OSError) -> None:
        if self._backoff.failed(error, clock.monotonic_ns()):
            _log.error("the disk refuses labels: they are answered with 503", error=str(error), file=error.filename)


def _refusal(error: OSError) -> Unavailable:
    return Unavailable(f"the labels could not be written: {error.strerror or error}; nothing of them is kept, send them again later")


__all__ = ["MAX_WAITING", "LabelSettings", "LabelWriter"]
