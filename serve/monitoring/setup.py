"""Puts monitoring together: the observer for the recorder's thread, the service on a thread of its own, events to the store and a command.

Imported only where something is recorded: it needs what the extra `records` installs. Nothing of it runs on the request path.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import structlog

from serve import clock
from serve.errors import HeadraceError, NotFound, Unavailable
from serve.monitoring.alert_book import shown
from serve.monitoring.baseline import Baseline, Source, baseline_of
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.baselines import BaselineFiles, checked
from serve.monitoring.command import TIMEOUT_S, EventCommand
from serve.monitoring.database import MonitoringDatabase
from serve.monitoring.evaluation import WindowEvaluator
from serve.monitoring.facts import monitoring_facts
from serve.monitoring.first_rows import FIRST_ROWS, FirstRows, without_redacted
from serve.monitoring.observation import MAX_ROWS_S, MonitoringObserver
from serve.monitoring.ports import Ports
from serve.monitoring.realised import PERFORMANCE
from serve.monitoring.realised_window import realised_window
from serve.monitoring.service import MonitoringService
from serve.monitoring.summary import Summaries
from serve.monitoring.triggers import ALERT_CLEARED, Told
from serve.monitors import MonitoringSpec
from serve.recording.join_specs import monitoring_message, told_spec
from serve.records import RecordStreamSpec
from serve.routing.traffic_service import Actor
from serve.store.audit import AuditEntry
from serve.store.port import Commit, ConfigStore
from serve.telemetry.monitoring_facts import MonitoringFacts
from serve.types import ModelDescription

_log = structlog.get_logger(__name__)

TICK_S = 5.0
# Between two looks at the files of baselines.
LOOK_S = 60.0
ACTOR = "headrace"
# What the monitoring command is told.
COMMAND_TYPES = ("dev.headrace.monitoring.", "dev.headrace.retrain.")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSettings:
    """folder: STATE_DIR/monitoring. first_rows: that make a baseline of a version which has none; 0: it is not watched then. max_rows_s: of
    a version that are looked at. command: a program and its arguments that is told of events, () none.
    """

    folder: Path
    first_rows: int = FIRST_ROWS
    max_rows_s: int = MAX_ROWS_S
    command: tuple[str, ...] = ()
    command_timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What monitoring needs of the worker; folder_of from any thread, the others on the event loop.

    describe: a version, "" the one that an unversioned request gets; raises NotFound. stable: the version that a model's stable traffic
    goes to, "" where nobody knows. folder_of: a version's folder in the repository, None of a file.
    """

    describe: Callable[[str, str], ModelDescription]
    stable: Callable[[str], str]
    folder_of: Callable[[str, str], Path | None]


