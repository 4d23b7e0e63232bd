"""What native threads and ONNX Runtime have to say, as records of the worker's log."""

import asyncio
from collections import deque

import structlog

from serve._core.io_loop import Server
from serve._core.ort_library import drain_log
from serve.telemetry.logs import LogSettings

_log = structlog.get_logger(__name__)
_access = structlog.get_logger("headrace.access")

LOG_POLL_S = 0.5
ACCESS_POLL_S = 0.1
ACCESS_TURN = 256  # records written before the loop does something else


class AccessLog:
    """A record for each call that has ended. The native rings hold what comes meanwhile; what they cannot hold is counted."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: deque[dict[str, str | int]] = deque()

    async def forward(self) -> None:
        """Until cancelled."""
        n_dropped = 0
        while True:
            await asyncio.sleep(0 if self._waiting else ACCESS_POLL_S)
            if not self._waiting:
                self._waiting.extend(self._server.drain_access_log())
            self._write()
            dropped = sum(row["access_dropped"] for row in self._server.counters())
            if dropped > n_dropped:
                _log.warning("access log: calls came faster than they can be written", dropped=dropped - n_dropped)
                n_dropped = dropped

    def write_rest(self) -> None:
        """After the threads have ended."""
        self._waiting.extend(self._server.drain_access_log())
        while self._waiting:
            self._write()

    def _write(self) -> None:
        for _ in range(min(ACCESS_TURN, len(self._waiting))):
            _access.info("call", **self._waiting.popleft())


async def forward_runtime_log() -> None:
    """Until cancelled."""
    while True:
        for severity, text in drain_log():
            _log.warning("onnxruntime", severity=severity, text=text)
        await asyncio.sleep(LOG_POLL_S)


def log_settings(level: str) -> LogSettings:
    """The logging extension's settings for a level of ours."""
    order = ("error", "warning", "info", "debug")
    rank = order.index(level)
    return LogSettings(log_info=rank >= 2, log_warning=rank >= 1, log_error=True, log_verbose_level=1 if rank >= 3 else 0)
