"""Datatype tables against numpy and onnx, sizes against Python's integers, bind_request against a plain reading of its rules."""

import math
import struct

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import tensors
from serve._core.tensors import KINDS
from serve.protocol import messages

SIZES = {name: size for _, name, size, *_ in tensors.datatype_table() if name}
ONNX_NAMES = {"FP32": "FLOAT", "FP64": "DOUBLE", "FP16": "FLOAT16", "BF16": "BFLOAT16", "BYTES": "STRING"}


def test_datatypes_are_numbered_as_in_the_model_configuration():
    for number, name, *_ in tensors.datatype_table():
        assert messages.DataType.Name(number) == f"TYPE_{({'': 'INVALID', 'BYTES': 'STRING'}).get(name, name)}"


def test_datatypes_have_the_sizes_of_numpy():
    numpy_names = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": "uint16"}
    for name, size in SIZES.items():
        assert size == (0 if name == "BYTES" else np.dtype(numpy_names.get(name, name.lower())).itemsize)


def test_datatypes_have_the_numbers_of_onnx():
    for number, name, _, onnx_type, by_name, by_onnx in tensors.datatype_table():
        assert onnx_type == onnx.TensorProto.DataType.Value(ONNX_NAMES.get(name, name) or "UNDEFINED")
        assert (by_name, by_onnx) == (number, number)


@given(st.binary(max_size=8) | st.sampled_from([name.encode() for name in SIZES]))
def test_only_the_names_of_the_protocol_are_datatypes(name):
    known = {entry[1].encode(): entry[0] for entry in tensors.datatype_table() if entry[1]}
    assert tensors.datatype_from_name_for_test(name) == known.get(name, 0)


@given(st.lists(st.one_of(st.integers(0, 5), st.integers(-1, 2**63 - 1)), max_size=16))
def test_element_count(shape):
    product = math.prod(shape)
    wanted = None if min(shape, default=0) < 0 or product >= 2**63 else product
    assert tensors.element_count_for_test(shape) == wanted


def framed(elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@given(st.lists(st.binary(max_size=9), max_size=5), st.binary(max_size=7))
def test_bytes_elements_are_counted(elements, tail):
    assert tensors.count_bytes_elements_for_test(framed(elements)) == len(elements)
    data, at, count = framed(elements) + tail, 0, 0
    while at + 4 <= len(data):
        at, count = at + 4 + int.from_bytes(data[at:at + 4], "little"), count + 1
    assert tensors.count_bytes_elements_for_test(data) == (count if at == len(data) else -1)


@pytest.mark.parametrize("data", [b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffabc", b"\0\0\0\0\x05\0\0\0abcd"])
def test_torn_bytes_elements(data):
    assert tensors.count_bytes_elements_for_test(data) == -1


# --- bind_request -------------------------------------------------------------------------------------------------------

ONE_INPUT = [(b"x", b"FP32", (-1, 4))]
TWO_INPUTS = [(b"a", b"FP32", (-1, 2)), (b"b", b"INT64", (-1, -1))]
ONE_OUTPUT = [(b"y", b"FP32", (-1, 2))]
TWO_OUTPUTS = [(b"y", b"FP32", (-1, 2)), (b"z", b"FP32", (-1,))]


def tensor(name, datatype, *shape):
    return name, datatype, shape, bytes(math.prod(shape) * SIZES[datatype.decode()])


def bound(*arguments, **options):
    got = tensors.bind_for_test(*arguments, **options)
    assert isinstance(got, dict), got
    return got


def refused(*arguments, **options):
    got = tensors.bind_for_test(*arguments, **options)
    assert isinstance(got, tuple), got
    assert got[0] == KINDS["INVALID_ARGUMENT"]
    return got[1]


def test_inputs_come_out_in_the_models_order():
    a, b = tensor(b"a", b"FP32", 3, 2), tensor(b"b", b"INT64", 3, 5)
    for given_inputs in ([a, b], [b, a]):
        got = bound(TWO_INPUTS, ONE_OUTPUT, 8, given_inputs)
        assert [entry[0] for entry in got["inputs"]] == [b"a", b"b"]
        assert [entry[3] for entry in got["inputs"]] == [a[3], b[3]]
        assert (got["rows"], got["outputs"]) == (3, None)


@pytest.mark.parametrize(("given_inputs", "text"), [
    ([tensor(b"q", b"FP32", 1, 4)], "unexpected inference input 'q' for model 'm'"),
    ([tensor(b"x", b"FP32", 1, 4)] * 2, "input 'x' already exists in request for model 'm'"),
    ([], "expected 1 inputs but got 0 inputs for model 'm'. Missing required input 'x'"),
    ([tensor(b"x", b"INT32", 1, 4)], "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'"),
    ([tensor(b"x", b"FP32", 4)], "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [4]"),
    ([tensor(b"x", b"FP32", 2, 5)], "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [2,5]"),
    ([tensor(b"x", b"FP32", 9, 4)], "inference request batch-size must be <= 8 for 'm'"),
    ([tensor(b"x", b"FP32", 0, 4)], "inference request batch-size must be >= 1 for 'm'"),
    ([(b"x", b"FP32", (2, 4), bytes(31))], "input byte size mismatch for input 'x' for model 'm'. Expected 32, got 31"),
    ([(b"x", b"FP32", (2, 4), b"")], "input byte size mismatch for input 'x' for model 'm'. Expected 32, got 0"),
])
def test_what_is_wrong_with_an_input_is_said(given_inputs, text):
    assert refused(ONE_INPUT, ONE_OUTPUT, 8, given_inputs) == text


def test_inputs_must_have_the_same_number_of_rows():
    text = refused(TWO_INPUTS, ONE_OUTPUT, 8, [tensor(b"a", b"FP32", 3, 2), tensor(b"b", b"INT64", 2, 5)])
    assert text == "input 'b' batch size does not match other inputs for 'm'"


def test_one_of_two_inputs_is_missing():
    text = refused(TWO_INPUTS, ONE_OUTPUT, 8, [tensor(b"a", b"FP32", 3, 2)])
    assert text == "expected 2 inputs but got 1 inputs for model 'm'. Missing required input 'b'"


def test_shapes_of_the_highest_rank_are_shown_whole():
    shape = (2**63 - 1,) * 16
    text = refused([(b"x", b"FP32", (-1,) * 15 + (3,))], ONE_OUTPUT, 0, [(b"x", b"FP32", shape, b"")])
    assert text.startswith(f"unexpected shape for input 'x' for model 'm'. Expected [{'-1,' * 15}3], got [{2**63 - 1},{2**63 - 1},")


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**62, 2)])
def test_sizes_over_64_bits_are_refused(shape):
    assert "unexpected shape" in refused([(b"x", b"FP32", (-1, -1))], ONE_OUTPUT, 0, [(b"x", b"FP32", shape, b"")])


