"""Load in the background of a case: wrk and h2load, started, watched and ended by their own process ids."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests import payloads
from loadtests.bench.clients import GRPC_PATH, read_h2load
from loadtests.bench.processes import pinned
from loadtests.payloads import FloatRows
from loadtests.rollout.service import Service
from loadtests.rollout.wire import Answer, HttpPipeline

ARMS = Path(__file__).with_name("arms.lua")
LONGEST_S = 300
STOP_S = 20.0


@dataclass(frozen=True)
class Arm:
    """Answers of one version under one generation with one status. last_ns: when the newest came, CLOCK_REALTIME."""

    generation: int
    version: str
    status: int
    n: int
    last_ns: int


@dataclass(frozen=True)
class WrkSummary:
    """What wrk saw. failed: sockets and time-outs; statuses are in arms."""

    requests: int
    failed: int
    seconds: float
    p99_ms: float
    arms: tuple[Arm, ...]

    def count(self, **wanted: Any) -> int:
        """Answers whose fields are the wanted ones."""
        return sum(arm.n for arm in self.arms if all(getattr(arm, name) == value for name, value in wanted.items()))


def read_arms(output: str) -> WrkSummary:
    """The line of JSON that arms.lua prints last. Raises ValueError when it is missing."""
    line = output.strip().rpartition("\n")[2]
    if not line.startswith("{"):
        raise ValueError(f"not a summary of arms.lua: {output[-500:]}")
    found = json.loads(line)
    arms = []
    for key, n, last_us in found["answers"]:
        generation, version, status = key.split()
        arms.append(Arm(int(generation), version, int(status), n, int(last_us * 1000)))
    return WrkSummary(found["requests"], found["failed"], found["seconds"], found["p99_ms"], tuple(arms))


class Wrk:
    """wrk with arms.lua until the block is left. summary: set then."""

    def __init__(self, service: Service, models: Sequence[str], rows: FloatRows, keys: int = 0, connections: int = 16) -> None:
        bodies = service.folder / f"bodies-{id(self)}.jsonl"
        bodies.write_bytes(b"\n".join(payloads.json_body("x", row[None]) for row in rows) + b"\n")
        self._command = pinned(service.machine.client_cores, [
            "wrk", "-t", "1", "-c", str(connections), "-d", f"{LONGEST_S}s", "--timeout", "10s", "-s", str(ARMS),
            f"http://127.0.0.1:{service.http_port}/", "--", str(bodies), ",".join(models), str(keys)])
        self.summary: WrkSummary | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()
            self._process.communicate()
            return
        self._process.send_signal(signal.SIGINT)        # wrk then sums up
        try:
            output, _ = self._process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self.summary = read_arms(output)


class H2load:
    """h2load again and again, an exact number of calls each time, over the models in turn, until the block is left.

    succeeded, failed: what all finished runs claim; the last run is let finish.
    """

    def __init__(
        self, service: Service, models: Sequence[str], row: FloatRows, requests: int = 5_000, connections: int = 2, streams: int = 8,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.succeeded = self.failed = 0
        self.error: BaseException | None = None
        self._commands = []
        for model in models:
            body = service.folder / f"{model}-{id(self)}.grpc"
            body.write_bytes(payloads.grpc_frame(payloads.grpc_message(model, "x", row[None])))
            sent = {"content-type": "application/grpc", "te": "trailers", **(headers or {})}
            self._commands.append(pinned(service.machine.client_cores, [
                "h2load", "-n", str(requests), "-c", str(connections), "-m", str(streams), "-t", "1", "-w", "24", "-W", "24",
                "-d", str(body), *(part for name, value in sent.items() for part in ("-H", f"{name}: {value}")),
                f"http://127.0.0.1:{service.grpc_port}{GRPC_PATH}"]))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        end, turn = time.monotonic() + LONGEST_S, 0
        try:
            while not self._stop.is_set() and time.monotonic() < end:
                command = self._commands[turn % len(self._commands)]
                turn += 1
                done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=True)
                claim = read_h2load(done.stdout)
                self.succeeded += claim.completed
                self.failed += claim.failed
        except BaseException as error:      # noqa: BLE001  raised where the block is left
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(LONGEST_S)
        if self.error is not None and error is None:
            raise self.error


class Probe:
    """A client that knows when it sent and when it got each answer. answers: of all batches so far; the keys are random users."""

    def __init__(self, service: Service, model: str, rows: FloatRows, depth: int = 4, connections: int = 2) -> None:
        self._service, self._path, self._depth = service, f"/v2/models/{model}/infer", depth
        self._bodies = [payloads.json_body("x", row[None]) for row in rows]
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(at,), daemon=True) for at in range(connections)]

    def _run(self, at: int) -> None:
        try:
            pipelines = [HttpPipeline(self._service.http_port, self._path, body) for body in self._bodies[at::len(self._threads)]]
            turn = 0
            while not self._stop.is_set():
                keys = [f"user-{(turn * 7919 + at * 31 + i * 104_729) % 100_000}" for i in range(self._depth)]
                self.answers += pipelines[turn % len(pipelines)].ask(keys)
                turn += 1
        except BaseException as error:      # noqa: BLE001  raised where the block is left
            self.error = error

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_S)
        if self.error is not None and error is None:
            raise self.error


@dataclass
class Counters:
    """The newest reading of every generation of a model that was ever seen, by polling the admin API in the background."""

    service: Service
    model: str
    every_s: float = 0.1
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        """One poll, by the caller."""
        with self.service.admin() as admin:
            self.note(admin.counters(self.model))

    def note(self, readings: Sequence[dict[str, Any]]) -> None:
        """Takes the readings of one poll."""
        self.seen.update({reading["generation"]: reading for reading in readings})

    @contextmanager
    def polled(self) -> Iterator[Self]:
        """In the background, until the block is left."""
        stop = threading.Event()

        def run() -> None:
            with self.service.admin() as admin:
                while not stop.wait(self.every_s):
                    with suppress(OSError):
                        self.note(admin.counters(self.model))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join(STOP_S)
            self.look()


def until(condition: Callable[[], bool], seconds: float, what: Callable[[], object] = lambda: "") -> None:
    """Waits for it. Raises TimeoutError with `what` to say."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not after {seconds:g} s: {what()}")
        time.sleep(0.02)


__all__ = ["Arm", "Counters", "H2load", "Probe", "Wrk", "WrkSummary", "read_arms", "until"]
