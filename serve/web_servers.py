"""The small web servers of a worker, in Python: metrics and admin, each behind its own socket."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn


class _QuietServer(uvicorn.Server):
    """A uvicorn that leaves the signals to the supervisor."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServers:
    """apps: with the descriptor of the listening socket; None: that one is off."""

    def __init__(self, apps: Sequence[tuple[Any, int | None]]) -> None:
        self._servers = [
            (_QuietServer(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, lifespan="off", loop="none")),
             socket.socket(fileno=fd))
            for app, fd in apps if fd is not None
        ]

    def serve(self) -> list["asyncio.Task[None]"]:
        """Tasks that end some time after `stop`."""
        return [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in self._servers]

    def stop(self) -> None:
        """Asks them to end."""
        for server, _ in self._servers:
            server.should_exit = True


__all__ = ["WebServers"]
