# ruff: noqa: S608  -- names are quoted
"""Recorded predictions as rows to be replayed, with the answers that were given and the labels that have come since."""

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from serve.errors import ConfigurationError, NotFound
from serve.monitoring.arrow_rows import column_of, labels_of
from serve.monitoring.replay_rows import Column, ReplayRows, replay_rows
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.relations import ALWAYS, Period
from serve.recording.stores import existing_store
from serve.recording.views import first_labels, literal, quoted
from serve.records import SHADOW
from serve.types import TensorSpec

_LABEL = "label"


def read_recorded(
    url: str, model: str, label: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], is_batched: bool, n_rows: int,
    *, home: pathlib.Path | None = None, period: Period = ALWAYS, say: Callable[[str], object] = lambda text: None,
) -> ReplayRows:
    """At most n_rows answered rows of any version, drawn by hash of their ids: the same as long as the records are.

    url: of --records. label: name of a label, "" joins none. home: `records` of a state directory that is not where it was. say: takes
    warnings. Raises ConfigurationError for a folder that is not there and an input that is not recorded, NotFound when nothing of the model
    is, and as a query does.
    """
    store = existing_store(url)
    with read(store, home) as reading:
        records = Records(store, reading.snapshot)
        view = records.view("raw", model)
        columns = [name for name, _ in records.columns(view)]
        missing = [spec.name for spec in inputs if f"in_{spec.name}" not in columns]
        if missing:
            raise ConfigurationError(
                f"input {missing[0]!r} of '{model}' is not recorded in {url}: name it in model.yaml (recording.inputs), or give --data")
        answered = [spec.name for spec in outputs if f"out_{spec.name}" in columns]
        has_labels = bool(label) and _has_labels(records)
        with records.query(_select(view, model, label if has_labels else "", inputs, answered, n_rows), period) as result:
            table = pa.Table.from_batches(list(result), result.schema)
        for warning in records.warnings:
            say(warning)
    return _rows(table, inputs, answered, is_batched, has_labels, url)


def _has_labels(records: Records) -> bool:
    with contextlib.suppress(NotFound):
        return bool(records.view("labels"))
    return False


def _select(view: str, model: str, label: str, inputs: Sequence[TensorSpec], outputs: Sequence[str], n_rows: int) -> str:
    """Places instead of names: a column may be called anything."""
    cells = [f"r.{quoted(f'in_{spec.name}')} AS i{at}" for at, spec in enumerate(inputs)]
    cells += [f"r.{quoted(f'out_{name}')} AS o{at}" for at, name in enumerate(outputs)]
    chosen = " AND ".join([f"r.row >= 0 AND r.status = 200 AND r.variant <> {literal(SHADOW)}",
                           *(f"r.{quoted(f'in_{spec.name}')} IS NOT NULL" for spec in inputs)])
    join, order = "", "hash(r.request_id, r.row), r.ts_ns, r.seq"
    if label:
        cells.append("coalesce(l.text, CAST(l.value AS VARCHAR)) AS label")
        # Labelled rows first: a row that nobody knows the truth of says less.
        join = f" LEFT JOIN {first_labels(model, label)} l ON r.request_id = l.request_id AND r.row = l.row"
        order = f"(l.request_id IS NULL), {order}"
    return f"SELECT r.digest, {', '.join(cells)} FROM {quoted(view)} r{join} WHERE {chosen} ORDER BY {order} LIMIT {n_rows}"


def _rows(
    table: pa.Table, inputs: Sequence[TensorSpec], outputs: Sequence[str], is_batched: bool, has_labels: bool, url: str
) -> ReplayRows:
    if not table.num_rows:
        return ReplayRows(0, {}, url)
    columns: dict[str, Column] = {name: column_of(table[name]) for name in table.column_names if name[0] in "io"}
    recorded = {name: columns[f"o{at}"] for at, name in enumerate(outputs)}
    sources = {spec.name: [f"i{at}"] for at, spec in enumerate(inputs)}
    labels: list[Any] = labels_of(table["label"]) if has_labels else []
    digests = [digest or "" for digest in table["digest"].to_pylist()]
    return replay_rows(inputs, is_batched, columns, sources, labels, recorded, digests, url)


__all__ = ["read_recorded"]