class Monitoring:
    """What the worker holds. `observer` goes to the recorder, the object itself to the admin API."""

    def __init__(self, settings: MonitoringSettings, server: Server, wall_ns: Callable[[], int] = clock.wall_ns) -> None:
        """Raises Unavailable when nothing can be kept in the folder."""
        self._settings = settings
        self._server = server
        self._wall_ns = wall_ns
        self.files = BaselineFiles(settings.folder / "baselines", server.folder_of)
        self._database = MonitoringDatabase(settings.folder)
        self._stable: dict[str, str] = self._database.fact("stable", {})
        specs = dict(map(told_spec, self._database.fact("specs", [])))
        self.observer = MonitoringObserver(self.files.find, self._first_rows, self._stable_of, specs, settings.max_rows_s)
        self._service = MonitoringService(self._database, Ports(
            self.observer, WindowEvaluator(self._baseline_of), self.observer.spec, self._stable_of, self.observer.known))
        self._summaries = Summaries(self._service, self._database, self.observer.spec, self.observer.baseline, self.observer.collecting)
        self._specs: Mapping[str, MonitoringSpec] = specs
        self._store: ConfigStore | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="monitoring")
        self._command = EventCommand(settings.command, COMMAND_TYPES, settings.command_timeout_s) if settings.command else None
        self._task: asyncio.Task[None] | None = None
        self._facts = MonitoringFacts()
        self._looked_ns = 0
        self._is_closed = False

    def start(self, store: ConfigStore) -> None:
        """On the loop that it is used on. store: of the audit chain, where events are told."""
        self._store = store
        if self._command is not None:
            self._command.start()
        self._task = asyncio.create_task(self._run_ticks(), name="monitoring")

    async def close(self) -> None:
        """After the recorder: what it saw last is kept."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(HeadraceError):
            await self._run(lambda: self._service.tick(self._wall_ns()))
        if self._command is not None:
            await self._command.close()
        await self._run(self._database.close)
        self._executor.shutdown(wait=False)

    def facts(self) -> MonitoringFacts:
        """As of the last tick."""
        return self._facts

    def take(self, message: Mapping[str, Any]) -> None:
        """A message of the keeper, on the loop: what labels say of a window. Others are somebody else's."""
        if message.get("type") == PERFORMANCE and not self._is_closed:       # the next worker is told of it again
            self._executor.submit(self._take_realised, message)

    async def tick(self) -> None:
        """One turn: closes what has ended, tells what is to be told. Raises HeadraceError."""
        now_ns = self._wall_ns()
        await self._look(now_ns)
        self._learn()
        for event in await self._run(lambda: self._service.tick(now_ns)):
            await self._tell(event)
        self._facts = await self._run(self._make_facts)

    async def document(self, model: str, version: str = "", variant: str = "", since_ns: int = 0, limit: int = 288) -> Mapping[str, Any]:
        """As GET .../monitoring answers. Raises NotFound."""
        versions = [one for name, one in self.observer.versions() if name == model]
        return await self._run(lambda: self._summaries.document(model, versions, version, variant, since_ns, limit))

    async def baseline(self, model: str, version: str = "") -> Mapping[str, Any]:
        """Of the files that are served. Raises NotFound."""
        described = self._server.describe(model, version)
        found = await asyncio.to_thread(self.files.find, model, described.version, described.digest)
        if found is None:
            how = f"make one with `headrace monitor baseline {model}`"
            raise NotFound(f"version {described.version} of model '{model}' has no baseline; {how}")
        return found.as_document()

    async def put_baseline(self, model: str, version: str, document: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        """Raises InvalidArgument, Conflict for one of another digest, NotFound, Unavailable."""
        described = self._server.describe(model, version)
        baseline = checked(await asyncio.to_thread(baseline_of, document), model, described.version, described.digest)
        try:
            path = await asyncio.to_thread(self.files.save, baseline)
        except OSError as error:
            raise Unavailable(f"the baseline cannot be written: {error}") from error
        _log.info("a baseline was set", model=model, version=described.version, baseline=baseline.id, file=str(path))
        await self._write(AuditEntry("dev.headrace.monitoring.baseline.set", model, by.name, by.reason, after={
            "version": baseline.version, "baseline": baseline.id, "sha256": baseline.sha256, "digest": baseline.digest,
            "rows": baseline.rows, "source": baseline.source}))
        await self._use(baseline)
        return baseline.as_document()

    async def acknowledge(self, model: str, alert_id: str, by: Actor) -> Mapping[str, Any]:
        """Raises NotFound."""
        now_ns = self._wall_ns()
        alert = await self._run(lambda: self._service.acknowledge(model, alert_id, by.name, now_ns))
        await self._write(AuditEntry(
            "dev.headrace.monitoring.alert.acknowledged", model, by.name, by.reason, evidence=alert.as_document()))
        return shown(alert)

    # --- the loop -------------------------------------------------------------------------------------------------------

    async def _run_ticks(self) -> None:
        while True:
            try:
                await self.tick()
            except HeadraceError as error:
                _log.error("monitoring could not do its turn; it tries again", reason=str(error))
            except Exception:  # noqa: BLE001  whatever it is, the next turn may do
                _log.exception("monitoring failed; it tries again")
            await asyncio.sleep(TICK_S)

    async def _tell(self, event: Told) -> None:
        """At least once: what is not durable is told again at the next turn."""
        (_log.info if event.type == ALERT_CLEARED else _log.warning)(event.reason, type=event.type, model=event.model)
        commit = await self._write(AuditEntry(event.type, event.model, ACTOR, event.reason, evidence=event.evidence, time_ns=event.time_ns))
        await self._run(lambda: self._service.told(event))
        for row in commit.audit_rows if self._command is not None else ():
            assert self._command is not None
            self._command.offer(row)

    def _learn(self) -> None:
        """What is asked of the loop, and has to be known after a restart before any model is loaded."""
        found = dict(self._stable)
        for model in {model for model, _ in self.observer.versions()}:
            with contextlib.suppress(HeadraceError):
                found[model] = self._server.stable(model)
        if found != self._stable:
            self._stable = found
            self._executor.submit(self._database.put_fact, "stable", found)
        specs = self.observer.specs()
        if specs != self._specs:
            self._specs = specs
            self._executor.submit(self._database.put_fact, "specs", [monitoring_message(*item) for item in sorted(specs.items())])

    async def _write(self, entry: AuditEntry) -> Commit:
        if self._store is None:
            raise Unavailable("monitoring has not started yet; try again")
        return await self._store.commit([], [entry])

    async def _look(self, now_ns: int) -> None:
        """Files of baselines that somebody has put beside a model."""
        if 0 <= now_ns - self._looked_ns < LOOK_S * 1e9:
            return
        self._looked_ns = now_ns
        for model, version in self.observer.versions():
            found = await asyncio.to_thread(self.files.find_changed, model, version, self.observer.digest(model, version))
            current = self.observer.baseline(model, version)
            if found is not None and (current is None or current.sha256 != found.sha256):
                _log.info("a version has another baseline", model=model, version=version, baseline=found.id)
                await self._use(found)

    async def _use(self, baseline: Baseline) -> None:
        self.observer.use(baseline)
        await self._run(lambda: self._service.forget_cells(baseline.model, baseline.version))

    async def _run(self, job: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    # --- other threads --------------------------------------------------------------------------------------------------

    def _baseline_of(self, sha256: str) -> Baseline | None:
        return self._service.baseline(sha256)

    def _stable_of(self, model: str) -> str:
        return self._stable.get(model, "")

    def _take_realised(self, message: Mapping[str, Any]) -> None:
        try:
            row, judged = realised_window(message, self.observer.spec(message["model"]),
                                          self.observer.baseline(message["model"], message["version"]))
            self._service.learn_realised(row, judged, self._wall_ns())
        except Exception:  # noqa: BLE001  nobody reads what becomes of it
            _log.exception("what labels say of a window could not be taken", message=message)

    def _make_facts(self) -> MonitoringFacts:
        commands = self._command.statistics if self._command is not None else None
        return monitoring_facts(self._service, self.observer.skipped(), commands)

    def _first_rows(self, stream: RecordStreamSpec) -> FirstRows | None:
        if self._settings.first_rows <= 0:
            return None
        return FirstRows(stream, self._build, self._made, self._settings.first_rows)

    def _build(self, stream: RecordStreamSpec, rows: pa.Table, source: Source) -> Baseline:
        return build_baseline(
            without_redacted(rows, stream), stream.tensors, stream.monitoring, model=stream.model, version=stream.version,
            digest=stream.digest, source=source, created_ns=self._wall_ns())

    def _made(self, baseline: Baseline) -> None:
        try:
            path = self.files.save(baseline, is_automatic=True)
            _log.info("a baseline was made of a version's first rows", model=baseline.model, version=baseline.version, baseline=baseline.id,
                      rows=baseline.rows, source=baseline.source, file=str(path))
        except OSError as error:
            _log.error("the baseline of a version's first rows is not kept", model=baseline.model, version=baseline.version,
                       reason=str(error))
        self.observer.use(baseline)


def open_monitoring(settings: MonitoringSettings, server: Server) -> Monitoring:
    """Monitoring as a worker runs it; `start` it on the loop. Raises Unavailable when nothing can be kept in the folder."""
    return Monitoring(settings, server)


__all__ = ["COMMAND_TYPES", "TICK_S", "Monitoring", "MonitoringSettings", "Server", "open_monitoring"]
