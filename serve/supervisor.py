"""Owns the listening sockets for the life of the service and keeps one worker behind them. No native code, one thread for its lines.

What it has to say goes through a LineWriter: a pipe that nobody empties must not keep it from watching over the worker.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from serve import control, supervision
from serve.clock import monotonic_ns
from serve.config import Settings
from serve.errors import InternalError
from serve.listeners import Listeners, Ports, bind_listeners
from serve.telemetry.line_writer import LineWriter

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GREETING_S = 10.0
_LAST_WORDS_S = 1.0
_STDERR = 2


def _worker_command() -> list[str]:
    # -P: the folder where the operator happens to stand may be full of somebody else's models, and of their yaml.py.
    return [sys.executable, "-P", "-m", "serve.app"]


def supervise(settings: Settings, announce: Callable[[control.Ready, Ports], None], command: list[str] | None = None) -> int:
    """Serves until told to stop; the exit code of `headrace serve`. announce: called when the first worker is ready.

    command: starts the worker; the channel is its standard input. Raises PortInUse or ConfigurationError before any worker is
    started. Call it from the main thread: it handles SIGTERM and SIGINT meanwhile.
    """
    listeners = bind_listeners(settings)
    lines = LineWriter(_STDERR)
    try:
        return _Supervisor(settings, listeners, announce, command or _worker_command(), lines).run()
    finally:
        listeners.close()
        lines.close(_LAST_WORDS_S)


class _Supervisor:
    def __init__(
        self, settings: Settings, listeners: Listeners, announce: Callable[[control.Ready, Ports], None], command: list[str],
        lines: LineWriter,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._ports = listeners.ports()
        self._announce = announce
        self._command = command
        self._lines = lines
        self._state = supervision.State()
        self._worker: _Worker | None = None
        self._selector = selectors.DefaultSelector()
        self._is_announced = False
        self._exit_code: int | None = None
        self._epoch = 0

    def run(self) -> int:
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        previous = {number: signal.signal(number, _heard) for number in _STOP_SIGNALS}
        previous_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._signalled(woken))
        try:
            self._enter(supervision.begin())
            while self._exit_code is None:
                self._turn()
            return self._exit_code
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._worker is not None:
                self._worker.kill()
                self._forget_worker()
            self._selector.close()
            woken.close()
            waker.close()

    def _turn(self) -> None:
        wake_ns = self._state.wake_ns
        timeout = None if wake_ns is None else max(0.0, (wake_ns - monotonic_ns()) / 1e9)
        for key, _ in self._selector.select(timeout):
            if self._exit_code is None:
                key.data()
        # After the events: a pong that has already come counts before the next ping.
        if self._exit_code is None and self._state.wake_ns is not None and monotonic_ns() >= self._state.wake_ns:
            self._step(supervision.Tick())

    def _signalled(self, woken: socket.socket) -> None:
        for number in woken.recv(64):
            if number in _STOP_SIGNALS and self._exit_code is None:     # two may have come at once
                drain_s = self._settings.pre_stop_delay_s + self._settings.drain_timeout_s
                self._step(supervision.Stop(drain_ns=int(drain_s * 1e9)))

    def _channel_readable(self, worker: "_Worker") -> None:
        if worker is not self._worker:      # its end was handled in the same turn
            return
        try:
            for line in worker.receive():
                self._heed(control.decode_event(line))
        except InternalError as error:
            self._say(f"worker {self._epoch} makes no sense and is killed: {error}")
            worker.kill()
        if worker.is_silenced:
            self._selector.unregister(worker.channel)

    def _exited(self, worker: "_Worker") -> None:
        if not worker.is_silenced:
            self._channel_readable(worker)
        status = worker.process.wait()
        self._forget_worker()
        self._step(supervision.WorkerExited(status))

    def _heed(self, event: control.Event) -> None:
        match event:
            case control.Started():
                self._say(f"worker {self._epoch} started, pid {event.pid}")
            case control.Ready():
                self._step(supervision.WorkerReady())
                if self._state.restarts:
                    self._say(f"worker {self._epoch} ready after {self._state.restarts} restart(s)")
                if self._state.phase is supervision.Phase.SERVING and not self._is_announced:
                    self._is_announced = True
                    self._announce(event, self._ports)
            case control.Failed():
                self._step(supervision.WorkerFailed(event.exit, event.text))
            case control.Drained():
                self._step(supervision.WorkerDrained())
            case control.Pong():
                self._step(supervision.WorkerPong())

    def _step(self, event: supervision.Event) -> None:
        self._enter(supervision.step(self._state, event, monotonic_ns()))

    def _enter(self, outcome: supervision.Outcome) -> None:
        self._state, actions = outcome
        for action in actions:
            match action:
                case supervision.Spawn():
                    self._spawn(action.restarts)
                case supervision.Ping():
                    self._tell(control.Ping())
                case supervision.Drain():
                    # The worker holds its own copies: while ours are open the kernel would queue connections for nobody.
                    self._listeners.close()
                    self._tell(control.Drain(pre_stop_delay_s=self._settings.pre_stop_delay_s, timeout_s=self._settings.drain_timeout_s))
                case supervision.Kill():
                    if self._worker is not None:
                        self._worker.kill()
                case supervision.Say():
                    self._say(action.text)
                case supervision.Exit():
                    self._exit_code = action.code

    def _spawn(self, restarts: int) -> None:
        self._epoch += 1
        sockets = self._listeners.sockets()
        worker = _Worker(self._command, sockets)
        self._worker = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, lambda: self._channel_readable(worker))
        self._selector.register(worker.pidfd, selectors.EVENT_READ, lambda: self._exited(worker))
        worker.greet(control.Start(
            settings=self._settings, sockets=sockets, epoch=self._epoch, restarts=restarts, supervisor_pid=os.getpid()))

    def _tell(self, command: control.Command) -> None:
        if self._worker is not None:
            self._worker.tell(command)

    def _forget_worker(self) -> None:
        if self._worker is not None:
            if not self._worker.is_silenced:
                self._selector.unregister(self._worker.channel)
            self._selector.unregister(self._worker.pidfd)
            self._worker.close()
            self._worker = None

    def _say(self, text: str) -> None:
        self._lines.write(f"headrace: {text}\n")


class _Worker:
    """A worker process and our end of its channel. A pidfd tells its end, so that no signal can be lost or misread."""

    def __init__(self, command: list[str], sockets: control.Sockets) -> None:
        self.channel, theirs = socket.socketpair()
        self.is_silenced = False
        self._lines = control.Lines()
        try:
            # Its own process group: the terminal's Ctrl-C is ours to interpret.
            self.process = subprocess.Popen(
                command, stdin=theirs.fileno(), pass_fds=sockets.all(), process_group=0, env=_worker_environment())
        finally:
            theirs.close()
        self.pidfd = os.pidfd_open(self.process.pid)

    def greet(self, start: control.Start) -> None:
        """Waits until all is sent: a long list of paths is more than the socket's buffer takes."""
        self.channel.settimeout(_GREETING_S)
        try:
            self.channel.sendall(control.encode(start))
        except TimeoutError:
            self.kill()
        except (BrokenPipeError, ConnectionResetError):
            pass        # its exit status will say why
        self.channel.setblocking(False)

    def tell(self, command: control.Command) -> None:
        """Never waits: what a worker does not read it also does not answer, and then it is killed for that."""
        try:
            self.channel.send(control.encode(command))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> list[bytes]:
        """Lines that have come; is_silenced once no more can."""
        lines: list[bytes] = []
        while True:
            try:
                data = self.channel.recv(65536)
            except BlockingIOError:
                return lines
            except ConnectionResetError:
                data = b""
            if not data:
                self.is_silenced = True
                return lines
            lines += self._lines.feed(data)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):    # stuck in the kernel; its death signal is pending
            self.process.wait(timeout=1)
        self.channel.close()
        os.close(self.pidfd)


def _worker_environment() -> dict[str, str]:
    """Ours; where this package was found outside the installed ones (a source checkout), the worker is told where."""
    environment = dict(os.environ)
    home = str(Path(__file__).parent.parent)
    if home not in sysconfig.get_paths().values():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH", "")]))
    return environment


def _heard(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor carries the number; a handler must exist for it to be written."""
