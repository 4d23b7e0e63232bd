"""HTTP/1.1 connections over a socket: any split of the bytes gives the same answers, in order, and a slow reader stalls nobody for good."""

import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import Answer, HttpClient, http_infer, http_request, http_tensor

JSON = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]}).encode()

JUNK = (b"\r\n", b"\0", b"\n", b" ", b"Content-Length: 1\r\n", b"0\r\n\r\n", b"\xff" * 9)


def chunked(path: str, body: bytes, *sizes: int) -> bytes:
    data = f"POST {path} HTTP/1.1\r\nHost: test\r\nX-Request-Id: chunked\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for size in (*sizes, len(body)):
        piece, body = body[:size], body[size:]
        if piece:
            data += f"{len(piece):x};some=thing\r\n".encode() + piece + b"\r\n"
    return data + b"0\r\nX-Trailer: t\r\n\r\n"


def pipeline() -> list[bytes]:
    """Requests of every kind that the I/O thread answers by itself; the last one closes."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    return [
        http_request("/v2/health/live", method="GET").replace(b"Host: test", b"host:  test \r\nX-Request-Id: a"),
        http_infer(x, "m", "1", "X-Request-Id: b"),
        chunked("/v2/models/m/infer", JSON, 1, 7, 20),
        b"\r\n" + http_request("/v2/models/m/infer", b"{]", "POST", "X-Request-Id: c"),
        http_request("/v2/models/none/infer", JSON, "POST", "X-Request-Id: d"),
        http_request("/v2/models/m/labels/stable/infer", gzip.compress(JSON, mtime=0), "POST", "X-Request-Id: e", "Content-Encoding: gzip"),
        http_request("/v2/health/live", b"", "GET", "X-Request-Id: f", "Connection: close"),
    ]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loopback]:
    with Loopback() as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx"), loop.pool, warm={"x": (3,)})
        loop.table.publish({"m": ({"1": native, "stable": native}, native, None)})
        yield loop


def stable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    return answer.status, {name: value for name, value in answer.fields.items() if name != "date"}, answer.body


def send_in_pieces(loop: Loopback, client: HttpClient, data: bytes, cuts: list[int]) -> None:
    """Each piece once the server has read the one before."""
    received = loop.total("bytes_received")
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        wait_until(lambda n=received + start: loop.total("bytes_received") >= n, "the server to read")
        client.send(data[start:end])


def conversation(loop: Loopback, data: bytes, cuts: list[int], n: int) -> list[tuple[int, dict[str, str], bytes]]:
    client = HttpClient(loop.socket())
    try:
        send_in_pieces(loop, client, data, cuts)
        answers = [stable(client.read()) for _ in range(n)]
        assert client.is_closed()
    finally:
        client.socket.close()
        loop.clients.clear()
    return answers


def test_every_split_gives_the_same_answers(loop: Loopback) -> None:
    requests = pipeline()
    data = b"".join(requests)
    whole = conversation(loop, data, [], len(requests))
    assert [status for status, _, _ in whole] == [200, 200, 200, 400, 404, 200, 200]
    assert [fields["x-request-id"] for _, fields, _ in whole] == ["a", "b", "chunked", "c", "d", "e", "f"]
    for cut in range(1, len(data)):
        assert conversation(loop, data, [cut], len(requests)) == whole, f"cut at {cut}: {data[:cut][-40:]!r} | {data[cut:][:40]!r}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_pieces_give_the_same_answers(loop: Loopback, data: Any) -> None:
    requests = pipeline()
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=12)))
    assert conversation(loop, stream, cuts, len(requests)) == conversation(loop, stream, [], len(requests))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_requests_never_harm_the_server(loop: Loopback, data: Any) -> None:
    """A few bytes changed, dropped or doubled: whatever it says about them, the server says HTTP, and goes on serving others."""
    stream = bytearray(b"".join(pipeline()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream) - 1))
        match data.draw(st.sampled_from(["set", "drop", "double", "insert"])):
            case "set":
                stream[at] = data.draw(st.integers(0, 255))
            case "drop":
                del stream[at:at + data.draw(st.integers(1, 30))]
            case "double":
                stream[at:at] = stream[at:at + data.draw(st.integers(1, 60))]
            case _:
                stream[at:at] = data.draw(st.sampled_from(JUNK))
    client = loop.socket()
    try:
        client.sendall(bytes(stream))
        client.shutdown(1)
        received = loop.read_all(client)
    except ConnectionResetError:
        received = b""
    finally:
        client.close()
        loop.clients.clear()
    assert received == b"" or received.startswith(b"HTTP/1.1 ")
    other = loop.http()
    assert other.ask(http_request("/v2/health/live", method="GET")).status == 200
    other.socket.close()
    loop.clients.clear()
    wait_until(lambda: loop.total("live_calls") == 0, "every call to be over")


def test_the_first_bytes_alone_decide_nothing_wrong(loop: Loopback) -> None:
    """POST shares its first letter with HTTP/2's preface."""
    client = loop.http()
    send_in_pieces(loop, client, http_request("/v2/models/m/infer", JSON), [1, 2, 3])
    assert client.read().status == 200
    client.socket.close()
    loop.clients.clear()


