"""json_codec, decoding: against Python's json and numpy, and against what must be refused."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serve._core import json_codec

INVALID_ARGUMENT, NOT_IMPLEMENTED = 2, 9
INTEGERS = {name: np.dtype(name.lower()) for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")}
DTYPES = INTEGERS | {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64), "BOOL": np.dtype(np.bool_)}
NAMED = pytest.mark.parametrize("name", DTYPES)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)

Tensor = tuple[bytes, str, list[int], bytes]


def decode(body: bytes, json_length: int = -1) -> dict[str, Any]:
    request, _ = json_codec.decode_for_test(body, json_length)
    return dict(request)


def refusal(body: bytes, json_length: int = -1) -> tuple[int, str]:
    with pytest.raises(ValueError) as caught:
        decode(body, json_length)
    kind, text, _ = caught.value.args
    return int(kind), str(text)


def body_of(data: object, shape: object, datatype: object = "FP32", **others: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **others}).encode()


def tensor(data: object, shape: object, datatype: str = "FP32") -> Tensor:
    (only,) = decode(body_of(data, shape, datatype))["inputs"]
    assert only[:3] == (b"x", datatype, list(shape))  # type: ignore[call-overload]
    return only  # type: ignore[no-any-return]


def refused(data: object, shape: object, datatype: str = "FP32") -> str:
    kind, text = refusal(body_of(data, shape, datatype))
    assert kind == INVALID_ARGUMENT
    return text


def framed(strings: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(s.encode())) + s.encode() for s in strings)


# --- data into tensors ----------------------------------------------------------------------------------------------------


@NAMED
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_arrays_nested_and_flat(name: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(DTYPES[name], SHAPES))
    for values in (array.tolist(), array.ravel().tolist()):
        content = tensor(values, list(array.shape), name)[3]
        # NaN has many bit patterns, JSON one.
        np.testing.assert_array_equal(np.frombuffer(content, array.dtype).reshape(array.shape), array)


@settings(max_examples=60, deadline=None)
@given(strings=st.lists(st.text(max_size=12), max_size=6), ascii_only=st.booleans())
def test_strings(strings: list[str], ascii_only: bool) -> None:
    inputs = [{"name": "x", "shape": [len(strings)], "datatype": "BYTES", "data": strings}]
    body = json.dumps({"inputs": inputs}, ensure_ascii=ascii_only).encode()
    assert decode(body)["inputs"][0][3] == framed(strings)


def test_nested_strings_with_every_escape() -> None:
    body = rb'{"inputs":[{"name":"x","shape":[2,2],"datatype":"BYTES","data":[["\"\\\/\b\f\n\r\t","\u0000"],["\u00e9\ud83d\ude00",""]]}]}'
    assert decode(body)["inputs"][0][3] == framed(['"\\/\b\f\n\r\t', "\0", "é😀", ""])


@settings(max_examples=100, deadline=None)
@given(st.floats(width=32, allow_nan=False) | st.floats(allow_nan=False) | st.integers(-(10**25), 10**25))
def test_fp32_is_numpys_cast_and_overflow_is_refused(value: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.float32(float(value))
    if np.isinf(expected) and not np.isinf(float(value)):
        assert "outside FP32's range" in refused([value], [1])
    else:
        assert tensor([value], [1])[3] == expected.tobytes()


def test_integers_beyond_64_bits_are_floats() -> None:
    values = [10**20, -(10**20), 2**64, 2**64 - 1, -(2**63), -(2**63) - 1, 10**300, 1.5, float("nan"), 10**19, 3]
    assert np.frombuffer(tensor(values, [11], "FP64")[3]).tolist() == pytest.approx([float(v) for v in values], rel=0, nan_ok=True)
    for name in ("INT64", "UINT64"):
        assert "takes integers" in refused([2**64], [1], name)


@pytest.mark.parametrize("name", INTEGERS)
def test_integer_ranges(name: str) -> None:
    info = np.iinfo(INTEGERS[name])
    assert tensor([info.min, info.max, 0], [3], name)[3] == np.array([info.min, info.max, 0], info.dtype).tobytes()
    for value in (info.min - 1, info.max + 1):
        text = refused([0, value], [2], name)
        if -(2**63) <= value < 2**64:
            assert text == f"input 'x': element 1 is {value}, outside {name}'s range of {info.min} to {info.max}"


@pytest.mark.parametrize("value", [1.0, "1", True, None, [], {}, float("nan")])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers_take_nothing_else(name: str, value: object) -> None:
    refused([0, value], [2], name)


def test_an_integer_with_an_exponent_is_a_float() -> None:
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[1e2]}]}'
    assert refusal(body)[1] == "input 'x': element 0 is a number with a fraction or an exponent, but INT32 takes integers"


def test_bool_takes_bits() -> None:
    assert tensor([True, False, 0, 1], [4], "BOOL")[3] == b"\1\0\0\1"
    for value in (2, -1, 1.0, "true", None, 2**64 - 1, {}):
        assert "BOOL takes true, false, 0 and 1" in refused([value], [1], "BOOL")


@pytest.mark.parametrize("value", ["1", True, None, {}])
def test_floats_take_only_numbers(value: object) -> None:
    assert "takes numbers" in refused([0.5, value], [2])
    assert "takes numbers" in refused([0.5, value], [2], "FP64")


@pytest.mark.parametrize("value", [1, 1.5, True, None, {}])
def test_bytes_take_only_strings(value: object) -> None:
    assert "BYTES takes strings" in refused(["a", value], [2], "BYTES")


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_half_floats_have_no_json_form(name: str) -> None:
    assert "send it as a binary tensor" in refused([1.0], [1], name)


@pytest.mark.parametrize("name", ["", "FP33", "fp32", "FP32 ", "STRING", "FP32\0"])
def test_unknown_datatypes(name: str) -> None:
    assert "is no datatype" in refused([1.0], [1], name)


# --- nesting ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2, 3, 4], [4]),
        ([[1, 2], [3, 4]], [2, 2]),
        ([1, 2, 3, 4], [2, 2]),
        ([[1, 2, 3, 4]], [4]),
        ([[1, 2], [3, 4]], [1, 2, 2]),
        ([[1, 2], [3, 4]], [4]),
        ([[[[1], [2]], [[3], [4]]]], [2, 2]),
        ([1, 2, 3, 4], [1, 1, 1, 1, 4, 1]),
    ],
)
def test_nesting_that_is_taken(data: object, shape: list[int]) -> None:
    assert tensor(data, shape, "UINT8")[3] == b"\1\2\3\4"


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([], [0]),
        ([[], []], [2, 0]),
        ([[], []], [2, 0, 3]),
        ([], [0, 5]),
        ([], [2**40, 0, 2**40]),
    ],
)
def test_empty_tensors(data: object, shape: list[int]) -> None:
    assert tensor(data, shape)[3] == b""


def test_a_scalar_is_taken_for_rank_0_only() -> None:
    assert tensor(7, [], "UINT8")[3] == b"\7"
    assert tensor([7], [], "UINT8")[3] == b"\7"
    assert tensor("seven", [], "BYTES")[3] == framed(["seven"])
    assert "no array" in refused(7, [1], "UINT8")
    assert "takes integers" in refused({}, [], "UINT8")


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2, 3], [4]),
        ([1, 2, 3, 4, 5], [4]),
        ([[1, 2], [3, 4], [5, 6]], [2, 3]),
        ([[1, 2, 3], [4]], [2, 2]),
        ([[1], [2, 3], [4]], [4]),
        ([1, [2, 3, 4]], [4]),
        ([[1, 2, 3], 4], [4]),
        ([[1, 2], [[3], [4]]], [2, 2]),
        ([[[1], [2]], [3, 4]], [2, 2]),
        ([[], [1, 2, 3, 4]], [4]),
        ([[1, 2, 3, 4], []], [4]),
        ([[]], [0, 4]),
        ([[[]], []], [0]),
        ([[], [[]]], [0]),
        ([[[1, 2]], [[3], [4]]], [4]),
        ([1], [0]),
        ([], [1]),
        ([], []),
        ([1, 2], []),
    ],
)
@pytest.mark.parametrize("name", ["FP32", "UINT8", "INT64"])
def test_nesting_that_is_refused(data: object, shape: list[int], name: str) -> None:
    assert "input 'x': " in refused(data, shape, name)


NESTED = st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@settings(max_examples=200, deadline=None)
@given(data=st.lists(NESTED, max_size=3), shape=st.lists(st.integers(0, 3), max_size=3))
def test_nesting_is_taken_exactly_when_numpy_sees_a_rectangle(data: list[object], shape: list[int]) -> None:
    """The oracle: a rectangular array (numpy refuses others) of the right size, and of the very shape when the rank is the shape's."""
    try:
        array = np.array(data, np.uint8)
    except ValueError:
        array = None
    fits = array is not None and array.size == np.prod(shape) and (array.ndim != len(shape) or list(array.shape) == shape)
    if fits and array is not None:
        assert tensor(data, shape, "UINT8")[3] == array.tobytes()
    else:
        refused(data, shape, "UINT8")


