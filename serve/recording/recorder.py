"""The recorder: the threads that take rows from the data plane and see them into journals.

What becomes of a row: at most once while it is in a ring (what finds no room is dropped and counted); nothing is lost by a kill of the
process once it is appended, at most fsync_ns worth by a power cut. At any moment, to the row,

    numbered = appended + dropped + lost + in rings and blocks and waiting

Two threads take turns at the same work. The patient one is of the class SCHED_IDLE: where a core is shared, requests go first. The prompt
one has the process's own priority and does nothing until the rings fill up, or somebody waits. Priorities are inherited neither by locks
nor by the GIL: who waits for the patient one waits for the end of a piece of its work, for as long as it gets no processor. So pieces are
small, none begins while others want the processor, between them and while it looks at rows it lets the prompt one in, and what is much it
leaves to it.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from serve import clock
from serve.recording.aligned import AlignedBuffer
from serve.recording.lane import JournalLane, JournalPlace
from serve.recording.page import PageNumbers, RecordPage
from serve.recording.ports import Observer, Source
from serve.recording.pump import HURRIED, STEP_BYTES, Pace, PumpStream, RecordPump
from serve.recording.redaction import Redactor
from serve.recording.redaction_key import redaction_key
from serve.recording.sink import RecordSink, SinkStream
from serve.recording.stream_header import StreamHeader
from serve.records import RecordStreamSpec, StreamReading
from serve.telemetry.recording_facts import RecordingFacts, by_version

FSYNC_NS = 1_000_000_000

# Between two looks at the rings: while rows come, and at most while none do.
BUSY_S = 0.02
IDLE_S = 0.1
# Between two looks at whether the patient thread keeps up, and the share of the rings that says that it does not.
WATCH_S = 0.02
BEHIND = 8
# Where there is no SCHED_IDLE.
PATIENT_NICE = 19
# Between two pieces of the patient thread's work.
BREATH_S = 0.0002
# By how much it wakes later than it wanted to when others have the processor, and it is given it for a moment, a 340th of the time. It
# rests again then, for so long at most: what it begins it might not end for a tenth of a second.
LATE_NS = 2_000_000
MOST_REST_NS = 20_000_000
# After a failure that nobody has thought of.
_REPOSE_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """replica: this server's name in headers. home: STATE_DIR/records. fsync_ns: 0: each append."""

    replica: str
    home: Path
    fsync_ns: int = FSYNC_NS


