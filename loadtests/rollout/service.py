"""`headrace serve` as a process of a case: started, killed, started again on the same state."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests.bench.processes import Server, free_ports
from loadtests.bench.servers import Machine, get
from serve.client.admin import AdminClient

BACK_SECONDS = 60.0


class Service:
    """One server over a repository, with ports and a state directory that outlive a restart.

    `with Service(machine, repository, folder) as service:`; ended by SIGTERM to the process that it started.
    """

    def __init__(self, machine: Machine, repository: Path, folder: Path, *flags: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.machine, self.repository, self.folder = machine, repository, folder
        self.state_dir = folder / "state"
        self.http_port, self.grpc_port, self.admin_port, self.metrics_port = free_ports(4)
        self._flags = flags
        self.server = self._start()

    def _start(self) -> Server:
        executable = Path(sys.executable).with_name("headrace")
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port, "admin": self.admin_port}
        server = Server("headrace", [
            str(executable), "serve", str(self.repository), "--host", "127.0.0.1", "--state-dir", str(self.state_dir),
            *(part for name, port in ports.items() for part in (f"--{name}-port", str(port))), *self._flags,
        ], self.machine.server_cores, self.folder / "server.log")
        server.wait_ready(self.is_ready)
        return server

    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return get(f"http://127.0.0.1:{self.http_port}/v2/health/ready") is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.stop()

    def restart(self) -> None:
        """SIGTERM, then the same again."""
        self.server.stop()
        self.server = self._start()

    def kill(self) -> None:
        """kill -9 of the supervisor and of its worker, by their own ids; then the same again."""
        tree = self.server.tree()
        for pid in tree:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.process.wait()
        end = time.monotonic() + BACK_SECONDS
        while any(_is_running(pid) for pid in tree) and time.monotonic() < end:
            time.sleep(0.01)
        self.server = self._start()

    def worker(self) -> int:
        """Id of the process that answers. Raises RuntimeError while there is none."""
        pids = self.server.tree()[1:]
        if not pids:
            raise RuntimeError(f"no worker:\n{self.server.log_tail()}")
        return pids[0]

    def kill_worker(self) -> None:
        """kill -9 of the worker; returns when another one is ready. Raises RuntimeError after a minute without."""
        pid, end = self.worker(), time.monotonic() + BACK_SECONDS
        os.kill(pid, signal.SIGKILL)
        while _is_running(pid) or not self.is_ready():
            if time.monotonic() > end or self.server.process.poll() is not None:
                raise RuntimeError(f"no new worker:\n{self.server.log_tail()}")
            time.sleep(0.01)

    def admin(self, actor: str = "bench") -> AdminClient:
        """A client of the admin API; one for each thread."""
        return AdminClient(f"http://127.0.0.1:{self.admin_port}", actor, timeout_s=60)

    def successes(self) -> int:
        """Successful requests of all models and versions that are loaded, by the statistics extension."""
        return sum(self.statistics().values())

    def statistics(self) -> Mapping[tuple[str, str], int]:
        """(model, version) -> successful requests."""
        body = get(f"http://127.0.0.1:{self.http_port}/v2/models/stats")
        if body is None:
            raise RuntimeError(f"no statistics:\n{self.server.log_tail()}")
        return {(one["name"], one["version"]): one["inference_stats"]["success"]["count"] for one in json.loads(body)["model_stats"]}


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def split(weights: Mapping[str, int], **more: Any) -> dict[str, Any]:
    """A routing plan: version -> basis points."""
    return {"variants": [{"version": version, "weight": weight} for version, weight in weights.items()], **more}


__all__ = ["Service", "split"]
