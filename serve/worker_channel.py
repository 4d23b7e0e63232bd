"""The worker's end of the control channel."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

from serve.control import Drain, Event, Lines, Ping, Pong, Start, Started, decode_command, encode
from serve.errors import ConfigurationError, InternalError

_PR_SET_PDEATHSIG = 1
_OOM_SCORE = 500        # of 1000: when memory runs out the kernel is to take the worker, not the supervisor


class WorkerChannel:
    """Settings and sockets come out of `start`; events go in through `send`; `wait_drain` ends when it is time to go.

    channel = WorkerChannel.open()                     # first thing in the process
    channel.start.settings, channel.start.sockets      # listening descriptors, non-blocking, not inherited further
    drain = asyncio.create_task(channel.wait_drain())  # before Ready: it answers the supervisor's pings
    channel.send(Ready(models=..., device=...))
    order = await drain                                # then: not ready, order.pre_stop_delay_s, drain, Drained, exit 0
    """

    def __init__(self, connection: socket.socket, start: Start, lines: Lines, pending: list[bytes]) -> None:
        self.start = start
        self._connection = connection
        self._lines = lines
        self._pending = pending
        self._sending = threading.Lock()

    @classmethod
    def open(cls, fd: int = 0) -> "WorkerChannel":
        """Takes the channel off descriptor `fd` (standard input, which becomes /dev/null) and says Started.

        The process is tied to the supervisor: the kernel ends it when the supervisor dies.

        Raises ConfigurationError when this process was not started by the supervisor.
        """
        connection = _take(fd)
        lines = Lines()
        pending: list[bytes] = []
        while not pending:
            data = connection.recv(65536)
            if not data:
                raise ConfigurationError("the supervisor went away before it sent any settings")
            pending = lines.feed(data)
        start = decode_command(pending.pop(0))
        if not isinstance(start, Start):
            raise InternalError(f"the supervisor's first command is {start.do!r}, not 'start'")
        for inherited in start.sockets.all():
            os.set_inheritable(inherited, False)
        _tie_to_supervisor(start.supervisor_pid)
        channel = cls(connection, start, lines, pending)
        channel.send(Started(pid=os.getpid()))
        return channel

    def send(self, event: Event) -> None:
        """From any thread. The supervisor reads at once: nothing that it writes makes it wait."""
        with self._sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Suppressed: the supervisor is gone, and the kernel is about to end this process too.
            self._connection.sendall(encode(event))

    async def wait_drain(self) -> Drain:
        """The supervisor's order to drain; an immediate one when the supervisor is gone. Call it once."""
        loop = asyncio.get_running_loop()
        order: asyncio.Future[Drain] = loop.create_future()

        def receive() -> None:
            try:
                data = self._connection.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if data:
                self._obey(self._lines.feed(data), order)
                return
            loop.remove_reader(self._connection)
            self._complete(order, Drain(pre_stop_delay_s=0.0, timeout_s=self.start.settings.drain_timeout_s))

        self._obey(self._pending, order)
        # The reader stays after the order: pings are answered until the end.
        loop.add_reader(self._connection, receive)
        return await order

    def _obey(self, lines: list[bytes], order: "asyncio.Future[Drain]") -> None:
        for line in lines:
            command = decode_command(line)
            if isinstance(command, Ping):
                self.send(Pong())
            elif isinstance(command, Drain):
                self._complete(order, command)

    @staticmethod
    def _complete(order: "asyncio.Future[Drain]", drain: Drain) -> None:
        if not order.done():
            order.set_result(drain)


def _take(fd: int) -> socket.socket:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise ConfigurationError("a worker is started by `headrace serve`, not by hand: its standard input is the control channel")
    connection = socket.socket(fileno=os.dup(fd))       # not inherited by the worker's own children
    connection.setblocking(True)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
    return connection


def _tie_to_supervisor(pid: int) -> None:
    """The kernel kills this process when the supervisor dies, and prefers it to the supervisor when memory runs out."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise InternalError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != pid:     # it died before the kernel knew
        sys.exit(1)
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    except OSError:
        return      # a hardened container may forbid it; nothing else depends on it
