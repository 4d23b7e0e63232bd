"""What the guard lets through and refuses, against a plain reading of its rules; and what a refusal says."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core.guard import NativeGuard
from serve.errors import InvalidArgument
from serve.models.guard_limits import InputLimits, native_guard
from serve.types import TensorSpec

DTYPES = {
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}
INTEGERS = [name for name in DTYPES if "INT" in name]


def x(datatype="FP32", *row):
    return (TensorSpec("x", datatype, (-1, *row)),)


def guard_of(inputs, limits, reject=("range", "category"), max_batch_size=64):
    guard = native_guard(inputs, max_batch_size, {"x": limits}, reject)
    assert guard is not None
    return guard


def refusal(guard, array, max_batch_size=64):
    return guard.check(max_batch_size, [(array.shape, array.tobytes())])[0]


def framed(elements):
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


# --- ranges -------------------------------------------------------------------------------------------------------------

def test_a_refusal_names_input_row_element_value_and_range():
    guard = guard_of(x("FP32", 3), InputLimits(low=[0, -1, 2], high=[1, 1, 2.5]))
    rows = np.array([[0, 0, 2], [0.5, 1.25, 2]], np.float32)
    assert refusal(guard, rows) == "input 'x' for model 'm': row 1, element 1 is 1.25; allowed is -1 to 1, the range of its baseline"
    rows[1, 1] = np.nan
    assert "row 1, element 1 is NaN; allowed is -1 to 1" in refusal(guard, rows)
    rows[0, 2] = -np.inf
    assert "row 0, element 2 is -Infinity; allowed is 2 to 2.5" in refusal(guard, rows)


def test_an_unbatched_model_has_no_rows():
    guard = native_guard((TensorSpec("x", "INT32", (2, 2)),), 0, {"x": InputLimits(low=[0], high=[9])}, ("range",))
    text, _ = guard.check(0, [((2, 2), np.array([[1, 2], [3, 10]], np.int32).tobytes())], model="digits")
    assert text == "input 'x' for model 'digits': element 3 is 10; allowed is 0 to 9, the range of its baseline"


def oracle(rows, low, high, may_miss):
    """(row, element) of the first value outside, None when there is none. Python's numbers compare exactly."""
    for at, row in enumerate(rows.tolist()):
        for element, value in enumerate(row):
            least, most = low[element % len(low)], high[element % len(high)]
            is_free = least is None and most is None
            if isinstance(value, float) and math.isnan(value):
                if not (may_miss[element % len(may_miss)] or is_free):
                    return at, element
            elif (least is not None and value < least) or (most is not None and value > most):
                return at, element
    return None


def values_of(datatype):
    if "FP" in datatype:
        width = int(datatype[2:])
        return st.floats(width=width) | st.sampled_from([0.0, 1.0, -1.0, 0.5])
    info = np.iinfo(DTYPES[datatype])
    return st.integers(info.min, info.max) | st.integers(max(info.min, -3), 3) | st.sampled_from([info.min, info.max])


@settings(max_examples=400)
@given(st.data())
def test_ranges_agree_with_a_plain_reading(data):
    datatype = data.draw(st.sampled_from([name for name in DTYPES if name != "BOOL"]))
    width, n_rows = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    n_limits = data.draw(st.sampled_from([1, width]))
    bound = st.none() | values_of(datatype).filter(lambda value: value == value)
    low, high = (data.draw(st.lists(bound, min_size=n_limits, max_size=n_limits)) for _ in range(2))
    may_miss = data.draw(st.lists(st.booleans(), min_size=n_limits, max_size=n_limits))
    row = st.lists(values_of(datatype), min_size=width, max_size=width)
    rows = np.array(data.draw(st.lists(row, min_size=n_rows, max_size=n_rows)), DTYPES[datatype])
    guard = guard_of(x(datatype, width), InputLimits(low=low, high=high, may_miss=may_miss))
    found, text = oracle(rows, low, high, may_miss), refusal(guard, rows)
    assert (f"row {found[0]}, element {found[1]} is " in text) if found else text == ""


