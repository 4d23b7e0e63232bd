"""Clients that shut their side once they have asked: what was whole is answered, then the server closes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve._core.engine import NativeVersion
from tests.core.loopback import Loopback, scaled, version, wait_until
from tests.core.plain_clients import (
    GRPC_STREAM,
    Answer,
    HttpClient,
    grpc_infer,
    grpc_tensor,
    http_infer,
    http_request,
    http_tensor,
    unframe,
)

X = np.ones((1, 4), np.float32)


def final(client: HttpClient) -> Answer:
    """The next answer, behind the interim one that asks whether the client is still there."""
    answer = client.read()
    return client.read() if answer.status == 100 else answer


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Loopback, NativeVersion]]:
    """y = 3 x, whose requests wait 200 ms for others to share a batch with: no answer is ready in the turn of its request."""
    with Loopback() as loop:
        native = version(scaled(tmp_path, 3.0), loop.pool, warm={"x": (4,)}, max_queue_delay_us=200_000, preferred_batch_sizes=(64,))
        loop.table.publish({"m": ({"1": native}, native, None)})
        yield loop, native


def test_http1_answers_what_is_not_ready_yet(held: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = held
    client = loop.http()
    client.send(http_request("/v2/one", method="GET") + http_infer(X, "m") + http_request("/v2/two", method="GET"))
    client.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: loop.total("control_calls") == 2, "Python's calls")
    assert loop.answer_slow_path(200, b"[]") == 2
    first, second, third = final(client), final(client), final(client)
    assert (first.status, third.status) == (200, 200)
    np.testing.assert_array_equal(http_tensor(second), 3 * X)
    assert client.is_closed()


def test_a_large_answer_goes_out_whole(tmp_path: Path) -> None:
    with Loopback() as loop:
        native = version(scaled(tmp_path, 2.0, ("batch", "n")), loop.pool)
        loop.table.publish({"m": ({"1": native}, native, None)})
        client = loop.http()
        rows = np.random.default_rng(1).random((1, 8 << 20 >> 2), np.float32)
        client.send(http_infer(rows))
        client.socket.shutdown(socket.SHUT_WR)
        time.sleep(0.1)                         # the server has filled the socket by now, and listens to nothing but its end
        np.testing.assert_array_equal(http_tensor(final(client)), 2 * rows)
        assert client.is_closed()


@pytest.mark.parametrize("rest", [b"GET /v2 HT", http_request("/v2/models/m/infer", b"x" * 100)[:-50],
                                  b"POST /v2 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"])
def test_a_request_that_is_not_whole_is_dropped(held: tuple[Loopback, NativeVersion], rest: bytes) -> None:
    loop, _ = held
    client = loop.http()
    client.send(http_infer(X, "m") + rest)
    client.socket.shutdown(socket.SHUT_WR)
    answer = final(client)
    assert answer.fields["connection"] == "close"
    np.testing.assert_array_equal(http_tensor(answer), 3 * X)
    assert client.is_closed()


def test_http2_finishes_open_streams(held: tuple[Loopback, NativeVersion]) -> None:
    loop, _ = held
    client = loop.h2()
    unary = client.grpc(grpc_infer(X, "m"))
    stream = client.open_grpc(GRPC_STREAM)
    client.data(stream, grpc_infer(X, "m") * 2, end=False)
    torn = client.open_grpc()
    client.data(torn, grpc_infer(X, "m")[:-3], end=False)
    wait_until(lambda: loop.total("live_requests") == 3, "the requests")
    client.half_close()
    for one, n in ((unary, 1), (stream, 2)):
        answer = client.read(one)
        assert (answer.fields["grpc-status"], len(unframe(answer.body))) == ("0", n)
    np.testing.assert_array_equal(grpc_tensor(unframe(client.answers[unary].body)[0]), 3 * X)
    assert torn in client.resets
    while not client.closed:
        client.pump()
    assert client.goaway == 0


def test_a_client_that_is_gone_is_found_out(tmp_path: Path) -> None:
    """close() looks like a half-close at first. What its requests wait for is taken back all the same."""
    with Loopback() as loop:
        native = version(scaled(tmp_path, 3.0), loop.pool, warm={"x": (4,)}, max_queue_delay_us=60_000_000, preferred_batch_sizes=(64,))
        loop.table.publish({"m": ({"1": native}, native, None)})
        http, grpc = loop.http(), loop.h2()
        http.send(http_infer(X, "m"))
        grpc.grpc(grpc_infer(X, "m"))
        wait_until(lambda: native.statistics().queue_depth == 2, "both requests")
        http.socket.close()
        grpc.socket.close()
        closed = time.monotonic()
        wait_until(lambda: loop.server.connections == 0, "both connections to be over")
        assert time.monotonic() - closed < 0.5
        assert (native.statistics().queue_depth, native.statistics().execution_count) == (0, 0)


def test_a_half_closed_call_that_is_never_answered_ends_with_the_idle_time() -> None:
    with Loopback(idle_timeout_s=0.05) as loop:
        client = loop.http()
        client.send(http_request("/v2/nobody/answers", method="GET", body=b""))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read().status == 100
        assert client.is_closed()
        loop.control.take()


def test_a_call_that_only_listens_ends_soon() -> None:
    """Watch: the client can no longer say that it has heard enough."""
    with Loopback() as loop:
        client = loop.h2()
        stream = client.grpc(b"\0\0\0\0\0", "/grpc.health.v1.Health/Watch")
        exchanges: list[object] = []
        wait_until(lambda: bool(exchanges.extend(loop.control.take()) or exchanges), "the call")
        (exchange,) = exchanges
        exchange.send(b"")                      # type: ignore[attr-defined]
        while not client.answers[stream].body:
            client.pump()
        client.half_close()
        while not client.closed:
            client.pump()
        assert stream in client.resets
        loop.control.release(exchange)          # type: ignore[arg-type]
