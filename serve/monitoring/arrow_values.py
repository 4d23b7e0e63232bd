"""Columns of Arrow as the buffers that the kernels take, without a copy where Arrow's layout is theirs already."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serve._core.tensors import datatype_table
from serve.errors import InvalidArgument

Bytes = npt.NDArray[np.uint8]

_NUMBERS = {name: number for number, name, *_ in datatype_table()}
_DATATYPES = {
    pa.uint8(): "UINT8", pa.uint16(): "UINT16", pa.uint32(): "UINT32", pa.uint64(): "UINT64", pa.int8(): "INT8", pa.int16(): "INT16",
    pa.int32(): "INT32", pa.int64(): "INT64", pa.float16(): "FP16", pa.float32(): "FP32", pa.float64(): "FP64",
}
_NO_BYTES = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Element (row, i) is at offset + row * stride + i of values. datatype: numbered as in the kernels. validity: bitmap from bit
    validity_offset on, None: every row is there.
    """

    values: Bytes
    datatype: int
    offset: int
    stride: int
    n_rows: int
    validity: Bytes | None
    validity_offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """offsets: int32, one more than rows."""

    offsets: npt.NDArray[np.int32]
    data: Bytes
    validity: Bytes | None
    validity_offset: int


def storage_of(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, of plain types: extension types by their storage, dictionaries decoded."""
    if isinstance(array, pa.ChunkedArray):
        chunks = array.chunks or [pa.array([], array.type)]
        array = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def numbers_of(array: pa.Array | pa.ChunkedArray, width: int = 0) -> Numbers:
    """A column of `width` numbers a row, 0 as many as there are: plain, or lists of one length. Raises InvalidArgument for any other."""
    array = storage_of(array)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        array = _fixed(array, width)
    is_list = pa.types.is_fixed_size_list(array.type)
    stride = array.type.list_size if is_list else 1
    child = array.values if is_list else array
    if width not in (0, stride):
        raise InvalidArgument(f"a column of {array.type}: want {width} numbers a row")
    if is_list and child.null_count:        # inside a list there is no room for a null: NaN, which is counted by itself
        child = pc.fill_null(child.cast(pa.float64()), float("nan"))
    if pa.types.is_boolean(child.type):
        child = child.cast(pa.uint8())
    if child.type not in _DATATYPES:
        raise InvalidArgument(f"a column of {array.type}: want numbers")
    first = array.offset * stride if is_list else 0
    return Numbers(_view(child.buffers()[1]), _NUMBERS[_DATATYPES[child.type]], child.offset + first, stride, len(array), *_validity(array))


def _fixed(array: pa.Array, width: int) -> pa.Array:
    width = width or int(pc.max(pc.list_value_length(array)).as_py() or 1)
    if array.null_count:        # the lists of rows that are not there are empty, and a cast would not have that
        rows = pa.array([None] * width, array.type.value_type)
        filled = pc.if_else(array.is_valid(), array, pa.scalar(rows.to_pylist(), array.type))
        return _masked(_fixed(filled, width), array)
    try:
        return array.cast(pa.list_(array.type.value_type, width))
    except pa.ArrowInvalid as error:
        raise InvalidArgument(f"a column of {array.type}: want {width} numbers in every row ({error})") from error


def _masked(fixed: pa.Array, like: pa.Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(fixed.values, type=fixed.type, mask=like.is_null())


def texts_of(array: pa.Array | pa.ChunkedArray) -> Texts:
    """A column of text or bytes. Raises InvalidArgument for any other."""
    array = storage_of(array)
    if not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
        try:
            array = array.cast(pa.binary())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidArgument(f"a column of {array.type}: want text or bytes") from error
    _, offsets, data = array.buffers()
    places = np.frombuffer(offsets, np.int32)[array.offset:array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int32)
    return Texts(places, _view(data), *_validity(array))


def integers_of(array: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Bytes | None, int]:
    """A column of one whole number or boolean a row, as (values, validity, its offset). Raises InvalidArgument for any other."""
    array = storage_of(array)
    if not (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise InvalidArgument(f"a column of {array.type}: want whole numbers or booleans")
    array = array.cast(pa.uint8()).cast(pa.int64()) if pa.types.is_boolean(array.type) else array.cast(pa.int64(), safe=False)
    if not len(array):
        return np.zeros(0, np.int64), None, 0
    values = np.frombuffer(array.buffers()[1], np.int64)[array.offset:array.offset + len(array)]
    return values, *_validity(array)


def _validity(array: pa.Array) -> tuple[Bytes | None, int]:
    bitmap = array.buffers()[0]
    return (None, 0) if bitmap is None or not array.null_count else (np.frombuffer(bitmap, np.uint8), array.offset)


def _view(buffer: pa.Buffer | None) -> Bytes:
    return _NO_BYTES if buffer is None or buffer.size == 0 else np.frombuffer(buffer, np.uint8)


def matrix_of(numbers: Numbers) -> npt.NDArray[Any]:
    """Shape (n_rows, stride), of the numbers' own type; rows that are not there hold anything."""
    kinds = {number: kind for kind, number in ((np.dtype(kind.to_pandas_dtype()), _NUMBERS[name]) for kind, name in _DATATYPES.items())}
    flat = numbers.values.view(kinds[numbers.datatype])[numbers.offset:numbers.offset + numbers.n_rows * numbers.stride]
    found: npt.NDArray[Any] = flat.reshape(numbers.n_rows, numbers.stride)
    return found


def present(numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Which rows are there."""
    if numbers.validity is None:
        return np.ones(numbers.n_rows, bool)
    bits = np.unpackbits(numbers.validity, bitorder="little")
    return bits[numbers.validity_offset:numbers.validity_offset + numbers.n_rows].astype(bool)


__all__ = ["Bytes", "Numbers", "Texts", "integers_of", "matrix_of", "numbers_of", "present", "storage_of", "texts_of"]