def test_brain_floats():
    guard = guard_of(x("BF16", 2), InputLimits(low=[-1, 0], high=[1, 2]))
    assert refusal(guard, np.array([[0x3F80, 0x4000]], np.uint16)) == ""                # 1, 2
    assert "element 1 is 2.015625; allowed is 0 to 2" in refusal(guard, np.array([[0x3F80, 0x4001]], np.uint16))
    assert "element 0 is NaN" in refusal(guard, np.array([[0x7FC0, 0x4000]], np.uint16))


def test_a_limit_between_two_numbers_of_the_datatype_keeps_what_is_nearest_to_it():
    guard = guard_of(x("FP32", 1), InputLimits(low=[0.1], high=[0.3]))
    nearest = np.array([[0.1], [0.3]], np.float32)
    assert refusal(guard, nearest) == ""
    assert "row 0, element 0 is" in refusal(guard, np.nextafter(nearest, np.float32(1))[1:])


def test_limits_of_integers_are_whole_and_may_lie_outside_the_datatype():
    guard = guard_of(x("UINT8", 1), InputLimits(low=[-5], high=[3.7]))
    assert refusal(guard, np.array([[0], [3]], np.uint8)) == ""
    assert "row 0, element 0 is 4; allowed is 0 to 3" in refusal(guard, np.array([[4]], np.uint8))
    large = guard_of(x("UINT64", 1), InputLimits(low=[2**63], high=[2**64 - 1]))
    assert "is 9223372036854775807; allowed is 9223372036854775808 to" in refusal(large, np.array([[2**63 - 1]], np.uint64))


def test_rows_of_any_size_share_one_range():
    guard = guard_of(x("FP32", -1), InputLimits(low=[0], high=[1]))
    assert refusal(guard, np.zeros((2, 7), np.float32)) == ""
    rows = np.zeros((2, 7), np.float32)
    rows[1, 6] = 2
    assert "row 1, element 6 is 2; allowed is 0 to 1" in refusal(guard, rows)
    assert refusal(guard, np.zeros((2, 0), np.float32)) == ""


# --- categories ---------------------------------------------------------------------------------------------------------

def texts(*rows):
    return (len(rows), len(rows[0])), framed([value for row in rows for value in row])


def test_categories_of_texts():
    guard = guard_of(x("BYTES", 2), InputLimits(categories=[{b"red", b"green"}, None]))
    assert guard.check(64, [texts([b"red", b"anything"], [b"green", b""])])[0] == ""
    assert guard.check(64, [texts([b"red", b""], [b"blue", b"x"])])[0] == (
        "input 'x' for model 'm': row 1, element 0 is 'blue'; allowed are the categories of its baseline: green, red")
    assert "is 2 bytes of no text;" in guard.check(64, [texts([b"\xff\xfe", b""])])[0]
    assert "is 4 bytes of no text;" in guard.check(64, [texts([b"re\nd", b""])])[0]
    assert "element 0 is ''; allowed" in guard.check(64, [texts([b"", b""])])[0]


def test_a_long_value_and_many_categories_are_cut():
    guard = guard_of(x("BYTES", 1), InputLimits(categories=[{b"category-%04d" % at for at in range(1000)}]))
    text, _ = guard.check(64, [texts(["ü".encode() * 4000])])
    assert len(text) < 500
    assert text.endswith("category-0009, and 990 more")


def test_no_category_at_all():
    guard = guard_of(x("INT64", 1), InputLimits(categories=[set()]))
    assert "row 0, element 0 is -3; allowed are" in refusal(guard, np.array([[-3]]))


