"""The tables `records` and `labels`: as their rows are read from a journal, and as they are sealed and queried.

A journal has the plain types that the recorder fills at full rate; what is the same in every row stands in its header. `to_table` puts
that back, as dictionaries of one value, and gives tensors their shape. FP16 is halffloat in the journal and float32 in the table: DuckDB
reads no halffloat from Arrow, and no value is lost. BF16 is float32 in both.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from serve._core.tensors import KINDS
from serve.recording.stream_header import METADATA_KEY, StreamHeader
from serve.recording.tag_column import tags_to_map
from serve.records import RecordedTensor

# OIP datatype -> element as it is read from a journal.
ELEMENTS: dict[str, pa.DataType] = {
    "BOOL": pa.bool_(), "UINT8": pa.uint8(), "UINT16": pa.uint16(), "UINT32": pa.uint32(), "UINT64": pa.uint64(), "INT8": pa.int8(),
    "INT16": pa.int16(), "INT32": pa.int32(), "INT64": pa.int64(), "FP16": pa.float16(), "BF16": pa.float32(), "FP32": pa.float32(),
    "FP64": pa.float64(), "BYTES": pa.binary(),
}
# Index type int32: what a Parquet reader makes of any other.
WORD = pa.dictionary(pa.int32(), pa.string())
TAGS = pa.map_(pa.string(), pa.string())
CODES = pa.list_(pa.string())
PROTOCOLS = ("http", "grpc")

# The columns of every row of `records` that a journal gives, before those of the tensors.
_JOURNAL_FIELDS = (
    ("ts_ns", pa.int64()), ("seq", pa.int64()), ("batch_id", pa.int64()), ("row", pa.int32()), ("request_id", pa.string()),
    ("variant", pa.string()), ("trace_id", pa.string()), ("protocol", pa.uint8()), ("status", pa.int16()), ("error", pa.int8()),
    ("generation", pa.int64()), ("unit", pa.uint64()), ("queue_us", pa.int32()), ("compute_us", pa.int32()), ("total_us", pa.int32()),
    ("tags", pa.binary()),
)
_TABLE_FIELDS = (
    ("ts_ns", pa.int64()), ("request_id", pa.string()), ("batch_id", pa.int64()), ("row", pa.int32()), ("model", WORD), ("version", WORD),
    ("variant", WORD), ("replica", WORD), ("protocol", WORD), ("status", pa.int16()), ("queue_us", pa.int32()), ("compute_us", pa.int32()),
    ("total_us", pa.int32()), ("sampling", pa.float32()), ("seq", pa.int64()), ("epoch", pa.int32()), ("generation", pa.int64()),
    ("unit", pa.uint64()), ("digest", WORD), ("trace_id", pa.string()), ("tags", TAGS),
    ("error_codes", CODES),
)
# The columns that every model's rows have, in the table's order.
COMMON_COLUMNS = tuple(name for name, _ in _TABLE_FIELDS)

# ts_ns: when the label came; label_ts_ns: when the truth was known, as the client says.
LABELS_JOURNAL = pa.schema([
    ("ts_ns", pa.int64()), ("seq", pa.int64()), ("request_id", pa.string()), ("row", pa.int32()), ("model", pa.string()),
    ("name", pa.string()), ("value", pa.float64()), ("text", pa.string()), ("reward", pa.float64()), ("label_ts_ns", pa.int64()),
])
LABELS_TABLE = pa.schema([
    ("ts_ns", pa.int64()), ("seq", pa.int64()), ("request_id", pa.string()), ("row", pa.int32()), ("model", WORD), ("name", pa.string()),
    ("value", pa.float64()), ("text", pa.string()), ("reward", pa.float64()), ("label_ts_ns", pa.int64()), ("replica", WORD),
    ("epoch", pa.int32()),
])


@functools.lru_cache(maxsize=1024)
def journal_schema(tensors: tuple[RecordedTensor, ...]) -> pa.Schema:
    """What serve.recording.columns.batch_of makes, and the rows of a journal of `records` are read as."""
    return pa.schema([*_JOURNAL_FIELDS, *((tensor.column, journal_type(tensor)) for tensor in tensors)])


@functools.lru_cache(maxsize=1024)
def table_schema(tensors: tuple[RecordedTensor, ...]) -> pa.Schema:
    """What to_table makes, and a Parquet file of `records` holds; without metadata."""
    return pa.schema([*_TABLE_FIELDS, *((tensor.column, table_type(tensor)) for tensor in tensors)])


def journal_type(tensor: RecordedTensor) -> pa.DataType:
    """One element a row: plain. A fixed shape: a fixed-size list. One dynamic dimension: a list, row-major. More: struct<data, shape>."""
    return _shaped(tensor.shape, ELEMENTS[tensor.datatype])


def table_type(tensor: RecordedTensor) -> pa.DataType:
    """As journal_type, with float32 for FP16, and the extension type fixed_shape_tensor for numbers of a fixed shape."""
    element = pa.float32() if tensor.datatype == "FP16" else ELEMENTS[tensor.datatype]
    storage = _shaped(tensor.shape, element)
    if pa.types.is_fixed_size_list(storage) and tensor.datatype not in {"BOOL", "BYTES"}:
        return pa.fixed_shape_tensor(element, tensor.shape)
    return storage


def _shaped(shape: tuple[int, ...], element: pa.DataType) -> pa.DataType:
    n_dynamic = sum(size < 0 for size in shape)
    n_elements = math.prod(size for size in shape if size >= 0)
    if n_dynamic > 1:
        return pa.struct([("data", pa.list_(element)), ("shape", pa.list_(pa.int64()))])
    if n_dynamic == 1 or n_elements == 0:
        return pa.list_(element)
    return element if n_elements == 1 else pa.list_(element, n_elements)


def to_table(batches: Sequence[pa.RecordBatch], header: StreamHeader) -> pa.Table:
    """Journalled rows as rows of the table that the header names, with its JSON as metadata `headrace.stream`.

    batches: of journal_schema(header.tensors), or of LABELS_JOURNAL. Columns are shared with them where the types are the same.
    """
    if header.table == "labels":
        table = _labels_table(pa.Table.from_batches(batches, LABELS_JOURNAL), header)
    else:
        table = _records_table(pa.Table.from_batches(batches, journal_schema(header.tensors)), header)
    return table.replace_schema_metadata({METADATA_KEY: header.to_json()})


def _records_table(rows: pa.Table, header: StreamHeader) -> pa.Table:
    made = {
        **_constants(header, rows.num_rows),
        "variant": rows["variant"].dictionary_encode(),
        "protocol": _mapped(_protocols, rows["protocol"], WORD),
        "tags": _mapped(tags_to_map, rows["tags"], TAGS),
        "error_codes": _mapped(_error_codes, rows["error"], CODES),
        **{tensor.column: _tensor_column(rows[tensor.column], tensor) for tensor in header.tensors},
    }
    return _arranged(rows, made, table_schema(header.tensors))


def _labels_table(rows: pa.Table, header: StreamHeader) -> pa.Table:
    made = {**_constants(header, rows.num_rows), "model": rows["model"].dictionary_encode()}
    return _arranged(rows, made, LABELS_TABLE)


def _arranged(rows: pa.Table, made: dict[str, pa.Array | pa.ChunkedArray], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([made[name] if name in made else rows[name] for name in schema.names], schema=schema)


def _constants(header: StreamHeader, n: int) -> dict[str, pa.Array]:
    words = {"model": header.model, "version": header.version, "replica": header.replica, "digest": header.digest}
    return {
        **{name: pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([word])) for name, word in words.items()},
        "sampling": pa.array(np.full(n, header.sampling, np.float32)), "epoch": pa.array(np.full(n, header.epoch, np.int32)),
    }


def _mapped(function: Callable[[pa.Array], pa.Array], column: pa.ChunkedArray, made: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([function(chunk) for chunk in column.chunks], made)


def _protocols(numbers: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(numbers.cast(pa.int32()), pa.array(PROTOCOLS))


def _error_codes(kinds: pa.Array) -> pa.Array:
    """failure.Kind -> the list of its name; OK: the empty list."""
    numbers = kinds.to_numpy()
    failed = numbers[numbers != 0]
    names = {number: name for name, number in KINDS.items()}
    codes = pa.array([names.get(number, f"KIND_{number}") for number in failed.tolist()], pa.string())
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(numbers != 0, dtype=np.int32)])
    return pa.ListArray.from_arrays(pa.array(offsets), codes)


def _tensor_column(column: pa.ChunkedArray, tensor: RecordedTensor) -> pa.ChunkedArray:
    made = table_type(tensor)
    if not isinstance(made, pa.FixedShapeTensorType):
        return column if column.type == made else column.cast(made)
    storage = column if column.type == made.storage_type else column.cast(made.storage_type)
    return pa.chunked_array([pa.ExtensionArray.from_storage(made, chunk) for chunk in storage.chunks], made)


__all__ = [
    "CODES", "COMMON_COLUMNS", "ELEMENTS", "LABELS_JOURNAL", "LABELS_TABLE", "PROTOCOLS", "TAGS", "WORD", "journal_schema", "journal_type",
    "table_schema", "table_type", "to_table",
]
