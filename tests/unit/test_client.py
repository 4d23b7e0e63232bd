"""The client against a small server that answers as the protocol says, and as it should not."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serve.client import Client, ClientError
from serve.client.tensors import DTYPES, array_from, datatype_of, from_bytes, from_json, to_bytes
from serve.types import IndexEntry, VersionState
from tests.unit.fake_server import FakeServer, can, fake_server

NUMERIC = sorted(name for name in DTYPES if name != "BYTES")


@pytest.fixture
def client() -> Iterator[Client]:
    with fake_server() as url, Client(url, timeout_s=10) as one:
        yield one


def test_arrays_go_out_and_come_back(client: Client) -> None:
    inputs: dict[str, Any] = {
        "f": np.arange(6, dtype=">f4").reshape(2, 3)[:, ::-1],       # foreign byte order, not contiguous
        "i": np.array([[1], [-2]], dtype=np.int64),
        "b": np.array(["ä", b"\x00\xff"], dtype=object).reshape(2, 1),
        "empty": np.empty((2, 0), dtype=np.uint8),
    }
    result = client.infer("echo", inputs, version="stable")
    assert (result.model_name, result.model_version, result.id, result.headers["x-request-id"]) == ("echo", "7", "x", "r")
    assert list(result.outputs) == list(inputs)
    np.testing.assert_array_equal(result.outputs["f"], inputs["f"])
    np.testing.assert_array_equal(result.outputs["i"], inputs["i"])
    assert result.outputs["b"].tolist() == [["ä".encode()], [b"\x00\xff"]]
    assert result.outputs["empty"].shape == (2, 0)
    verb, path, body = FakeServer.asked[0]
    assert (verb, path) == ("POST", "/v2/models/echo/versions/stable/infer")
    head = json.JSONDecoder().raw_decode(body.decode("latin-1"))[0]
    assert head["inputs"][0] == {"name": "f", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}
    assert head["parameters"] == {"binary_data_output": True}


def test_wanted_outputs_are_named(client: Client) -> None:
    client.infer("a/b ?", {"x": np.zeros(1, np.float32)}, outputs=["y"])
    _, path, body = FakeServer.asked[0]
    assert path == "/v2/models/a%2Fb%20%3F/infer"
    assert b'"outputs": [{"name": "y", "parameters": {"binary_data": true}}]' in body


def test_json_outputs_are_understood_too(client: Client) -> None:
    can("/v2/models/m/infer", {"model_name": "m", "model_version": "1", "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4.5]},
        {"name": "s", "datatype": "BYTES", "shape": [1, 2], "data": [["a", "ü"]]}]})
    outputs = client.infer("m", {"x": np.zeros(1, np.float32)}).outputs
    assert outputs["y"].tolist() == [[1, 2], [3, 4.5]]
    assert outputs["y"].dtype == np.float32
    assert outputs["s"].tolist() == [[b"a", "ü".encode()]]


def test_index_load_unload_metadata_and_readiness(client: Client) -> None:
    can("/v2/repository/index", [{"name": "a", "version": "1", "state": "READY"},
                                 {"name": "b", "state": "UNAVAILABLE", "reason": "broken"}])
    can("/v2/repository/models/a/load", b"")
    can("/v2/repository/models/a/unload", b"")
    can("/v2", {"name": "headrace"})
    can("/v2/models/a", {"name": "a"})
    can("/v2/health/ready", {"ready": True})
    can("/v2/models/a/ready", {"error": "no"}, 503)
    assert client.index() == [IndexEntry("a", "1", VersionState.READY), IndexEntry("b", "", VersionState.UNAVAILABLE, "broken")]
    can("/v2/models/a/versions/1", {"name": "a"})
    assert client.digests(client.index(ready=True)) == {}
    can("/v2/models/a/versions/1", {"name": "a", "headrace": {"digest": "sha256:12"}})
    assert client.digests(client.index()) == {("a", "1"): "sha256:12"}
    client.load("a")
    client.unload("a")
    assert (client.metadata(), client.metadata("a")) == ({"name": "headrace"}, {"name": "a"})
    assert (client.is_ready(), client.is_ready("a")) == (True, False)
    assert [body for _, path, body in FakeServer.asked if path.endswith("index")] == [b"{}", b'{"ready": true}', b"{}"]
    assert FakeServer.n_connections == 1


def test_errors_carry_status_and_the_servers_own_text(client: Client) -> None:
    can("/v2/models/m", {"error": "Request for unknown model: 'm' is not found"}, 404)
    can("/v2/models/n", b"<html>", 502)
    can("/v2/models/o", b"not json")
    with pytest.raises(ClientError, match="404: Request for unknown model") as caught:
        client.metadata("m")
    assert (caught.value.status, caught.value.text) == (404, "Request for unknown model: 'm' is not found")
    with pytest.raises(ClientError, match="502: <html>"):
        client.metadata("n")
    with pytest.raises(ClientError, match="no JSON"):
        client.metadata("o")


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1]}]}',
                                    b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"data":[1]}],"model_name":"m"}',
                                    b'{"outputs":[],"model_name":"m"}tail'])
def test_an_answer_out_of_form_is_an_error(client: Client, answer: bytes) -> None:
    can("/v2/models/m/infer", answer)
    with pytest.raises(ClientError, match="not in the protocol's form"):
        client.infer("m", {"x": np.zeros(1, np.float32)})


def test_a_connection_that_the_server_closed_is_replaced(client: Client) -> None:
    can("/v2", {"name": "headrace"})
    FakeServer.close_after = True
    for _ in range(3):
        assert client.metadata() == {"name": "headrace"}
    assert FakeServer.n_connections == 3


def test_nobody_there() -> None:
    with pytest.raises(ClientError, match=r"no answer from http://127\.0\.0\.1:1: ") as caught:
        Client("127.0.0.1:1").metadata()
    assert caught.value.status == 0
    with pytest.raises(ClientError, match="is no URL"):
        Client("ftp://x")


@given(st.data(), st.sampled_from(NUMERIC))
def test_numbers_survive_the_wire(data: st.DataObject, datatype: str) -> None:
    array = data.draw(hnp.arrays(DTYPES[datatype], hnp.array_shapes(max_dims=3, max_side=4)))
    assert datatype_of(array) == datatype
    back = from_bytes(datatype, array.shape, to_bytes(array))
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@given(st.lists(st.binary(max_size=20)))
def test_bytes_survive_the_wire(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert from_bytes("BYTES", array.shape, to_bytes(array)).tolist() == elements


def test_bf16_is_widened() -> None:
    assert from_bytes("BF16", [2], b"\x80\x3f\x00\xc0").tolist() == [1.0, -2.0]


@pytest.mark.parametrize(("data", "text"), [
    (b"\x01", "1 bytes after"), (b"\x05\0\0\0abc", "5 bytes where 3"), (b"\xff\xff\xff\xffa", "4294967295")])
def test_bytes_that_do_not_add_up(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        from_bytes("BYTES", [1], data)


def test_values_become_arrays_only_when_they_fit() -> None:
    assert array_from("FP32", [[1, 2.5]]).dtype == np.float32
    assert array_from("BYTES", [["a"]]).tolist() == [["a"]]
    with pytest.raises(ValueError, match="out of the range of UINT8"):
        array_from("UINT8", [256])
    with pytest.raises(TypeError, match="no INT64"):
        array_from("INT64", [1.5])
    with pytest.raises(ValueError, match="unknown"):
        from_json("COMPLEX", [1], [1])
    with pytest.raises(TypeError, match="complex128"):
        datatype_of(np.zeros(1, complex))
    with pytest.raises(TypeError, match="bytes or str, not int"):
        to_bytes(np.array([1], dtype=object))
