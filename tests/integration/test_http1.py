"""HTTP/1.1 against a running server, byte by byte."""

import gzip
import socket
import struct
import zlib

import numpy as np
import pytest

from tests.integration.http1_wire import Http1Connection, request_bytes
from tests.integration.payloads import FLOATS, INFER, binary_request, json_request
from tests.integration.running_server import RunningServer

LIVE = "/v2/health/live"


@pytest.fixture(params=["http", "grpc"])
def address(server: RunningServer, request: pytest.FixtureRequest) -> tuple[str, int]:
    """Either data port speaks both protocols."""
    return "127.0.0.1", server.ports[request.param]


def test_keep_alive_carries_all_kinds_of_requests(address: tuple[str, int]) -> None:
    body, headers = binary_request()
    with Http1Connection(address) as connection:
        for _ in range(3):
            assert connection.request("GET", LIVE).json()["live"] is True
            assert connection.request("GET", "/v2/health/ready").json()["ready"] is True
            assert connection.request("POST", INFER, json_request()).json()["outputs"][0]["data"] == FLOATS.ravel().tolist()
            answer = connection.request("POST", INFER, body, headers)
            length = int(answer.headers["inference-header-content-length"])
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.body[length:] == FLOATS.tobytes()
            assert connection.request("POST", "/v2/repository/index").status == 200
            assert connection.request("GET", "/nothing").json() == {"error": "Not Found"}


def test_pipelined_requests_are_answered_in_order(address: tuple[str, int]) -> None:
    """More of them than the server holds at once, fast and slow ones mixed."""
    n = 300
    requests = []
    for i in range(n):
        if i % 3 == 0:
            requests.append(request_bytes("POST", INFER, json_request(id=str(i))))
        else:
            requests.append(request_bytes("GET", "/v2/models/scores/config" if i % 3 == 1 else LIVE, headers={"x-request-id": str(i)}))
    with Http1Connection(address) as connection:
        connection.send(b"".join(requests))
        for i in range(n):
            answer = connection.response()
            assert answer.status == 200
            assert (answer.json()["id"] if i % 3 == 0 else answer.headers["x-request-id"]) == str(i)


def test_a_request_may_come_byte_by_byte(server: RunningServer) -> None:
    with Http1Connection(server.http) as connection:
        for byte in request_bytes("POST", INFER, json_request()):
            connection.send(bytes([byte]))
        assert connection.response().status == 200


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chunked_bodies(server: RunningServer, size: int) -> None:
    body, headers = binary_request()
    pieces = [body[at:at + size] for at in range(0, len(body), size)]
    chunked = b"".join(b"%x;name=value\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer-Field: x\r\n\r\n"
    with Http1Connection(server.http) as connection:
        for _ in range(2):
            answer = connection.request("POST", INFER, chunked, headers | {"Transfer-Encoding": "chunked"})
            assert answer.body.endswith(FLOATS.tobytes())


def test_expect_100_continue(server: RunningServer) -> None:
    body = json_request()
    with Http1Connection(server.http) as connection:
        connection.send(request_bytes("POST", INFER, headers={"Expect": "100-continue", "Content-Length": str(len(body))}))
        assert connection.response(has_body=False).status == 100
        connection.send(body)
        assert connection.response().status == 200


def test_expect_100_continue_is_refused_where_the_body_would_be(small_server: RunningServer) -> None:
    with Http1Connection(small_server.http) as connection:
        connection.send(request_bytes("POST", INFER, headers={"Expect": "100-continue", "Content-Length": str(2 << 20)}))
        answer = connection.response()
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


@pytest.mark.parametrize("path", [LIVE, "/v2", "/v2/models/mlp", "/v2/models/mlp/config"])
def test_head_is_get_without_the_body(server: RunningServer, path: str) -> None:
    with Http1Connection(server.http) as connection:
        full = connection.request("GET", path)
        head = connection.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(full.body))
        assert connection.request("GET", path).body == full.body


def test_http_1_0_closes(server: RunningServer) -> None:
    with Http1Connection(server.http) as connection:
        connection.send(f"GET {LIVE} HTTP/1.0\r\n\r\n".encode())
        assert connection.response().headers["connection"] == "close"
        assert connection.is_closed()


