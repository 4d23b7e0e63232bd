"""HTTP/2 over a socket, held against h2: settings, flow control, resets, limits, and frames that nobody should send."""

import struct
from collections.abc import Iterator
from pathlib import Path

import h2.exceptions
import h2.settings
import numpy as np
import pytest

from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import GRPC_INFER, H2Client, frame, grpc_infer, grpc_tensor, http_infer, http_request, http_tensor, unframe

X = np.array([[1, 2, 3]], np.float32)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, REFUSED_STREAM = 0, 1, 3, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def raw(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream) + payload


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loopback]:
    with Loopback(max_streams=8) as loop:
        native = version(onnx_models.identity(tmp_path / "m.onnx", "FP32", ("batch", "width")), loop.pool, warm={"x": (3,)})
        loop.table.publish({"m": ({"1": native}, native, None)})
        yield loop


def check_lives(loop: Loopback) -> None:
    client = loop.h2()
    (message,) = unframe(client.read(client.grpc(grpc_infer(X))).body)
    np.testing.assert_array_equal(grpc_tensor(message), X)
    client.socket.close()


def run_out(client: H2Client) -> None:
    """Read until the server closes."""
    while not client.closed:
        client.pump()


def test_settings_and_ping(loop: Loopback) -> None:
    client = loop.h2()
    client.h2.ping(b"12345678")
    client.flush()
    check_lives(loop)
    stream = client.open("/v2/health/live", method="GET", end=True)
    client.flush()
    client.read(stream)
    remote = client.h2.remote_settings
    assert remote.max_concurrent_streams == 8
    assert remote.initial_window_size == 4 << 20
    assert remote.max_frame_size == 1 << 20
    assert remote[h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE] == 65536


@pytest.mark.parametrize("port_speaks", ["http/1.1 after", "http/2 after"])
def test_either_protocol_on_one_port(loop: Loopback, port_speaks: str) -> None:
    if port_speaks == "http/1.1 after":
        check_lives(loop)
    np.testing.assert_array_equal(http_tensor(loop.http().ask(http_infer(X))), X)
    check_lives(loop)


def test_plain_http_over_http2(loop: Loopback) -> None:
    client = loop.h2()
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}'
    stream = client.open("/v2/models/m/infer", ("content-length", str(len(body))))
    client.data(stream, body)
    answer = client.read(stream)
    assert (answer.status, answer.json()["outputs"][0]["data"]) == (200, [1, 2, 3])
    assert int(answer.fields["content-length"]) == len(answer.body)
    bad = client.open("/v2/models/m/infer")
    client.data(bad, b"{")
    assert client.read(bad).status == 400


def test_a_request_in_pieces_of_one_byte(loop: Loopback) -> None:
    client = loop.h2()
    stream = client.open_grpc()
    body = grpc_infer(X)
    for i in range(len(body)):
        client.data(stream, body[i:i + 1], end=i == len(body) - 1)
    np.testing.assert_array_equal(grpc_tensor(unframe(client.read(stream).body)[0]), X)


def test_every_split_of_a_connection_gives_the_same_answer(loop: Loopback) -> None:
    """The connection's first bytes, preface included, torn anywhere."""
    def whole() -> tuple[H2Client, int, bytes]:
        client = H2Client(loop.socket(), preface=False)
        client.h2.initiate_connection()
        stream = client.open_grpc()
        client.h2.send_data(stream, grpc_infer(X), end_stream=True)
        return client, stream, client.h2.data_to_send()

    client, _, data = whole()
    client.socket.close()
    for cut in range(1, len(data)):
        client, stream, data = whole()
        received = loop.total("bytes_received")
        client.socket.sendall(data[:cut])
        wait_until(lambda n=received + cut: loop.total("bytes_received") >= n, "the first part")
        client.socket.sendall(data[cut:])
        np.testing.assert_array_equal(grpc_tensor(unframe(client.read(stream).body)[0]), X)
        client.socket.close()
        loop.clients.clear()


def test_trailers_of_a_request_are_read_and_forgotten(loop: Loopback) -> None:
    client = loop.h2()
    stream = client.open_grpc()
    client.h2.send_data(stream, grpc_infer(X))
    client.h2.send_headers(stream, [("x-trailer", "t")], end_stream=True)
    client.flush()
    assert client.read(stream).fields["grpc-status"] == "0"


def test_flow_control_of_large_answers(loop: Loopback) -> None:
    """8 MiB through windows of 64 KiB."""
    client = H2Client(loop.socket(), preface=False)
    client.h2.initiate_connection()
    client.flush()
    x = np.arange(2 << 20, dtype=np.float32).reshape(1, -1)
    stream = client.grpc(grpc_infer(x))
    np.testing.assert_array_equal(grpc_tensor(unframe(client.read(stream).body)[0]), x)


def test_streams_over_the_limit_are_refused(loop: Loopback) -> None:
    """By a client that has not heard of the limit."""
    client = loop.h2()
    held = [client.open_grpc("/some.Service/Method") for _ in range(8)]
    extra = [client.open_grpc("/some.Service/Method") for _ in range(3)]
    client.flush()
    while len(client.resets) < 3:
        client.pump()
    assert client.resets == dict.fromkeys(extra, REFUSED_STREAM)
    wait_until(lambda: loop.total("control_calls") == 8, "the others")
    for stream in held:
        client.h2.reset_stream(stream)
    client.flush()
    wait_until(lambda: loop.total("live_calls") == 0, "the calls to be over")
    check_lives(loop)


