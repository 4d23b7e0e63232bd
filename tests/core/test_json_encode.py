"""json_codec, encoding: what Python's json reads back, and that json_decode reads what json_encode wrote."""

import json
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from serve._core import json_encode
from tests.core.json_requests import decode

OK, INVALID_ARGUMENT, INTERNAL = 0, 2, 8
DTYPES = {name: np.dtype(name.lower()) for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")} | {
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BOOL": np.dtype(np.bool_),
}

Output = tuple[bytes, bytes, tuple[int, ...], bytes, bool]


def encode(outputs: list[Output], request_id: bytes | None = None, before: bytes = b"") -> tuple[bytes, int]:
    body, header_length, kind, text = json_encode.encode_for_test(b"m", b"1", request_id, outputs, before)
    assert (kind, text, body[: len(before)]) == (OK, "", before)
    return body[len(before) :], header_length


def refusal(output: Output) -> tuple[int, str]:
    fine: Output = (b"fine", b"INT8", (1,), b"\1", False)
    left, _, kind, text = json_encode.encode_for_test(b"m", b"1", None, [fine, output], b"kept")
    assert left == b"kept"
    return kind, text


def elements(datatype: str, array: NDArray[Any]) -> list[object]:
    body, header_length = encode([(b"y", datatype.encode(), array.shape, array.tobytes(), False)])
    assert header_length == -1
    (output,) = json.loads(body)["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", datatype, list(array.shape))
    return list(output["data"])


def framed(strings: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(s)) + s for s in strings)


@pytest.mark.parametrize("name", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_python_reads_the_same_values_of_the_same_type(name: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(DTYPES[name], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    got = elements(name, array)
    kind = float if name in ("FP32", "FP64") else bool if name == "BOOL" else int
    assert all(type(value) is kind for value in got)
    np.testing.assert_array_equal(np.array(got, array.dtype), array.ravel())


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32))
@example(1.0)
@example(-0.0)
@example(1e20)
@example(123456.0)
@example(1.401298464324817e-45)
@example(3.4028234663852886e38)
@example(16777216.0)
def test_fp32_is_short_and_exact(value: float) -> None:
    body, _ = encode([(b"y", b"FP32", (1,), struct.pack("<f", value), False)])
    text = body[body.rindex(b"[", 0, body.rindex(b"]}]}")) + 1 : body.rindex(b"]}]}")].decode()
    assert text in ("NaN", "Infinity", "-Infinity") or re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?", text)
    assert text in ("NaN", "Infinity", "-Infinity") or "." in text or "e" in text
    assert struct.pack("<f", float(text)) == struct.pack("<f", value) or value != value
    if np.isfinite(value):
        forms = (np.format_float_positional(np.float32(value), trim="-"), np.format_float_scientific(np.float32(value), trim="-"))
        assert len(text.removesuffix(".0")) <= min(map(len, forms))


@settings(max_examples=300, deadline=None)
@given(st.floats())
def test_fp64_is_exact(value: float) -> None:
    (got,) = elements("FP64", np.array([value]))
    assert type(got) is float
    assert struct.pack("<d", got) == struct.pack("<d", value) or value != value


def test_texts_of_special_numbers() -> None:
    array = np.array([1.0, -0.0, 1e20, 1e-7, 0.1, np.nan, np.inf, -np.inf, 5e-324, 1e22, 123456789.0], np.float64)
    body, _ = encode([(b"y", b"FP64", (11,), array.tobytes(), False)])
    assert body.endswith(b'"data":[1.0,-0.0,1e+20,1e-07,0.1,NaN,Infinity,-Infinity,5e-324,1e+22,123456789.0]}]}')


@pytest.mark.parametrize("name", DTYPES)
def test_many_elements(name: str) -> None:
    array = (np.arange(3000) * 7 % 120).astype(DTYPES[name])
    assert elements(name, array) == array.tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=6))
@example(['"\\/\b\f\n\r\t', "\0\x01\x1f\x7f", "é😀\u2028", ""])
def test_strings(strings: list[str]) -> None:
    data = framed([s.encode() for s in strings])
    body, _ = encode([(b"y", b"BYTES", (len(strings),), data, False)])
    assert json.loads(body)["outputs"][0]["data"] == strings


