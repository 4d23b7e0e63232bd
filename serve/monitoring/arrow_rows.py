"""Columns of Arrow as numpy: scalars, lists, fixed-shape tensors, and structs of data and shape; text and bytes as objects."""

from typing import Any

import numpy as np
import pyarrow as pa

from serve.errors import ConfigurationError
from serve.monitoring.replay_rows import Array, Column


def column_of(values: pa.ChunkedArray) -> Column:
    """One array [rows, ...] where no value is missing and all have one shape, else one a row. Raises ConfigurationError for other types."""
    if not len(values):
        return np.zeros(0)
    array = values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)
    if isinstance(array, pa.ExtensionArray):
        shape = array.type.shape if isinstance(array.type, pa.FixedShapeTensorType) else None
        return _shaped(_lists(array.storage), shape)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_struct(array.type):
        return _structs(array)
    return _lists(array)


def _lists(array: pa.Array) -> Column:
    kind = array.type
    if pa.types.is_fixed_size_list(kind) and not array.null_count:
        flat = _scalars(array.flatten())
        if not isinstance(flat, list):
            return flat.reshape(len(array), kind.list_size)
    if _is_list(kind):
        is_nested = _is_list(kind.value_type)
        rows = [None if not row.is_valid else _nested(row) if is_nested else _scalars(row.values) for row in array]
        return [None if isinstance(row, list) else row for row in rows]
    return _scalars(array)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _nested(row: pa.Scalar) -> Array:
    """Lists of lists, however deep: seldom, and slow."""
    return np.array(row.as_py())


def _scalars(array: pa.Array) -> Column:
    """Of a type that is no list."""
    kind = array.type
    is_text = pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    if not (is_text or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ConfigurationError(f"a column of type {kind} is no input or label; want numbers, booleans, text, bytes or lists of them")
    if array.null_count:
        return [None if value is None else np.asarray(value, object if is_text else None) for value in array.to_pylist()]
    return _object_array(array.to_pylist()) if is_text else np.asarray(array.to_numpy(zero_copy_only=False))


def _object_array(values: list[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _shaped(column: Column, shape: list[int] | None) -> Column:
    if shape is None:
        return column
    if isinstance(column, list):
        return [None if row is None else row.reshape(shape) for row in column]
    return column.reshape(len(column), *shape)


def _structs(array: pa.StructArray) -> Column:
    names = {field.name for field in array.type}
    if names != {"data", "shape"}:
        raise ConfigurationError(f"a column of type {array.type} is no tensor; a struct has the fields data and shape")
    rows: list[Array | None] = []
    for row in array:
        data = None if not row.is_valid else _scalars(row["data"].values)
        rows.append(None if data is None or isinstance(data, list) else data.reshape(row["shape"].as_py()))
    return rows


def labels_of(values: pa.ChunkedArray) -> list[object]:
    """One value a row, None where it is missing."""
    return list(values.to_pylist())


__all__ = ["column_of", "labels_of"]