def test_headers_over_the_limit(loop: Loopback) -> None:
    client = loop.h2()
    many = client.grpc(grpc_infer(X), GRPC_INFER, *[(f"x-{i}", "v") for i in range(120)])
    assert client.read(many).fields.get("grpc-status", client.answers[many].status) in ("8", 431)
    assert client.read(client.grpc(grpc_infer(X))).fields["grpc-status"] == "0"


def test_resets_at_any_moment_leave_nothing(loop: Loopback) -> None:
    client = loop.h2()
    body = grpc_infer(X)
    for i in range(0, len(body), 3):
        stream = client.open_grpc()
        client.data(stream, body[:i], end=False)
        client.h2.reset_stream(stream)
    answered = client.grpc(body)
    client.h2.reset_stream(answered)
    client.flush()
    wait_until(lambda: loop.total("live_calls") == 0 and loop.total("live_requests") == 0, "the calls to be over")
    assert client.read(client.grpc(body)).fields["grpc-status"] == "0"


def test_an_answer_that_comes_before_the_body_ends_the_stream(loop: Loopback) -> None:
    """The client still sends: it is told to stop (RFC 9113, 8.1), and the stream does not stay."""
    client = loop.h2()
    stream = client.open_grpc(GRPC_INFER, ("grpc-encoding", "snappy"))
    client.flush()
    assert client.read(stream).fields["grpc-status"] == "12"
    while stream not in client.resets:
        client.pump()
    assert client.resets[stream] == NO_ERROR
    wait_until(lambda: loop.total("live_calls") == 0, "the call to be over")


@pytest.mark.parametrize(("frames", "error"), [
    (raw(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    (raw(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    (raw(HEADERS, END_HEADERS, 2, b"\x82"), PROTOCOL_ERROR),
    (raw(SETTINGS, 0, 1), PROTOCOL_ERROR),
    (raw(SETTINGS, 0, 0, b"12345"), FRAME_SIZE_ERROR),
    (raw(SETTINGS, ACK, 0, b"123456"), FRAME_SIZE_ERROR),
    (raw(SETTINGS, 0, 0, struct.pack("!HI", 4, 1 << 31)), FLOW_CONTROL_ERROR),
    (raw(PING, 0, 0, b"1234567"), FRAME_SIZE_ERROR),
    (raw(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    (raw(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), PROTOCOL_ERROR),
    (raw(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
    (raw(CONTINUATION, END_HEADERS, 1, b"\x82"), PROTOCOL_ERROR),
    (raw(HEADERS, 0, 1, b"\x82") + raw(PING, 0, 0, b"12345678"), PROTOCOL_ERROR),
    (raw(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL_ERROR),
    (raw(RST_STREAM, 0, 1, b"\0\0\0\0"), PROTOCOL_ERROR),
    (raw(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" * 20), 9),
], ids=lambda value: None if isinstance(value, bytes) else f"error {value}")
def test_frames_against_the_rules_end_the_connection_with_a_reason(loop: Loopback, frames: bytes, error: int) -> None:
    client = loop.h2()
    client.socket.sendall(frames)
    run_out(client)
    assert client.goaway == error
    check_lives(loop)


def test_what_is_no_preface(loop: Loopback) -> None:
    client = loop.http()
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
    while client.socket.recv(1 << 16):
        pass
    client = loop.http()
    client.send(b"PRI / HTTP/1.1\r\n\r\n")
    while client.socket.recv(1 << 16):
        pass
    check_lives(loop)


@pytest.mark.parametrize("flood", [raw(PING, 0, 0, b"12345678"), raw(SETTINGS), raw(RST_STREAM, 0, 1, b"\0\0\0\0")],
                         ids=["ping", "settings", "resets"])
def test_floods_are_ended_or_survived(loop: Loopback, flood: bytes) -> None:
    """A client that sends and never reads what it makes us say."""
    client = loop.h2()
    try:
        if flood[3] == RST_STREAM:
            for _ in range(3000):
                stream = client.open_grpc("/some.Service/Method")
                client.h2.reset_stream(stream)
            client.flush()
        else:
            client.socket.sendall(flood * 20_000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    check_lives(loop)


def test_a_http1_request_to_the_grpc_path_is_no_grpc(loop: Loopback) -> None:
    client = loop.http()
    client.send(http_request(GRPC_INFER, frame(b""), "POST", "Content-Type: application/grpc"))
    wait_until(lambda: loop.answer_slow_path(404) == 1, "the call on the slow path")
    assert client.read().status == 404


def test_h2_itself_finds_nothing_wrong_with_us(loop: Loopback) -> None:
    """h2 raises for anything that a server must not send."""
    client = loop.h2()
    streams = [client.grpc(grpc_infer(X)) for _ in range(6)]
    try:
        for stream in streams:
            assert client.read(stream).fields["grpc-status"] == "0"
    except h2.exceptions.ProtocolError as error:
        raise AssertionError("the server broke the protocol") from error


@pytest.mark.parametrize(("kind", "is_grpc"), [("application/grpc", True), ("application/grpc+proto", True), ("application/grpc;v=1", True),
                                               ("application/grpcfoo", False), ("application/grpc-web", False), ("application/grp", False)])
def test_what_is_grpc(loop: Loopback, kind: str, is_grpc: bool) -> None:
    client = loop.h2()
    stream = client.open("/inference.GRPCInferenceService/ServerLive", ("content-type", kind), ("te", "trailers"))
    client.data(stream, b"\0\0\0\0\0")
    if is_grpc:
        assert client.read(stream).fields["grpc-status"] == "0"
    else:
        wait_until(lambda: loop.answer_slow_path(404) == 1, "the call to be Python's")
        assert client.read(stream).status == 404
