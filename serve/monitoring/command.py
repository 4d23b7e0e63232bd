"""A program that is told of events: the CloudEvent on its standard input, one run an event, one at a time, for a bounded time. No shell.

At most MAX_WAITING events wait for it; further ones are dropped and counted. It gets the server's environment and HEADRACE_EVENT_TYPE; the
last of what it writes goes to the log. A run that takes too long is killed with everything that it has started.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from serve.store.canonical import canonical

_log = structlog.get_logger(__name__)

MAX_WAITING = 100
TIMEOUT_S = 60.0
_LOGGED_BYTES = 2000


@dataclass(slots=True)
class CommandStatistics:
    """Events, since the start. failed: left with something else than 0, could not be started, or took too long."""

    done: int = 0
    failed: int = 0
    dropped: int = 0


class EventCommand:
    """argv: the program and its arguments. types: of the events that are wanted; one that ends in `.` means all that begin with it."""

    def __init__(self, argv: Sequence[str], types: Sequence[str] = (), timeout_s: float = TIMEOUT_S) -> None:
        self.statistics = CommandStatistics()
        self._argv = tuple(argv)
        self._types = tuple(types)
        self._timeout_s = timeout_s
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="monitoring command")

    def offer(self, event: Mapping[str, Any]) -> None:
        """Never waits."""
        kind = str(event.get("type"))
        if self._types and not any(kind == wanted or (wanted.endswith(".") and kind.startswith(wanted)) for wanted in self._types):
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.statistics.dropped += 1
            _log.warning("the monitoring command is too slow: an event was dropped", type=kind, id=event.get("id"), waiting=MAX_WAITING)

    async def close(self) -> None:
        """At once: a run is killed. What it missed is in the audit."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            event = await self._queue.get()
            try:
                code, output = await self._told(event)
                if code == 0:
                    self.statistics.done += 1
                else:
                    self.statistics.failed += 1
                log = _log.info if code == 0 else _log.error
                log("the monitoring command has ended", type=event.get("type"), id=event.get("id"), code=code, output=output)
            except OSError as error:
                self.statistics.failed += 1
                _log.error("the monitoring command cannot be started", command=self._argv[0], reason=str(error))

    async def _told(self, event: Mapping[str, Any]) -> tuple[int | None, str]:
        """Exit code, None for a run that took too long, and the end of what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "HEADRACE_EVENT_TYPE": str(event.get("type"))})
        tail = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                # Side by side: it may write before it reads.
                await asyncio.gather(_give(process, canonical(event).encode() + b"\n"), _keep_tail(process, tail))
                return await process.wait(), tail.decode("utf-8", "replace")
        except TimeoutError:
            await _kill(process)
            return None, f"killed after {self._timeout_s:g} s; {tail.decode('utf-8', 'replace')}"
        except asyncio.CancelledError:
            await _kill(process)
            raise


async def _give(process: asyncio.subprocess.Process, text: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):     # it need not read
        process.stdin.write(text)
        await process.stdin.drain()
    process.stdin.close()


async def _keep_tail(process: asyncio.subprocess.Process, tail: bytearray) -> None:
    assert process.stdout is not None
    while chunk := await process.stdout.read(65536):
        tail += chunk
        del tail[:-_LOGGED_BYTES]


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Its process group: also what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


__all__ = ["MAX_WAITING", "TIMEOUT_S", "CommandStatistics", "EventCommand"]
