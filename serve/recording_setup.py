"""Puts recording together: the page of this epoch, the rings, the recorder's thread, the writer of labels, the keeper, the monitoring.

Imported only where something is recorded: it needs what the extra `records` installs.
"""

import asyncio
import re
import shlex
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import structlog

from serve._core.recorder import NativeRecorder
from serve.config import Settings
from serve.errors import ConfigurationError, HeadraceError, Unavailable
from serve.monitoring.setup import MonitoringSettings, Server, open_monitoring
from serve.monitors import MonitoringSpec
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.jobs import Message
from serve.recording.join_specs import monitoring_message
from serve.recording.keeper_link import KeeperLink
from serve.recording.keeper_settings import KeeperSettings
from serve.recording.label_writer import LabelSettings, LabelWriter
from serve.recording.lane import JournalPlace
from serve.recording.layout import check_replica
from serve.recording.outcome_sql import parse_outcomes
from serve.recording.page import RecordPage, next_epoch
from serve.recording.recorder import Recorder, RecorderSettings
from serve.recording.recovery import highest_epoch
from serve.recording.stores import LocalStore, open_store
from serve.records import Label, RecordStreamSpec
from serve.routing.outcome_board import OutcomeBoard
from serve.store.audit import AuditEntry
from serve.store.port import ConfigStore
from serve.telemetry.recording_facts import RecordingFacts

_log = structlog.get_logger(__name__)

# The recorder may take twice as long. A drain that used up its time leaves less (supervision.KILL_GRACE_NS): rows are lost then, counted.
CLOSE_S = 5.0
LABELS_CLOSE_S = 3.0
# The keeper finishes the file that it is at; what it does not seal now, the next one does.
KEEPER_STOP_S = 3.0


