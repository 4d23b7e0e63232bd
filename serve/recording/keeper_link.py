"""The worker's end of its keeper: starts it, takes what it says, starts it again when it dies.

Nothing waits for the keeper: while there is none, journals grow, and the next one seals them.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from serve import clock
from serve.recording.jobs import Message
from serve.recording.keeper_settings import KeeperSettings

FIRST_DELAY_S = 1.0
LAST_DELAY_S = 60.0
# A keeper that lived this long did not die of how it was started.
_SETTLED_NS = 60_000_000_000
# Between the end of its output and its end.
_LAST_STEP_S = 5.0
_MAX_LINE_BYTES = 16 << 20
_KEPT_STDERR_BYTES = 2000

_log = structlog.get_logger(__name__)


def keeper_command() -> list[str]:
    """-P: as the worker's own, nothing is imported from where the operator happens to stand."""
    return [sys.executable, "-P", "-m", "serve.keeper"]


def restart_delay_s(deaths: int) -> float:
    """Before the next keeper, after `deaths` >= 1 of those that did not last."""
    return min(LAST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(deaths - 1, 16))


class KeeperLink:
    """Lives on one event loop. restarts: how often a keeper was replaced. is_running: whether one runs now.

    on_message: each message, on the loop; what it raises is logged. on_start: a keeper was started, and knows nothing of what was told to
    the one before.
    """

    def __init__(
        self, settings: KeeperSettings, on_message: Callable[[Message], object], on_start: Callable[[], object] = lambda: None, *,
        command: Sequence[str] = (), delay_s: Callable[[int], float] = restart_delay_s,
    ) -> None:
        self.restarts = 0
        self._settings = replace(settings, parent_pid=os.getpid())
        self._on_message = on_message
        self._on_start = on_start
        self._command = list(command) or keeper_command()
        self._delay_s = delay_s
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_ending = asyncio.Event()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Once. Returns at once; a keeper that cannot be started is an `error` message, and is tried again."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def tell(self, message: Mapping[str, Any]) -> None:
        """For jobs that listen. Lost when no keeper runs: see on_start."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def stop(self, timeout_s: float) -> None:
        """Lets the keeper finish the step that it is at; kills it after the time. Either way nothing is lost. May be called twice."""
        self._is_ending.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._task is None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._task), timeout_s)
        if self._process is not None:
            self._process.kill()
        await self._task

    async def _run(self) -> None:
        deaths = 0
        while not self._is_ending.is_set():
            started_ns = clock.monotonic_ns()
            text = await self._keep()
            if self._is_ending.is_set():
                return
            deaths = 1 if clock.monotonic_ns() - started_ns >= _SETTLED_NS else deaths + 1
            delay_s = self._delay_s(deaths)
            self._deliver({"type": "error", "job": "keeper", "text": f"{text}; the next one starts in {delay_s:g} s"})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_ending.wait(), delay_s)
                return
            self.restarts += 1

    async def _keep(self) -> str:
        """One keeper, from start to end; what became of it."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_MAX_LINE_BYTES)
        except OSError as error:
            return f"the keeper cannot be started: {error}"
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        last_words = asyncio.ensure_future(_tail(process.stderr))
        try:
            process.stdin.write(self._settings.to_json().encode() + b"\n")
            if self._is_ending.is_set():
                process.stdin.close()       # told to stop while it was being started
            else:
                self._on_start()
            await self._listen(process.stdout)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _LAST_STEP_S)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
            self._process = None
        words = (await last_words).decode("utf-8", "replace").strip()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        return f"the keeper {how}{': ' if words else ''}{words}"

    async def _listen(self, output: asyncio.StreamReader) -> None:
        """Until the keeper has nothing more to say, or says what is no message."""
        while True:
            try:
                line = await output.readline()
                message = json.loads(line) if line else None
            except ValueError as error:     # no JSON, or a line that is too long
                self._deliver({"type": "error", "job": "keeper", "text": f"what the keeper said cannot be read: {error}"})
                return
            if message is None:
                return
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        try:
            self._on_message(message)
        except Exception as error:  # noqa: BLE001  whoever takes messages must not end the keeper
            _log.error("a message of the keeper could not be taken", type=message.get("type"), error=repr(error))


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The last bytes of a stream, at its end."""
    kept = b""
    while data := await stream.read(1 << 16):
        kept = (kept + data)[-_KEPT_STDERR_BYTES:]
    return kept


__all__ = ["KeeperLink", "keeper_command", "restart_delay_s"]
