"""Rows to be replayed: each input as a column, row by row or as one array; and columns of a table as a model's inputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.errors import ConfigurationError
from serve.types import TensorSpec

Array = npt.NDArray[Any]
# One array [rows, ...], or one array a row where their shapes differ or some are missing (None).
Column = Array | list[Array | None]

_DTYPES: Mapping[str, str] = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}


@dataclass(frozen=True, slots=True)
class ReplayRows:
    """source: where they are from, for people. inputs: by name, as the model takes them, BF16 as 16 bits; none is missing. recorded:
    outputs as they were answered, by name, and digests: of the version that answered, "" where that is not known. labels: None where a
    row has none.
    """

    n: int
    inputs: Mapping[str, Column]
    source: str = ""
    labels: Sequence[object] = ()
    recorded: Mapping[str, Column] = field(default_factory=dict)
    digests: Sequence[str] = ()
    n_skipped: int = 0

    @property
    def labelled(self) -> list[int]:
        """Rows whose truth is known: an empty text and NaN are how files say that it is not."""
        return [row for row, label in enumerate(self.labels) if label is not None and label == label and label != ""]

    def batch(self, rows: Sequence[int], is_batched: bool) -> dict[str, Array]:
        """Inputs of rows of equal shapes, stacked; of the one row as it is where the model is not batched."""
        if not is_batched:
            (row,) = rows
            return {name: np.asarray(column[row]) for name, column in self.inputs.items()}
        return {name: _stacked(column, rows) for name, column in self.inputs.items()}

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Rows (all unless given) in batches of at most `size`, of equal shapes each, in order."""
        waiting: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for row in range(self.n) if rows is None else rows:
            batch = waiting.setdefault(self._shapes(row), [])
            batch.append(row)
            if len(batch) == size:
                yield batch.copy()
                batch.clear()
        yield from filter(None, waiting.values())

    def _shapes(self, row: int) -> tuple[tuple[int, ...], ...]:
        return tuple(np.asarray(column[row]).shape for column in self.inputs.values() if isinstance(column, list))


def _stacked(column: Column, rows: Sequence[int]) -> Array:
    if isinstance(column, list):
        return np.stack([np.asarray(column[row]) for row in rows])
    return column[np.asarray(rows, np.int64)]


def replay_rows(
    specs: Sequence[TensorSpec], is_batched: bool, columns: Mapping[str, Column], sources: Mapping[str, Sequence[str]],
    labels: Sequence[object] = (), recorded: Mapping[str, Column] | None = None, digests: Sequence[str] = (), source: str = "",
) -> ReplayRows:
    """Rows of a table as inputs of a model; those with a missing or unfit value are left out, and counted.

    sources: input -> its columns, one or one for each element. Raises ConfigurationError where no row fits.
    """
    taken = {spec.name: input_column(spec, is_batched, [columns[name] for name in sources[spec.name]]) for spec in specs}
    n = min((len(column) for column in taken.values()), default=0)
    kept = [row for row in range(n) if all(not isinstance(column, list) or column[row] is not None for column in taken.values())]
    if n and not kept:
        shapes = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in specs)
        raise ConfigurationError(f"none of {n:,} rows has values that fit the inputs {shapes}"
                                 + _misfit(specs, is_batched, columns, sources))
    return ReplayRows(
        n=len(kept),
        source=source,
        inputs={name: _rows_of(column, kept) for name, column in taken.items()},
        labels=[labels[row] for row in kept] if len(labels) else (),
        recorded={name: _rows_of(column, kept) for name, column in (recorded or {}).items()},
        digests=[digests[row] for row in kept] if len(digests) else (),
        n_skipped=n - len(kept),
    )


def _misfit(
    specs: Sequence[TensorSpec], is_batched: bool, columns: Mapping[str, Column], sources: Mapping[str, Sequence[str]]
) -> str:
    """How many values the first row has for an input that wants another number; "" where that is not the reason."""
    for spec in specs:
        shape = spec.shape[1:] if is_batched else spec.shape
        firsts = [next((row for row in columns[name] if row is not None), None) for name in sources[spec.name]]
        given = sum(np.asarray(first).size for first in firsts if first is not None)
        if given and all(size >= 0 for size in shape) and given != math.prod(shape):
            return f": {spec.name} is given {given:,} value{'' if given == 1 else 's'} a row and wants {math.prod(shape):,}"
    return ""


