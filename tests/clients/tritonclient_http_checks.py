"""tritonclient.http: what only HTTP has. Usage: tritonclient_http_checks.py ADDRESSES"""

import gzip
import json
import time
import zlib
from typing import Any

import harness
import numpy as np
import tritonclient.http as library
from harness import raised, same, values

JSON_DATATYPES = [name for name in harness.NUMPY_TYPES if name not in ("FP16", "BF16")]
PACKABLE = harness.packable()


def _input(array: Any, datatype: str, *, name: str = "x", binary: bool = True) -> Any:
    return library.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def _json_values(datatype: str) -> Any:
    if datatype == "BYTES":
        return np.array([[b"", b"a", "grüß".encode()], [b'"', b"\\ \n", b"x" * 300]], np.object_)
    array = values(datatype)
    return np.where(np.isinf(array), array.dtype.type(7.0), array) if datatype.startswith("FP") else array


def check_json_in_and_out(client: Any) -> None:
    for datatype in JSON_DATATYPES:
        x = _json_values(datatype)
        outputs = [library.InferRequestedOutput("y", binary_data=False)]
        for binary in (False, True):
            result = client.infer(f"identity_{datatype.lower()}", [_input(x, datatype, binary=binary)], outputs=outputs)
            assert "data" in result.get_output("y"), datatype
            y = result.as_numpy("y")
            expected = np.vectorize(bytes.decode, otypes=[object])(x) if datatype == "BYTES" else x
            assert same(expected, y), (datatype, expected, y)


def check_json_in_binary_out(client: Any) -> None:
    x = _json_values("INT64")
    outputs = [library.InferRequestedOutput("y", binary_data=True)]
    result = client.infer("identity_int64", [_input(x, "INT64", binary=False)], outputs=outputs)
    assert result.get_output("y")["parameters"]["binary_data_size"] == x.nbytes
    assert same(result.as_numpy("y"), x)


def check_mixed_forms_in_one_request(client: Any) -> None:
    a, b = np.array([[1.5, 2.0]], np.float32), np.arange(6, dtype=np.int64).reshape(1, 2, 3)
    inputs = [_input(a, "FP32", name="a", binary=False), _input(b, "INT64", name="b")]
    outputs = [library.InferRequestedOutput("negated_b", binary_data=False), library.InferRequestedOutput("doubled_a", binary_data=True)]
    result = client.infer("two_by_two", inputs, outputs=outputs)
    assert same(result.as_numpy("negated_b"), -b)
    assert same(result.as_numpy("doubled_a"), a + a)
    assert result.as_numpy("sum") is None


def check_bytes_that_are_not_text_need_binary(client: Any) -> None:
    x = np.array([[b"\xff\xfe"]], np.object_)
    outputs = [library.InferRequestedOutput("y", binary_data=False)]
    error = raised(lambda: client.infer("identity_bytes", [_input(x, "BYTES")], outputs=outputs))
    assert error.status() == "400"
    assert "binary" in error.message()


def check_compressed_requests_and_responses(client: Any) -> None:
    x = _input(PACKABLE, "FP32")
    for algorithm in ("gzip", "deflate"):
        for options in ({"request_compression_algorithm": algorithm}, {"response_compression_algorithm": algorithm},
                        {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}):
            assert same(client.infer("identity_fp32", [x], **options).as_numpy("y"), PACKABLE), options


def check_response_is_really_compressed(client: Any) -> None:
    body, json_length = library.InferenceServerClient.generate_request_body([_input(PACKABLE, "FP32")])
    for algorithm, unpack in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        headers = {"Inference-Header-Content-Length": json_length, "Accept-Encoding": algorithm}
        response = client._post("v2/models/identity_fp32/infer", body, headers, None)
        assert response.get("Content-Encoding") == algorithm
        packed = response.read()
        assert len(packed) < PACKABLE.nbytes // 3
        content = unpack(packed)
        length = int(response.get("Inference-Header-Content-Length"))
        assert json.loads(content[:length])["outputs"][0]["parameters"]["binary_data_size"] == PACKABLE.nbytes
        assert content[length:] == PACKABLE.tobytes()


def check_static_bodies(client: Any) -> None:
    x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    body, json_length = library.InferenceServerClient.generate_request_body([_input(x, "FP32")], request_id="static")
    response = client._post("v2/models/scores/infer", body, {"Inference-Header-Content-Length": json_length}, None)
    length = response.get("Inference-Header-Content-Length")
    result = library.InferenceServerClient.parse_response_body(response.read(), header_length=int(length))
    assert same(result.as_numpy("y"), x)
    assert result.get_response()["id"] == "static"


def check_query_parameters(client: Any) -> None:
    assert client.is_server_live(query_params={"a": "b c"})
    x = _input(np.array([[1.0, 2.0, 3.0, 4.0]], np.float32), "FP32")
    assert client.infer("scores", [x], query_params={"trace": "1"}).as_numpy("y") is not None


def check_client_timeout(_client: Any) -> None:
    """The client gives up, and the connection that it drops takes the queued request with it."""
    x = _input(np.ones(1, np.float32), "FP32")
    with library.InferenceServerClient(harness.addresses()["http"], network_timeout=0.2) as impatient:
        started = time.monotonic()
        assert "timed out" in str(raised(lambda: impatient.infer("waits", [x])))
        assert time.monotonic() - started < 5
    with library.InferenceServerClient(harness.addresses()["http"], concurrency=2) as client:
        # Both are each other's company; were the first still queued, it would be one of them.
        pending = [client.async_infer("waits", [_input(np.full(1, value, np.float32), "FP32")]) for value in (5, 6)]
        assert [one.get_result().as_numpy("y").tolist() for one in pending] == [[5.0], [6.0]]


def check_many_at_once(_client: Any) -> None:
    with library.InferenceServerClient(harness.addresses()["http"], concurrency=16) as client:
        arrays = [np.full((1, 64), value, np.float32) for value in range(200)]
        pending = [client.async_infer("identity_fp32", [_input(array, "FP32")]) for array in arrays]
        assert all(same(one.get_result().as_numpy("y"), array) for one, array in zip(pending, arrays, strict=True))


if __name__ == "__main__":
    with library.InferenceServerClient(harness.addresses()["http"]) as only_client:
        harness.run(globals(), only_client)