# --- numbers that are no JSON -------------------------------------------------------------------------------------------------

SPECIAL = st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.5, 7, -3, 2**70, 1e300])
TRICKY = st.text(alphabet='NaInfity-"\\[]{},: \n0', max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(SPECIAL, min_size=1, max_size=8),
    strings=st.lists(TRICKY, max_size=4),
    more=st.lists(SPECIAL, max_size=4),
    indent=st.sampled_from([None, 1]),
)
def test_non_finite_numbers_among_others(numbers: list[float], strings: list[str], more: list[float], indent: int | None) -> None:
    inputs = [
        {"name": "a", "shape": [len(strings)], "datatype": "BYTES", "data": strings},
        {
            "name": "b",
            "shape": [len(numbers)],
            "datatype": "FP64",
            "data": numbers,
            "parameters": {"NaN": float("nan"), "n": 1, "ok": [True, None, False]},
        },
        {"name": "c", "shape": [len(more)], "datatype": "FP64", "data": more},
    ]
    got = decode(json.dumps({"ignored": more, "inputs": inputs, "Infinity": [{}, [[]], "-Infinity"]}, indent=indent).encode())["inputs"]
    assert got[0][3] == framed(strings)
    for content, values in ((got[1][3], numbers), (got[2][3], more)):
        floats = np.frombuffer(content)
        np.testing.assert_array_equal(floats, np.array([float(v) for v in values]))
        np.testing.assert_array_equal(np.signbit(floats), [np.signbit(float(v)) for v in values])


