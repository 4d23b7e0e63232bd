"""The keeper: a process beside the worker that sees to everything after a journal is closed, at the lowest priority.

    worker -> keeper (standard input)    KeeperSettings, then messages for jobs that listen; its end is the order to end
    keeper -> worker (standard output)   {"type": "sealed" | "purged" | "error" | ...}, one JSON object a line

Jobs run one after another; between two of them the keeper looks at its input. It may be killed at any moment: each job takes up what
another keeper left. Only the one that holds the lock of the home does anything.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from serve import clock
from serve.errors import Conflict, HeadraceError
from serve.monitoring.realised import RealisedPerformance
from serve.recording.home import Home
from serve.recording.jobs import Job, Keeping, Listener, Message
from serve.recording.joining import JoiningJob
from serve.recording.keeper_jobs import SealingJob, error_text, recording_jobs
from serve.recording.keeper_settings import KeeperSettings
from serve.recording.layout import check_replica
from serve.recording.manifest_file import Manifest
from serve.recording.recovery import RecoveryJob, check_names
from serve.recording.spare_memory import keep_freed
from serve.recording.stores import LocalStore, open_store

# Makes jobs that recording itself does not know.
JobMaker = Callable[[KeeperSettings, Keeping], Sequence[Job]]


def label_jobs(settings: KeeperSettings, keeping: Keeping) -> Sequence[Job]:
    """Labels meet their predictions; what they say of them is summed up by window."""
    performance = RealisedPerformance(keeping.home.path)
    return JoiningJob(keeping, sinks=[performance]), performance


EXTRA_JOBS: tuple[JobMaker, ...] = (label_jobs,)

_NICE = 19
_PR_SET_PDEATHSIG = 1
_FIRST_DELAY_S, _LAST_DELAY_S = 1.0, 60.0
_KEPT_PATHS = 100
_STALE_NS = 3_600_000_000_000


@dataclass(slots=True)
class _Turn:
    """When a job is due. failures: in a row."""

    job: Job
    due_ns: int = 0
    failures: int = 0


@dataclass(slots=True)
class Rota:
    """Which job is next. Times are of the monotonic clock."""

    turns: list[_Turn] = field(default_factory=list)

    def next(self) -> _Turn:
        """The one that has been due for longest, of equal ones the first."""
        return min(self.turns, key=lambda turn: turn.due_ns)

    def run(self, turn: _Turn, monotonic_ns: Callable[[], int], wall_ns: int) -> list[Message]:
        """One run of a job. What it raises becomes an `error` message, and the job waits longer each time."""
        try:
            messages, delay_s = turn.job.run(wall_ns), turn.job.interval_s
            turn.failures = 0
        except Exception as error:  # noqa: BLE001  whatever it is, the other jobs go on, and this one is tried again
            messages = [{"type": "error", "job": turn.job.name, "text": error_text(error)}]
            delay_s = min(_LAST_DELAY_S, _FIRST_DELAY_S * 2 ** min(turn.failures, 16))
            turn.failures += 1
        turn.due_ns = monotonic_ns() + int(delay_s * 1e9)
        return messages


class WorkerPipe:
    """The keeper's end of the two pipes."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads = reads
        self._writes = writes
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(reads, select.POLLIN | select.POLLHUP)

    def settings(self) -> KeeperSettings:
        """The first line. Raises ConfigurationError."""
        while b"\n" not in self._rest and (data := os.read(self._reads, 1 << 16)):
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return KeeperSettings.from_json(line)

    def messages(self, timeout_s: float) -> list[Mapping[str, Any]] | None:
        """What came within the time; None when the worker wants the keeper to end."""
        if b"\n" not in self._rest and self._poll.poll(max(0.0, timeout_s) * 1000):
            data = os.read(self._reads, 1 << 16)
            if not data:
                return None
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines if line]

    def send(self, messages: Sequence[Message]) -> None:
        """Waits until they are taken. Raises BrokenPipeError when nobody will."""
        for message in messages:
            rest = memoryview(json.dumps(_shortened(message), separators=(",", ":")).encode() + b"\n")
            while rest:
                rest = rest[os.write(self._writes, rest):]


def _shortened(message: Message) -> Message:
    """A purge may name a hundred thousand files; the manifest has them all."""
    lists = {name: value for name, value in message.items() if isinstance(value, list) and len(value) > _KEPT_PATHS}
    return {**message, **{name: value[:_KEPT_PATHS] for name, value in lists.items()}, **{f"n_{name}": len(lists[name]) for name in lists}}


