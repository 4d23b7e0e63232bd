"""The server of the story: `headrace serve` as a process, on ports that are free."""

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from serve.demo.story.commands import Places, environment
from serve.errors import HeadraceError

STOP_S = 30.0
_LAST = 4000


class ServerFailed(HeadraceError):
    """It did not start, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """ports: name to number, all on the loopback."""

    process: "subprocess.Popen[str]"
    log: Path
    ports: dict[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.ports['admin']}"

    def fault(self) -> str:
        """Why nothing more is to be expected of it, "" while it runs."""
        code = self.process.poll()
        return "" if code is None else f"the server has exited with {code}: {_end_of(self.log)}"

    def errors(self) -> list[str]:
        """What the log has at level error."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if re.search(r'"level": "(error|critical)"|^Traceback', line)]


@contextlib.contextmanager
def running_server(places: Places, webhooks: Path, say: Callable[[str], None]) -> Iterator[RunningServer]:
    """Ready; ended by SIGTERM, after which its state directory is complete. Raises ServerFailed."""
    on_event = shlex.join([sys.executable, "-m", "serve.demo.story.on_event", places.inbox.name])
    words = ["serve", places.repository.name, "--state-dir", places.state.name, "--records", places.records.name, "--record-seal", "2",
             "--replica-id", "story", "--webhooks", webhooks.name, "--monitor-command", on_event, "--http-port", "0", "--grpc-port", "0",
             "--metrics-port", "0", "--admin-port", "0"]
    say(shlex.join(["headrace", *words]))
    with (places.log.open("w", encoding="utf-8") as sink,
          subprocess.Popen([sys.executable, "-m", "serve.cli", *words, "--log-format", "json"], cwd=places.folder, env=environment(),
                           stdout=subprocess.PIPE, stderr=sink, text=True) as process):
        try:
            yield RunningServer(process, places.log, _read_ports(process, places.log))
        except BaseException:
            _stopped(process)
            raise
        if (code := _stopped(process)) != 0:
            raise ServerFailed(f"the server exited with {code} after SIGTERM: {_end_of(places.log)}")


def _stopped(process: "subprocess.Popen[str]") -> int:
    """Its exit code; -9 when it took longer than STOP_S."""
    process.terminate()
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _read_ports(process: "subprocess.Popen[str]", log: Path) -> dict[str, int]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("ports"):
            return {name: int(port) for name, port in re.findall(r"(\w+) \S+?:(\d+)", line)}
    raise ServerFailed(f"the server did not start: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8")[-_LAST:].strip() or "its log is empty"


__all__ = ["RunningServer", "ServerFailed", "running_server"]
