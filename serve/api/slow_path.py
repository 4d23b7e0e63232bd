"""From the native threads' control queue to the handlers, and back: one task for each call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar

from serve import clock
from serve.api.grpc import GrpcApi, unknown_method
from serve.api.http import HttpApi, HttpRequest
from serve.errors import DeadlineExceeded, HeadraceError, InternalError, InvalidArgument, Unavailable, grpc_code, http_status

# A unary call is one message behind its headers; whoever sends only headers does not hold a task for ever.
MESSAGE_TIMEOUT_S = 10.0

EventKind = Literal["message", "half_close", "cancel"]
EventSink = Callable[[EventKind, bytes], None]  # where the events of a gRPC call go


class Exchange(Protocol):
    """One call as the native side hands it over; serve._core.control_queue.Exchange in production."""

    protocol: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    deadline_ns: int
    events: EventSink | None

    @property
    def finished(self) -> bool: ...
    def respond(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None: ...
    def send(self, message: bytes) -> None: ...
    def taken(self, n_bytes: int) -> None: ...
    def finish(self, code: int = 0, text: str = "") -> None: ...


ExchangeT = TypeVar("ExchangeT", bound=Exchange)


class Queue(Protocol[ExchangeT]):
    """The native control queue."""

    def take(self) -> list[ExchangeT]: ...
    def release(self, exchange: ExchangeT) -> None: ...


class _Messages:
    """What the client still sends in one call: messages of a gRPC call as they arrive, and that it went away, which ends `task`.

    Who takes one lets the client send more: a call holds a bounded amount, however long it is.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None

    def __call__(self, kind: EventKind, data: bytes) -> None:
        if kind == "cancel":
            if self.task is not None:
                self.task.cancel()
        else:
            self._queue.put_nowait(data if kind == "message" else None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._next()) is not None:
            yield message

    async def only(self) -> bytes:
        """The one message of a unary call. Raises InvalidArgument when the client closes without one, DeadlineExceeded when none comes."""
        try:
            async with asyncio.timeout(MESSAGE_TIMEOUT_S):
                message = await self._next()
        except TimeoutError:
            raise DeadlineExceeded(f"no message came within {MESSAGE_TIMEOUT_S:g} s") from None
        if message is None:
            raise InvalidArgument("the call ended without a message")
        return message

    async def _next(self) -> bytes | None:
        message = await self._queue.get()
        if message is not None:
            self._exchange.taken(len(message))
        return message


class SlowPath(Generic[ExchangeT]):
    """Answers what `queue` brings. Call `drain_queue` whenever the queue is readable; all on one event loop."""

    def __init__(self, queue: Queue[ExchangeT], http: HttpApi, grpc: GrpcApi) -> None:
        self._queue = queue
        self._http = http
        self._grpc = grpc
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()

    def drain_queue(self) -> None:
        """Start a task for each new call."""
        loop = asyncio.get_running_loop()
        for exchange in self._queue.take():
            messages = _Messages(exchange)
            serve = self._serve_grpc(exchange, messages) if exchange.protocol == "grpc" else self._serve_http(exchange)
            messages.task = loop.create_task(serve)
            self._tasks.add(messages.task)
            messages.task.add_done_callback(partial(self._ended, exchange))
            exchange.events = messages

    def _ended(self, exchange: ExchangeT, task: "asyncio.Task[None]") -> None:
        # Not at the end of the task's own code: a call that is cancelled at once never begins to run it.
        self._tasks.discard(task)
        self._queue.release(exchange)

    def end_streams(self) -> None:
        """The worker drains: calls that would never end by themselves (Watch, reflection) are told to come again elsewhere."""
        for task in tuple(self._streams):
            task.cancel()

    async def _serve_http(self, exchange: Exchange) -> None:
        try:
            async with _deadline(exchange):
                answer = await self._http(HttpRequest(exchange.method, exchange.path, exchange.query, exchange.headers, exchange.body))
            exchange.respond(answer.status, answer.body, list(answer.headers.items()))
        except TimeoutError:
            exchange.respond(http_status(DeadlineExceeded()), b'{"error":"deadline exceeded"}', [("content-type", "application/json")])

    async def _serve_grpc(self, exchange: Exchange, messages: _Messages) -> None:
        try:
            async with _deadline(exchange):
                await self._answer_grpc(exchange, messages)
            exchange.finish()
        except TimeoutError:
            exchange.finish(grpc_code(DeadlineExceeded()), "deadline exceeded")
        except HeadraceError as error:
            exchange.finish(grpc_code(error), str(error))
        except asyncio.CancelledError:
            if not exchange.finished:
                exchange.finish(grpc_code(Unavailable()), "the server is shutting down")
            raise

    async def _answer_grpc(self, exchange: Exchange, messages: _Messages) -> None:
        if (unary := self._grpc.unary(exchange.path)) is not None:
            exchange.send(await unary(await messages.only()))
            return
        stream = self._grpc.stream(exchange.path)
        if stream is None:
            raise unknown_method(exchange.path)
        task = asyncio.current_task()
        if task is None:
            raise InternalError("not inside a task")
        self._streams.add(task)
        try:
            async with contextlib.aclosing(stream(aiter(messages))) as answers:
                async for answer in answers:
                    exchange.send(answer)
        finally:
            self._streams.discard(task)


def _deadline(exchange: Exchange) -> asyncio.Timeout:
    """The call's own deadline; none when it has none."""
    if not exchange.deadline_ns:
        return asyncio.timeout(None)
    return asyncio.timeout(max(0.0, (exchange.deadline_ns - clock.monotonic_ns()) / 1e9))


__all__ = ["Exchange", "SlowPath"]
