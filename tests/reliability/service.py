"""`headrace serve` as a process of its own, and what the tests do to it: signals, metrics, waiting for lines of its log."""

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
POLL_S = 0.005


def eventually(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Looks until the condition holds: another process has no event to wait for."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"after {within_s:g} s still not: {what}"
        time.sleep(POLL_S)


class Service:
    """One supervisor with its worker. folder: for its state and its log.

    descriptors: its limit of open files. log_to: a descriptor for its log instead of the file.
    """

    def __init__(
        self, folder: Path, *arguments: str, environment: dict[str, str] | None = None, descriptors: int | None = None,
        log_to: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state = folder / "state"
        self.log = folder / "log"
        self.ports: dict[str, int] = {}
        command = [sys.executable, "-m", "serve.cli", "serve", "--state-dir", str(self.state), "--log-format", "json", "--device", "cpu",
                   "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0", *arguments]
        if descriptors is not None:
            command = ["prlimit", f"--nofile={descriptors}:{descriptors}", *command]
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=sink if log_to is None else log_to,
                                            env=environment)
        self.supervisor = psutil.Process(self.process.pid)

    def wait_ready(self) -> None:
        """Returns when the banner is out; the ports are in it. Raises AssertionError with the log when the service ends instead."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().startswith(b"ports"):
                self.ports = {name: int(port) for name, port in re.findall(r"(\w+) \S+?:(\d+)", line.decode())}
                return
        raise AssertionError(f"no banner; exit code {self.process.wait(5)}:\n{self.text()[-4000:]}")

    @property
    def http(self) -> tuple[str, int]:
        return "127.0.0.1", self.ports["http"]

    @property
    def grpc(self) -> tuple[str, int]:
        return "127.0.0.1", self.ports["grpc"]

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def lines(self, pattern: str) -> list[str]:
        """What the log says that matches."""
        return re.findall(pattern, self.text(), re.MULTILINE)

    def worker(self) -> psutil.Process:
        """The worker of now; waits for one between two."""
        eventually(self.supervisor.children, START_S, "a worker")
        return self.supervisor.children()[0]

    def wait_worker(self, epoch: int, ready: bool = True) -> None:
        """Returns when the worker of that epoch (from 2) is ready, or started."""
        word = rf"worker {epoch} ready" if ready else rf"worker {epoch} started"
        eventually(lambda: self.lines(word), START_S, word)

    def get(self, port: str, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[port]}{path}", timeout=10) as answer:
            content: bytes = answer.read()
            return content

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        text = self.get("metrics", "/metrics").decode()
        return sum(sample.value for family in text_string_to_metric_families(text) for sample in family.samples
                   if sample.name == name and labels.items() <= sample.labels.items())

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """The exit code."""
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = 20.0) -> int:
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def close(self) -> None:
        """Whatever still runs of it ends now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.supervisor.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A service that is ready, ended by force if the test did not end it."""
    service = Service(folder, *arguments, environment=environment)
    try:
        service.wait_ready()
        yield service
    finally:
        service.close()


def faults(service: Service) -> list[str]:
    """Lines of the log that no test expects: errors, tracebacks, reports of a sanitizer."""
    return service.lines(r'^.*(?:"level": ?"(?:error|critical)"|Traceback|Sanitizer|corrupted|assert).*$')


def assert_nothing_is_held(service: Service) -> None:
    """Whatever was asked, in the end nothing of it is left: no connection, no request, no byte."""
    names = ("headrace_in_flight", "headrace_queue_depth", "headrace_in_flight_bytes", "headrace_connections")
    eventually(lambda: [service.metric(name) for name in names] == [0.0] * len(names), 20, "everything given back")