@settings(max_examples=200)
@given(st.data())
def test_categories_agree_with_sets(data):
    is_text = data.draw(st.booleans())
    datatype = "BYTES" if is_text else data.draw(st.sampled_from([*INTEGERS, "BOOL"]))
    value = st.binary(max_size=5) if is_text else st.booleans() if datatype == "BOOL" else values_of(datatype)
    width = data.draw(st.integers(1, 4))
    n_sets = data.draw(st.sampled_from([1, width]))
    sets = st.lists(st.none() | st.sets(value), min_size=n_sets, max_size=n_sets)
    allowed = data.draw(sets)
    some = sorted(set().union(*filter(None, allowed))) or [b"" if is_text else 0]
    rows = data.draw(st.lists(st.lists(value | st.sampled_from(some), min_size=width, max_size=width), min_size=1, max_size=4))
    guard = guard_of(x(datatype, width), InputLimits(categories=allowed))
    unknown = [(at, element) for at, row in enumerate(rows) for element, one in enumerate(row)
               if allowed[element % n_sets] is not None and one not in allowed[element % n_sets]]
    text = guard.check(64, [texts(*rows)])[0] if is_text else refusal(guard, np.array(rows, DTYPES[datatype]))
    assert (f"row {unknown[0][0]}, element {unknown[0][1]} is " in text) if unknown else text == ""


# --- making one ---------------------------------------------------------------------------------------------------------

def test_only_what_is_asked_for_is_checked():
    limits = InputLimits(low=[0], high=[9], categories=[{1, 2}])
    assert "range" in refusal(guard_of(x("INT32", 1), limits, ("range",)), np.array([[10]], np.int32))
    assert refusal(guard_of(x("INT32", 1), limits, ("range",)), np.array([[3]], np.int32)) == ""
    assert "categories" in refusal(guard_of(x("INT32", 1), limits, ("category",)), np.array([[3]], np.int32))
    assert native_guard(x("INT32", 1), 64, {"x": limits}, ()) is None
    assert native_guard(x("INT32", 1), 64, {"y": limits}, ("range",)) is None
    assert native_guard(x("FP32", 1), 64, {"x": InputLimits(low=[0], high=[1])}, ("category",)) is None


def test_several_inputs_are_checked_in_the_model_s_order():
    inputs = (TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "INT64", (-1,)))
    guard = native_guard(inputs, 8, {"b": InputLimits(low=[0], high=[1]), "a": InputLimits(low=[0], high=[1])}, ("range",))
    given_ = [((2, 1), np.array([[0], [5]], np.float32).tobytes()), ((2,), np.array([7, 0]).tobytes())]
    assert guard.check(8, given_)[0].startswith("input 'a' for model 'm': row 1, element 0 is 5;")
    given_[0] = ((2, 1), bytes(8))
    assert guard.check(8, given_)[0].startswith("input 'b' for model 'm': row 0, element 0 is 7;")


@pytest.mark.parametrize(("inputs", "limits", "text"), [
    (x("FP32", 3), InputLimits(low=[0, 0], high=[1, 1]), "limits of input 'x' are for 2 elements of a row; want 1 or 3"),
    (x("FP32", 3), InputLimits(low=[0, 0, 0], high=[1]), "limits of input 'x' are for 1 and 3 elements of a row; want 1 or 3"),
    (x("FP32", -1), InputLimits(low=[0] * 2, high=[1] * 2),
     "limits of input 'x' are for 2 elements of a row; want 1, as rows differ in size"),
    (x("FP32", 3), InputLimits(low=[0], high=[1], may_miss=[True] * 3), "limits of input 'x': may_miss has 3 entries, low 1"),
    (x("BYTES", 1), InputLimits(low=[0], high=[1]), "input 'x' is BYTES, which has no range; give categories"),
    (x("FP32", 1), InputLimits(categories=[{1}]), "input 'x' is FP32, which has no categories; give a range"),
    (x("INT8", 1), InputLimits(categories=[{b"a"}]), "category b'a' of input 'x': INT8 has int"),
])
def test_limits_that_do_not_fit_are_refused(inputs, limits, text):
    with pytest.raises(InvalidArgument) as raised:
        native_guard(inputs, 64, {"x": limits}, ("range", "category"))
    assert str(raised.value) == text


def test_an_unknown_input_is_our_own_bug():
    guard = guard_of(x("FP32", 1), InputLimits(low=[0], high=[1]))
    assert guard.inputs == x("FP32", 1)
    with pytest.raises(KeyError):
        NativeGuard(x("FP32", 1), {"y": None})      # type: ignore[dict-item]
