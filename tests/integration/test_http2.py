"""HTTP/2 against a running server, frame by frame."""

import contextlib
import struct

import h2.events
import h2.settings
import hyperframe.frame as frames
import numpy as np
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from serve.protocol import messages
from tests.integration.http1_wire import Http1Connection
from tests.integration.http2_wire import GRPC, Http2Connection, framed
from tests.integration.payloads import FLOATS, INFER, binary_request, grpc_answer, grpc_request, json_request
from tests.integration.running_server import RunningServer

INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/v2/health/live"


@pytest.fixture(params=["http", "grpc"])
def address(server: RunningServer, request: pytest.FixtureRequest) -> tuple[str, int]:
    """Either data port speaks both protocols."""
    return "127.0.0.1", server.ports[request.param]


def _check_unharmed(address: tuple[str, int]) -> None:
    with Http2Connection(address) as connection:
        assert grpc_answer(connection.call("ModelInfer", grpc_request()).messages()[0]) == FLOATS.tobytes()


def test_rest_and_grpc_on_one_connection(address: tuple[str, int]) -> None:
    body, headers = binary_request()
    with Http2Connection(address) as connection:
        for _ in range(3):
            assert connection.request("GET", LIVE).json()["live"] is True
            assert connection.request("GET", "/v2/models/mlp").json()["name"] == "mlp"
            assert connection.request("POST", INFER, json_request()).json()["outputs"][0]["data"] == FLOATS.ravel().tolist()
            answer = connection.request("POST", INFER, body, headers)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.body[int(answer.headers["inference-header-content-length"]):] == FLOATS.tobytes()
            call = connection.call("ModelInfer", grpc_request(id="a"))
            assert (call.status, call.grpc_status, call.headers["content-type"]) == (200, 0, "application/grpc")
            assert grpc_answer(call.messages()[0]) == FLOATS.tobytes()
            call = connection.call("ServerReady", b"")
            assert messages.ServerReadyResponse.FromString(call.messages()[0]).ready


def test_head_has_the_length_but_no_body(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        for path in (LIVE, "/v2"):
            full = connection.request("GET", path)
            head = connection.request("HEAD", path)
            assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(full.body)))


def test_settings_are_announced(small_server: RunningServer) -> None:
    with Http2Connection(small_server.http) as connection:
        connection.wait_for_event(h2.events.SettingsAcknowledged)
        assert connection.h2.remote_settings.max_concurrent_streams == 16
        assert connection.h2.remote_settings.initial_window_size >= 1 << 20
        assert connection.h2.remote_settings.max_header_list_size == 65536


