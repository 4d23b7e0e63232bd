"""From exchanges to handlers and back, with exchanges that are plain objects."""

import asyncio
import dataclasses
from collections.abc import Callable

import pytest

from serve import clock
from serve.api import slow_path
from serve.api.grpc import GrpcApi
from serve.api.http import HttpApi
from serve.api.slow_path import EventSink, SlowPath
from serve.protocol import messages

SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
WATCH = "/grpc.health.v1.Health/Watch"


@dataclasses.dataclass(eq=False)
class FakeExchange:
    """Tells `early` as soon as somebody listens, as the native one does with what came before."""

    protocol: str
    path: str
    method: str = "POST"
    query: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    deadline_ns: int = 0
    early: tuple[tuple[str, bytes], ...] = ()
    sink: EventSink | None = None
    answers: list[object] = dataclasses.field(default_factory=list)
    n_taken: int = 0

    @property
    def events(self) -> EventSink | None:
        return self.sink

    @events.setter
    def events(self, sink: EventSink) -> None:
        self.sink = sink
        for kind, data in self.early:
            sink(kind, data)       # type: ignore[arg-type]

    @property
    def finished(self) -> bool:
        return any(isinstance(answer, tuple) for answer in self.answers)

    def respond(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.answers.append((status, body, headers))

    def send(self, message: bytes) -> None:
        self.answers.append(message)

    def taken(self, n_bytes: int) -> None:
        self.n_taken += n_bytes

    def finish(self, code: int = 0, text: str = "") -> None:
        self.answers.append((code, text))


class FakeQueue:
    def __init__(self) -> None:
        self.waiting: list[FakeExchange] = []
        self.released: list[FakeExchange] = []

    def take(self) -> list[FakeExchange]:
        taken, self.waiting = self.waiting, []
        return taken

    def release(self, exchange: FakeExchange) -> None:
        self.released.append(exchange)


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def serve(queue: FakeQueue, http: HttpApi, grpc: GrpcApi) -> Callable[[FakeExchange], FakeExchange]:
    slow_path = SlowPath(queue, http, grpc)

    def start(exchange: FakeExchange) -> FakeExchange:
        queue.waiting.append(exchange)
        slow_path.drain_queue()
        return exchange

    start.slow_path = slow_path     # type: ignore[attr-defined]
    return start


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_message_that_came_with_the_call(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", SERVER_READY, early=(("message", b""), ("half_close", b""))))
    await _until(lambda: exchange in queue.released)
    message, status = exchange.answers
    assert messages.ServerReadyResponse.FromString(message) is not None       # type: ignore[arg-type]
    assert status == (0, "")


async def test_message_that_comes_later(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", SERVER_READY))
    await asyncio.sleep(0)
    assert exchange.answers == []
    assert exchange.sink is not None
    exchange.sink("message", b"")
    await _until(lambda: exchange in queue.released)
    assert exchange.answers[-1] == (0, "")


@pytest.mark.parametrize("path", [SERVER_READY, WATCH, "/v2"])
async def test_call_that_is_cancelled_before_its_task_ran_is_released(
        serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue, path: str) -> None:
    exchange = serve(FakeExchange("http" if path == "/v2" else "grpc", path, method="GET", early=(("message", b""), ("cancel", b""))))
    await _until(lambda: queue.released == [exchange])


async def test_call_that_is_cancelled_while_it_waits_is_released(
        serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", WATCH, early=(("message", b""),)))
    await _until(lambda: len(exchange.answers) == 1)
    assert exchange.sink is not None
    exchange.sink("cancel", b"")
    await _until(lambda: queue.released == [exchange])


async def test_a_client_may_send_more_once_a_message_is_taken(
    serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue
) -> None:
    """Watch takes one message and no other; a field that nobody knows makes them two bytes long."""
    exchange = serve(FakeExchange("grpc", WATCH, early=(("message", b"\x78\x01"),) * 3))
    assert exchange.n_taken == 0
    await _until(lambda: len(exchange.answers) == 1)
    assert exchange.n_taken == 2
    assert exchange.sink is not None
    exchange.sink("cancel", b"")
    await _until(lambda: queue.released == [exchange])
    assert exchange.n_taken == 2


async def test_deadline(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", WATCH, early=(("message", b""),), deadline_ns=clock.monotonic_ns() + 1_000_000))
    await _until(lambda: exchange in queue.released)
    assert exchange.answers[-1] == (4, "deadline exceeded")


async def test_streams_end_when_the_worker_drains(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", WATCH, early=(("message", b""),)))
    await _until(lambda: len(exchange.answers) == 1)
    serve.slow_path.end_streams()       # type: ignore[attr-defined]
    await _until(lambda: exchange in queue.released)
    assert exchange.answers[-1] == (14, "the server is shutting down")


async def test_half_closed_without_a_message(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", SERVER_READY, early=(("half_close", b""),)))
    await _until(lambda: exchange in queue.released)
    assert exchange.answers == [(3, "the call ended without a message")]


async def test_unknown_method(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("grpc", "/a.Service/Call", early=(("message", b""),)))
    await _until(lambda: exchange in queue.released)
    ((code, text),) = exchange.answers      # type: ignore[misc]
    assert code == 12
    assert "/a.Service/Call" in text


async def test_http(serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue) -> None:
    exchange = serve(FakeExchange("http", "/v2/health/ready", method="GET"))
    await _until(lambda: exchange in queue.released)
    ((status, body, headers),) = exchange.answers      # type: ignore[misc]
    assert status in (200, 503)
    assert b'"ready"' in body
    assert ("content-type", "application/json") in headers


async def test_a_unary_call_that_sends_no_message_ends(
    serve: Callable[[FakeExchange], FakeExchange], queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_path, "MESSAGE_TIMEOUT_S", 0.001)
    exchange = serve(FakeExchange("grpc", SERVER_READY))
    while not exchange.answers:
        await asyncio.sleep(0)
    assert exchange.answers == [(4, "no message came within 0.001 s")]
