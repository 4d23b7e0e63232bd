"""The worker: builds everything, owns the order of start, drain and stop. Started by the supervisor as `python -P -m serve.app`."""

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import structlog
import uvloop

from serve import __version__, clock
from serve._core.control_queue import ControlQueue
from serve._core.io_loop import Server
from serve._core.model_table import ModelTable
from serve.api.admin import admin_app
from serve.api.grpc import GrpcApi
from serve.api.http import HttpApi
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.api.slow_path import SlowPath
from serve.config import Settings, instances_on
from serve.control import Drained, Failed, InputLine, ModelLine, Ready
from serve.cpus import available_cpus
from serve.errors import ConfigurationError, HeadraceError
from serve.listeners import connections_allowed, refuse_newcomers
from serve.models.crash_marks import CrashMarks
from serve.models.disk import DiskRepository
from serve.models.lifecycle import LifecycleOptions, ModelManager, Progress
from serve.models.native_engine import NativeEngine
from serve.models.runtime import start_runtime
from serve.monitoring.baselines import BaselineFiles, baselines_folder
from serve.monitoring.guards import Guards
from serve.recording_extra import open_recording
from serve.routing.service import RoutingService
from serve.routing_setup import Routing, open_routing
from serve.state_dir import lock_state_dir
from serve.telemetry.exposition import metrics_app
from serve.telemetry.facts import RuntimeFacts
from serve.telemetry.logs import Logs, configure_logs
from serve.telemetry.metrics import HeadraceCollector, metrics_registry
from serve.telemetry.model_info import ModelInfoCollector
from serve.telemetry.monitoring_metrics import MonitoringCollector
from serve.telemetry.recording_metrics import RecordingCollector
from serve.telemetry.routing_metrics import RoutingCollector
from serve.web_servers import WebServers
from serve.worker_channel import WorkerChannel
from serve.worker_logs import AccessLog, forward_runtime_log, log_settings

_log = structlog.get_logger(__name__)

DRAIN_POLL_S = 0.01

EXIT_DRAINED = 0
EXIT_CONFIGURATION = 1
EXIT_NO_MODEL = 3


