"""What becomes of a call: where it is routed, which limits it meets, and what each protocol says about it."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from serve.protocol import messages
from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import GRPC_INFER, GRPC_STREAM, frame, grpc_infer, grpc_tensor, http_infer, http_request, unframe

X = np.array([[1, 2, 3]], np.float32)
JSON = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Loopback, NativeVersion]]:
    """Model "ä b" with version 2 and label stable: y = x FP32 [batch, 3]."""
    with Loopback(max_body=1 << 20, max_in_flight=4 << 20) as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx"), loop.pool, "ä b", "2", warm={"x": (3,)})
        loop.table.publish({"ä b": ({"2": native, "stable": native}, native, None), "empty": ({}, None, None)})
        yield loop, native


# --- routing ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [
    "/v2/models/%C3%A4%20b/infer", "/v2/models/%c3%a4+b/infer".replace("+", "%20"), "/v2/models/%C3%A4%20b/versions/2/infer",
    "/v2/models/%C3%A4%20b/versions/%32/infer", "/v2/models/%C3%A4%20b/versions/stable/infer", "/v2/models/%C3%A4%20b/labels/stable/infer",
    "/v2/models/%C3%A4%20b/infer?some=query",
])
def test_paths_of_an_inference(served: tuple[Loopback, NativeVersion], path: str) -> None:
    loop, native = served
    answer = loop.http().ask(http_request(path, JSON))
    assert (answer.status, answer.json()["outputs"][0]["data"]) == (200, [1, 2, 3])
    assert answer.fields["x-headrace-version"] == "2"
    assert native.statistics().success.count == 1


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v2/models/%C3%A4%20b/infer"), ("PUT", "/v2/models/%C3%A4%20b/infer"), ("POST", "/v2/models//versions//infer"),
    ("POST", "/v2/models/a/versions/1/2/infer"), ("POST", "/v2/models/a/versions/infer"), ("POST", "/v2/models/a%2/infer"),
    ("POST", "/v2/models/a%zz/infer"), ("POST", "/v2/models/a%/infer"), ("POST", "/v2/models/infer"), ("POST", "/v2/models/a/infer/"),
    ("POST", "/v2/models/a/b/infer"), ("POST", "/v1/models/a/infer"), ("POST", "/v2/health/live"), ("HEAD", "/v2/health/ready"),
    ("GET", "/v2/health/live/"), ("GET", "/v2/health/ready"), ("OPTIONS", "*"), ("GET", "/"),
])
def test_everything_else_over_http_is_pythons(served: tuple[Loopback, NativeVersion], method: str, path: str) -> None:
    loop, _ = served
    client = loop.http()
    client.send(http_request(path, b"", method))
    wait_until(lambda: loop.answer_slow_path(204) == 1, "the call on the slow path")
    assert client.read(head_only=True).status == 204


@pytest.mark.parametrize("path", [
    "/inference.GRPCInferenceService/ModelReady", "/inference.GRPCInferenceService/ModelInfers", "/inference.GRPCInferenceService/",
    "/inference.GRPCInferenceService", "/other.Service/ModelInfer", "/ModelInfer", "/grpc.health.v1.Health/Check",
])
def test_everything_else_over_grpc_is_pythons(served: tuple[Loopback, NativeVersion], path: str) -> None:
    loop, _ = served
    client = loop.h2()
    stream = client.grpc(frame(b""), path)
    wait_until(lambda: loop.answer_slow_path() == 1, "the call on the slow path")
    assert client.read(stream).fields["grpc-status"] == "12"


def test_liveness_needs_no_python(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    answer = loop.http().ask(http_request("/v2/health/live", method="GET"))
    assert (answer.status, answer.json()) == (200, {"live": True})
    client = loop.h2()
    (message,) = unframe(client.read(client.grpc(frame(b""), "/inference.GRPCInferenceService/ServerLive")).body)
    assert messages.ServerLiveResponse.FromString(message).live
    assert client.read(client.open("/v2/health/live", method="GET", end=True)).json() == {"live": True}
    assert loop.control.take() == []


@pytest.mark.parametrize(("model", "number", "code", "status", "text"), [
    ("none", "", 5, 404, "Request for unknown model: 'none' is not found"),
    ("ä b", "3", 5, 404, "Request for unknown model: 'ä b' version 3 is not found"),
    ("empty", "", 14, 503, "Request for unknown model: 'empty' has no available versions"),
])
def test_what_is_not_served(served: tuple[Loopback, NativeVersion], model: str, number: str, code: int, status: int, text: str) -> None:
    loop, _ = served
    answer = loop.http().ask(http_infer(X, model.replace("ä", "%C3%A4").replace(" ", "%20"), number))
    assert (answer.status, answer.json()["error"]) == (status, text)
    client = loop.h2()
    failed = client.read(client.grpc(grpc_infer(X, model, number)))
    assert failed.fields["grpc-status"] == str(code)
    assert failed.fields["grpc-message"] == text.replace("ä", "%C3%A4")


# --- ids ----------------------------------------------------------------------------------------------------------------

def test_request_ids(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.http()
    made = [client.ask(http_request("/v2/health/live", method="GET")).fields["x-request-id"] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(len(text) == 36 and text[14] == "7" for text in made)                # a UUID of version 7
    assert client.ask(http_request("/v2/health/live", b"", "GET", "X-Request-ID: given")).fields["x-request-id"] == "given"
    too_long = client.ask(http_request("/v2/health/live", b"", "GET", f"X-Request-ID: {'x' * 129}")).fields["x-request-id"]
    assert len(too_long) == 36


# --- encodings ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)])
def test_packed_bodies(served: tuple[Loopback, NativeVersion], encoding: str, pack: Any) -> None:
    loop, _ = served
    answer = loop.http().ask(http_request("/v2/models/%C3%A4%20b/infer", pack(JSON), "POST", f"Content-Encoding: {encoding}"))
    assert answer.json()["outputs"][0]["data"] == [1, 2, 3]
    client = loop.h2()
    message = pack(grpc_infer(X, "ä b")[5:])
    stream = client.grpc(frame(message, packed=encoding != "identity"), GRPC_INFER, ("grpc-encoding", encoding))
    np.testing.assert_array_equal(grpc_tensor(unframe(client.read(stream).body)[0]), X)
    stream = client.grpc(frame(message, packed=encoding != "identity") * 2, GRPC_STREAM, ("grpc-encoding", encoding))
    assert len(unframe(client.read(stream).body)) == 2


def test_bombs_and_torn_streams(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.http()
    bomb = gzip.compress(b"\0" * (8 << 20))
    assert client.ask(http_request("/v2/models/%C3%A4%20b/infer", bomb, "POST", "Content-Encoding: gzip")).status == 413
    assert client.ask(http_request("/v2/models/%C3%A4%20b/infer", gzip.compress(JSON)[:-9], "POST", "Content-Encoding: gzip")).status == 400
    assert client.ask(http_request("/else", bomb, "POST", "Content-Encoding: gzip")).status == 413
    grpc = loop.h2()
    assert grpc.read(grpc.grpc(frame(bomb, packed=True), GRPC_INFER, ("grpc-encoding", "gzip"))).fields["grpc-status"] == "8"


def test_encodings_that_are_not_known(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    answer = loop.http().ask(http_request("/v2/models/%C3%A4%20b/infer", JSON, "POST", "Content-Encoding: br"))
    assert answer.status == 501
    client = loop.h2()
    failed = client.read(client.grpc(grpc_infer(X, "ä b"), GRPC_INFER, ("grpc-encoding", "snappy")))
    assert failed.fields["grpc-status"] == "12"
    assert failed.fields["grpc-accept-encoding"] == "identity, deflate, gzip"
    packed = client.read(client.grpc(frame(gzip.compress(b""), packed=True)))
    assert (packed.fields["grpc-status"], packed.fields["grpc-message"]) == ("13", "a compressed message without grpc-encoding")


def test_answers_are_packed_when_that_pays(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    x = np.zeros((60, 3), np.float32)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [60, 3], "data": x.ravel().tolist()}]}).encode()
    client = loop.http()
    answer = client.ask(http_request("/v2/models/%C3%A4%20b/infer", body, "POST", "Accept-Encoding: gzip"))
    assert answer.fields.get("content-encoding") in (None, "gzip")
    if len(answer.body) >= 1024 or "content-encoding" in answer.fields:
        assert json.loads(gzip.decompress(answer.body))["outputs"][0]["shape"] == [60, 3]
    assert "content-encoding" not in client.ask(http_request("/v2/models/%C3%A4%20b/infer", JSON, "POST", "Accept-Encoding: gzip")).fields


# --- streams ------------------------------------------------------------------------------------------------------------

def stream_answers(body: bytes) -> list[messages.ModelStreamInferResponse]:
    return [messages.ModelStreamInferResponse.FromString(message) for message in unframe(body)]


def test_a_stream_answers_in_order_and_survives_errors(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.h2()
    bad = grpc_infer(np.ones((1, 2), np.float32), "ä b", request_id="bad")
    body = grpc_infer(X, "ä b", request_id="1") + bad + grpc_infer(X, "none") + grpc_infer(X, "ä b", request_id="4")
    answer = client.read(client.grpc(body, GRPC_STREAM))
    assert answer.fields["grpc-status"] == "0"
    first, second, third, fourth = stream_answers(answer.body)
    assert (first.error_message, first.infer_response.id) == ("", "1")
    assert second.error_message != ""
    assert second.infer_response.id == "bad"
    assert third.error_message == "Request for unknown model: 'none' is not found"
    assert (fourth.error_message, fourth.infer_response.id) == ("", "4")


def test_triton_grpc_error_ends_the_stream(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.h2()
    stream = client.grpc(grpc_infer(X, "ä b") + grpc_infer(X, "none") + grpc_infer(X, "ä b"), GRPC_STREAM, ("triton_grpc_error", "true"))
    answer = client.read(stream)
    assert len(stream_answers(answer.body)) == 1
    assert answer.fields["grpc-status"] == "5"


def test_a_stream_that_ends_inside_a_message(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.h2()
    answer = client.read(client.grpc(grpc_infer(X, "ä b") + b"\0\0\0\0\7abc", GRPC_STREAM))
    assert len(stream_answers(answer.body)) == 1
    assert (answer.fields["grpc-status"], answer.fields["grpc-message"]) == ("3", "the stream ends inside a message")


def test_answers_that_nobody_reads_end_the_stream(tmp_path: Path) -> None:
    """A client that sends and never reads: what it is owed is bounded by the largest message."""
    with Loopback(max_body=1 << 20) as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx", "FP32", ("batch", "width")), loop.pool, warm={"x": (3,)})
        loop.table.publish({"m": ({"1": native}, native, None)})
        client = loop.h2()
        client.h2.update_settings({4: 0})                           # no window for any stream
        client.flush()
        stream = client.open_grpc(GRPC_STREAM)
        message = grpc_infer(np.zeros((1, 65536), np.float32))
        for _ in range(12):
            client.data(stream, message, end=False)
        wait_until(lambda: native.statistics().success.count >= 5, "answers")
        client.h2.end_stream(stream)
        client.h2.increment_flow_control_window(1 << 24, stream)
        client.flush()
        answer = client.read(stream)
        assert (answer.fields["grpc-status"], answer.fields["grpc-message"]) == ("14", "the client does not read its answers")
        assert 4 <= len(stream_answers(answer.body)) <= 6


# --- draining -----------------------------------------------------------------------------------------------------------

def test_a_drain_finishes_what_is_there_and_sends_clients_away(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client, idle, grpc = loop.http(), loop.http(), loop.h2()
    assert idle.ask(http_request("/v2/health/live", method="GET")).status == 200
    client.send(http_request("/slow"))
    stream = grpc.grpc(frame(b""), "/some.Service/Method")
    wait_until(lambda: loop.total("control_calls") == 2, "both calls")
    loop.server.drain()
    while grpc.goaway is None:
        grpc.pump()
    assert grpc.goaway == 0
    assert idle.is_closed()
    assert loop.answer_slow_path() == 2
    answer = client.read()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert client.is_closed()
    assert grpc.read(stream).fields["grpc-status"] == "12"
    while not grpc.closed:
        grpc.pump()


def test_a_drain_answers_every_pipelined_call(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.http()
    client.send(http_request("/one") + http_request("/two") + http_request("/three"))
    wait_until(lambda: loop.total("control_calls") == 3, "three calls")
    loop.server.drain()
    assert loop.answer_slow_path() == 3
    answers = [client.read() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert [answer.fields.get("connection") for answer in answers] == [None, None, "close"]
    assert client.is_closed()
