"""A server in this process over loopback sockets, held to its books when it stops."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from onnx import numpy_helper

from serve._core.batcher import InstancePool
from serve._core.control_queue import ControlQueue
from serve._core.engine import NativeVersion
from serve._core.io_loop import Server
from serve._core.model_table import ModelTable
from serve._core.ort import Session
from serve._core.routing_plan import NativePlan
from serve.models.resolution import warmup_batch_sizes
from tests.core import onnx_models
from tests.core.plain_clients import H2Client, HttpClient

WAIT_S = 20.0
Models = dict[str, tuple[dict[str, NativeVersion], NativeVersion | None, NativePlan | None]]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so; fail when it does not come to be."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for: {what}"
        os.sched_yield()


def native_threads() -> list[str]:
    """Names of this process's I/O and instance threads."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            names.append(Path(f"/proc/self/task/{task}/comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):     # it ended between the listing and the look
            continue
    return sorted(name for name in names if name in ("io", "instance"))


def scaled(folder: Path, factor: float, dims: tuple[int | str, ...] = ("batch", 4)) -> Path:
    """y = factor * x."""
    path = folder / f"scaled_{factor}_{len(dims)}_{dims[-1]}.onnx"
    constant = numpy_helper.from_array(np.array(factor, np.float32), "factor")
    return onnx_models.single_node(path, "Mul", [onnx_models.info("x", "FP32", dims)], [onnx_models.info("y", "FP32", dims)], [constant])


def version(path: Path, pool: InstancePool, model: str = "m", number: str = "1", *, max_batch_size: int = 64, instances: int = 1,
            warm: dict[str, tuple[int, ...]] | None = None, **options: Any) -> NativeVersion:
    """A version of the model at `path`; warmed with these shapes, not at all when None."""
    session: Session = onnx_models.session(path)
    native = NativeVersion(session, pool, model, number, inputs=session.inputs, outputs=session.outputs, max_batch_size=max_batch_size,
                           instances=instances, **options)
    if warm is not None:
        native.warm_up(warm, warmup_batch_sizes(max_batch_size))
    return native


class Loopback:
    """A server with `io_threads` threads, each with a listener of its own, so that a test can choose the thread by its port.

    Leaving the block stops everything and holds the server to its books: nothing lives on, nothing is held.
    """

    def __init__(self, *, io_threads: int = 1, instances: int = 2, control_limit: int = 1024, **options: Any) -> None:
        onnx_models.start_runtime("cpu")
        self.pool = InstancePool(instances)
        self.pool.start()
        self.table = ModelTable()
        self.control = ControlQueue(control_limit)
        self.listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(io_threads)]
        for listener in self.listeners:
            listener.setblocking(False)
        self.server = Server(self.listeners, [], self.table, self.control, **{"busy_poll_us": 0, **options})
        self.clients: list[Any] = []

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        wait_until(lambda: self.server.connections == 0, "the server to close its side")
        self.stop()
        for row in self.server.counters():
            assert (row["live_calls"], row["live_requests"], row["held_bytes"]) == (0, 0, 0), row
        wait_until(lambda: native_threads() == [], "the threads to be gone")     # a joined one may still be listed for a moment
        self.table.publish({})
        assert self.table.reclaim() == 0

    def stop(self) -> None:
        self.server.stop()
        self.pool.stop()
        for listener in self.listeners:
            listener.close()

    def total(self, name: str) -> int:
        return sum(int(row[name]) for row in self.server.counters())

    def address(self, thread: int = 0) -> tuple[str, int]:
        host, port = self.listeners[thread].getsockname()
        return host, port

    def read_all(self, client: socket.socket) -> bytes:
        """All that comes until the server closes; calls of Python's are answered meanwhile."""
        received = b""
        client.settimeout(0.01)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.answer_slow_path()
            with contextlib.suppress(TimeoutError):
                piece = client.recv(1 << 16)
                if not piece:
                    return received
                received += piece
        raise AssertionError(f"the server did not close within {WAIT_S} s; it sent {received[:200]!r}")

    def socket(self, thread: int = 0) -> socket.socket:
        client = socket.create_connection(self.address(thread), timeout=WAIT_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        return client

    def http(self, thread: int = 0) -> HttpClient:
        return HttpClient(self.socket(thread))

    def h2(self, thread: int = 0) -> H2Client:
        return H2Client(self.socket(thread))

    def answer_slow_path(self, status: int = 200, body: bytes = b"{}") -> int:
        """Answer what waits in the control queue, as Python would. Returns how many calls that were."""
        exchanges = self.control.take()
        for exchange in exchanges:
            if exchange.protocol == "http":
                exchange.respond(status, body, [("content-type", "application/json")])
            else:
                exchange.finish(12, "not here")
            self.control.release(exchange)
        return len(exchanges)
