"""One record a call while the access log is on, none while it is off."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core import onnx_models
from tests.core.loopback import Loopback, version, wait_until
from tests.core.plain_clients import GRPC_INFER, GRPC_STREAM, frame, grpc_infer, http_infer, http_request

X = np.array([[1, 2, 3]], np.float32)
JSON = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}).encode()
RING = 16384
Record = dict[str, Any]


class Logged(Loopback):
    """A server that serves m, version 3, and what it noted."""

    def __init__(self, path: Path, *, access_log: bool = True, **options: Any) -> None:
        super().__init__(access_log=access_log, **options)
        native = version(onnx_models.identity(path / "m.onnx"), self.pool, "m", "3", warm={"x": (3,)})
        self.table.publish({"m": ({"3": native}, native, None)})
        self.records: list[Record] = []

    def read(self, n: int) -> list[Record]:
        """The next `n` records: there must be exactly so many once every call is over."""
        def look() -> bool:
            self.records += self.server.drain_access_log()
            return len(self.records) >= n

        wait_until(look, f"{n} records")
        wait_until(lambda: self.total("live_calls") == 0, "every call to be over")
        self.records += self.server.drain_access_log()
        found, self.records = self.records, []
        assert len(found) == n, found
        return found


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Logged]:
    with Logged(tmp_path) as loop:
        yield loop


def without_times(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in ("wall_ns", "duration_ns")}


def test_an_inference_over_http1(loop: Logged) -> None:
    before_wall, before = time.time_ns(), time.monotonic_ns()
    request = http_request("/v2/models/m/infer?secret=1", JSON, "POST", "X-Request-Id: me")
    answer = loop.http().ask(request)
    (record,) = loop.read(1)
    assert without_times(record) == {
        "protocol": "http/1.1", "method": "POST", "path": "/v2/models/m/infer", "status": 200, "request_bytes": len(JSON),
        "answer_bytes": len(answer.body), "version": "3", "variant": "3", "request_id": "me",
    }
    assert 0 < record["duration_ns"] <= time.monotonic_ns() - before
    assert before_wall <= record["wall_ns"] <= time.time_ns()


def test_an_inference_over_http2(loop: Logged) -> None:
    client = loop.h2()
    stream = client.open("/v2/models/m/versions/3/infer", ("x-request-id", "me"))
    client.data(stream, JSON)
    answer = client.read(stream)
    (record,) = loop.read(1)
    assert without_times(record) == {
        "protocol": "http/2", "method": "POST", "path": "/v2/models/m/versions/3/infer", "status": 200, "request_bytes": len(JSON),
        "answer_bytes": len(answer.body), "version": "3", "variant": "3", "request_id": "me",
    }


def test_an_inference_over_grpc(loop: Logged) -> None:
    client = loop.h2()
    body = grpc_infer(X)
    answer = client.read(client.grpc(body))
    (record,) = loop.read(1)
    assert without_times(record) == {
        "protocol": "grpc", "method": "POST", "path": GRPC_INFER, "status": 0, "request_bytes": len(body), "answer_bytes": len(answer.body),
        "version": "3", "variant": "3", "request_id": answer.fields["x-request-id"],
    }


def test_a_stream_is_one_call(loop: Logged) -> None:
    client = loop.h2()
    body = grpc_infer(X) * 5
    answer = client.read(client.grpc(body, GRPC_STREAM))
    (record,) = loop.read(1)
    assert (record["path"], record["status"]) == (GRPC_STREAM, 0)
    assert (record["request_bytes"], record["answer_bytes"]) == (len(body), len(answer.body))


def test_chunks_are_counted_without_their_frames(loop: Logged) -> None:
    loop.http().ask(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + f"{len(JSON):x}\r\n".encode() + JSON + b"\r\n0\r\n\r\n")
    (record,) = loop.read(1)
    assert (record["status"], record["request_bytes"]) == (200, len(JSON))


def test_errors_are_noted_like_answers(loop: Logged) -> None:
    http, grpc = loop.http(), loop.h2()
    http.send(http_infer(np.ones((1, 2), np.float32)) + http_infer(X, "none") + http_request("/v2/models/m/infer", b"{"))
    assert [http.read().status for _ in range(3)] == [400, 404, 400]
    assert [record["status"] for record in loop.read(3)] == [400, 404, 400]
    assert grpc.read(grpc.grpc(grpc_infer(X, "none"))).fields["grpc-status"] == "5"
    (record,) = loop.read(1)
    assert (record["status"], record["version"], record["answer_bytes"]) == (5, "", 0)
    answer = loop.http().ask(b"NO SENSE\r\n\r\n")
    (record,) = loop.read(1)
    assert (record["protocol"], record["method"], record["path"], record["status"]) == ("http/1.1", "", "", answer.status)


def test_calls_that_python_answers_are_noted(loop: Logged) -> None:
    http, grpc = loop.http(), loop.h2()
    http.send(http_request("/v2", b"", "GET"))
    wait_until(lambda: loop.answer_slow_path(418, b"four") == 1, "the call")
    http.read()
    (record,) = loop.read(1)
    assert (record["method"], record["path"], record["status"], record["answer_bytes"]) == ("GET", "/v2", 418, 4)
    stream = grpc.grpc(frame(b"abc"), "/some.Service/Method")
    wait_until(lambda: loop.answer_slow_path() == 1, "the call")
    grpc.read(stream)
    (record,) = loop.read(1)
    assert (record["protocol"], record["path"], record["status"], record["request_bytes"]) == ("grpc", "/some.Service/Method", 12, 8)


def test_head_has_no_body(loop: Logged) -> None:
    client = loop.http()
    client.send(http_request("/v2/health/live", b"", "HEAD"))
    client.read(head_only=True)
    (record,) = loop.read(1)
    assert (record["method"], record["status"], record["answer_bytes"]) == ("HEAD", 200, 0)


def test_calls_that_end_unanswered_were_cancelled(loop: Logged) -> None:
    http, grpc = loop.http(), loop.h2()
    http.send(http_request("/v2", b"", "GET"))
    stream = grpc.open_grpc("/some.Service/Method")
    grpc.flush()
    wait_until(lambda: loop.total("control_calls") == 2, "both calls")
    http.socket.close()
    grpc.h2.reset_stream(stream)
    grpc.flush()
    assert {(record["protocol"], record["status"]) for record in loop.read(2)} == {("http/1.1", 499), ("grpc", 1)}


def test_long_texts_are_cut_and_strange_ones_escaped(loop: Logged) -> None:
    client = loop.http()
    client.send(http_request("/" + "p" * 200, b"", "GET", f"X-Request-Id: {'i' * 60}"))
    wait_until(lambda: loop.answer_slow_path() == 1, "the call")
    client.read()
    (record,) = loop.read(1)
    assert (record["path"], record["request_id"]) == ("/" + "p" * 127, "i" * 36)
    client.send(http_request("/v2/health/live", b"", "GET", "X-Request-Id: \xff").replace("\xff".encode(), b"\xff"))
    client.read()
    (record,) = loop.read(1)
    assert record["request_id"] == "\\xff"


def test_every_pipelined_call_has_a_record_in_order(loop: Logged) -> None:
    client = loop.http()
    client.send(b"".join(http_request("/v2/health/live", b"", "GET", f"X-Request-Id: {i}") for i in range(50)))
    for _ in range(50):
        client.read()
    assert [record["request_id"] for record in loop.read(50)] == [str(i) for i in range(50)]


def test_what_does_not_fit_is_dropped_and_counted(loop: Logged) -> None:
    client = loop.http()
    extra, batch = 100, 64
    total = RING + extra
    for start in range(0, total, batch):
        n = min(batch, total - start)
        client.send(http_request("/v2/health/live", method="GET") * n)
        for _ in range(n):
            client.read()
    wait_until(lambda: loop.total("live_calls") == 0, "every call to be over")
    assert len(loop.server.drain_access_log()) == RING
    assert loop.total("access_dropped") == extra
    client.ask(http_request("/v2/health/live", method="GET"))
    loop.read(1)


def test_off_means_no_records(tmp_path: Path) -> None:
    with Logged(tmp_path, access_log=False) as loop:
        assert loop.http().ask(http_infer(X)).status == 200
        grpc = loop.h2()
        grpc.read(grpc.grpc(grpc_infer(X)))
        wait_until(lambda: loop.total("live_calls") == 0, "every call to be over")
        assert loop.server.drain_access_log() == []
        assert loop.total("access_dropped") == 0


def test_records_of_several_threads(tmp_path: Path) -> None:
    with Logged(tmp_path, io_threads=2) as loop:
        for thread in (0, 1):
            assert loop.http(thread).ask(http_infer(X, "m", "", f"X-Request-Id: thread {thread}")).status == 200
        assert [record["request_id"] for record in loop.read(2)] == ["thread 0", "thread 1"]
