"""The slow path over gRPC: from a path to a handler that takes and gives serialized messages."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError, Message

from serve.api import grpc_feedback, grpc_health, grpc_reflection
from serve.api.faults import client_error
from serve.api.feedback_desk import FeedbackDesk
from serve.api.feedback_ports import Labels
from serve.api.grpc_feedback import FeedbackService
from serve.api.grpc_health import HealthService
from serve.api.grpc_inference import InferenceService
from serve.api.ports import ApiSettings, Models
from serve.api.readiness import Readiness
from serve.errors import InvalidArgument, NotImplementedHere
from serve.protocol.messages import FeedbackRequest, HealthCheckRequest, ServerReflectionRequest
from serve.protocol.service import METHODS, Method
from serve.telemetry.logs import Logs

UnaryHandler = Callable[[bytes], Awaitable[bytes]]
StreamHandler = Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]]


class GrpcApi:
    """Answers every RPC that is not an inference. All that its handlers raise is HeadraceError (and CancelledError).

    labels: where feedback is kept; None: nothing is recorded.
    """

    def __init__(
        self, models: Models, readiness: Readiness, logs: Logs, settings: ApiSettings, labels: Labels | None = None,
    ) -> None:
        health = HealthService(readiness)
        feedback = FeedbackService(FeedbackDesk(models, labels))
        unary: dict[str, Callable[[Any], Awaitable[Message]]] = {
            **InferenceService(models, readiness, logs, settings).handlers(), f"/{grpc_health.SERVICE}/Check": health.check,
            f"/{grpc_feedback.SERVICE}/Submit": feedback.submit,
        }
        self._unary = {path: _unary(METHODS[path], handler) for path, handler in unary.items()}
        watch, submit_stream = f"/{grpc_health.SERVICE}/Watch", f"/{grpc_feedback.SERVICE}/SubmitStream"
        # v1alpha has v1's messages under other names; one handler, written against v1's, serves both.
        reflection = [f"/{service}/ServerReflectionInfo" for service in grpc_reflection.SERVICES]
        self._streams = {
            watch: _stream(watch, HealthCheckRequest, health.watch),
            submit_stream: _stream(submit_stream, FeedbackRequest, feedback.submit_stream),
            **{path: _stream(path, ServerReflectionRequest, grpc_reflection.reflect) for path in reflection},
        }

    def unary(self, path: str) -> UnaryHandler | None:
        """The handler of a method that takes one message and gives one; None where the path is no such method."""
        return self._unary.get(path)

    def stream(self, path: str) -> StreamHandler | None:
        """The handler of a method that streams; None where the path is no such method.

        What it returns is an asynchronous generator: closing it (`aclose`) is how a cancelled call ends.
        """
        return self._streams.get(path)


def unknown_method(path: str) -> NotImplementedHere:
    """The error for a path that neither `unary` nor `stream` knows."""
    return NotImplementedHere(f"unknown method {path}; server reflection lists the methods of this server")


def _unary(method: Method, handler: Callable[[Any], Awaitable[Message]]) -> UnaryHandler:
    async def call(message: bytes) -> bytes:
        try:
            return (await handler(_decoded(method.path, method.input_class, message))).SerializeToString()
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, the client gets a status
            raise client_error(error, method.path) from None

    return call


def _stream(path: str, input_class: type[Message], handler: Callable[[Any], AsyncGenerator[Message, None]]) -> StreamHandler:
    async def decoded(messages: AsyncIterator[bytes]) -> AsyncGenerator[Message, None]:
        async for message in messages:
            yield _decoded(path, input_class, message)

    async def call(messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(decoded(messages)) as requests, aclosing(handler(requests)) as answers:
                async for answer in answers:
                    yield answer.SerializeToString()
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            raise client_error(error, path) from None

    return call


def _decoded(path: str, input_class: type[Message], message: bytes) -> Message:
    try:
        return input_class.FromString(message)
    except DecodeError as error:
        raise InvalidArgument(f"failed to parse the request of {path}: {error}") from error
