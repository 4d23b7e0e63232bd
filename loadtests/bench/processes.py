"""Server processes: pinned to cores, waited for, their CPU time and memory read from /proc, stopped with everything they started."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 120.0
STOP_SECONDS = 20.0


def free_ports(n: int) -> list[int]:
    """Return n different TCP ports of the loopback that nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    """Return one."""
    return free_ports(1)[0]


def can_connect(port: int) -> bool:
    """Return whether somebody listens on the port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def pinned(cores: str, command: Sequence[str]) -> list[str]:
    """Return the command under taskset; cores as taskset's list, e.g. "0" or "0-3"."""
    return ["taskset", "-c", cores, *command]


class Server:
    """A server's process tree.

    cpu_seconds() and rss_bytes() cover all of it, the supervisor included: what a request costs is what the machine spent on it.
    """

    def __init__(
        self, name: str, command: Sequence[str], cores: str, log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                pinned(cores, command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True,
            )

    def wait_ready(self, is_ready: Callable[[], bool]) -> None:
        """Wait until is_ready() says so. Raises RuntimeError with the end of the log when the server dies or takes two minutes."""
        end = time.monotonic() + START_SECONDS
        while not is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{self.name} did not start (exit {self.process.returncode}):\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def tree(self) -> list[int]:
        """Return the pids of the server and its descendants."""
        pids = [self.process.pid]
        for pid in pids:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    pids.extend(map(int, (task / "children").read_text().split()))
        return pids

    def cpu_seconds(self) -> float:
        """Return utime + stime of the tree, in seconds, with the kernel's tick as resolution."""
        total = 0
        for pid in self.tree():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_bytes(self) -> int:
        """Return the resident size of the tree's largest process: the worker."""
        sizes = [0]
        for pid in self.tree():
            with suppress(OSError):
                sizes.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE)
        return max(sizes)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self) -> None:
        """Stop the clock of a server that polls while it has nothing to do, so that it takes nothing from the one that is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the tree: politely, then not."""
        tree = self.tree()
        self.resume()
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in tree[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