class Recorder:
    """Runs from its making until it is closed. Methods from any thread.

    source: its rows are numbered in `page`. place: where journals go; shared with the LabelWriter. has_room: whether the disk budget does;
    asked at each turn, on a thread of the recorder. Close it after the data plane has stopped.
    """

    def __init__(
        self, source: Source, page: RecordPage, place: JournalPlace, settings: RecorderSettings, *,
        observers: Sequence[Observer] = (), has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._page = page
        self._place = replace(place, buffer=AlignedBuffer())
        self._settings = settings
        self._key = functools.cache(lambda: redaction_key(settings.home))
        self._sink = RecordSink(page, settings.fsync_ns)
        self._pump = RecordPump(source, self._sink, observers=observers, has_room=has_room)
        self._streams: dict[int, PumpStream] = {}
        self._lock = threading.Lock()           # of the making of _streams, and of _flushes
        self._flushes: list[threading.Event] = []
        self._turns = threading.Lock()          # of the pump and all behind it; let go whenever the patient thread breathes, or looks
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._close_by_ns = 0
        self._pause_s = BUSY_S                  # the patient thread's
        self._threads = [threading.Thread(target=run, name=name, daemon=True)
                         for run, name in ((self._run_prompt, "recorder"), (self._run_patient, "recorder patient"))]
        for thread in self._threads:
            thread.start()

    def open_stream(self, spec: RecordStreamSpec) -> int:
        """The id of a version's stream: what it records goes into journals of its own. An equal spec has the same.

        Raises ConfigurationError for a redaction that cannot be done, ValueError when there are too many streams.
        """
        with self._lock:                        # of the key's making as well: versions are loaded side by side
            redactor = Redactor(spec, self._key)
            stream = self._source.open_stream(spec)
            if stream not in self._streams:
                lane = JournalLane(self._place, redactor.schema, functools.partial(self._header, replace(spec, tensors=redactor.tensors)))
                sink = SinkStream(f"{spec.model} {spec.version}", lane, is_promised=spec.spec.policy == "fail-closed")
                self._streams[stream] = PumpStream(spec, redactor, sink)
                self._pump.add(stream, self._streams[stream])
        return stream

    def flush(self, timeout_s: float) -> bool:
        """Waits until every row that is in the rings now is in a journal and synced; whether that was so in time."""
        done = threading.Event()
        with self._lock:
            self._flushes.append(done)
        self._wake.set()
        is_done = done.wait(timeout_s)
        with self._lock:
            if done in self._flushes:
                self._flushes.remove(done)
        return is_done

    def close(self, timeout_s: float) -> PageNumbers:
        """Empties the rings, syncs and closes the journals, and marks the page clean; rows that the disk does not take in time are lost.

        Returns the final numbers; is_clean is False when the disk did not let go of the thread in time.
        """
        self._close_by_ns = clock.monotonic_ns() + int(timeout_s * 1e9)
        self._closing.set()
        self._wake.set()
        # A sync that hangs cannot be ended; one that is slow may still end in as much time again.
        give_up_ns = self._close_by_ns + int(timeout_s * 1e9)
        for thread in self._threads:
            thread.join(max(0.0, (give_up_ns - clock.monotonic_ns()) / 1e9))
        return self._page.numbers()

    def facts(self) -> RecordingFacts:
        """What there is to be measured; labels are the LabelWriter's."""
        now_ns = clock.monotonic_ns()
        streams = dict(self._streams)
        sink, backoff = self._sink, self._sink.backoff
        lost: dict[tuple[str, str], int] = {}
        for stream in streams.values():
            key = stream.spec.model, stream.spec.version
            lost[key] = lost.get(key, 0) + stream.sink.lost
        return RecordingFacts(
            readings=by_version(_with_sink(reading, streams[i].sink) for i, reading in enumerate(self._source.readings()) if i in streams),
            lost=lost,
            ring_used_bytes=self._source.pending_bytes(), ring_capacity_bytes=self._source.capacity_bytes(),
            waiting_bytes=sink.waiting_bytes, journal_bytes=sink.open_bytes, written_bytes=sink.written_bytes,
            unsynced_bytes=sink.unsynced_bytes, append_age_s=_age_s(sink.appended_ns, now_ns), sync_age_s=_age_s(sink.synced_ns, now_ns),
            errors=dict(backoff.counts), failing_s=_age_s(backoff.since_ns, now_ns), error=backoff.error,
            observer_errors=self._pump.observer_errors,
        )

    def _header(self, spec: RecordStreamSpec, number: int) -> StreamHeader:
        return StreamHeader.of_stream(
            spec, replica=self._settings.replica, epoch=self._page.epoch, journal=number, created_ns=clock.wall_ns())

    def _run_patient(self) -> None:
        _become_patient()
        pace = Pace(self._outside, self._rest, gives_way=True)
        while not self._closing.is_set():
            if self._is_kept_back(self._pause_s):
                self._rest()
            if self._is_behind():               # it would keep the prompt one waiting, for as long as whoever is nice gets no processor
                self._pause_s = WATCH_S
                continue
            n_rows = self._turn(pace)
            if n_rows is None:
                self._pause_s = _REPOSE_S
            elif n_rows:
                has_more = self._pump.gave_way or self._source.pending_bytes() >= STEP_BYTES
                self._pause_s = BREATH_S if has_more and self._can_go_on() else BUSY_S
            else:
                self._pause_s = min(max(2 * self._pause_s, BUSY_S), IDLE_S)

    def _run_prompt(self) -> None:
        pause_s = WATCH_S
        while not self._closing.is_set():
            self._wake.wait(pause_s)
            self._wake.clear()
            pause_s = self._hurried_turn() if self._flushes or self._is_behind() else max(WATCH_S, self._pause_s)
        while clock.monotonic_ns() < self._close_by_ns and not self._is_finished():
            self._wake.wait(self._hurried_turn())
            self._wake.clear()
        self._threads[1].join()         # it may have rows in its hands
        with self._turns:
            self._finish()

    def _hurried_turn(self) -> float:
        """Returns when to take the next one, in seconds."""
        n_rows = self._turn(HURRIED)
        if n_rows is None:
            return _REPOSE_S
        is_waited_for = bool(self._flushes) or self._closing.is_set()
        return 0.0 if self._can_go_on() and (self._is_behind() or (is_waited_for and n_rows)) else BUSY_S

    def _can_go_on(self) -> bool:
        return self._pump.has_room and self._sink.takes(clock.monotonic_ns())

    def _is_behind(self) -> bool:
        return self._source.pending_bytes() > self._source.capacity_bytes() // BEHIND

    @contextmanager
    def _outside(self) -> Iterator[None]:
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()

    def _rest(self) -> None:
        end_ns = clock.monotonic_ns() + MOST_REST_NS
        while self._is_kept_back(BREATH_S) and clock.monotonic_ns() < end_ns:
            pass

    def _is_kept_back(self, pause_s: float) -> bool:
        """Waits, but for the closing; whether others want the processor then."""
        due_ns = clock.monotonic_ns() + int(pause_s * 1e9)
        self._closing.wait(pause_s)
        return clock.monotonic_ns() - due_ns > LATE_NS or self._source.is_in_the_way()

    def _turn(self, pace: Pace) -> int | None:
        """Does what is due. Returns the rows that were there, None after a failure."""
        with self._turns:
            try:
                is_waited_for = bool(self._flushes) or self._closing.is_set()
                n_rows = self._pump.step(clock.monotonic_ns(), force=is_waited_for, pace=pace)
                self._finish_flushes()
            except Exception:  # noqa: BLE001
                # Without its threads nothing would be recorded, and only rings that fill up would tell.
                _log.exception("the recorder failed; it goes on")
                return None
        return n_rows

    def _finish_flushes(self) -> None:
        with self._lock:
            flushes = list(self._flushes)
        if flushes and self._pump.is_drained() and self._sink.sync(clock.monotonic_ns()):
            for done in flushes:
                done.set()

    def _is_finished(self) -> bool:
        return self._pump.is_drained() and self._sink.takes(clock.monotonic_ns())

    def _finish(self) -> None:
        try:
            self._sink.close(clock.monotonic_ns())
            self._page.close_cleanly()
        except Exception:  # noqa: BLE001  the process ends, and the next one counts
            _log.exception("the recorder could not be closed in order; what is missing is counted at the next start")


def _become_patient() -> None:
    """The calling thread gives way to all others; on Linux each has a nice value of its own."""
    with suppress(OSError):             # a sandbox that forbids it: as good as the other
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENT_NICE)
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def _with_sink(reading: StreamReading, stream: SinkStream) -> StreamReading:
    return replace(reading, appended=stream.shown, dropped={**reading.dropped, "disk_budget": stream.over_budget})


def _age_s(since_ns: int | None, now_ns: int) -> float | None:
    return None if since_ns is None else max(0.0, (now_ns - since_ns) / 1e9)


__all__ = ["BEHIND", "BUSY_S", "FSYNC_NS", "IDLE_S", "LATE_NS", "PATIENT_NICE", "WATCH_S", "Recorder", "RecorderSettings"]