@pytest.mark.parametrize("text", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_strings_that_are_not_utf8(text: bytes) -> None:
    kind, message = refusal((b"y", b"BYTES", (2,), framed([b"fine", text]), False))
    assert kind == INVALID_ARGUMENT
    assert message == "output 'y' has bytes that are not UTF-8 and so no JSON form: ask for it with the parameter binary_data"
    body, header_length = encode([(b"y", b"BYTES", (1,), framed([text]), True)])
    assert body[header_length:] == framed([text])


@pytest.mark.parametrize("data", [b"\1", b"\1\0\0\0", b"\5\0\0\0abcd", framed([b"a"]) + b"\xff\xff\xff\xff"])
def test_torn_strings_are_our_fault(data: bytes) -> None:
    assert refusal((b"y", b"BYTES", (1,), data, False))[0] == INTERNAL


@pytest.mark.parametrize("name", [b"FP16", b"BF16"])
def test_half_floats_must_be_binary(name: bytes) -> None:
    kind, text = refusal((b"y", name, (1,), b"\0\0", False))
    assert kind == INVALID_ARGUMENT
    assert text == f"output 'y' is {name.decode()}, which has no JSON form: ask for it with the parameter binary_data"
    body, header_length = encode([(b"y", name, (1,), b"\1\2", True)])
    assert body[header_length:] == b"\1\2"


def test_the_whole_text() -> None:
    outputs: list[Output] = [
        (b"a", b"INT8", (1, 2), b"\1\xff", False),
        (b"b", b"BOOL", (), b"\1", False),
        (b"c", b"FP16", (2, 0), b"", True),
    ]
    expected = (
        b'{"id":"7","model_name":"m","model_version":"1","outputs":[{"name":"a","datatype":"INT8","shape":[1,2],"data":[1,-1]},'
        b'{"name":"b","datatype":"BOOL","shape":[],"data":[true]},{"name":"c","datatype":"FP16","shape":[2,0],"parameters":{"binary_data_size":0}}]}'
    )
    assert encode(outputs, b"7") == (expected, -1)
    assert encode([]) == (b'{"model_name":"m","model_version":"1","outputs":[]}', -1)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.tuples(st.binary(max_size=30), st.booleans()), max_size=6), before=st.binary(max_size=5))
def test_binary_tensors_in_order(parts: list[tuple[bytes, bool]], before: bytes) -> None:
    outputs: list[Output] = [(str(i).encode(), b"UINT8", (len(data),), data, binary) for i, (data, binary) in enumerate(parts)]
    body, header_length = encode(outputs, before=before)
    behind = b"".join(data for data, binary in parts if binary)
    assert (header_length == -1) == (behind == b"")
    json_length = len(body) if header_length == -1 else header_length
    assert body[json_length:] == behind
    for output, (data, binary) in zip(json.loads(body[:json_length])["outputs"], parts, strict=True):
        assert output["parameters"] == {"binary_data_size": len(data)} if binary else output["data"] == list(data)


@pytest.mark.parametrize("name", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_was_encoded_decodes_to_the_same_bits(name: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(DTYPES[name], hnp.array_shapes(max_dims=3, max_side=5)))
    array = np.where(np.isnan(array), array.dtype.type(1), array) if array.dtype.kind == "f" else array
    body, _ = encode([(b"y", name.encode(), array.shape, array.tobytes(), False)])
    request = decode(body.replace(b'"outputs"', b'"inputs"'))
    assert request["inputs"] == [(b"y", name, list(array.shape), array.tobytes())]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_names_and_ids_are_escaped(text: str) -> None:
    body, _ = encode([(text.encode(), b"INT8", (0,), b"", False)], text.encode())
    parsed = json.loads(body)
    assert parsed["id"] == parsed["outputs"][0]["name"] == text


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=20))
def test_errors_are_json_whatever_they_quote(text: bytes) -> None:
    text = text.replace(b"\0", b"")
    message = json.loads(json_encode.encode_error_for_test(text).decode())["error"]
    try:
        assert message == text.decode()
    except UnicodeDecodeError:
        assert message == re.sub(rb"[\x80-\xff]", b"?", text).decode()