def serve_any_width(loop: Loopback, folder: Path) -> None:
    path = onnx_models.identity(folder / "m.onnx", "FP32", ("batch", "width"))
    native = version(path, loop.pool, max_batch_size=16, warm={"x": (8,)})
    loop.table.publish({"m": ({"1": native}, native, None)})


def test_a_slow_reader_of_large_answers_is_read_from_again(tmp_path: Path) -> None:
    """An answer larger than what the connection may owe stops the reading, until it is sent."""
    with Loopback() as loop:
        serve_any_width(loop, tmp_path)
        x = np.arange(12 << 18, dtype=np.float32).reshape(1, -1)         # 12 MiB
        client = loop.http()
        for _ in range(2):
            client.send(http_infer(x))
            wait_until(lambda: loop.total("live_requests") == 0, "the run")
            np.testing.assert_array_equal(http_tensor(client.read()), x)
        assert client.ask(http_request("/v2/health/live", method="GET")).status == 200


def test_more_pipelined_requests_than_may_wait_with_large_answers(tmp_path: Path) -> None:
    """200 requests, 64 KiB of answer each: more than the pipeline holds, and than is collected before it is sent."""
    with Loopback() as loop:
        serve_any_width(loop, tmp_path)
        client = loop.http()
        client.socket.settimeout(20)
        inputs = [np.full((1, 16384), i, np.float32) for i in range(200)]
        sent = 0
        stream = b"".join(map(http_infer, inputs))
        client.socket.setblocking(False)
        answers: list[Any] = []
        while len(answers) < len(inputs):               # write and read by turns: neither side may have to buffer everything
            sent, done = pump(client, stream, sent)
            answers += done
        for x, answer in zip(inputs, answers, strict=True):
            np.testing.assert_array_equal(http_tensor(answer), x)
        client.socket.settimeout(20)
        assert client.ask(http_request("/v2/health/live", method="GET")).status == 200


def pump(client: HttpClient, stream: bytes, sent: int) -> tuple[int, list[Answer]]:
    """Send what fits, read what is there, and return the answers that are complete."""
    with contextlib.suppress(BlockingIOError):
        sent += client.socket.send(stream[sent:sent + (1 << 16)]) if sent < len(stream) else 0
    with contextlib.suppress(BlockingIOError):
        client.more()
    answers = []
    while head := re.match(rb"(?s).*?Content-Length: (\d+)\r\n.*?\r\n\r\n", client.received):
        if len(client.received) < head.end() + int(head[1]):
            break
        answers.append(client.read())
    return sent, answers


def test_an_answer_is_kept_for_a_client_that_closes_its_side_late(loop: Loopback) -> None:
    """`Connection: close`: the answer arrives whole although the server closes."""
    client = loop.http()
    client.send(http_request("/v2/models/m/infer", JSON, "POST", "Connection: close") + b"x" * 100_000)
    answer = client.read()
    assert (answer.status, answer.fields["connection"]) == (200, "close")
    assert client.is_closed()
    client.socket.close()
    loop.clients.clear()


EXPECTS = http_request("/v2/models/m/infer", JSON, "POST", "Expect: 100-continue")[:-len(JSON)]


def test_leave_to_send_comes_behind_earlier_answers(loop: Loopback) -> None:
    """A final answer must not come after an interim one of a later request, and who waits for leave is not to wait for ever."""
    client = loop.http()
    client.send(http_request("/v2/first", method="GET") + EXPECTS)
    wait_until(lambda: loop.total("control_calls") == 1, "Python's call")
    assert loop.answer_slow_path(200, b"first") == 1
    assert client.read().body == b"first"
    leave = client.read()
    assert (leave.status, leave.fields) == (100, {})
    client.send(JSON)
    assert client.read().status == 200


def test_who_does_not_wait_for_leave_is_not_given_any(loop: Loopback) -> None:
    client = loop.http()
    client.send(http_request("/v2/first", method="GET") + EXPECTS + JSON)
    wait_until(lambda: loop.total("http_requests") == 2, "both calls")
    assert loop.answer_slow_path(200, b"first") == 1
    assert (client.read().body, client.read().status) == (b"first", 200)
