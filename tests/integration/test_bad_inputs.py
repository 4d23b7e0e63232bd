"""Whatever is sent, the answer has the right status and says what is wrong, the next request is served, and nothing is kept."""

import psutil
import pytest

from serve.protocol import messages
from tests.integration.bad_inputs import GRPC, HTTP, Bad, BadCall
from tests.integration.http1_wire import Http1Connection
from tests.integration.http2_wire import GRPC as GRPC_HEADERS
from tests.integration.http2_wire import Http2Connection, framed
from tests.integration.payloads import FLOATS, INFER, grpc_answer, grpc_request, json_request
from tests.integration.running_server import RunningServer

TEXT_LIMIT = 600        # bytes: an error is a sentence, whatever the client has sent


def _check_error(status: int, headers: dict[str, str], body: dict[str, str], bad: Bad) -> None:
    assert status == bad.status, (status, body)
    assert headers["content-type"] == "application/json"
    assert list(body) == ["error"]
    assert body["error"]
    assert bad.text in body["error"]
    assert len(body["error"].encode()) < TEXT_LIMIT or bad.path != INFER


@pytest.mark.parametrize("bad", HTTP, ids=lambda bad: bad.name)
def test_over_http1(server: RunningServer, bad: Bad) -> None:
    with Http1Connection(server.http) as connection:
        answer = connection.request(bad.method, bad.path, bad.body, bad.headers)
        _check_error(answer.status, answer.headers, answer.json(), bad)
        assert "connection" not in answer.headers
        assert connection.request("POST", INFER, json_request()).json()["outputs"][0]["data"] == FLOATS.ravel().tolist()


@pytest.mark.parametrize("bad", HTTP, ids=lambda bad: bad.name)
def test_over_http2(server: RunningServer, bad: Bad) -> None:
    with Http2Connection(server.http) as connection:
        answer = connection.request(bad.method, bad.path, bad.body, bad.headers)
        _check_error(answer.status, answer.headers, answer.json(), bad)
        assert connection.request("POST", INFER, json_request()).json()["outputs"][0]["data"] == FLOATS.ravel().tolist()


@pytest.mark.parametrize("bad", GRPC, ids=lambda bad: bad.name)
def test_over_grpc(server: RunningServer, bad: BadCall) -> None:
    with Http2Connection(server.grpc) as connection:
        call = connection.call(bad.method, bad.message)
        trailers = call.trailers or call.headers
        assert call.grpc_status == bad.code, trailers
        assert call.body == b""
        assert bad.text in trailers["grpc-message"]
        assert len(trailers["grpc-message"]) < TEXT_LIMIT
        assert grpc_answer(connection.call("ModelInfer", grpc_request()).messages()[0]) == FLOATS.tobytes()


@pytest.mark.parametrize("bad", [bad for bad in GRPC if bad.method == "ModelInfer"], ids=lambda bad: bad.name)
def test_over_a_grpc_stream(server: RunningServer, bad: BadCall) -> None:
    """The error is an answer of its own; the stream goes on."""
    path, body = "/inference.GRPCInferenceService/ModelStreamInfer", framed(bad.message) + framed(grpc_request())
    with Http2Connection(server.grpc) as connection:
        stream = connection.request("POST", path, body, GRPC_HEADERS)
        assert stream.grpc_status == 0
        refused, served = map(messages.ModelStreamInferResponse.FromString, stream.messages())
        assert bad.text in refused.error_message
        assert served.infer_response.raw_output_contents[0] == FLOATS.tobytes()


def test_memory_stays_flat(server: RunningServer) -> None:
    """The whole table again and again: what was allocated for it is given back or used again."""
    worker = server.worker()

    def send_all() -> int:
        with Http1Connection(server.http) as one, Http2Connection(server.grpc) as two:
            for bad in HTTP:
                one.request(bad.method, bad.path, bad.body, bad.headers)
            for call in GRPC:
                two.call(call.method, call.message)
        return int(worker.memory_info().rss)

    for _ in range(5):
        send_all()
    before = send_all()
    for _ in range(15):
        after = send_all()
    assert after - before < 4 << 20, f"{before} bytes before, {after} after"
    assert worker.status() != psutil.STATUS_ZOMBIE


def test_the_log_has_no_errors(server: RunningServer) -> None:
    """Nothing that a client sends is our own fault."""
    assert server.errors() == []