class Worker:
    """Everything of one worker process, on one event loop."""

    def __init__(self, channel: WorkerChannel, device: str, logs: Logs) -> None:
        start = channel.start
        self.channel = channel
        self.settings: Settings = start.settings
        self.device = device
        self.start_time_s = clock.wall_ns() / 1e9
        self.is_draining = False
        self.table = ModelTable()
        self.control = ControlQueue()
        self.recording = open_recording(self.settings, lambda: self.models, self.stable_version)
        guards = Guards(BaselineFiles(baselines_folder(self.settings.state_dir), self._folder_of))
        self.engine = NativeEngine(self.table, lambda on: instances_on(self.settings, on != "cpu"), self.recording, guards.guard_of)
        self.sockets = {name: [socket.socket(fileno=fd) for fd in getattr(start.sockets, name)] for name in ("http", "grpc")}
        self.marks = CrashMarks(self.settings.state_dir / "marks")
        self.routing: Routing | None = None
        self.models = ModelManager(
            DiskRepository(self.settings.paths, lenient=self.settings.lenient_config),
            self.engine,
            self.marks,
            LifecycleOptions(
                default_device=device, strict_readiness=self.settings.strict_readiness, on_change=self._notify, pinned=self._pinned
            ),
        )
        self.readiness = Readiness(lambda: self.models.server_ready() and not self.is_draining)
        self.api = api = ApiSettings(
            server_name=self.settings.server_name,
            not_ready_status=self.settings.not_ready_status,
            model_control=self.settings.model_control,
        )
        http = HttpApi(self.models, self.readiness, logs, api, self.recording)
        grpc = GrpcApi(self.models, self.readiness, logs, api, self.recording)
        self.slow_path = SlowPath(self.control, http, grpc)
        self.server = self._native_server()

    def _notify(self) -> None:
        self.readiness.notify()

    def _judge(self, service: RoutingService) -> None:
        os.eventfd_read(self.engine.wake_fd)
        service.wake()

    def _listen_to_threads(self, service: RoutingService) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self.control.fileno(), self.slow_path.drain_queue)
        loop.add_reader(self.engine.wake_fd, self._judge, service)

    def stable_version(self, model: str) -> str:
        """What the stable traffic of a model goes to. Raises NotFound."""
        return self.routing.service.stable_version(model) if self.routing is not None else self.models.natural_default(model)

    def _folder_of(self, model: str, version: str) -> Path | None:
        return self.models.version_folder(model, version)

    def _pinned(self, model: str) -> frozenset[str]:
        return self.routing.service.pinned(model) if self.routing is not None else frozenset()

    def _native_server(self) -> Server:
        limits = self.settings.limits
        max_connections = connections_allowed(limits.max_connections)
        if max_connections < limits.max_connections:
            _log.warning("too few open files are allowed for max_connections", max_connections=limits.max_connections, used=max_connections)
        n_threads = self.settings.io_threads + instances_on(self.settings, self.device != "cpu")
        return Server(
            self.sockets["http"], self.sockets["grpc"], self.table, self.control,
            max_body=limits.max_body_bytes, max_in_flight=limits.max_in_flight_bytes, max_connections=max_connections,
            max_streams=limits.max_streams, header_timeout_s=limits.header_timeout_s, idle_timeout_s=limits.idle_timeout_s,
            deadline_cap_s=limits.max_deadline_s, min_body_rate=limits.min_body_rate, busy_poll_us=self.settings.busy_poll_us,
            cores_are_scarce=available_cpus() <= n_threads, access_log=self.settings.access_log,
            recorder=self.recording.native if self.recording is not None else None,
        )

    def _web_servers(self, routing: Routing) -> WebServers:
        sockets = self.channel.start.sockets
        monitoring = self.recording.monitoring if self.recording is not None else None
        collectors: list[Any] = [HeadraceCollector(self.models.statistics, self.facts), RoutingCollector(routing.facts),
                                 ModelInfoCollector(self.models.descriptions)]
        if self.recording is not None:
            collectors += [RecordingCollector(self.recording.facts), MonitoringCollector(self.recording.monitoring.facts)]
        return WebServers([
            (metrics_app(metrics_registry(*collectors)), sockets.metrics),
            (admin_app(self.models, self.readiness, self.api, routing.service, monitoring), sockets.admin),
        ])

    def facts(self) -> RuntimeFacts:
        """What the metrics say of the process."""
        rows = self.server.counters()
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        return RuntimeFacts(
            version=__version__, worker_epoch=self.channel.start.epoch, restarts=self.channel.start.restarts,
            start_time_s=self.start_time_s,
            connections=total["accepted"] - total["closed"], accepted=total["accepted"], in_flight_bytes=total["held_bytes"],
            io_turns=total["turns"], requests={"http": total["http_requests"], "grpc": total["grpc_requests"]},
            rejected={"in_flight_bytes": total["refused_in_flight"], "control_queue_full": total["refused_control"],
                      "connections": total["refused_connections"]},
        )

    async def run(self) -> int:
        """Load, serve, drain; the process's exit code."""
        drain = asyncio.create_task(self.channel.wait_drain())
        background = [asyncio.create_task(forward_runtime_log())]
        access = AccessLog(self.server)
        if self.settings.access_log:
            background.append(asyncio.create_task(access.forward()))
        n_polling = len(background)
        try:
            # Before any model is loaded: what the store says decides which versions there have to be, and who gets requests.
            self.routing = routing = await open_routing(
                self.settings, self.models, self.engine, self.recording.outcomes if self.recording is not None else None)
        except HeadraceError as error:
            self.channel.send(Failed(exit=EXIT_CONFIGURATION, text=str(error)))
            return EXIT_CONFIGURATION
        if self.recording is not None:
            self.recording.start(routing.store)
        web = self._web_servers(routing)
        background += web.serve()
        self._listen_to_threads(routing.service)
        # Clients may connect from the first moment: liveness and readiness are answered while models load.
        self.server.start()
        code = await self._load_unless(drain)
        if code is None:
            if not drain.done():        # else the models are not loaded, and nobody is to conclude anything from that
                await routing.service.start()
            order = await drain
            await self._drain(order.pre_stop_delay_s, order.timeout_s)
            code = EXIT_DRAINED
        await self._end(routing)
        web.stop()
        for task in background[:n_polling]:
            task.cancel()
        await asyncio.wait(background, timeout=2)
        access.write_rest()
        self.marks.abandon()
        if code == EXIT_DRAINED:
            self.channel.send(Drained())
        return code

    async def _end(self, routing: Routing) -> None:
        """Who decides first, then who answers, then who writes down what was answered."""
        await routing.close()
        self.server.stop()
        self.engine.stop()
        if self.recording is not None:
            _log.info("recording ended", **await self.recording.close())

    async def _load_unless(self, drain: "asyncio.Task[Any]") -> int | None:
        """Load the start-up set. None: serve; else the exit code of a worker that cannot."""
        load = asyncio.create_task(self.models.load_all(progress=_log_progress))
        await asyncio.wait((load, drain), return_when=asyncio.FIRST_COMPLETED)
        if not load.done():
            return None
        try:
            failures = load.result()
        except HeadraceError as error:
            self.channel.send(Failed(exit=EXIT_CONFIGURATION, text=str(error)))
            return EXIT_CONFIGURATION
        names = sorted({entry.name for entry in await self.models.index()})
        lines = tuple(self._line(name, failures.get(name, "")) for name in names)
        if self.settings.model_control == "none" and not any(line.versions for line in lines):
            text = "; ".join(line.problem for line in lines) or "the repository has no model"
            self.channel.send(Failed(exit=EXIT_NO_MODEL, text=f"no model could be loaded: {text}"))
            return EXIT_NO_MODEL
        self.channel.send(Ready(models=lines, device=self.device))
        return None

    def _line(self, name: str, problem: str) -> ModelLine:
        try:
            model = self.models.describe(name)
        except HeadraceError as error:
            return ModelLine(name=name, problem=problem or str(error))
        inputs = tuple(InputLine(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in model.inputs)
        digests = {version: self.models.describe(name, version).digest for version in model.versions}
        return ModelLine(name=name, versions=model.versions, digests=digests, inputs=inputs, problem=problem)

    async def _drain(self, pre_stop_delay_s: float, timeout_s: float) -> None:
        """Not ready first, so that load balancers look elsewhere; then no new work; then out."""
        self.is_draining = True
        self.readiness.notify()
        await asyncio.sleep(pre_stop_delay_s)
        listeners = [*self.sockets["http"], *self.sockets["grpc"]]
        for listener in listeners:
            refuse_newcomers(listener)
        self.server.drain()
        deadline = clock.monotonic_ns() + int(timeout_s * 1e9)
        while self.server.is_accepting or (self.server.connections and clock.monotonic_ns() < deadline):
            if not self.server.is_accepting:
                for listener in listeners:      # the supervisor has closed its own: from here on clients are refused
                    listener.close()
            self.slow_path.end_streams()        # in each turn: a client may open another
            await asyncio.sleep(DRAIN_POLL_S)
        if self.server.connections:
            _log.warning("the drain took too long", drain_timeout_s=timeout_s, connections_cut=self.server.connections)


def _log_progress(progress: Progress) -> None:
    if progress.failure:
        _log.error("model failed to load", model=progress.model, reason=progress.failure)
    else:
        _log.info("model ready", model=progress.model, done=progress.n_done, of=progress.n_total)


def main() -> int:
    """Run one worker; returns its exit code (defaults: 0 drained, 1 configuration, 3 no model)."""
    channel = WorkerChannel.open()
    settings = channel.start.settings
    logs = configure_logs(log_settings(settings.log_level), sys.stderr, style="json" if settings.log_format == "json" else "console")
    try:
        return _serve(channel, logs)
    finally:
        logs.close()


def _serve(channel: WorkerChannel, logs: Logs) -> int:
    settings = channel.start.settings
    cpus = available_cpus()
    try:
        lock_state_dir(settings.state_dir)
        several = instances_on(settings, on_gpu=False) > 1
        device = start_runtime(settings.device, intra_op_threads=1 if several else max(1, cpus - settings.io_threads))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(channel, device, logs))
    except ConfigurationError as error:
        channel.send(Failed(exit=EXIT_CONFIGURATION, text=str(error)))
        return EXIT_CONFIGURATION


async def _run(channel: WorkerChannel, device: str, logs: Logs) -> int:
    return await Worker(channel, device, logs).run()


if __name__ == "__main__":
    exit_code = main()
    # Not sys.exit: it waits for the threads that still load a model, which may take minutes and serves nobody any more.
    os._exit(exit_code)
