"""Rows of a query as plain values, for JSON and CSV.

float32 gets the shortest decimal that is that number (0.1, not 0.10000000149011612). NaN and infinities are "NaN", "Infinity" and
"-Infinity", as in protobuf's JSON. Bytes are text where they are UTF-8, else {"b64": "..."}. Times are ISO 8601, UTC; maps are objects.
"""

import base64
import csv
import datetime as dt
import json
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import _csv


def plain_rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """Rows of values that json.dumps takes, in the order of the columns."""
    return list(zip(*(_plain_column(column) for column in batch.columns), strict=True)) if batch.num_columns else []


def cell(value: Any) -> str:
    """A plain value as a cell of CSV: nothing for null, JSON for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


class _Lines:
    """Text with LF where a csv.writer, which writes a record at a time, ends it with CRLF.

    Shells, and what they call, take the CR for a part of the last cell. A writer that is told to end lines with LF would not quote a cell
    for the CR in it.
    """

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink

    def write(self, record: str) -> int:
        return self._sink.write(record.removesuffix("\r\n") + "\n")


def csv_writer(sink: TextIO) -> "_csv.Writer":
    """RFC 4180 with LF as line end."""
    return csv.writer(_Lines(sink))


def tidy(array: pa.Array) -> pa.Array:
    """The same values with float64 of the shortest decimal for float32, and text for times that Python cannot hold."""
    kind = array.type
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return pc.cast(pc.cast(array, pa.string()), pa.float64())
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pc.replace_substring(pc.cast(array, pa.string()), " ", "T")
    if pa.types.is_fixed_size_list(kind):
        return tidy(pc.cast(array, pa.list_(kind.value_type)))
    if pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)]))
        return pa.ListArray.from_arrays(offsets, tidy(array.flatten()), mask=array.is_null())
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([tidy(field) for field in array.flatten()], names=kind.names, mask=array.is_null())
    return array


def _plain_column(array: pa.Array) -> list[Any]:
    values: list[Any] = tidy(array).to_pylist(maps_as_pydicts="lossy")
    return values if _is_plain(array) else [_plain(value) for value in values]


def _is_plain(array: pa.Array) -> bool:
    """Whether json.dumps takes all values as they are: looked at by column, since a tensor has many of them."""
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if pa.types.is_floating(array.type):
        return bool(pc.all(pc.is_finite(array), min_count=0).as_py())
    return any(test(array.type) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean))


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _WORDS[str(value)]
        case bytes():
            return _text(value)
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case _:
            return str(value)


_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
