"""A labelled data set as rows to be replayed: .npz, .csv or .parquet."""

import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve.errors import ConfigurationError
from serve.monitoring.replay_rows import Array, Column, ReplayRows, replay_rows, sources_of
from serve.types import TensorSpec


def read_labelled(
    path: pathlib.Path, label: str, specs: Sequence[TensorSpec], is_batched: bool, named: Mapping[str, str], n_rows: int, seed: int = 0
) -> ReplayRows:
    """At most n_rows rows, drawn at random, the same for the same seed. label: a column, "" for none. named: input -> column.

    Raises ConfigurationError for what cannot be read, or does not fit the model's inputs.
    """
    columns, labels = _read(path, label)
    sources = sources_of(specs, is_batched, list(columns), named, label)
    n = {len(column) for column in columns.values()} | ({len(labels)} if label else set())
    if len(n) != 1:
        raise ConfigurationError(f"{path}: columns of {', '.join(map(str, sorted(n)))} rows; want as many rows in each")
    (n_all,) = n
    drawn = np.sort(np.random.default_rng(seed).permutation(n_all)[:n_rows])
    taken = {name: [column[row] for row in drawn] if isinstance(column, list) else column[drawn] for name, column in columns.items()}
    return replay_rows(specs, is_batched, taken, sources, [labels[row] for row in drawn] if label else (), source=str(path))


def _read(path: pathlib.Path, label: str) -> tuple[dict[str, Column], list[Any]]:
    readers = {".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ConfigurationError(f"{path}: want {', '.join(readers)}")
    try:
        columns, labels = reader(path, label)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    except ImportError as error:
        raise ConfigurationError(f"{path} needs {error.name}: pip install 'headrace[records]', or write it as .npz") from error
    return {name: column for name, column in columns.items() if name != label}, labels


def _read_npz(path: pathlib.Path, label: str) -> tuple[dict[str, Column], list[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns: dict[str, Column] = {name: arrays[name] for name in arrays.files if arrays[name].ndim}
    except (ValueError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    return columns, _labels(path, label, np.asarray(columns[_present(path, label, list(columns))])) if label else []


def _labels(path: pathlib.Path, label: str, values: Array) -> list[Any]:
    """values: [rows], or [rows, 1, ...]."""
    if values.size != len(values):
        raise ConfigurationError(f"{path}: {label!r} has shape {list(values.shape)}; want one label a row")
    return list(values.ravel().tolist())


def _read_csv(path: pathlib.Path, label: str) -> tuple[dict[str, Column], list[Any]]:
    import pyarrow as pa
    from pyarrow import csv

    try:
        return _arrow(path, csv.read_csv(path), label)
    except pa.ArrowException as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _read_parquet(path: pathlib.Path, label: str) -> tuple[dict[str, Column], list[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return _arrow(path, parquet.read_table(path), label)
    except pa.ArrowException as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _arrow(path: pathlib.Path, table: Any, label: str) -> tuple[dict[str, Column], list[Any]]:
    from serve.monitoring.arrow_rows import column_of, labels_of

    labels = labels_of(table[_present(path, label, table.column_names)]) if label else []
    return {name: column_of(table[name]) for name in table.column_names if name != label}, labels


def _present(path: pathlib.Path, label: str, columns: Sequence[str]) -> str:
    if label not in columns:
        raise ConfigurationError(f"{path} has no column {label!r} for --label; it has {', '.join(columns)}")
    return label


__all__ = ["read_labelled"]
