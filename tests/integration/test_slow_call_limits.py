"""What one gRPC call may ask of Python: as much as it likes, at the pace of the answers; a client that only asks costs a bounded amount."""

import grpc
import pytest

from tests.integration.running_server import RunningServer

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH = "/grpc.health.v1.Health/Check"


def _raw(message: bytes) -> bytes:
    return message


def test_a_long_call_is_answered_to_its_end(server: RunningServer) -> None:
    """More than the server's Python takes at once, and less than a client may leave unread: this one may be slower than the server."""
    host, port = server.grpc
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        reflect = channel.stream_stream(REFLECTION, request_serializer=_raw, response_deserializer=_raw)
        question = b"\x22\xff\x3f" + b"x" * 8191            # file_containing_symbol: a long name
        assert sum(1 for _ in reflect(question for _ in range(450))) == 450


def test_a_large_question_is_refused(server: RunningServer) -> None:
    host, port = server.grpc
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        check = channel.unary_unary(HEALTH, request_serializer=_raw, response_deserializer=_raw)
        with pytest.raises(grpc.RpcError) as refused:
            check(b"x" * ((1 << 20) + 1))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(b"") == b"\x08\x01"
