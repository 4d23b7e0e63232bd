"""tritonclient.grpc: what only gRPC has. Usage: tritonclient_grpc_checks.py ADDRESSES"""

import queue
import threading
from typing import Any

import harness
import numpy as np
import tritonclient.grpc as library
from harness import raised, same

FLOATS = np.array([[1.5, -2.0, 3.25, 0.0]], np.float32)
ONE = np.ones(1, np.float32)


def _input(array: Any, datatype: str = "FP32", name: str = "x") -> Any:
    return library.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


class _Stream:
    """Answers of a stream in the order in which they came."""

    def __init__(self, client: Any, **options: Any) -> None:
        self._client, self._answers = client, queue.Queue()
        client.start_stream(lambda result, error: self._answers.put(error or result), **options)

    def send(self, model: str, array: Any, **options: Any) -> None:
        self._client.async_stream_infer(model, [_input(array)], **options)

    def next(self) -> Any:
        return self._answers.get(timeout=10)

    def stop(self, **options: Any) -> None:
        self._client.stop_stream(**options)


def check_compression(client: Any) -> None:
    x = harness.packable()
    for algorithm in ("gzip", "deflate"):
        assert same(client.infer("identity_fp32", [_input(x)], compression_algorithm=algorithm).as_numpy("y"), x)


def check_client_timeout(client: Any) -> None:
    error = raised(lambda: client.infer("waits", [_input(ONE)], client_timeout=0.1))
    assert error.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert client.is_server_ready(client_timeout=5)


def check_cancelled_infer(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    call = client.async_infer("waits", [_input(ONE)], lambda result, error: done.put(error))
    call.cancel()
    assert "CANCELLED" in done.get(timeout=10).status()


def check_stream_answers_in_order(client: Any) -> None:
    stream = _Stream(client)
    for value in range(100):
        stream.send("identity_fp32", np.full((1, 1 + value % 7), value, np.float32), request_id=str(value))
    for value in range(100):
        result = stream.next()
        assert result.get_response().id == str(value)
        assert same(result.as_numpy("y"), np.full((1, 1 + value % 7), value, np.float32))
    stream.stop()


def check_errors_leave_the_stream_open(client: Any) -> None:
    stream = _Stream(client)
    stream.send("absent", FLOATS)
    stream.send("scores", FLOATS[:, :3])
    stream.send("scores", FLOATS)
    assert stream.next().message().startswith("Request for unknown model: 'absent' is not found")
    assert "shape" in stream.next().message()
    assert same(stream.next().as_numpy("y"), FLOATS)
    stream.stop()


def check_errors_end_the_stream_when_asked_to(client: Any) -> None:
    stream = _Stream(client, headers={"triton_grpc_error": "true"})
    stream.send("scores", FLOATS)
    assert same(stream.next().as_numpy("y"), FLOATS)
    stream.send("absent", FLOATS)
    error = stream.next()
    assert error.status() == "StatusCode.NOT_FOUND"
    assert error.message().startswith("Request for unknown model: 'absent' is not found")
    stream.stop()


def check_final_response(client: Any) -> None:
    stream = _Stream(client)
    stream.send("scores", FLOATS, enable_empty_final_response=True)
    stream.send("scores", FLOATS)
    assert stream.next().get_response().parameters["triton_final_response"].bool_param is True
    assert "triton_final_response" not in stream.next().get_response().parameters
    stream.stop()


def check_stream_timeout_parameter(client: Any) -> None:
    stream = _Stream(client)
    stream.send("waits", ONE, timeout=20_000)
    stream.send("scores", FLOATS)
    assert "Request timeout expired" in stream.next().message()
    assert same(stream.next().as_numpy("y"), FLOATS)
    stream.stop()


def check_stream_deadline(client: Any) -> None:
    stream = _Stream(client, stream_timeout=0.2)
    stream.send("waits", ONE)
    assert stream.next().status() == "StatusCode.DEADLINE_EXCEEDED"
    stream.stop()


def check_cancelled_stream(client: Any) -> None:
    stream = _Stream(client)
    stream.send("waits", ONE)
    stream.stop(cancel_requests=True)
    assert "CANCELLED" in stream.next().status()
    # Two requests are a batch of `waits`: they are each other's company, and none of the cancelled ones is among them.
    stream = _Stream(client)
    for value in (5, 6):
        stream.send("waits", np.full(1, value, np.float32))
    assert [stream.next().as_numpy("y").tolist() for _ in range(2)] == [[5.0], [6.0]]
    stream.stop()


def check_compressed_stream(client: Any) -> None:
    x = harness.packable()
    stream = _Stream(client, compression_algorithm="gzip")
    stream.send("identity_fp32", x)
    assert same(stream.next().as_numpy("y"), x)
    stream.stop()


def check_large_messages_in_a_stream(client: Any) -> None:
    x = np.random.default_rng(2).standard_normal((1, 1 << 20)).astype(np.float32)
    stream = _Stream(client)
    for _ in range(4):
        stream.send("identity_fp32", x)
    assert all(same(stream.next().as_numpy("y"), x) for _ in range(4))
    stream.stop()


def check_keepalive_options(_client: Any) -> None:
    options = library.KeepAliveOptions(keepalive_time_ms=1000, keepalive_timeout_ms=1000, keepalive_permit_without_calls=True)
    with library.InferenceServerClient(harness.addresses()["grpc"], keepalive_options=options) as client:
        assert same(client.infer("scores", [_input(FLOATS)]).as_numpy("y"), FLOATS)


def check_many_at_once(client: Any) -> None:
    arrays = [np.full((1, 64), value, np.float32) for value in range(300)]
    results: dict[int, Any] = {}
    finished = threading.Event()

    def done(index: int, result: Any, error: Any) -> None:
        results[index] = error or result
        if len(results) == len(arrays):
            finished.set()

    for index, array in enumerate(arrays):
        client.async_infer("identity_fp32", [_input(array)], lambda result, error, index=index: done(index, result, error))
    assert finished.wait(15)
    assert all(same(results[index].as_numpy("y"), array) for index, array in enumerate(arrays))


def check_http_port_speaks_grpc_too(_client: Any) -> None:
    with library.InferenceServerClient(harness.addresses()["http"]) as client:
        assert same(client.infer("scores", [_input(FLOATS)]).as_numpy("y"), FLOATS)


if __name__ == "__main__":
    with library.InferenceServerClient(harness.addresses()["grpc"]) as only_client:
        harness.run(globals(), only_client)