def test_byte_sizes_over_64_bits_are_refused():
    assert "byte size mismatch" in refused([(b"x", b"FP64", (-1, -1))], ONE_OUTPUT, 0, [(b"x", b"FP64", (2**61, 1), b"")])
    assert "byte size mismatch" in refused([(b"x", b"FP64", (-1, 2**60))], ONE_OUTPUT, 2**40, [(b"x", b"FP64", (2**33, 2**60), b"")])


def test_a_model_that_is_not_batched_takes_its_shape_whole():
    got = bound([(b"x", b"FP32", (2, 3))], ONE_OUTPUT, 0, [tensor(b"x", b"FP32", 2, 3)])
    assert (got["rows"], got["shape_key"]) == (1, 0)
    assert bound([(b"x", b"FP32", (-1,))], ONE_OUTPUT, 0, [tensor(b"x", b"FP32", 0)])["rows"] == 1
    assert bound([(b"x", b"FP32", ())], ONE_OUTPUT, 0, [tensor(b"x", b"FP32")])["rows"] == 1


STRINGS = [(b"s", b"BYTES", (-1, 2))]


def test_bytes_elements_must_be_as_many_as_the_shape_says():
    assert bound(STRINGS, ONE_OUTPUT, 4, [(b"s", b"BYTES", (1, 2), framed([b"a", b""]))])["rows"] == 1
    text = refused(STRINGS, ONE_OUTPUT, 4, [(b"s", b"BYTES", (2, 2), framed([b"a", b"b", b"c"]))])
    assert text == "expected 4 string elements for inference input 's', got 3"
    text = refused(STRINGS, ONE_OUTPUT, 4, [(b"s", b"BYTES", (1, 2), framed([b"a", b"b"])[:-1])])
    assert text == "incomplete string data for inference input 's': an element or its 4-byte length runs past the 9 bytes given"


def test_shape_key_is_zero_when_only_the_batch_is_dynamic():
    assert bound(ONE_INPUT, ONE_OUTPUT, 8, [tensor(b"x", b"FP32", 3, 4)])["shape_key"] == 0


def test_shape_key_tells_shapes_apart_and_not_rows():
    specs = [(b"a", b"FP32", (-1, -1, 2)), (b"b", b"INT8", (-1, -1))]
    keys = {}
    for rows in (1, 2):
        for first in range(4):
            for second in range(4):
                given_inputs = [tensor(b"b", b"INT8", rows, second), tensor(b"a", b"FP32", rows, first, 2)]
                keys.setdefault((first, second), set()).add(bound(specs, ONE_OUTPUT, 8, given_inputs)["shape_key"])
    assert all(len(found) == 1 for found in keys.values())
    assert len(set().union(*keys.values())) == 16


