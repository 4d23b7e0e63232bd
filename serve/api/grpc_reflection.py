"""gRPC server reflection, v1 and v1alpha: the same messages on the wire under two service names.

Source: grpc.reflection.v1. What cannot be found is an error response inside the stream, which goes on.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from serve.errors import HeadraceError, InvalidArgument, NotFound, grpc_code
from serve.protocol import files_declaring, files_named
from serve.protocol.messages import (
    ErrorResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from serve.protocol.service import SERVICES as ALL_SERVICES

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


async def reflect(requests: AsyncIterator[ServerReflectionRequest]) -> AsyncGenerator[ServerReflectionResponse, None]:
    """One response per request, in order."""
    async for request in requests:
        yield respond(request)


def respond(request: ServerReflectionRequest) -> ServerReflectionResponse:
    """The answer to one question."""
    try:
        answer = _answer(request)
    except HeadraceError as error:
        answer = {"error_response": ErrorResponse(error_code=grpc_code(error), error_message=str(error))}
    return ServerReflectionResponse(valid_host=request.host, original_request=request, **answer)


def _answer(request: ServerReflectionRequest) -> dict[str, Any]:
    question = request.WhichOneof("message_request")
    if question is None:
        raise InvalidArgument("the reflection request asks nothing; set list_services, file_by_filename or file_containing_symbol")
    return _ANSWERS[question](getattr(request, question))


def _services(_: str) -> dict[str, Any]:
    return {"list_services_response": ListServiceResponse(service=[ServiceResponse(name=name) for name in ALL_SERVICES])}


def _files(serialized: Sequence[bytes]) -> dict[str, Any]:
    return {"file_descriptor_response": FileDescriptorResponse(file_descriptor_proto=serialized)}


def _no_extensions(_: object) -> dict[str, Any]:
    raise NotFound("the messages of this server have no extensions: they are proto3")


_ANSWERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "list_services": _services,
    "file_by_filename": lambda name: _files(files_named(name)),
    "file_containing_symbol": lambda symbol: _files(files_declaring(symbol)),
    "file_containing_extension": _no_extensions,
    "all_extension_numbers_of_type": _no_extensions,
}
