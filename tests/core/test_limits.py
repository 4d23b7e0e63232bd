"""Limits of size, number and time, as clients meet them."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import GRPC_INFER, GRPC_STREAM, frame, http_infer, http_request, http_tensor

GRPC_LIVE = "/inference.GRPCInferenceService/ServerLive"
X = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Loopback, NativeVersion]]:
    """Model "ä b" with version 2 and label stable: y = x FP32 [batch, 3]."""
    with Loopback(max_body=1 << 20, max_in_flight=4 << 20) as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx"), loop.pool, "ä b", "2", warm={"x": (3,)})
        loop.table.publish({"ä b": ({"2": native, "stable": native}, native, None), "empty": ({}, None, None)})
        yield loop, native


def test_bodies_over_the_limit(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.http()
    client.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 1048577\r\n\r\n")
    answer = client.read()
    assert (answer.status, answer.fields["connection"]) == (413, "close")
    assert answer.json()["error"] == "body larger than the limit of 1048576 bytes"
    grpc = loop.h2()
    failed = grpc.read(grpc.grpc(frame(b"\0" * ((1 << 20) + 1))))
    assert (failed.fields["grpc-status"], failed.fields["grpc-message"]) == ("8", "message larger than the limit of 1048576 bytes")
    # A message of exactly the limit is no more than that.
    assert grpc.read(grpc.grpc(frame(b"\xff" * (1 << 20)))).fields["grpc-status"] == "3"


def test_what_a_message_claims_reserves_nothing(served: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = served
    client = loop.h2()
    stream = client.open_grpc()
    client.data(stream, b"\0\xff\xff\xff\xff", end=False)
    assert client.read(stream).fields["grpc-status"] == "8"


def test_in_flight_bytes_are_bounded(served: tuple[Loopback, NativeVersion]) -> None:
    """Bodies that are still arriving count, too: five of 900 KB do not fit 4 MiB, and whoever gives up makes room."""
    loop, _ = served
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n"
    clients = [loop.http() for _ in range(4)]
    for i, client in enumerate(clients):
        client.send(head + b" " * 900_000)
        wait_until(lambda n=i: loop.total("held_bytes") == (n + 1) * 900_000, "the body to arrive")
    last = loop.http()
    last.send(head + b" " * 999_999)
    answer = last.read()
    assert (answer.status, answer.json()["error"]) == (503, "too many bytes of requests in flight; try again")
    assert loop.total("refused_in_flight") == 1
    for client in clients:
        client.socket.close()
    wait_until(lambda: loop.total("held_bytes") == 0, "the bytes to be given back")
    np.testing.assert_array_equal(http_tensor(loop.http().ask(http_infer(X, "%C3%A4%20b"))), X)


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\0\0\0\0\5abcd", frame(b"") + b"\0", frame(b"") * 2])
def test_a_unary_call_is_one_message(served: tuple[Loopback, NativeVersion], body: bytes) -> None:
    loop, _ = served
    client = loop.h2()
    answer = client.read(client.grpc(body))
    assert (answer.fields["grpc-status"], answer.fields["grpc-message"]) == ("3", "a unary call carries exactly one message")


def test_connections_over_the_limit_are_closed_at_once() -> None:
    with Loopback(max_connections=2) as loop:
        clients = [loop.http() for _ in range(3)]
        for client in clients[:2]:
            assert client.ask(http_request("/v2/health/live", method="GET")).status == 200
        assert clients[2].is_closed()
        assert loop.total("refused_connections") == 1


# --- time ---------------------------------------------------------------------------------------------------------------

def test_a_head_that_does_not_come_in_time() -> None:
    with Loopback(header_timeout_s=0.05) as loop:
        slow, silent = loop.http(), loop.http()
        slow.send(b"GET / HTTP/1.1\r\nHo")
        answer = slow.read()
        assert (answer.status, answer.json()["error"]) == (408, "the header did not arrive in time")
        assert slow.is_closed()
        assert silent.is_closed()


def test_a_header_block_of_http2_that_does_not_end() -> None:
    with Loopback(header_timeout_s=0.05) as loop:
        client = loop.h2()
        # HEADERS of stream 1 without END_HEADERS: a CONTINUATION should follow.
        client.socket.sendall(b"\0\0\1\1\0\0\0\0\1\x82")
        while not client.closed:
            client.pump()
        assert client.ended == set()


def test_idle_connections_are_closed() -> None:
    with Loopback(idle_timeout_s=0.05) as loop:
        client, grpc = loop.http(), loop.h2()
        assert client.ask(http_request("/v2/health/live", method="GET")).status == 200
        assert client.is_closed()
        while not grpc.closed:
            grpc.pump()


STALLED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\nx-request-timeout-ms: 50\r\n\r\n{"


def test_a_deadline_counts_while_the_body_arrives() -> None:
    """From the first byte of the call: the client is told at the deadline, not when its body has been given up."""
    with Loopback() as loop:
        client, grpc = loop.http(), loop.h2()
        start = time.monotonic()
        client.send(STALLED)
        answer = client.read()
        assert (answer.status, answer.json()["error"], answer.fields["connection"]) == (504, "Request timeout expired", "close")
        streams = [grpc.open_grpc(path, ("grpc-timeout", "50m")) for path in (GRPC_INFER, GRPC_STREAM, GRPC_LIVE)]
        streams.append(grpc.open("/v2/models/m/infer", ("x-request-timeout-ms", "50")))
        for stream in streams[:3]:
            assert grpc.read(stream).fields["grpc-status"] == "4"
        assert grpc.read(streams[3]).status == 504
        assert 0.1 <= time.monotonic() - start < 2.0


def test_a_deadline_is_not_early_and_not_a_sweep_late() -> None:
    """Sweeps come every 250 ms; a deadline asks for one of its own."""
    with Loopback() as loop:
        waits = []
        for _ in range(5):
            client = loop.http()
            start = time.monotonic()
            client.send(STALLED)
            assert client.read().status == 504
            waits.append(time.monotonic() - start)
        assert min(waits) >= 0.05
        assert sorted(waits)[1] < 0.2           # two of five at the least: others share the machine


def test_streams_that_are_never_closed_end_with_the_idle_time() -> None:
    with Loopback(idle_timeout_s=0.05, min_body_rate=0) as loop:
        client, http = loop.h2(), loop.http()
        http.send(STALLED.replace(b"x-request-timeout-ms: 50", b"x-other: 1"))
        streams = [client.open_grpc(path) for path in (GRPC_INFER, GRPC_LIVE)]
        client.data(streams[0], frame(b"whole"), end=False)
        plain = client.open("/v2/health/live", method="GET")
        for stream in streams:
            assert client.read(stream).fields["grpc-status"] == "4"
        assert client.read(plain).status == 408
        assert http.read().status == 408


@pytest.mark.parametrize("text", ["5X", "", "-1S", "123456789S", "S", "1", "1.5S"])
def test_a_grpc_deadline_that_cannot_be_read_is_not_none_at_all(served: tuple[Loopback, NativeVersion], text: str) -> None:
    """As grpc-core: INTERNAL, in its words."""
    loop, _ = served
    client = loop.h2()
    stream = client.grpc(frame(b""), GRPC_INFER, ("grpc-timeout", text))
    assert client.read(stream).fields["grpc-status"] == "13"
    assert client.answers[stream].fields["grpc-message"] == "Error parsing 'grpc-timeout' metadata"


@pytest.mark.parametrize("text", ["soon", "", "-1", "1.5", "9" * 19])
def test_an_http_deadline_that_cannot_be_read(served: tuple[Loopback, NativeVersion], text: str) -> None:
    loop, _ = served
    for fields in ([f"x-request-timeout-ms: {text}"], [f"x-request-timeout-ms: {text}", "x-request-timeout-ms: 1000"]):
        answer = loop.http().ask(http_request("/v2/models/m/infer", b"{}", "POST", *fields))
        assert (answer.status, answer.json()["error"]) == (400, "x-request-timeout-ms: want a whole number of milliseconds")