def test_connection_close_is_honoured(server: RunningServer) -> None:
    with Http1Connection(server.http) as connection:
        connection.send(request_bytes("POST", INFER, json_request(), {"Connection": "close"}) + request_bytes("GET", LIVE))
        assert connection.response().status == 200
        assert connection.is_closed()


@pytest.mark.parametrize(("request_line", "status"), [
    (b"GET / HTTP/2.0", 505), (b"GET /", 400), (b"G@T / HTTP/1.1", 400), (b"GET  / HTTP/1.1", 400), (b"\x00\x01\x02", 400),
    (b"GET /" + b"x" * 70000 + b" HTTP/1.1", 431), (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
])
def test_what_is_not_http_is_told_so_and_closed(server: RunningServer, request_line: bytes, status: int) -> None:
    with Http1Connection(server.http) as connection:
        connection.send(request_line + b"\r\nHost: test\r\n\r\n")
        answer = connection.response()
        assert answer.status in (status, 414)
        assert answer.json()["error"]
        assert connection.is_closed()


@pytest.mark.parametrize("fields", [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 5 \r\n\x00: x\r\n", b"Transfer-Encoding: gzip\r\n", b"Bad Name: x\r\n", b"No-Colon\r\n", b" Folded: x\r\n",
])
def test_framing_that_could_be_read_in_two_ways_is_refused(server: RunningServer, fields: bytes) -> None:
    with Http1Connection(server.http) as connection:
        smuggled = b"abcdeGET / HTTP/1.1\r\nHost: test\r\n\r\n"
        connection.send(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: test\r\n" + fields + b"\r\n" + smuggled)
        answer = connection.response()
        assert answer.status in (400, 501)
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


def test_too_many_headers(server: RunningServer) -> None:
    for extra in ({f"x-{i}": "y" for i in range(101)}, {"x-large": "x" * 65536}):
        with Http1Connection(server.http) as connection:
            answer = connection.request("GET", LIVE, headers=extra)
            assert answer.status == 431
            assert connection.is_closed()


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"5\r\nabcdefg\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"5 5\r\n"])
def test_broken_chunks(server: RunningServer, chunk: bytes) -> None:
    with Http1Connection(server.http) as connection:
        connection.send(request_bytes("POST", INFER, headers={"Transfer-Encoding": "chunked"}) + chunk)
        assert connection.response().status == 400
        assert connection.is_closed()


def test_chunked_body_over_the_limit(small_server: RunningServer) -> None:
    with Http1Connection(small_server.http) as connection:
        piece = b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16))
        connection.send(request_bytes("POST", INFER, headers={"Transfer-Encoding": "chunked"}) + piece * 17)
        answer = connection.response()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert "1048576" in answer.json()["error"]


def test_body_over_the_limit_is_refused_before_it_is_sent(small_server: RunningServer) -> None:
    for length in ((1 << 20) + 1, 1 << 62):
        with Http1Connection(small_server.http) as connection:
            connection.send(request_bytes("POST", INFER, headers={"Content-Length": str(length)}))
            answer = connection.response()
            assert answer.status == 413
            assert "1048576" in answer.json()["error"]
            assert connection.is_closed()


def test_body_at_the_limit(small_server: RunningServer) -> None:
    head = json_request().rstrip(b"}")
    body = head + b"}".rjust((1 << 20) - len(head))
    with Http1Connection(small_server.http) as connection:
        assert len(body) == 1 << 20
        assert connection.request("POST", INFER, body).status == 200


def test_header_that_never_ends_is_timed_out(small_server: RunningServer) -> None:
    with Http1Connection(small_server.http) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ")
        answer = connection.response()
        assert answer.status == 408
        assert connection.is_closed()