def _rows_of(column: Column, rows: Sequence[int]) -> Column:
    return [column[row] for row in rows] if isinstance(column, list) else column[np.asarray(rows, np.int64)]


def input_column(spec: TensorSpec, is_batched: bool, columns: Sequence[Column]) -> Column:
    """Values of one input, in its datatype and in the shape of a row. A value that does not fit becomes None."""
    shape = spec.shape[1:] if is_batched else spec.shape
    if len(columns) > 1:
        columns = [_side_by_side(columns)]
    (column,) = columns
    whole = _converted(spec.datatype, column, (len(column), *shape)) if not isinstance(column, list) else None
    if whole is not None:
        return whole
    return [None if value is None else _converted(spec.datatype, np.asarray(value), shape) for value in column]


def _side_by_side(columns: Sequence[Column]) -> Column:
    if all(not isinstance(column, list) for column in columns):
        return np.stack([np.asarray(column) for column in columns], axis=1)
    rows = zip(*columns, strict=True)
    return [None if any(value is None for value in row) else np.array([np.asarray(value) for value in row]) for row in rows]


def _converted(datatype: str, values: Array, shape: tuple[int, ...]) -> Array | None:
    """In the datatype and the shape, where at most one dimension of it is open (-1); None when the values do not fit."""
    array = _cast(datatype, values)
    if array is None:
        return None
    is_open = [size < 0 for size in shape]
    if sum(is_open) > 1:            # the values' own shape says it
        fits = array.ndim == len(shape) and all(size < 0 or size == own for size, own in zip(shape, array.shape, strict=True))
        return array if fits else None
    try:
        return array.reshape(shape)
    except ValueError:
        return None


def _cast(datatype: str, values: Array) -> Array | None:
    if datatype == "BYTES":
        if values.dtype.kind not in "OSU":
            return None
        flat = [value.encode() if isinstance(value, str) else value for value in values.ravel().tolist()]
        if not all(isinstance(value, bytes) for value in flat):
            return None
        found = np.empty(len(flat), object)
        found[:] = flat
        return found.reshape(values.shape)
    if values.dtype.kind not in "biuf":
        return None
    if datatype == "BF16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2")
    wanted = np.dtype(_DTYPES[datatype])
    if wanted.kind == "f":
        return values.astype(wanted)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        return None
    with np.errstate(invalid="ignore"):
        whole = values.astype(wanted)
    return whole if (whole == values).all() else None


def sources_of(
    specs: Sequence[TensorSpec], is_batched: bool, columns: Sequence[str], named: Mapping[str, str], reserved: str
) -> dict[str, list[str]]:
    """Which columns make up which input: `named` (input -> column), in_<input>, <input>, or one column an element as <input>_0, <input>_1.

    Where the model has one input, the columns that are left are its elements, in order. reserved: the label's column.
    Raises ConfigurationError for an input that no column is for.
    """
    unknown = sorted(set(named) - {spec.name for spec in specs})
    if unknown:
        raise ConfigurationError(f"--column {unknown[0]}=...: the model's inputs are {', '.join(spec.name for spec in specs)}")
    found = {}
    for spec in specs:
        own = [named[spec.name]] if spec.name in named else [f"in_{spec.name}", spec.name]
        width = _width(spec.shape[1:] if is_batched else spec.shape)
        numbered = [f"{spec.name}_{at}" for at in range(width)]
        rest = [name for name in columns if name != reserved]
        if present := [name for name in own if name in columns]:
            found[spec.name] = present[:1]
        elif spec.name not in named and numbered and set(numbered) <= set(columns):
            found[spec.name] = numbered
        elif spec.name not in named and len(specs) == 1 and len(rest) in {1, width}:
            found[spec.name] = rest
        else:
            raise ConfigurationError(
                f"no column is for input {spec.name!r} of shape {list(spec.shape)}; there are {', '.join(columns)}; name it with "
                f"--column {spec.name}=COLUMN")
    return found


def _width(shape: tuple[int, ...]) -> int:
    """Elements of a row; 0 when that is not known."""
    return 0 if any(size < 0 for size in shape) else int(np.prod(shape, dtype=np.int64))


__all__ = ["Column", "ReplayRows", "input_column", "replay_rows", "sources_of"]
