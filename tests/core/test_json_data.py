"""json_codec, the data of inputs: every datatype and nesting against numpy and Python's json, and the numbers that are no JSON."""

import json
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.core.json_requests import INVALID_ARGUMENT, body_of, decode, framed, refusal

INTEGERS = {name: np.dtype(name.lower()) for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")}
DTYPES = INTEGERS | {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64), "BOOL": np.dtype(np.bool_)}
NAMED = pytest.mark.parametrize("name", DTYPES)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)

Tensor = tuple[bytes, str, list[int], bytes]


def tensor(data: object, shape: list[int], datatype: str = "FP32") -> Tensor:
    (only,) = decode(body_of(data, shape, datatype))["inputs"]
    assert only[:3] == (b"x", datatype, shape)
    return cast("Tensor", only)


def refused(data: object, shape: list[int], datatype: str = "FP32") -> str:
    kind, text = refusal(body_of(data, shape, datatype))
    assert kind == INVALID_ARGUMENT
    return text


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
    others: list[object] = [2, -1, 1.0, "true", None, 2**64 - 1, {}]
    for value in others:
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
        body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":%s}]}' % data.encode()
        assert refusal(body)[0] == INVALID_ARGUMENT


def test_non_finite_numbers_are_values_and_nothing_else() -> None:
    whole = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]%s}'
    assert decode(whole % b"")["inputs"][0][1] == "FP32"
    for tail in (b",NaN:1", b",NaN", b',"a":NaN NaN', b',"parameters":{"timeout":Infinity}'):
        assert refusal(whole % tail)[0] == INVALID_ARGUMENT
