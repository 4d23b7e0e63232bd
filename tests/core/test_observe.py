"""What a judge sees of an answer, against numpy: the bin of the first row, and floats that are not finite."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

from serve._core.observe import observe_for_test
from tests.core import onnx_models as models

Array = np.ndarray[Any, Any]
FLOATS = ["FP16", "BF16", "FP32", "FP64"]
INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


def observed(kind: str, datatype: str, array: Array, **options: Any) -> tuple[int, bool]:
    shape, content = models.to_wire(array)
    return observe_for_test(kind, datatype, list(shape), content, **options)


def bin_of(kind: str, datatype: str, array: Array, **options: Any) -> int:
    return observed(kind, datatype, array, **options)[0]


@pytest.mark.parametrize("datatype", FLOATS + INTEGERS)
def test_classes_are_the_largest_of_the_first_row(datatype: str) -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        array = random.integers(0, 9, (3, 7)).astype(models.NUMPY_TYPES[datatype])
        assert bin_of("class", datatype, array, n_bins=7) == int(np.argmax(array[0]))
        assert bin_of("class", datatype, array[0], n_bins=7, batched=False) == int(np.argmax(array[0]))


def test_classes_of_a_deeper_output_are_those_of_its_first_vector() -> None:
    array = np.array([[[0, 1, 0], [9, 0, 0]]], np.float32)
    assert bin_of("class", "FP32", array, n_bins=3) == 1


def test_nan_is_no_class_and_a_class_beyond_the_bins_is_the_last() -> None:
    assert bin_of("class", "FP32", np.full((1, 3), np.nan, np.float32)) == -1
    assert bin_of("class", "FP32", np.array([[np.nan, 1, 2]], np.float32)) == 2
    assert bin_of("class", "FP32", np.array([[0, 1, 2]], np.float32), n_bins=2) == 1


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_are_their_own_bins_within_bounds(datatype: str) -> None:
    limits = np.iinfo(models.NUMPY_TYPES[datatype])
    for value in (limits.min, -5, 0, 1, 100, 65535, 65536, limits.max):
        if limits.min <= value <= limits.max:
            array = np.array([value, 3], models.NUMPY_TYPES[datatype])
            assert bin_of("integer", datatype, array) == min(max(value, 0), 65535)


def test_floats_fall_into_ascending_bins() -> None:
    """Every bfloat16 in order has the next bin; what lies between two has the bin of the one nearer to zero."""
    finite = [b for b in range(65536) if b & 0x7F80 != 0x7F80]
    values = np.array([np.array(b, np.uint16).view(models.NUMPY_TYPES["BF16"]).astype(np.float64) for b in finite])
    bins = [bin_of("float", "FP64", np.array([v])) for v in np.sort(values)]
    assert bins == sorted(bins)
    assert len(set(bins)) == len(finite) - 1                # both zeros are one
    assert bin_of("float", "FP32", np.array([1.0], np.float32)) == bin_of("float", "FP32", np.array([1.0078], np.float32))
    assert bin_of("float", "FP32", np.array([1.0], np.float32)) + 1 == bin_of("float", "FP32", np.array([1.008], np.float32))
    assert bin_of("float", "FP32", np.array([-0.0], np.float32)) == bin_of("float", "FP32", np.array([0.0], np.float32)) == 0x8000


@pytest.mark.parametrize("datatype", FLOATS)
def test_floats_of_every_datatype_share_bins(datatype: str) -> None:
    for value in (-np.inf, -3.5, -0.0, 0.0, 2.0**-20, 1.0, 448.0, np.inf):
        array = np.array([value], models.NUMPY_TYPES[datatype])
        assert bin_of("float", datatype, array) == bin_of("float", "FP64", np.array([value]))
    assert bin_of("float", datatype, np.array([np.nan], models.NUMPY_TYPES[datatype])) == -1


def test_texts_are_hashed() -> None:
    for text in (b"", b"cat", "Zürich".encode(), bytes(1000)):
        array = np.array([text, b"other"], np.object_)
        assert bin_of("text", "BYTES", array, n_bins=1024) == xxhash.xxh3_64_intdigest(text) % 1024


@pytest.mark.parametrize("kind", ["class", "integer", "float", "text"])
def test_what_has_no_value_has_no_bin(kind: str) -> None:
    assert bin_of(kind, "FP32", np.zeros((2, 0), np.float32)) == -1
    assert bin_of(kind, "BYTES", np.array([], np.object_)) == -1


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 1000])
def test_one_value_that_is_not_finite_is_found_anywhere(datatype: str, n: int) -> None:
    kind = models.NUMPY_TYPES[datatype]
    largest = float(ml_dtypes.finfo(kind).max)
    array = np.linspace(-1, 1, n).astype(kind)
    array[0] = largest
    assert not observed("float", datatype, array)[1]
    for at in range(0, n, max(1, n // 9)):
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            bad = array.copy()
            bad[at] = value
            assert observed("float", datatype, bad)[1], (at, value)


@pytest.mark.parametrize("datatype", [*INTEGERS, "BOOL"])
def test_integers_are_always_finite(datatype: str) -> None:
    content = np.frombuffer(b"\xff" * 64 if datatype != "BOOL" else b"\1" * 64, models.NUMPY_TYPES[datatype])
    assert not observed("integer", datatype, content)[1]
