"""`headrace serve` as a process of its own, the way an operator runs it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

import serve

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 20.0


@dataclass(frozen=True)
class RunningServer:
    """Where it listens, and what it is made of. repository: the folder that it serves."""

    process: "subprocess.Popen[str]"
    repository: Path
    log: Path
    ports: dict[str, int]

    @property
    def http(self) -> tuple[str, int]:
        return "127.0.0.1", self.ports["http"]

    @property
    def grpc(self) -> tuple[str, int]:
        return "127.0.0.1", self.ports["grpc"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def addresses(self) -> dict[str, str]:
        """For a client in another process."""
        return {name: f"127.0.0.1:{port}" for name, port in self.ports.items()} | {"repository": str(self.repository)}

    def worker(self) -> psutil.Process:
        """The process that answers."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def errors(self) -> list[str]:
        """What the log has at level error, and anything that is no log line of ours."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if re.search(r'"level": "(error|critical)"|Traceback|Error:|Sanitizer', line)]


@contextlib.contextmanager
def running_server(repository: Path, folder: Path, *flags: str) -> Iterator[RunningServer]:
    """A server that is ready; ended by SIGTERM, and it must then exit with 0 and an empty list of errors. folder: for state and log."""
    log = folder / "server.log"
    # What these tests import is what is served, wherever it lies.
    environment = {**os.environ, "PYTHONPATH": str(Path(serve.__file__).parents[1])}
    command = [sys.executable, "-m", "serve.cli", "serve", str(repository), "--state-dir", str(folder / "state"), "--log-format", "json",
               "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0", *flags]
    with (log.open("w", encoding="utf-8") as sink,
          subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=sink, text=True) as process):
        try:
            yield RunningServer(process, repository, log, _read_ports(process, log))
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
        finally:
            process.kill()
    assert process.returncode == 0, f"the server exited with {process.returncode}:\n{log.read_text(encoding='utf-8')[-4000:]}"


def _read_ports(process: "subprocess.Popen[str]", log: Path) -> dict[str, int]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("ports"):
            return {name: int(port) for name, port in re.findall(r"(\w+) \S+?:(\d+)", line)}
    raise AssertionError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")


def log_events(server: RunningServer) -> list[dict[str, object]]:
    """The structured lines of the log."""
    return [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