def test_idle_connection_is_closed(small_server: RunningServer) -> None:
    with Http1Connection(small_server.http) as connection:
        assert connection.request("GET", LIVE).status == 200
        assert connection.is_closed()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_both_ways(server: RunningServer, encoding: str) -> None:
    """Inference-Header-Content-Length is of what is inside; on the slow path, too."""
    rows = np.tile(FLOATS, (64, 1))
    body, headers = binary_request(rows)
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    unpack = gzip.decompress if encoding == "gzip" else zlib.decompress
    with Http1Connection(server.http) as connection:
        answer = connection.request("POST", INFER, pack(body), headers | {"Content-Encoding": encoding, "Accept-Encoding": encoding})
        assert answer.headers["content-encoding"] == encoding
        content = unpack(answer.body)
        assert content[int(answer.headers["inference-header-content-length"]):] == rows.tobytes()
        answer = connection.request("POST", "/v2/repository/index", pack(b'{"ready":true}'), {"Content-Encoding": encoding})
        assert answer.status == 200


def test_accept_encoding_is_weighed(server: RunningServer) -> None:
    body, headers = binary_request(np.tile(FLOATS, (64, 1)))
    with Http1Connection(server.http) as connection:
        for accepted, chosen in (("gzip;q=0, deflate", "deflate"), ("br", None), ("identity", None), ("*", "gzip"), ("gzip;q=0", None)):
            answer = connection.request("POST", INFER, body, headers | {"Accept-Encoding": accepted})
            assert answer.headers.get("content-encoding") == chosen, accepted


def test_request_ids(server: RunningServer) -> None:
    with Http1Connection(server.http) as connection:
        for path, body in ((LIVE, b""), (INFER, json_request()), ("/v2", b""), ("/nothing", b"")):
            method = "POST" if body else "GET"
            assert connection.request(method, path, body, {"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
            assert len(connection.request(method, path, body).headers["x-request-id"]) == 36


def test_deadline_header(server: RunningServer) -> None:
    """The client's deadline is 504; the protocol's own timeout parameter 503, with a word on when to come again."""
    body = json_request(np.ones(1, np.float32))
    with Http1Connection(server.http) as connection:
        answer = connection.request("POST", "/v2/models/waits/infer", body, {"X-Request-Timeout-Ms": "50"})
        assert answer.status == 504
        answer = connection.request("POST", "/v2/models/waits/infer", json_request(np.ones(1, np.float32), parameters={"timeout": 20_000}))
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert connection.request("GET", LIVE).status == 200


def test_raw_body_of_one_tensor(server: RunningServer) -> None:
    """Inference-Header-Content-Length: 0 and nothing but the tensor's bytes; a batchable model gets a batch of one."""
    with Http1Connection(server.http) as connection:
        answer = connection.request("POST", INFER, FLOATS.tobytes(), {"Inference-Header-Content-Length": "0"})
        assert answer.status == 200
        assert answer.body.endswith(FLOATS.tobytes())


def test_connection_that_goes_away_frees_its_queue_place(server: RunningServer) -> None:
    with Http1Connection(server.http) as connection:
        connection.send(request_bytes("POST", "/v2/models/waits/infer", json_request(np.ones(1, np.float32))))
        # Answered by the same thread, behind the other.
        with Http1Connection(server.http) as other:
            assert other.request("GET", LIVE).status == 200
        # A plain close looks like a client that has only said all it had to say, and is found out a second later (test_half_close).
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with Http1Connection(server.http) as other:
        assert other.request("GET", LIVE).status == 200
    pair = [Http1Connection(server.http) for _ in range(2)]
    for value, one in enumerate(pair):
        one.send(request_bytes("POST", "/v2/models/waits/infer", json_request(np.full(1, value, np.float32))))
    assert [one.response().json()["outputs"][0]["data"] for one in pair] == [[0.0], [1.0]]
    for one in pair:
        one.close()


def test_labels_and_encoded_paths(server: RunningServer) -> None:
    body = json_request(np.ones((1, 2), np.float32))
    with Http1Connection(server.http) as connection:
        for path, version in (("/v2/models/scaled/infer", "1"), ("/v2/models/scaled/versions/2/infer", "2"),
                              ("/v2/models/scaled/labels/canary/infer", "3"), ("/v2/models/scaled/versions/canary/infer", "3"),
                              ("/v2/models/%73caled/versions/%32/infer?x=1", "2")):
            answer = connection.request("POST", path, body)
            assert (answer.status, answer.headers.get("x-headrace-version")) == (200, version), path
            assert answer.json()["model_version"] == version
            assert answer.json()["outputs"][0]["data"] == [float(version)] * 2
