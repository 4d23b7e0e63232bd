"""json_codec: the document around the data, its bounds, and binary tensors behind it."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import json_codec
from tests.core.json_requests import INVALID_ARGUMENT, NOT_IMPLEMENTED, body_of, decode, framed, refusal

# --- the document -----------------------------------------------------------------------------------------------------------

PLAIN = (
    b'{"id":"7","parameters":{"timeout":5},"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.5,-2]}],"outputs":[{"name":"y"}]}'
)


def test_a_request_without_anything_optional() -> None:
    assert decode(body_of([1.0], [1])) == {
        "id": None,
        "inputs": [(b"x", "FP32", [1], struct.pack("<f", 1.0))],
        "outputs": [],
        "binary_default": False,
        "raw_body": False,
        "timeout_us": 0,
        "priority": 0,
        "empty_final_response": False,
    }


def test_a_request_with_everything() -> None:
    request = decode(
        json.dumps(
            {
                "outputs": [
                    {"name": "a"},
                    {"name": "b", "parameters": {"binary_data": False, "classification": 3}},
                    {"name": "ü", "parameters": {"binary_data": True, "mine": {"a": [1]}}},
                ],
                "model_name": "ignored",
                "ignored": {"inputs": [[]]},
                "id": 'é"\n',
                "inputs": [
                    {"ignored": 1, "data": ["s"], "parameters": {"content_type": "str"}, "datatype": "BYTES", "shape": [1, 1], "name": "x"},
                    {"name": "y", "shape": [1], "datatype": "UINT64", "data": [2**64 - 1]},
                ],
                "parameters": {
                    "timeout": 1000,
                    "priority": 2**64 - 1,
                    "binary_data_output": True,
                    "triton_enable_empty_final_response": True,
                    "mine": None,
                    "sequence_id": 0,
                    "sequence_start": False,
                    "sequence_end": False,
                    "sequence_length": 3,
                },
            }
        ).encode()
    )
    assert request == {
        "id": 'é"\n'.encode(),
        "inputs": [(b"x", "BYTES", [1, 1], b"\1\0\0\0s"), (b"y", "UINT64", [1], b"\xff" * 8)],
        "outputs": [(b"a", True, 0), (b"b", False, 3), ("ü".encode(), True, 0)],
        "binary_default": True,
        "raw_body": False,
        "timeout_us": 1000,
        "priority": 2**64 - 1,
        "empty_final_response": True,
    }


def test_null_is_absent() -> None:
    request = decode(body_of([1.0], [1], id=None, parameters=None, outputs=None))
    assert request["id"] is None
    assert request["outputs"] == []
    assert decode(body_of([1.0], [1], id=""))["id"] is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"[]", "the request must be an object, not an array"),
        (b"7", "the request must be an object, not an integer"),
        (b"NaN", "the request must be an object, not a number with a fraction or an exponent"),
        (b"{}", "the request has no 'inputs'"),
        (b'{"inputs":{}}', "'inputs' must be an array, not an object"),
        (b'{"inputs":[7]}', "an input must be an object, not an integer"),
        (b'{"inputs":[{}]}', "an input has no 'name'"),
        (b'{"inputs":[{"name":"x"}]}', "an input has no 'shape'"),
        (b'{"inputs":[{"name":"x","shape":[1]}]}', "an input has no 'datatype'"),
        (b'{"inputs":[{"name":1,"shape":[1],"datatype":"FP32"}]}', "the name of an input must be a string, not an integer"),
        (
            b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}',
            "input 'x' must have either 'data' or the parameter 'binary_data_size'",
        ),
        (b'{"inputs":[{"name":"x","shape":1,"datatype":"FP32","data":[]}]}', "the shape of an input must be an array, not an integer"),
        (
            b'{"inputs":[{"name":"x","shape":[1.0],"datatype":"FP32","data":[]}]}',
            "a dimension of an input's shape must be an integer, not a number with a fraction or an exponent",
        ),
        (
            b'{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[]}]}',
            "a dimension of an input's shape is -1, but must not be negative",
        ),
        (
            b'{"inputs":[{"name":"x","shape":[9223372036854775808],"datatype":"FP32","data":[]}]}',
            "a dimension of an input's shape is 9223372036854775808, over its limit of 9223372036854775807",
        ),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":7,"data":[]}]}', "the datatype of an input must be a string, not an integer"),
        (b'{"inputs":[{"name":"x","name":"y"}]}', "'name' appears more than once in an input"),
        (b'{"inputs":[],"inputs":[]}', "'inputs' appears more than once in the request"),
        (b'{"inputs":[],"outputs":[{"parameters":{}}]}', "an output has no 'name'"),
        (b'{"inputs":[],"outputs":[{"name":"y","name":"y"}]}', "'name' appears more than once in an output"),
        (b'{"inputs":[],"outputs":[7]}', "an output must be an object, not an integer"),
        (b'{"inputs":[],"outputs":7}', "'outputs' must be an array, not an integer"),
        (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}', "binary_data must be true or false, not an integer"),
        (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":-1}}]}', "classification is -1, but must not be negative"),
        (b'{"inputs":[],"id":7}', "'id' must be a string, not an integer"),
        (b'{"inputs":[],"parameters":[]}', "'parameters' must be an object, not an array"),
        (b'{"inputs":[],"parameters":{"timeout":"5"}}', "parameter 'timeout' must be an integer, not a string"),
        (b'{"inputs":[],"parameters":{"priority":-5}}', "parameter 'priority' is -5, but must not be negative"),
        (b'{"inputs":[],"parameters":{"binary_data_output":"yes"}}', "parameter 'binary_data_output' must be true or false, not a string"),
        (
            b'{"inputs":[],"parameters":{"triton_trace":1}}',
            "parameter keys starting with 'triton_' are reserved and should not be specified, got 'triton_trace'",
        ),
        (b'{"inputs":[],"parameters":{"sequence_id":5}}', "sequence batching is not supported: leave the parameter 'sequence_id' out"),
        (b'{"inputs":[],"parameters":{"sequence_id":"a"}}', "sequence batching is not supported: leave the parameter 'sequence_id' out"),
        (
            b'{"inputs":[],"parameters":{"sequence_start":true}}',
            "sequence batching is not supported: leave the parameter 'sequence_start' out",
        ),
    ],
)
def test_what_is_wrong_is_said(body: bytes, text: str) -> None:
    assert refusal(body) == (INVALID_ARGUMENT, text)


@pytest.mark.parametrize("name", ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"])
def test_shared_memory_is_not_implemented(name: str) -> None:
    with_input = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {name: 0}}]}
    with_output = {"inputs": [], "outputs": [{"name": "y", "parameters": {name: 0}}]}
    for request in (with_input, with_output):
        kind, text = refusal(json.dumps(request).encode())
        assert kind == NOT_IMPLEMENTED
        assert name in text


# --- bounds -----------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """A request in which the deepest value stands in `depth` containers."""
    return b'{"inputs":[],"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth() -> None:
    assert decode(nested(100))["inputs"] == []
    assert refusal(nested(101)) == (INVALID_ARGUMENT, "the JSON is nested deeper than 100 levels")
    text = f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"BYTES","data":["{"[" * 200}"]}}]}}'
    assert decode(text.encode())["inputs"][0][3] == framed(["[" * 200])


@pytest.mark.parametrize(
    "body", [b"[" * 10**6, b'{"a":' * 10**6, b"[{}" * 10**5, b"NaN," * 10**5, b'"' * 10**6, b"\\" * 10**6, b"," * 10**6]
)
def test_a_million_brackets(body: bytes) -> None:
    for text in (body, b'{"inputs":' + body, b"[NaN," + body):
        assert refusal(text)[0] == INVALID_ARGUMENT


def test_numbers_of_inputs_outputs_and_dimensions() -> None:
    def request(n_inputs: int, n_outputs: int, rank: int) -> bytes:
        one = {"name": "x", "shape": [1] * rank, "datatype": "INT8", "data": [1]}
        return json.dumps({"inputs": [one] * n_inputs, "outputs": [{"name": "y"}] * n_outputs}).encode()

    full = decode(request(128, 128, 16))
    assert len(full["inputs"]) == len(full["outputs"]) == 128
    assert full["inputs"][127][2] == [1] * 16
    assert refusal(request(129, 0, 1))[1] == "'inputs' has more than 128 items, the limit"
    assert refusal(request(1, 129, 1))[1] == "'outputs' has more than 128 items, the limit"
    assert refusal(request(1, 0, 17))[1] == "the shape of an input has more than 16 items, the limit"


@pytest.mark.parametrize("shape", [[2**62], [2**63 - 1], [2**32, 2**32], [2**40, 2**40, 0, 2**40, 1], [10**9], [2**63 - 1] * 16])
@pytest.mark.parametrize("name", ["FP32", "INT8", "FP64", "BYTES", "BOOL"])
def test_a_claimed_shape_allocates_nothing(shape: list[int], name: str) -> None:
    fields, kind, _, allocated = json_codec.decode_for_test(body_of(["a" if name == "BYTES" else 1], shape, name))
    assert (fields, kind) == (None, INVALID_ARGUMENT)
    assert allocated < 10_000


@pytest.mark.parametrize("name", ["FP64", "BYTES"])
def test_the_arena_is_bounded_by_what_was_received(name: str) -> None:
    body = body_of([""] * 50_000 if name == "BYTES" else [0] * 50_000, [50_000], name)
    assert json_codec.decode_for_test(body)[3] < 8 * len(body) + 10_000


@pytest.mark.parametrize("body", [PLAIN, PLAIN.replace(b"1.5", b"NaN").replace(b"-2", b"-Infinity")])
def test_cut_anywhere(body: bytes) -> None:
    assert decode(body)["id"] == b"7"
    for end in range(len(body)):
        assert refusal(body[:end])[0] == INVALID_ARGUMENT
    for end in range(1, len(body)):
        # Cut by the header instead: the missing byte is there, but it is no longer JSON.
        assert refusal(body, end)[0] == INVALID_ARGUMENT


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(PLAIN) - 1), st.sampled_from(b'{}[]",:0123456789.eE+-NaIty \\u\x00\x80\xff')), min_size=1, max_size=3
    )
)
def test_what_is_taken_is_json_that_means_it(changes: list[tuple[int, int]]) -> None:
    body = bytearray(PLAIN)
    for at, byte in changes:
        body[at] = byte
    request, kind, *_ = json_codec.decode_for_test(bytes(body))
    if request is None:
        assert kind in (INVALID_ARGUMENT, NOT_IMPLEMENTED)
        return
    meant = json.loads(bytes(body).decode("utf-8"))
    ((_, datatype, shape, content),) = decode(bytes(body))["inputs"]
    (given_input,) = meant["inputs"]
    assert (datatype, shape) == (given_input["datatype"], given_input["shape"])
    np.testing.assert_array_equal(np.frombuffer(content, np.float32), np.array(given_input["data"], np.float32).ravel())


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=80) | st.text(alphabet='{}[]",:0NaIfinty-', max_size=80).map(str.encode), json_length=st.integers(-3, 90))
def test_noise_is_refused(body: bytes, json_length: int) -> None:
    if json_length == 0:
        assert decode(body, 0)["raw_body"]
    else:
        assert refusal(body, json_length)[0] == INVALID_ARGUMENT


@pytest.mark.parametrize(
    "body", [b"\xef\xbb\xbf" + PLAIN, PLAIN + b"x", PLAIN + b"{}", PLAIN.replace(b"7", b"\xff"), PLAIN.replace(b"7", rb"\ud800"), b"", b" "]
)
def test_encodings_and_rests(body: bytes) -> None:
    assert refusal(body)[0] == INVALID_ARGUMENT


def test_white_space_is_no_matter() -> None:
    assert decode(b" \t\r\n" + json.dumps(json.loads(PLAIN), indent=3).encode() + b"\n\n") == decode(PLAIN)


def test_large_bodies_after_small_ones_and_back() -> None:
    for n in (10, 3_000_000, 5, 100_000, 1_500_000, 1):
        assert decode(body_of([1] * n, [n], "UINT8"))["inputs"][0][3] == b"\1" * n


# --- binary tensors -----------------------------------------------------------------------------------------------------------


def binary_body(parts: list[bytes | list[float]], sizes: list[int] | None = None, spaces: int = 0) -> tuple[bytes, int]:
    """bytes go behind the JSON, lists stay in it."""
    inputs: list[dict[str, object]] = []
    for i, part in enumerate(parts):
        one: dict[str, object] = {"name": str(i), "datatype": "UINT8", "shape": [len(part)]}
        if isinstance(part, bytes):
            one["parameters"] = {"binary_data_size": sizes[i] if sizes else len(part)}
        else:
            one["data"] = part
        inputs.append(one)
    head = json.dumps({"inputs": inputs}).encode() + b" " * spaces
    return head + b"".join(part for part in parts if isinstance(part, bytes)), len(head)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(st.binary(max_size=20) | st.lists(st.integers(0, 255), max_size=4), max_size=5), spaces=st.integers(0, 3))
def test_binary_tensors_in_order(parts: list[bytes | list[float]], spaces: int) -> None:
    body, json_length = binary_body(parts, spaces=spaces)
    request = decode(body, json_length)
    assert [content for *_, content in request["inputs"]] == [bytes(part) for part in parts]  # type: ignore[arg-type]
    if json_length < len(body):
        assert refusal(body + b"x", json_length)[1] == "1 bytes of the body are left behind its last binary tensor"
        assert refusal(body[:-1], json_length)[0] == INVALID_ARGUMENT
        assert refusal(body, -1)[0] == INVALID_ARGUMENT


def test_bytes_behind_the_json_are_not_json() -> None:
    body, json_length = binary_body([b'"}]}1234 NaN', b"\xff" * 70])
    assert decode(body, json_length)["inputs"][0][3] == b'"}]}1234 NaN'


@pytest.mark.parametrize("size", [5, 2**32, 2**63, 2**64 - 1])
def test_binary_data_size_beyond_the_body(size: int) -> None:
    body, json_length = binary_body([b"1234"], [size])
    kind, text = refusal(body, json_length)
    assert kind == INVALID_ARGUMENT
    assert text.startswith(f"input '0': binary_data_size is {size}, but 4 bytes are left behind the JSON")


@pytest.mark.parametrize("size", [-1, 4.0, "4", True, 2**64])
def test_binary_data_size_must_be_a_size(size: object) -> None:
    body, json_length = binary_body([b"1234"], [size])  # type: ignore[list-item]
    assert refusal(body, json_length)[0] == INVALID_ARGUMENT


def test_data_and_binary_data_size_together() -> None:
    body = json.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [1], "parameters": {"binary_data_size": 1}}]}
    ).encode()
    assert refusal(body + b"1", len(body))[1] == "input 'x' must have either 'data' or the parameter 'binary_data_size'"


def test_binary_data_size_without_the_header() -> None:
    body, _ = binary_body([b"1234"])
    assert refusal(body, -1)[0] == INVALID_ARGUMENT
    body, json_length = binary_body([b"1234"])
    assert "Inference-Header-Content-Length" in refusal(body[:json_length], -1)[1]
    empty, _ = binary_body([b""])
    assert decode(empty)["inputs"][0][3] == b""


@pytest.mark.parametrize("json_length", [-2, -(2**63), len(PLAIN) + 1, 2**63 - 1])
def test_header_out_of_range(json_length: int) -> None:
    kind, text = refusal(PLAIN, json_length)
    assert kind == INVALID_ARGUMENT
    assert "Inference-Header-Content-Length" in text


def test_header_of_the_whole_body() -> None:
    assert decode(PLAIN, len(PLAIN)) == decode(PLAIN)


@pytest.mark.parametrize("body", [b"", b"\0" * 12, PLAIN])
def test_raw_body(body: bytes) -> None:
    request = decode(body, 0)
    assert (request["raw_body"], request["binary_default"], request["outputs"]) == (True, True, [])
    assert request["inputs"] == [(b"", "", [], body)]


@pytest.mark.parametrize("name", ["FP16", "BF16", "FP32", "BYTES", "BOOL", "INT64"])
def test_every_datatype_may_be_binary(name: str) -> None:
    head = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": name, "parameters": {"binary_data_size": 3}}]}).encode()
    assert decode(head + b"abc", len(head))["inputs"] == [(b"x", name, [1], b"abc")]