def test_requested_outputs():
    given_inputs = [tensor(b"x", b"FP32", 1, 4)]
    assert bound(ONE_INPUT, TWO_OUTPUTS, 8, given_inputs, [b"z", b"y"])["outputs"] == [1, 0]
    assert refused(ONE_INPUT, TWO_OUTPUTS, 8, given_inputs, [b"z", b"q"]) == "unexpected inference output 'q' for model 'm'"
    assert refused(ONE_INPUT, TWO_OUTPUTS, 8, given_inputs, [b"z", b"z"]) == "output 'z' is requested more than once for model 'm'"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_against_a_plain_reading_of_the_rules(data):
    """Random signatures and requests close to them: bound if and only if every rule holds."""
    batched = data.draw(st.booleans())
    specs = []
    for i in range(data.draw(st.integers(1, 3))):
        inner = tuple(data.draw(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=2)))
        specs.append((b"in%d" % i, data.draw(st.sampled_from([b"FP32", b"INT8", b"INT64"])), ((-1,) if batched else ()) + inner))
    rows = data.draw(st.integers(0, 5))
    given_inputs = []
    for name, datatype, shape in specs:
        got = [data.draw(st.integers(0, 3)) if size < 0 else size for size in shape]
        if batched:
            got[0] = rows if data.draw(st.integers(0, 9)) else rows + 1
        if got and not data.draw(st.integers(0, 9)):
            got[data.draw(st.integers(0, len(got) - 1))] += 1
        size = math.prod(got) * SIZES[datatype.decode()] + (0 if data.draw(st.integers(0, 9)) else 1)
        given_inputs.append((name if data.draw(st.integers(0, 19)) else b"other", datatype, tuple(got), bytes(size)))
    given_inputs = data.draw(st.permutations(given_inputs))[data.draw(st.integers(0, 9)) == 0:]

    by_name = {name: entry for name, *entry in given_inputs}
    right = len(by_name) == len(given_inputs) and set(by_name) == {name for name, *_ in specs}
    for name, datatype, shape in specs if right else ():
        _, got, content = by_name[name]
        right &= all(size in (-1, actual) for size, actual in zip(shape, got, strict=True))
        right &= len(content) == math.prod(got) * SIZES[datatype.decode()]
    batch_sizes = {shape[0] for _, _, shape, _ in given_inputs if shape} if batched else {1}
    right &= len(batch_sizes) == 1 and min(batch_sizes) >= 1 and max(batch_sizes) <= 4

    answer = tensors.bind_for_test(specs, ONE_OUTPUT, 4 if batched else 0, given_inputs)
    assert isinstance(answer, dict) == right, answer
    if right:
        assert answer["rows"] == min(batch_sizes)
        assert answer["inputs"] == [(name, datatype, *by_name[name][1:]) for name, datatype, _ in specs]


# --- a raw body ---------------------------------------------------------------------------------------------------------

def raw(content):
    return [(b"", b"", (), content)]


@pytest.mark.parametrize(("spec", "max_batch", "nbytes", "shape"), [
    ((-1, 4), 8, 16, (1, 4)),
    ((-1, -1, 2), 8, 24, (1, 3, 2)),
    ((-1, -1), 8, 0, (1, 0)),
    ((2, -1), 0, 24, (2, 3)),
    ((2, 3), 0, 24, (2, 3)),
    ((-1,), 0, 4, (1,)),
    ((), 0, 4, ()),
])
def test_a_raw_body_gets_its_shape_from_the_model(spec, max_batch, nbytes, shape):
    got = bound([(b"x", b"FP32", spec)], ONE_OUTPUT, max_batch, raw(bytes(nbytes)), raw_body=True)
    assert got["inputs"] == [(b"x", b"FP32", shape, bytes(nbytes))]
    assert got["rows"] == 1


@pytest.mark.parametrize(("spec", "max_batch"), [((-1,), 0), ((1,), 0), ((-1, 1), 8), ((-1, -1), 8), ((-1,), 8)])
@pytest.mark.parametrize("content", [b"", b"all of it"])
def test_a_raw_body_is_one_bytes_element(spec, max_batch, content):
    got = bound([(b"s", b"BYTES", spec)], ONE_OUTPUT, max_batch, raw(content), raw_body=True)
    assert got["inputs"] == [(b"s", b"BYTES", (1,) * len(spec), framed([content]))]


@pytest.mark.parametrize(("specs", "max_batch", "nbytes", "text"), [
    (TWO_INPUTS, 8, 8, "a raw binary request needs a model with one input; model 'm' has 2"),
    ([(b"x", b"FP32", (-1, -1))], 0, 8, "has more than one variable-size dimension"),
    ([(b"x", b"FP32", (-1, -1, 2))], 8, 12, "does not divide into them"),
    ([(b"x", b"FP32", (-1, 0))], 0, 0, "does not divide into them"),
    ([(b"x", b"FP32", (-1, 4))], 8, 20, "Expected 16, got 20"),
    ([(b"s", b"BYTES", (-1, 2))], 8, 4, "takes more than one BYTES element"),
])
def test_raw_bodies_whose_shape_cannot_be_deduced(specs, max_batch, nbytes, text):
    assert text in refused(specs, ONE_OUTPUT, max_batch, raw(bytes(nbytes)), raw_body=True)
