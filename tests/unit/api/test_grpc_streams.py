"""Health and reflection: the streams of the slow path."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from serve.api.grpc import GrpcApi
from serve.api.readiness import Readiness
from serve.errors import InvalidArgument, NotFound
from serve.protocol import messages as m
from tests.unit.api.fakes import FakeModels

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
KNOWN = ["", "inference.GRPCInferenceService"]
STATUS = m.HealthCheckResponse


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def status(message: bytes) -> int:
    return m.HealthCheckResponse.FromString(message).status


@pytest.mark.parametrize("service", KNOWN)
async def test_check(grpc: GrpcApi, models: FakeModels, service: str) -> None:
    handler = grpc.unary(CHECK)
    assert handler is not None
    request = m.HealthCheckRequest(service=service).SerializeToString()
    assert status(await handler(request)) == STATUS.SERVING
    models.ready = False
    assert status(await handler(request)) == STATUS.NOT_SERVING


async def test_check_of_an_unknown_service(grpc: GrpcApi) -> None:
    handler = grpc.unary(CHECK)
    assert handler is not None
    with pytest.raises(NotFound, match="unknown service 'digits'"):
        await handler(m.HealthCheckRequest(service="digits").SerializeToString())


@pytest.mark.parametrize("service", KNOWN)
async def test_watch_tells_the_state_and_every_change(grpc: GrpcApi, models: FakeModels, readiness: Readiness, service: str) -> None:
    handler = grpc.stream(WATCH)
    assert handler is not None
    models.ready = False
    stream = handler(sent(m.HealthCheckRequest(service=service).SerializeToString()))
    assert status(await anext(stream)) == STATUS.NOT_SERVING
    for ready, expected in [(True, STATUS.SERVING), (False, STATUS.NOT_SERVING), (True, STATUS.SERVING)]:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        models.ready = ready
        readiness.notify()
        assert status(await waiting) == expected
    await stream.aclose()


async def test_watch_of_an_unknown_service_says_so_and_stays_open(grpc: GrpcApi, readiness: Readiness) -> None:
    handler = grpc.stream(WATCH)
    assert handler is not None
    stream = handler(sent(m.HealthCheckRequest(service="digits").SerializeToString()))
    assert status(await anext(stream)) == STATUS.SERVICE_UNKNOWN
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    readiness.notify()
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()


async def test_watch_without_a_request(grpc: GrpcApi) -> None:
    handler = grpc.stream(WATCH)
    assert handler is not None
    with pytest.raises(InvalidArgument, match="the stream ended without one"):
        await anext(handler(sent()))


async def test_a_stream_of_bytes_that_are_no_message(grpc: GrpcApi) -> None:
    for path in [WATCH, *REFLECTION]:
        handler = grpc.stream(path)
        assert handler is not None
        with pytest.raises(InvalidArgument, match="failed to parse the request of " + path):
            await anext(handler(sent(b"\xff\xff")))


async def reflect(grpc: GrpcApi, path: str, *requests: m.ServerReflectionRequest) -> list[m.ServerReflectionResponse]:
    handler = grpc.stream(path)
    assert handler is not None
    stream = handler(sent(*(request.SerializeToString() for request in requests)))
    return [m.ServerReflectionResponse.FromString(message) async for message in stream]


@pytest.mark.parametrize("path", REFLECTION)
async def test_reflection_lists_the_services(grpc: GrpcApi, path: str) -> None:
    (response,) = await reflect(grpc, path, m.ServerReflectionRequest(host="h", list_services="*"))
    assert {service.name for service in response.list_services_response.service} == {
        "headrace.v1.Feedback", "inference.GRPCInferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection"}
    assert response.valid_host == "h"
    assert response.original_request == m.ServerReflectionRequest(host="h", list_services="*")


async def test_a_client_can_build_the_service_from_reflection_alone(grpc: GrpcApi) -> None:
    symbol = m.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService")
    (response,) = await reflect(grpc, REFLECTION[0], symbol)
    files = [FileDescriptorProto.FromString(raw) for raw in response.file_descriptor_response.file_descriptor_proto]
    pool = DescriptorPool()
    for file in reversed(files):
        pool.Add(file)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert "ModelInfer" in service.methods_by_name
    (by_name,) = await reflect(grpc, REFLECTION[1], m.ServerReflectionRequest(file_by_filename=files[0].name))
    assert by_name.file_descriptor_response == response.file_descriptor_response


async def test_what_cannot_be_found_is_an_answer_and_the_stream_goes_on(grpc: GrpcApi) -> None:
    responses = await reflect(
        grpc, REFLECTION[0],
        m.ServerReflectionRequest(file_by_filename="nowhere.proto"),
        m.ServerReflectionRequest(file_containing_symbol="inference.Nothing"),
        m.ServerReflectionRequest(
            file_containing_extension=m.ExtensionRequest(containing_type="inference.ModelConfig", extension_number=9)),
        m.ServerReflectionRequest(all_extension_numbers_of_type="inference.ModelConfig"),
        m.ServerReflectionRequest(),
        m.ServerReflectionRequest(list_services=""),
    )
    assert [response.error_response.error_code for response in responses] == [5, 5, 5, 5, 3, 0]
    assert "nowhere.proto" in responses[0].error_response.error_message
    assert responses[-1].WhichOneof("message_response") == "list_services_response"