class Recording:
    """Made on the event loop, before the native server, whose I/O threads write into `native`; closed after they have stopped.

    Raises ConfigurationError when the state directory does not let it begin.
    """

    def __init__(self, settings: Settings, server: Server) -> None:
        record = settings.recording
        self.replica = check_replica(record.replica_id or host_name())
        self.home = Home(settings.state_dir / "records")
        self.epoch = next_epoch(self.home.path, _known_epoch(record.records or "", self.replica))
        self._page = RecordPage(self.home.path, self.epoch)
        self._has_room = True
        self._link = KeeperLink(KeeperSettings(
            records=record.records or "", home=str(self.home.path), replica=self.replica, epoch=self.epoch,
            retention_days=record.record_retention_days, disk_budget_bytes=record.record_disk_budget_bytes, delta=record.records_delta,
        ), self._take, self._on_keeper)
        # What labels say of versions, for rollouts and experiments.
        self.outcomes = OutcomeBoard(self._link.tell)
        self.monitoring = open_monitoring(MonitoringSettings(
            folder=settings.state_dir / "monitoring", command=tuple(shlex.split(record.monitor_command or ""))), server)
        self._handlers: dict[str, Callable[[Message], object]] = {
            "room": self._take_room, "error": _warn, "feedback": self._take_feedback, "outcomes": self.outcomes.take,
            "performance": self.monitoring.take, "epoch": self._take_epoch, "purged": self._take_purge,
            "status": self._take_status}
        self._loop = asyncio.get_running_loop()
        self._specs: dict[str, MonitoringSpec] = {}
        self._feedback: dict[tuple[str, str], int] = {}
        self._lost_before = 0
        self._kept: dict[str, int] = {}
        self._store: ConfigStore | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self.native = NativeRecorder(settings.io_threads, record.record_ring_bytes, self._page.buffer)
        place = JournalPlace(SystemFiles(), self.home.journals, record.record_seal_bytes, int(record.record_seal_s * 1e9))
        fsync_ns = int(record.record_fsync_s * 1e9)
        self._recorder = Recorder(
            self.native, self._page, place, RecorderSettings(self.replica, self.home.path, fsync_ns),
            observers=[self.monitoring.observer], has_room=lambda: self._has_room)
        self._labels = LabelWriter(place, LabelSettings(self.replica, self.epoch, fsync_ns))

    def open_stream(self, spec: RecordStreamSpec) -> int:
        """For `serve.models.native_engine`. Raises ConfigurationError, ValueError."""
        parse_outcomes(spec.monitoring.outcomes, f"monitoring of {spec.model}")
        stream = self._recorder.open_stream(spec)
        self.monitoring.observer.open(spec)
        self._specs[spec.model] = spec.monitoring
        self._loop.call_soon_threadsafe(self._tell_spec, spec.model)
        return stream

    def submit(self, model: str, labels: Sequence[Label], *, durable: bool = False) -> "Future[None]":
        """For `serve.api.feedback_ports`. Raises Unavailable."""
        return self._labels.submit(model, labels, durable=durable)

    def start(self, store: ConfigStore) -> None:
        """Starts the keeper and the monitoring, on the event loop. store: of the audit."""
        self._store = store
        self._link.start()
        self.monitoring.start(store)

    def _tell_spec(self, model: str) -> None:
        self._link.tell(monitoring_message(model, self._specs[model]))

    def _take(self, message: Message) -> None:
        handler = self._handlers.get(str(message.get("type")))
        if handler is not None:
            handler(message)

    def _on_keeper(self) -> None:
        for model in list(self._specs):
            self._tell_spec(model)
        self.outcomes.repeat_scopes()

    def _take_room(self, message: Message) -> None:
        if self._has_room and not message["room"]:
            _log.error("the disk budget is used up by journals that are not sealed; rows are dropped", used_bytes=message["bytes"],
                       budget_bytes=message["budget"])
        self._has_room = bool(message["room"])

    def _take_status(self, message: Message) -> None:
        self._kept = {name: int(value) for name, value in message.items() if name != "at_ns" and isinstance(value, int)}

    def _take_epoch(self, message: Message) -> None:
        """The account of a worker that is gone."""
        self._lost_before += int(message["lost"])
        if message["lost"]:
            _log.warning("rows were in memory when an earlier worker died", epoch=message["epoch"], lost=message["lost"])

    def _take_purge(self, message: Message) -> None:
        task = asyncio.get_running_loop().create_task(self._audit_purge(message))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _audit_purge(self, message: Message) -> None:
        """The manifest has every path; the audit says that there was a purge, and why."""
        assert self._store is not None
        purged = {name: message[name] for name in ("rows", "why", "paths", "n_paths") if name in message}
        try:
            entry = AuditEntry("dev.headrace.records.purged", self.replica, "headrace", message["why"], after=purged)
            await self._store.commit([], [entry])
        except HeadraceError as error:
            _log.error("a purge of records is not in the audit", reason=str(error), rows=message["rows"], why=message["why"])

    def _take_feedback(self, message: Message) -> None:
        self._feedback = {(model, result): int(n) for model, counts in message["models"].items() for result, n in counts.items()}
        for problem in message["problems"]:
            _log.warning("labels cannot be joined as they should", problem=problem)

    def facts(self) -> RecordingFacts:
        """What the metrics say of recording."""
        return replace(
            self._recorder.facts(), lost_before=self._lost_before, keeper_running=self._link.is_running,
            keeper_restarts=self._link.restarts, kept=self._kept, labels={**self._labels.counts(), **self._feedback})

    async def close(self) -> dict[str, Any]:
        """Empties the rings, syncs and closes the journals, ends the keeper. Returns what became of this epoch's rows, for the log."""
        numbers = await asyncio.to_thread(self._recorder.close, CLOSE_S)
        has_ended = await asyncio.to_thread(self._labels.close, LABELS_CLOSE_S)
        await self.monitoring.close()
        await self._link.stop(KEEPER_STOP_S)
        if numbers.is_clean and has_ended:      # else a thread that hangs in a sync may still append
            self._page.release()
        return {"epoch": self.epoch, "sampled": numbers.assigned, "appended": numbers.appended,
                "dropped": sum(numbers.dropped.values()), "lost": numbers.lost}


def _known_epoch(records: str, replica: str) -> int:
    """The highest that the manifest in a folder knows; an object store is the keeper's to ask."""
    store = open_store(records)
    try:
        return highest_epoch(store, replica) if isinstance(store, LocalStore) else 0
    except (OSError, Unavailable) as error:
        text = f"the manifest of replica {replica} in {records} cannot be read: {error}; give another --records"
        raise ConfigurationError(text) from error


def _warn(message: Message) -> None:
    _log.warning("the keeper of the records reports", job=message.get("job"), problem=message.get("text"))


def host_name() -> str:
    """The host's name, with what a file cannot be called after replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip(".")[:128] or "replica"


__all__ = ["Recording", "Server", "host_name"]
