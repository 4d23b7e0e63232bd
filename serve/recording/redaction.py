"""What a model's `redact:` does to its record batches before anything of them reaches a disk.

drop: null. mask: text becomes `***`, of tags the values; a number null. hash: text becomes the first 32 hex digits of its HMAC-SHA-256, of
tags the values; equal texts stay equal. bucket: a number becomes the bound that it is not below, from the bounds as FP64; below the first,
-inf; NaN stays NaN. What is null stays null. Text is BYTES, the tags and the trace id. In tensors each element is taken by itself.
"""

import hmac
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serve.errors import ConfigurationError
from serve.recording.arrow_schema import journal_schema
from serve.records import RecordedTensor, RecordStreamSpec, Redaction

MASK = b"***"
HASH_DIGITS = 32

Change = Callable[[pa.Array], pa.Array]

_KEY_OF_LABELS = "it is what labels find their rows by; have clients send ids that tell nothing"
# Columns that are no tensors, and the actions that make sense of them.
_FIXED = {"tags": ("drop", "mask", "hash"), "trace_id": ("drop", "mask", "hash"), "unit": ("drop", "mask")}


class Redactor:
    """The redactions of one stream. tensors, schema: of the batches that `apply` makes.

    key: of the hashes, asked for when there is a hash. Raises ConfigurationError for a column that there is not, one that must stay, and an
    action that its type does not have.
    """

    def __init__(self, stream: RecordStreamSpec, key: Callable[[], bytes]) -> None:
        tensors = {tensor.column: tensor for tensor in stream.tensors}
        where = f"recording of {stream.model} version {stream.version}"
        self._changes: dict[str, Change] = {}
        for redaction in stream.spec.redact:
            _check(redaction, tensors, where)
            self._changes[redaction.column] = _change(redaction, tensors.get(redaction.column), key)
        bucketed = {redaction.column for redaction in stream.spec.redact if redaction.action == "bucket"}
        self.tensors = tuple(replace(one, datatype="FP64") if one.column in bucketed else one for one in stream.tensors)
        self.schema = journal_schema(self.tensors)

    @property
    def is_needed(self) -> bool:
        """Whether `apply` changes anything."""
        return bool(self._changes)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """batch: of journal_schema(stream.tensors), not sliced. Columns without a redaction are shared."""
        columns = [
            self._changes[name](column) if name in self._changes else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _check(redaction: Redaction, tensors: dict[str, RecordedTensor], where: str) -> None:
    column, action = redaction.column, redaction.action
    if column == "request_id":
        raise ConfigurationError(f"{where}: request_id cannot be redacted: {_KEY_OF_LABELS}")
    if column not in _FIXED and column not in tensors:
        known = ", ".join([*_FIXED, *tensors])
        raise ConfigurationError(f"{where}: redact names {column!r}, which is not recorded or cannot be redacted; what can is {known}")
    if column in _FIXED:
        allowed = _FIXED[column]
    elif tensors[column].datatype == "BYTES":
        allowed = ("drop", "mask", "hash")
    else:
        # A hash of a number hides nothing: all numbers are soon tried.
        allowed = ("drop", "mask") if tensors[column].datatype == "BOOL" else ("drop", "mask", "bucket")
    if action not in allowed:
        raise ConfigurationError(f"{where}: {column!r} cannot be redacted by {action}; use {' or '.join(allowed)}")


def _change(redaction: Redaction, tensor: RecordedTensor | None, key: Callable[[], bytes]) -> Change:
    is_text = redaction.column in {"tags", "trace_id"} or (tensor is not None and tensor.datatype == "BYTES")
    if redaction.action == "bucket":
        bounds = np.array([-np.inf, *redaction.bounds])
        return lambda column: _of_elements(column, lambda values: _bucketed(values, bounds))
    if redaction.action == "drop" or not is_text:
        return lambda column: pa.nulls(len(column), column.type)
    text = _hashed(key()) if redaction.action == "hash" else _masked
    if redaction.column == "tags":
        return lambda column: _of_texts(column, lambda tags: _of_tags(tags, text))
    return lambda column: _of_elements(column, lambda values: _of_texts(values, text))


def _masked(_: bytes) -> bytes:
    return MASK


def _hashed(key: bytes) -> Callable[[bytes], bytes]:
    return lambda text: hmac.digest(key, text, "sha256").hex()[:HASH_DIGITS].encode()


def _of_tags(tags: bytes, text: Callable[[bytes], bytes]) -> bytes:
    r"""name\0value\0...: the values."""
    pieces = tags.split(b"\0")
    pieces[1::2] = [text(value) for value in pieces[1::2]]
    return b"\0".join(pieces)


def _of_texts(values: pa.Array, text: Callable[[bytes], bytes]) -> pa.Array:
    """Each different text once."""
    different = values.cast(pa.binary()).dictionary_encode()
    made = pa.array([text(one) for one in different.dictionary.to_pylist()], pa.binary())
    return made.take(different.indices).cast(values.type)


def _bucketed(values: pa.Array, bounds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> pa.Array:
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    lower = bounds[np.searchsorted(bounds, numbers, side="right") - 1]
    return pa.array(np.where(np.isnan(numbers), numbers, lower), mask=pc.is_null(values).to_numpy(zero_copy_only=False))


def _of_elements(array: pa.Array, change: Change) -> pa.Array:
    """The same rows, with the elements of each tensor changed; as columns.batch_of lays tensors out."""
    assert array.offset == 0
    kind, length, nulls = array.type, len(array), array.null_count
    if pa.types.is_struct(kind):
        data, shape = _of_elements(array.field(0), change), array.field(1)
        made = pa.struct([("data", data.type), ("shape", shape.type)])
        return pa.StructArray.from_buffers(made, length, array.buffers()[:1], nulls, children=[data, shape])
    if pa.types.is_list(kind):
        values = change(array.values)
        return pa.ListArray.from_buffers(pa.list_(values.type), length, array.buffers()[:2], nulls, children=[values])
    if pa.types.is_fixed_size_list(kind):
        values = change(array.values)
        made = pa.list_(values.type, kind.list_size)
        return pa.FixedSizeListArray.from_buffers(made, length, array.buffers()[:1], nulls, children=[values])
    return change(array)


__all__ = ["HASH_DIGITS", "MASK", "Redactor"]
