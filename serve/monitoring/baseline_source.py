"""Rows for a baseline, from where people have them: training data in a file, which the version answers here and now, or recorded rows.

Either way the version is that of a repository: its digest pins the baseline, its model.yaml says what is watched, and only rows that this
very digest has answered count. Text of a column that is redacted is left out: a baseline has the values of categories in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from serve.errors import ConfigurationError, InvalidArgument
from serve.models.offline import OfflineModel, OfflineVersion
from serve.models.recorded import recorded_tensors
from serve.monitoring.arrow_rows import column_of, labels_of
from serve.monitoring.baseline import Baseline, Source
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.replay import replay
from serve.monitoring.replay_rows import Column, replay_rows, sources_of
from serve.recording.arrow_schema import journal_type
from serve.recording.query import Records
from serve.recording.relations import ALWAYS, Period
from serve.recording.views import first_labels, literal, quoted
from serve.records import SHADOW, RecordedTensor

Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Target:
    """Whose baseline it is. created_ns: of the baseline."""

    model: OfflineModel
    version: OfflineVersion
    created_ns: int

    @property
    def tensors(self) -> tuple[RecordedTensor, ...]:
        """As the server records them; where it records nothing, all that are small."""
        recording = self.model.config.recording
        spec = recording.spec() or recording.model_copy(update={"enabled": True}).spec()
        assert spec is not None
        return recorded_tensors(spec, self.version.inputs, self.version.outputs, self.version.max_batch_size)

    @property
    def redacted(self) -> frozenset[str]:
        """Columns that no journal has as they were."""
        return frozenset(self.model.config.recording.redact)


def of_file(
    target: Target, path: Path, label: str, named: Mapping[str, str], n_rows: int, chunk_rows: int, progress: Progress,
) -> Baseline:
    """Training data, answered by the version. label: a column, "" none. named: input -> column. n_rows: drawn at random beyond that.

    Raises ConfigurationError for what cannot be read or does not fit the inputs, InvalidArgument for too few rows.
    """
    version, is_batched = target.version, target.version.max_batch_size > 0
    table = _read(path)
    if label and label not in table.column_names:
        raise ConfigurationError(f"{path} has no column {label!r} for --labels; it has {', '.join(table.column_names)}")
    if table.num_rows > n_rows:
        table = table.take(pa.array(np.sort(np.random.default_rng(0).permutation(table.num_rows)[:n_rows])))
    columns: dict[str, Column] = {name: column_of(_filled(table[name])) for name in table.column_names if name != label}
    sources = sources_of(version.inputs, is_batched, list(columns), named, label)
    labels = labels_of(table[label]) if label else []
    rows = replay_rows(version.inputs, is_batched, columns, sources, labels, source=str(path))
    answers = replay(version, rows, progress)
    kept = [row for row in range(rows.n) if row not in answers.failures]
    if not kept:
        raise InvalidArgument(f"version {version.version} answered none of {rows.n:,} rows: {next(iter(answers.failures.values()), '')}")
    made = {tensor.column: arrow_of(rows.inputs[tensor.name] if tensor.kind == "in" else answers.outputs[tensor.name], kept, tensor)
            for tensor in target.tensors if tensor.datatype != "BYTES" or tensor.column not in target.redacted}
    truth = [rows.labels[row] for row in kept] if label else None
    return _built(target, pa.table(made), "training", truth, chunk_rows)


def of_records(
    target: Target, records: Records, label: str, n_rows: int, chunk_rows: int, *, shadow: bool, period: Period = ALWAYS,
) -> Baseline:
    """The first n_rows that the version answered, as a shadow or not. label: the name of a label, "" joins none.

    Raises NotFound where nothing of the model is recorded, InvalidArgument for too few rows, and as a query does.
    """
    version, model = target.version, target.model.name
    view = records.view("raw", model)
    known = [name for name, _ in records.columns(view)]
    columns = [tensor.column for tensor in target.tensors if tensor.column in known and tensor.column not in target.redacted]
    with records.query(_select(view, model, version, columns, label, n_rows, shadow), period) as result:
        found = pa.Table.from_batches(list(result), result.schema)
    if not found.num_rows:
        whose = "as a shadow" if shadow else "to clients"
        raise InvalidArgument(f"version {version.version} of '{model}' ({version.digest[:19]}) has answered no recorded row {whose}")
    labels = _labels(found) if label else None
    rows = pa.table([found[f"c{place}"] for place in range(len(columns))], names=columns)
    return _built(target, rows, "shadow" if shadow else "first_rows", labels, chunk_rows)


def _labels(found: pa.Table) -> list[object]:
    return [value if text is None else text for text, value in zip(found["text"].to_pylist(), found["value"].to_pylist(), strict=True)]


def _built(target: Target, rows: pa.Table, source: Source, labels: Sequence[object] | None, chunk_rows: int) -> Baseline:
    return build_baseline(
        rows, target.tensors, target.model.config.monitoring.spec(), model=target.model.name, version=target.version.version,
        digest=target.version.digest, source=source, created_ns=target.created_ns, labels=labels, chunk_rows=chunk_rows)


def _select(
    view: str, model: str, version: OfflineVersion, columns: Sequence[str], label: str, n_rows: int, shadow: bool,
) -> str:
    # Places instead of names: a column may be called anything.
    cells = [f"r.{quoted(name)} AS c{place}" for place, name in enumerate(columns)]
    join = ""
    if label:
        cells += ["l.text AS text", "l.value AS value"]
        join = f" LEFT JOIN {first_labels(model, label)} l ON r.request_id = l.request_id AND r.row = l.row"
    whose = f"r.variant {'=' if shadow else '<>'} {literal(SHADOW)}"
    of_version = f"r.version = {literal(version.version)} AND r.digest = {literal(version.digest)} AND r.row >= 0 AND {whose}"
    return f"SELECT {', '.join(cells)} FROM {quoted(view)} r{join} WHERE {of_version} ORDER BY r.ts_ns, r.seq LIMIT {n_rows}"   # noqa: S608


def arrow_of(column: Column | Sequence[Any], rows: Sequence[int], tensor: RecordedTensor) -> pa.Array:
    """Chosen rows of a column as a journal has them; None is null."""
    values = [column[row] for row in rows]
    if tensor.datatype == "BF16" and tensor.kind == "in":      # as its 16 bits, the upper half of a float32
        values = [None if value is None else (np.asarray(value, "<u4") << 16).view("<f4") for value in values]
    kind = journal_type(tensor)
    if pa.types.is_struct(kind):
        shapes = [None if value is None else list(np.asarray(value).shape) for value in values]
        return pa.array([None if value is None else {"data": _plain(value), "shape": shape}
                         for value, shape in zip(values, shapes, strict=True)], kind)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.array([None if value is None else _plain(value) for value in values], kind)
    return pa.array([None if value is None else _plain(value)[0] for value in values], kind)


def _plain(value: Any) -> list[Any]:
    found: list[Any] = [one.encode() if isinstance(one, str) else one for one in np.asarray(value).ravel().tolist()]
    return found


def _read(path: Path) -> pa.Table:
    readers = {".csv": csv.read_csv, ".parquet": parquet.read_table}
    if path.suffix not in readers:
        raise ConfigurationError(f"{path}: want {' or '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A number that is missing is NaN, which is what a client sends of it."""
    kind = column.type
    if not column.null_count or not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        return column
    return pc.fill_null(column.cast(pa.float64()), float("nan"))


__all__ = ["Target", "arrow_of", "of_file", "of_records"]
