"""numpy arrays as tensors of the Open Inference Protocol, binary (its binary_tensor_data extension) and JSON."""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("<u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "BYTES": np.dtype(object),
}

# Kind of a datatype -> kinds of values that mean the same in it.
_TAKES = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}


def datatype_of(array: Array) -> str:
    """OIP name of an array's dtype; BYTES for objects, bytes and str. Raises TypeError for what has none (complex, datetime)."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    wanted = array.dtype.newbyteorder("<")
    for name, dtype in DTYPES.items():
        if dtype == wanted:
            return name
    raise TypeError(f"dtype {array.dtype} has no Open Inference Protocol datatype; there are {', '.join(DTYPES)}")


def array_from(datatype: str, values: object) -> Array:
    """Values (nested lists) as an array of an OIP datatype. Raises TypeError or ValueError when they do not fit it exactly."""
    if datatype == "BYTES":
        return np.array(values, dtype=object)
    dtype = _dtype(datatype)
    found = np.array(values)
    if found.size and found.dtype.kind not in _TAKES[dtype.kind]:
        raise TypeError(f"values of dtype {found.dtype} are no {datatype}")
    array = found.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, found):
        raise ValueError(f"values out of the range of {datatype}")
    return array


def to_bytes(array: Array) -> bytes:
    """Row-major, little-endian; BYTES elements as 4-byte length and bytes (str as UTF-8)."""
    datatype = datatype_of(array)
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(raw)) + raw for raw in map(_raw, array.ravel().tolist()))
    return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()


def from_bytes(datatype: str, shape: Iterable[int], data: bytes) -> Array:
    """The inverse of to_bytes, a fresh writable array; BYTES elements as bytes, BF16 widened to float32. Raises ValueError when data and
    shape do not fit each other.
    """
    if datatype == "BYTES":
        return _filled(list(_elements(data)), shape)
    if datatype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4").reshape(tuple(shape))
    return np.frombuffer(data, dtype=_dtype(datatype)).reshape(tuple(shape)).copy()


def from_json(datatype: str, shape: Iterable[int], data: list[Any]) -> Array:
    """A JSON output's data, nested or flat; BYTES elements as bytes."""
    if datatype == "BYTES":
        return _filled([_raw(element) for element in _flat(data)], shape)
    return np.array(data, dtype=_dtype(datatype)).reshape(tuple(shape))


def _dtype(datatype: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise ValueError(f"datatype {datatype!r} is unknown; there are {', '.join(DTYPES)}")
    return DTYPES[datatype]


def _raw(element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise TypeError(f"an element of a BYTES tensor is bytes or str, not {type(element).__name__}")


def _elements(data: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError(f"{len(data) - at} bytes after the last BYTES element")
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + length > len(data):
            raise ValueError(f"a BYTES element of {length} bytes where {len(data) - at} are left")
        yield data[at : at + length]
        at += length


def _filled(elements: list[bytes], shape: Iterable[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(tuple(shape))


def _flat(data: object) -> Iterable[object]:
    if not isinstance(data, list):
        yield data
        return
    for element in data:
        yield from _flat(element)