@contextlib.contextmanager
def kept(settings: KeeperSettings) -> Iterator[Keeping | None]:
    """What jobs work on, while this process holds the home; None when another one does.

    Raises ConfigurationError for settings that cannot work, and as the store.
    """
    home = Home(Path(settings.home))
    with home.locked() as is_ours:
        if not is_ours:
            yield None
            return
        store = open_store(settings.records)
        manifest = Manifest(store, check_replica(settings.replica))
        check_names(manifest.state, home, settings.epoch)
        home.sweep()
        if isinstance(store, LocalStore):
            store.sweep(clock.wall_ns() - _STALE_NS)
        manifest.begin(settings.host or os.uname().nodename, str(home.path), clock.wall_ns(), home.identity())
        yield Keeping(store, manifest, home, settings.replica, settings.epoch)


def seal_once(settings: KeeperSettings, say: Callable[[Message], None]) -> None:
    """Seals what can be sealed, now, in this process; for a state directory whose server does not run.

    Raises Conflict when a server's keeper has it; what stood in the way of a journal is said, and it stays.
    """
    with kept(settings) as keeping:
        if keeping is None:
            raise Conflict(f"a running server keeps {settings.home}: it seals its journals itself")
        sealing = SealingJob(keeping)
        jobs: list[Job] = [sealing] * len(keeping.home.closed(settings.epoch))
        jobs.append(RecoveryJob(keeping.manifest, keeping.home, keeping.epoch))
        jobs += [job for job in recording_jobs(settings, keeping) if job.name == "delta"]
        for job in jobs:
            for message in job.run(clock.wall_ns()):
                say(message)


def keep(pipe: WorkerPipe, settings: KeeperSettings, makers: Sequence[JobMaker] = EXTRA_JOBS) -> None:
    """Until the worker wants it to end. Raises BrokenPipeError when the worker is gone."""
    delay_s, said = _FIRST_DELAY_S, ""
    heard: list[Mapping[str, Any]] = []
    while True:
        with ExitStack() as opened:
            try:
                keeping = opened.enter_context(kept(settings))
                if keeping is not None:
                    extra = [job for maker in makers for job in maker(settings, keeping)]
                    _run_jobs(pipe, [*recording_jobs(settings, keeping), *extra], heard)
                    return
                text = f"another keeper has {settings.home}"
            except BrokenPipeError:
                raise
            except (HeadraceError, OSError) as error:
                text = error_text(error)
        if text != said:
            pipe.send([{"type": "error", "job": "keeper", "text": f"{text}; nothing is sealed until that changes"}])
        said = text
        messages = pipe.messages(delay_s)
        if messages is None:
            return
        heard += messages
        delay_s = min(_LAST_DELAY_S, 2 * delay_s)


def _run_jobs(pipe: WorkerPipe, jobs: Sequence[Job], heard: Sequence[Mapping[str, Any]]) -> None:
    """heard: messages that came before there were jobs."""
    rota = Rota([_Turn(job) for job in jobs])
    pipe.send([{"type": "started", "jobs": [job.name for job in jobs]}])
    messages: Sequence[Mapping[str, Any]] | None = heard
    while messages is not None:
        for job in jobs:
            if isinstance(job, Listener):
                for message in messages:
                    job.tell(message)
        turn = rota.next()
        if turn.due_ns <= clock.monotonic_ns():
            pipe.send(rota.run(turn, clock.monotonic_ns, clock.wall_ns()))
        messages = pipe.messages((rota.next().due_ns - clock.monotonic_ns()) / 1e9)


def _step_back(parent_pid: int) -> None:
    """Ends with the worker, leaves signals to it, and gives way to everything: at the disk as well, where nice decides unless told. One
    thread does it all, in memory that it keeps.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid and os.getppid() != parent_pid:       # it died before the kernel knew
        sys.exit(1)
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    keep_freed()


def main() -> int:
    """0: the worker wanted it to end. 1: the settings are wrong, or the worker went away."""
    writes = os.dup(1)
    os.dup2(2, 1)       # what a library prints is no message
    pipe = WorkerPipe(0, writes)
    settings = pipe.settings()
    _step_back(settings.parent_pid)
    try:
        keep(pipe, settings)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