@pytest.mark.parametrize(
    "word",
    [
        "nan",
        "NAN",
        "-NaN",
        "+NaN",
        "NaNs",
        "xNaN",
        "1NaN",
        "Inf",
        "inf",
        "+Infinity",
        "--Infinity",
        "Infinity1",
        "Infinit",
        "-",
        "1e400",
        "-1e999",
        "0x10",
        "01",
        "1.",
        ".5",
        "NaN NaN",
        "NaN1",
    ],
)
def test_other_words_are_refused(word: str) -> None:
    for data in (f"[{word}]", f"[NaN, {word}]", f"[{word}, Infinity]"):
        body = '{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":%s}]}' % data
        assert refusal(body.encode())[0] == INVALID_ARGUMENT


def test_non_finite_numbers_are_values_and_nothing_else() -> None:
    whole = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]%s}'
    assert decode(whole % b"")["inputs"][0][1] == "FP32"
    for tail in (b",NaN:1", b",NaN", b',"a":NaN NaN', b',"parameters":{"timeout":Infinity}'):
        assert refusal(whole % tail)[0] == INVALID_ARGUMENT


# --- the document -----------------------------------------------------------------------------------------------------------

PLAIN = (
    b'{"id":"7","parameters":{"timeout":5},"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.5,-2]}],"outputs":[{"name":"y"}]}'
)


def test_a_request_without_anything_optional() -> None:
    assert decode(body_of([1.0], [1])) == {
        "id": None, "inputs": [(b"x", "FP32", [1], struct.pack("<f", 1.0))], "outputs": [], "binary_default": False, "raw_body": False,
        "timeout_us": 0, "priority": 0, "empty_final_response": False,
    }  # fmt: skip


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
                    "timeout": 1000, "priority": 2**64 - 1, "binary_data_output": True, "triton_enable_empty_final_response": True, "mine": None,
                    "sequence_id": 0, "sequence_start": False, "sequence_end": False, "sequence_length": 3,
                },
            }
        ).encode()
    )  # fmt: skip
    assert request == {
        "id": 'é"\n'.encode(), "inputs": [(b"x", "BYTES", [1, 1], b"\1\0\0\0s"), (b"y", "UINT64", [1], b"\xff" * 8)],
        "outputs": [(b"a", True, 0), (b"b", False, 3), ("ü".encode(), True, 0)], "binary_default": True, "raw_body": False,
        "timeout_us": 1000, "priority": 2**64 - 1, "empty_final_response": True,
    }  # fmt: skip