def test_many_streams_at_once(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        arrays = [np.full((1, 4), i, np.float32) for i in range(300)]
        numbers = [connection.open("POST", INFER_METHOD, GRPC) for _ in arrays]
        for number, array in reversed(list(zip(numbers, arrays, strict=True))):
            connection.send(number, framed(grpc_request(array=array)))
        for number, array in zip(numbers, arrays, strict=True):
            assert grpc_answer(connection.wait(number).messages()[0]) == array.tobytes()


def test_streams_over_the_limit_are_refused_and_the_others_served(small_server: RunningServer) -> None:
    """A client that cannot know the limit yet."""
    with Http2Connection(small_server.http) as connection:
        numbers = [connection.open("POST", INFER_METHOD, GRPC) for _ in range(17)]
        assert connection.wait(numbers[16]).reset == ErrorCodes.REFUSED_STREAM
        for number in numbers[:16]:
            connection.send(number, framed(grpc_request()))
            assert connection.wait(number).grpc_status == 0


def test_streams_over_a_limit_that_was_acknowledged_end_the_connection(small_server: RunningServer) -> None:
    with Http2Connection(small_server.http) as connection:
        connection.wait_for_event(h2.events.RemoteSettingsChanged)
        connection.h2.remote_settings = h2.settings.Settings(client=False)
        for _ in range(17):
            connection.open("POST", INFER_METHOD, GRPC)
        assert connection.is_closed()
        assert connection.goaway == ErrorCodes.PROTOCOL_ERROR


@pytest.mark.parametrize("window", [1, 100, 65535])
def test_tiny_client_windows_get_the_whole_answer(server: RunningServer, window: int) -> None:
    width = 1000 if window == 1 else 50_000
    x = np.arange(width, dtype=np.float32).reshape(1, -1)
    with Http2Connection(server.http, {SettingCodes.INITIAL_WINDOW_SIZE: window}) as connection:
        call = connection.call("ModelInfer", grpc_request("identity_fp32", x))
        assert grpc_answer(call.messages()[0]) == x.tobytes()
        body, headers = binary_request(x)
        answer = connection.request("POST", "/v2/models/identity_fp32/infer", body, headers)
        assert answer.body.endswith(x.tobytes())


def test_exhausted_windows_hold_only_their_own_streams(server: RunningServer) -> None:
    """A client that gives no credit for one stream is still answered on the others, and gets the rest when it does."""
    x = np.arange(10_000, dtype=np.float32).reshape(1, -1)
    with Http2Connection(server.http, {SettingCodes.INITIAL_WINDOW_SIZE: 1000}, reads_windows=False) as connection:
        stuck = connection.open("POST", INFER_METHOD, GRPC)
        connection.send(stuck, framed(grpc_request("identity_fp32", x)))
        connection.wait_for(lambda: len(connection.streams[stuck].body) == 1000)
        assert connection.request("GET", LIVE).status == 200
        assert not connection.streams[stuck].ended
        connection.h2.increment_flow_control_window(100_000, stuck)
        connection.flush()
        assert grpc_answer(connection.wait(stuck).messages()[0]) == x.tobytes()


def test_large_messages_need_window_updates_from_the_server(server: RunningServer) -> None:
    x = np.random.default_rng(4).standard_normal((1, 5 << 20)).astype(np.float32)
    with Http2Connection(server.http) as connection:
        assert grpc_answer(connection.call("ModelInfer", grpc_request("identity_fp32", x)).messages()[0]) == x.tobytes()


def test_padded_data(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        for padding in (0, 1, 255):
            number = connection.open("POST", INFER_METHOD, GRPC)
            message = framed(grpc_request())
            for at in range(0, len(message), 10):
                connection.send(number, message[at:at + 10], end=False, padding=padding)
            connection.h2.end_stream(number)
            connection.flush()
            assert grpc_answer(connection.wait(number).messages()[0]) == FLOATS.tobytes()


def test_empty_data_frames_and_trailers(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        number = connection.open("POST", INFER, {"content-length": str(len(json_request()))})
        for byte in json_request():
            connection.h2.send_data(number, b"")
            connection.h2.send_data(number, bytes([byte]))
        connection.h2.send_headers(number, [("x-trailer", "1")], end_stream=True)
        connection.flush()
        assert connection.wait(number).status == 200


def test_ping(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        connection.h2.ping(b"12345678")
        connection.flush()
        assert connection.wait_for_event(h2.events.PingAckReceived).ping_data == b"12345678"


def test_reset_streams(server: RunningServer) -> None:
    """In every state that a stream can be in; the connection goes on."""
    with Http2Connection(server.http) as connection:
        for _ in range(20):
            opened = connection.open("POST", INFER_METHOD, GRPC)
            half = connection.open("POST", INFER_METHOD, GRPC)
            connection.send(half, framed(grpc_request())[:20], end=False)
            queued = connection.open("POST", INFER_METHOD, GRPC)
            connection.send(queued, framed(grpc_request("waits", np.ones(1, np.float32))))
            answered = connection.open("POST", INFER_METHOD, GRPC)
            connection.send(answered, framed(grpc_request()))
            watching = connection.open("POST", "/grpc.health.v1.Health/Watch", GRPC)
            connection.send(watching, framed(b""))
            streaming = connection.open("POST", STREAM_METHOD, GRPC)
            connection.send(streaming, framed(grpc_request()), end=False)
            for number in (opened, half, queued, watching, streaming):
                connection.h2.reset_stream(number, ErrorCodes.CANCEL)
            connection.flush()
            assert grpc_answer(connection.wait(answered).messages()[0]) == FLOATS.tobytes()
        assert connection.request("GET", LIVE).status == 200
        assert connection.goaway is None


def test_resets_without_end_end_the_connection(server: RunningServer) -> None:
    """Rapid reset (CVE-2023-44487): nghttp2 allows a burst."""
    with Http2Connection(server.http) as connection:
        for _ in range(4000):
            number = connection.h2.get_next_available_stream_id()
            connection.h2.send_headers(number, [(":method", "POST"), (":scheme", "http"), (":path", INFER_METHOD), (":authority", "x")])
            connection.h2.reset_stream(number)
        with contextlib.suppress(ConnectionError):
            connection.flush()
        assert connection.is_closed()
    _check_unharmed(server.http)


def test_goaway_from_the_client(server: RunningServer) -> None:
    """What is in flight is answered."""
    with Http2Connection(server.http) as connection:
        number = connection.open("POST", INFER_METHOD, GRPC)
        connection.send(number, framed(grpc_request())[:10], end=False)
        connection.socket.sendall(frames.GoAwayFrame(last_stream_id=0, error_code=0).serialize())
        connection.send(number, framed(grpc_request())[10:])
        assert connection.wait(number).grpc_status == 0


def test_answers_before_the_request_has_ended(server: RunningServer) -> None:
    """A stream is answered message by message; a request that is refused is answered at once."""
    with Http2Connection(server.http) as connection:
        number = connection.open("POST", STREAM_METHOD, GRPC)
        for n in range(1, 5):
            connection.send(number, framed(grpc_request(id=str(n))), end=False)
            connection.wait_for(lambda n=n: len(connection.streams[number].messages()) == n)
        connection.h2.end_stream(number)
        connection.flush()
        assert connection.wait(number).grpc_status == 0
        number = connection.open("POST", INFER, {"content-encoding": "br"})
        assert connection.wait(number).status == 501


@pytest.mark.parametrize(("frame", "code"), [
    (b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", ErrorCodes.PROTOCOL_ERROR),   # DATA on stream 0
    (b"\x00\x00\x05\x00\x00\x00\x00\x00\x09hello", ErrorCodes.PROTOCOL_ERROR),   # DATA on an idle stream
    (b"\x00\x00\x04\x01\x04\x00\x00\x00\x02\x82\x84\x86\x41", ErrorCodes.PROTOCOL_ERROR),   # HEADERS on an even stream
    (b"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff", ErrorCodes.COMPRESSION_ERROR),   # HPACK that is none
    (b"\x00\x00\x03\x06\x00\x00\x00\x00\x00abc", ErrorCodes.FRAME_SIZE_ERROR),   # PING of 3 bytes
    (b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", ErrorCodes.PROTOCOL_ERROR),   # WINDOW_UPDATE by 0
    (b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff", ErrorCodes.FLOW_CONTROL_ERROR),   # window over 2^31
    (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x05", ErrorCodes.PROTOCOL_ERROR),   # ENABLE_PUSH 5
    (b"\x00\x00\x05\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00", ErrorCodes.FRAME_SIZE_ERROR),   # SETTINGS of 5 bytes
    (b"\x00\x00\x04\x09\x04\x00\x00\x00\x01abcd", ErrorCodes.PROTOCOL_ERROR),   # CONTINUATION of nothing
    (b"\x7f\xff\xff\x00\x00\x00\x00\x00\x01", ErrorCodes.FRAME_SIZE_ERROR),   # a frame of 8 MiB
    (b"\x00\x00\x04\x03\x00\x00\x00\x00\x07\x00\x00\x00\x00", ErrorCodes.PROTOCOL_ERROR),   # RST_STREAM, idle stream
    (b"\x00\x00\x05\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02\x82", ErrorCodes.PROTOCOL_ERROR),   # PUSH_PROMISE by a client
])
def test_illegal_frames_end_the_connection_and_nothing_else(server: RunningServer, frame: bytes, code: ErrorCodes) -> None:
    with Http2Connection(server.http) as connection:
        connection.wait_for_event(h2.events.SettingsAcknowledged)
        connection.socket.sendall(frame)
        assert connection.is_closed()
        assert connection.goaway == code
    _check_unharmed(server.http)


@pytest.mark.parametrize("headers", [
    {"connection": "close"}, {"transfer-encoding": "chunked"}, {"Upper": "x"}, {"te": "gzip"}, {":late": "x"}, {"content-length": "abc"},
    {"x": "a\r\nb"}, {"x": "a\x00b"}, {"": "x"}, {"a b": "x"},
])
def test_malformed_headers_reset_the_stream_only(server: RunningServer, headers: dict[str, str]) -> None:
    with Http2Connection(server.http) as connection:
        number = connection.open("GET", LIVE, headers, end=True)
        stream = connection.wait(number)
        assert stream.reset == ErrorCodes.PROTOCOL_ERROR or stream.status == 400
        assert connection.request("GET", LIVE).status == 200


@pytest.mark.parametrize("path", ["", "v2", "/v2/\x00", "/v2/ x", "/v2/models/\xff/infer", "*", "/" + "x" * 9000])
def test_odd_paths(server: RunningServer, path: str) -> None:
    with Http2Connection(server.http) as connection:
        stream = connection.wait(connection.open("GET", path, end=True))
        assert stream.reset == ErrorCodes.PROTOCOL_ERROR or stream.status in (400, 404, 405, 414)
        assert connection.request("GET", LIVE).status == 200


def test_content_length_that_lies(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        for length in (1, 1000):
            number = connection.open("POST", INFER, {"content-length": str(length)})
            connection.send(number, json_request())
            assert connection.wait(number).reset == ErrorCodes.PROTOCOL_ERROR
        assert connection.request("GET", LIVE).status == 200


def test_too_many_header_fields(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        stream = connection.request("GET", LIVE, headers={f"x-{i}": "y" for i in range(120)})
        assert stream.status == 431
        assert stream.json()["error"]
        call = connection.call("ModelInfer", grpc_request(), {f"x-{i}": "y" for i in range(120)})
        assert call.grpc_status == 8


def test_endless_continuations_end_the_connection(server: RunningServer) -> None:
    """CVE-2024-27316: headers that never end must not be collected without bound."""
    with Http2Connection(server.http) as connection:
        block = connection.h2.encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", LIVE), (":authority", "test")])
        fillers = [connection.h2.encoder.encode([("x-filler", "y" * 1000)]) for _ in range(5000)]
        continuations = [frames.ContinuationFrame(1, filler).serialize() for filler in fillers]
        with contextlib.suppress(ConnectionError):
            connection.socket.sendall(frames.HeadersFrame(1, block).serialize() + b"".join(continuations))
        assert connection.is_closed()
    _check_unharmed(server.http)


def test_oversized_messages(small_server: RunningServer) -> None:
    """Refused as soon as the size is claimed, on both protocols; the connection goes on."""
    with Http2Connection(small_server.http) as connection:
        number = connection.open("POST", INFER_METHOD, GRPC)
        connection.send(number, struct.pack(">BI", 0, 0xFFFFFFFF), end=False)
        assert connection.wait(number).grpc_status == 8
        number = connection.open("POST", INFER, {"content-length": str(1 << 40)})
        connection.send(number, b"{", end=False)
        assert connection.wait(number).status == 413
        stream = connection.request("POST", INFER, bytes(1100 << 10))
        assert stream.status == 413
        assert "1048576" in stream.json()["error"]
        assert connection.call("ModelInfer", grpc_request()).grpc_status == 0


def test_preface_in_pieces(server: RunningServer) -> None:
    import socket

    with socket.create_connection(server.http, 15) as raw:
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.SettingsFrame().serialize():
            raw.sendall(bytes([byte]))
        assert raw.recv(9)[3] == frames.SettingsFrame.type


@pytest.mark.parametrize("preface", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/1.1\r\n\r\n", b"PRI "])
def test_preface_that_is_none(small_server: RunningServer, preface: bytes) -> None:
    with Http1Connection(small_server.http) as connection:
        connection.send(preface)
        connection.socket.settimeout(10)
        assert connection._reader.read() is not None
    _check_unharmed(small_server.http)


def test_grpc_framing(server: RunningServer) -> None:
    message = grpc_request()
    with Http2Connection(server.http) as connection:
        for body, status in ((b"", 3), (b"\x00", 3), (framed(message)[:-1], 3), (framed(message) + b"\x00", 3), (framed(message) * 2, 3),
                             (framed(message, packed=True), 13), (b"\x07" + framed(message)[1:], 13)):
            call = connection.request("POST", INFER_METHOD, body, GRPC)
            assert call.grpc_status == status, (body[:10], call)
        for encoding in ("gzip", "deflate"):
            call = connection.request("POST", INFER_METHOD, framed(message, packed=True), {**GRPC, "grpc-encoding": encoding})
            assert call.grpc_status in (3, 13)
        call = connection.request("POST", INFER_METHOD, framed(message), {**GRPC, "grpc-encoding": "snappy"})
        assert call.grpc_status == 12
        assert "gzip" in call.headers["grpc-accept-encoding"]
        call = connection.request("GET", INFER_METHOD, headers=GRPC)
        assert call.grpc_status == 12


def test_grpc_stream_framing(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        call = connection.request("POST", STREAM_METHOD, framed(grpc_request(id="1")) + framed(grpc_request(id="2")), GRPC)
        assert [messages.ModelStreamInferResponse.FromString(one).infer_response.id for one in call.messages()] == ["1", "2"]
        call = connection.request("POST", STREAM_METHOD, framed(grpc_request()) + b"\x00\x00", GRPC)
        assert len(call.messages()) == 1
        assert call.grpc_status == 3
        call = connection.request("POST", STREAM_METHOD, framed(b"\xff"), GRPC)
        assert messages.ModelStreamInferResponse.FromString(call.messages()[0]).error_message
        assert call.grpc_status == 0


@pytest.mark.parametrize(("value", "status"), [
    ("100m", 4), ("50000u", 4), ("1n", 4), ("99999999H", 0),
    # Unreadable: INTERNAL, as grpc-core. A client that has set a deadline does not get a call without one.
    ("x", 13), ("", 13), ("100", 13), ("999999999m", 13),
])
def test_grpc_timeout(server: RunningServer, value: str, status: int) -> None:
    with Http2Connection(server.http) as connection:
        number = connection.open("POST", INFER_METHOD, {**GRPC, "grpc-timeout": value})
        connection.send(number, framed(grpc_request("waits", np.ones(1, np.float32))))
        if status:
            assert connection.wait(number).grpc_status == status
        else:
            company = connection.call("ModelInfer", grpc_request("waits", np.ones(1, np.float32)))
            assert (company.grpc_status, connection.wait(number).grpc_status) == (0, 0)


def test_deadline_of_the_slow_path(server: RunningServer) -> None:
    with Http2Connection(server.http) as connection:
        number = connection.open("POST", "/grpc.health.v1.Health/Watch", {**GRPC, "grpc-timeout": "100m"})
        connection.send(number, framed(b""))
        assert connection.wait(number).grpc_status == 4
