"""What one gRPC call may ask of Python: questions are small, so that a client that asks without end costs a bounded amount."""

import grpc
import pytest

from tests.integration.running_server import RunningServer

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/Check"


def _raw(message: bytes) -> bytes:
    return message


def test_a_call_that_asks_without_end_is_refused(server: RunningServer) -> None:
    host, port = server.grpc
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        reflect = channel.stream_stream(REFLECTION, request_serializer=_raw, response_deserializer=_raw)
        question = b"\x22\xff\x3f" + b"x" * 8191            # file_containing_symbol: a long name
        with pytest.raises(grpc.RpcError) as refused:
            for _ in reflect(question for _ in range(1000)):
                pass
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        check = channel.unary_unary(HEALTH, request_serializer=_raw, response_deserializer=_raw)
        assert check(b"") == b"\x08\x01"