def test_null_is_absent() -> None:
    request = decode(body_of([1.0], [1], id=None, parameters=None, outputs=None))
    assert request["id"] is None and request["outputs"] == []
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
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}', "input 'x' must have either 'data' or the parameter 'binary_data_size'"),
        (b'{"inputs":[{"name":"x","shape":1,"datatype":"FP32","data":[]}]}', "the shape of an input must be an array, not an integer"),
        (b'{"inputs":[{"name":"x","shape":[1.0],"datatype":"FP32","data":[]}]}',
         "a dimension of an input's shape must be an integer, not a number with a fraction or an exponent"),
        (b'{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[]}]}', "a dimension of an input's shape is -1, but must not be negative"),
        (b'{"inputs":[{"name":"x","shape":[9223372036854775808],"datatype":"FP32","data":[]}]}',
         "a dimension of an input's shape is 9223372036854775808, over its limit of 9223372036854775807"),
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
        (b'{"inputs":[],"parameters":{"triton_trace":1}}',
         "parameter keys starting with 'triton_' are reserved and should not be specified, got 'triton_trace'"),
        (b'{"inputs":[],"parameters":{"sequence_id":5}}', "sequence batching is not supported: leave the parameter 'sequence_id' out"),
        (b'{"inputs":[],"parameters":{"sequence_id":"a"}}', "sequence batching is not supported: leave the parameter 'sequence_id' out"),
        (b'{"inputs":[],"parameters":{"sequence_start":true}}', "sequence batching is not supported: leave the parameter 'sequence_start' out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(body: bytes, text: str) -> None:
    assert refusal(body) == (INVALID_ARGUMENT, text)


@pytest.mark.parametrize("name", ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"])
def test_shared_memory_is_not_implemented(name: str) -> None:
    with_input = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {name: 0}}]}
    with_output = {"inputs": [], "outputs": [{"name": "y", "parameters": {name: 0}}]}
    for request in (with_input, with_output):
        kind, text = refusal(json.dumps(request).encode())
        assert kind == NOT_IMPLEMENTED and name in text


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
    assert len(full["inputs"]) == len(full["outputs"]) == 128 and full["inputs"][127][2] == [1] * 16
    assert refusal(request(129, 0, 1))[1] == "'inputs' has more than 128 items, the limit"
    assert refusal(request(1, 129, 1))[1] == "'outputs' has more than 128 items, the limit"
    assert refusal(request(1, 0, 17))[1] == "the shape of an input has more than 16 items, the limit"


@pytest.mark.parametrize("shape", [[2**62], [2**63 - 1], [2**32, 2**32], [2**40, 2**40, 0, 2**40, 1], [10**9], [2**63 - 1] * 16])
@pytest.mark.parametrize("name", ["FP32", "INT8", "FP64", "BYTES", "BOOL"])
def test_a_claimed_shape_allocates_nothing(shape: list[int], name: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode(body_of(["a" if name == "BYTES" else 1], shape, name))
    kind, _, allocated = caught.value.args
    assert kind == INVALID_ARGUMENT and allocated < 10_000


@pytest.mark.parametrize("name", ["FP64", "BYTES"])
def test_the_arena_is_bounded_by_what_was_received(name: str) -> None:
    body = body_of([""] * 50_000 if name == "BYTES" else [0] * 50_000, [50_000], name)
    assert json_codec.decode_for_test(body)[1] < 8 * len(body) + 10_000


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
    try:
        request = decode(bytes(body))
    except ValueError:
        return
    meant = json.loads(bytes(body).decode("utf-8"))
    assert len(request["inputs"]) == 1
    (_, datatype, shape, content), (given_input,) = request["inputs"][0], meant["inputs"]
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
        assert tensor([1] * n, [n], "UINT8")[3] == b"\1" * n


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
    assert kind == INVALID_ARGUMENT and text.startswith(f"input '0': binary_data_size is {size}, but 4 bytes are left behind the JSON")


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
    assert kind == INVALID_ARGUMENT and "Inference-Header-Content-Length" in text


def test_header_of_the_whole_body() -> None:
    assert decode(PLAIN, len(PLAIN)) == decode(PLAIN)


@pytest.mark.parametrize("body", [b"", b"\0" * 12, PLAIN])
def test_raw_body(body: bytes) -> None:
    request = decode(body, 0)
    assert request["raw_body"] and request["binary_default"] and request["outputs"] == []
    assert request["inputs"] == [(b"", "", [], body)]


@pytest.mark.parametrize("name", ["FP16", "BF16", "FP32", "BYTES", "BOOL", "INT64"])
def test_every_datatype_may_be_binary(name: str) -> None:
    head = json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": name, "parameters": {"binary_data_size": 3}}]}).encode()
    assert decode(head + b"abc", len(head))["inputs"] == [(b"x", name, [1], b"abc")]
