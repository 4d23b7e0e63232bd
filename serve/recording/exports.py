# ruff: noqa: S608  -- names are quoted
"""A model's recorded rows in the forms of other tools.

    databricks   Parquet with the columns of an AI-Gateway inference table, one row for each request
    sagemaker    JSON Lines as SageMaker's data capture writes them, one for each answered request
    cloudevents  JSON Lines: CloudEvents in structured mode with the attributes of KServe's logger, two for each answered request
    parquet      the view records_<model>_raw
    csv          the view records_<model>, RFC 4180 with LF as line end; lists as JSON

Requests that failed have no body: the table of Databricks has them without, the lines leave them out. Shadows are in the last two only.
Written in pieces of about _SLICE_ROWS rows, so that memory does not grow with what is exported.
"""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from serve.recording.query import Records
from serve.recording.relations import ALWAYS, Period, Progress
from serve.recording.values import cell, csv_writer, plain_rows
from serve.recording.views import ViewKind, quoted

ExportKind = Literal["databricks", "sagemaker", "cloudevents", "parquet", "csv"]

_SLICE_ROWS = 50_000
_ROW_GROUP_ROWS = 65_536

_SAGEMAKER = """to_json({
    captureData: {
        endpointInput: {observedContentType: 'application/json', mode: 'INPUT', data: request, encoding: 'JSON'},
        endpointOutput: {observedContentType: 'application/json', mode: 'OUTPUT', data: response, encoding: 'JSON'}},
    eventMetadata: {eventId: event_id, inferenceId: request_id, inferenceTime: strftime(ts, '%Y-%m-%dT%H:%M:%SZ')},
    eventVersion: '0'})"""

# Attributes of KServe's logger; `metadata` and `annotations` are JSON in a string, as there.
_CLOUDEVENT = """to_json({{
    specversion: '1.0', id: request_id, source: '/headrace/' || replica, type: 'org.kubeflow.serving.inference.{kind}',
    time: strftime({time}, '%Y-%m-%dT%H:%M:%S.%fZ'), recordedtime: strftime({answered}, '%Y-%m-%dT%H:%M:%S.%fZ'),
    datacontenttype: 'application/json', inferenceservicename: model, namespace: 'default', component: 'predictor', endpoint: variant,
    metadata: CAST(to_json({{model_version: version, status: status, replica: replica, epoch: epoch, seq: seq}}) AS VARCHAR),
    annotations: CAST(to_json(coalesce(tags, MAP {{}})) AS VARCHAR), data: CAST({body} AS JSON)}})"""
_ANSWERED = "(ts + to_microseconds(total_us))"
_REQUEST = _CLOUDEVENT.format(kind="request", time="ts", answered=_ANSWERED, body="request")
_RESPONSE = _CLOUDEVENT.format(kind="response", time=_ANSWERED, answered=_ANSWERED, body="response")

_VIEWS: dict[str, ViewKind] = {"databricks": "databricks", "parquet": "raw", "csv": "model"}
_LINES = {"sagemaker": f"[{_SAGEMAKER}]", "cloudevents": f"[{_REQUEST}, {_RESPONSE}]"}


@dataclass(frozen=True, slots=True)
class Exported:
    """written: rows of Parquet or CSV, lines of JSON. left_out: failed requests that the form has no place for."""

    written: int
    left_out: int = 0


def export(records: Records, kind: ExportKind, model: str, sink: IO[bytes], period: Period = ALWAYS,
           progress: Progress = lambda done, of: None) -> Exported:
    """Writes all rows of a period, ordered by time. progress: pieces that are done, of how many.

    Raises NotFound when nothing of that model is recorded; as Records.query; OSError as the sink.
    """
    if kind in _LINES:
        return _export_lines(records, records.view("requests", model), _LINES[kind], sink, _pieces(records, model, period, progress))
    view = records.view(_VIEWS[kind], model)
    order = "request_time, databricks_request_id" if kind == "databricks" else "ts_ns, replica, epoch, seq"
    sql = f"SELECT * FROM {quoted(view)} ORDER BY {order}"
    batches = _batches(records, sql, _pieces(records, model, period, progress))
    return (_write_csv if kind == "csv" else _write_parquet)(batches, sink)


def _pieces(records: Records, model: str, period: Period, progress: Progress) -> Iterator[Period]:
    # Nothing at all is one piece without rows: it says what the columns are.
    pieces = records.slices(model, _SLICE_ROWS, period) or [Period(0, 0)]
    for n_done, piece in enumerate(pieces):
        progress(n_done, len(pieces))
        yield piece
    progress(len(pieces), len(pieces))


def _batches(records: Records, sql: str, pieces: Iterable[Period]) -> Iterator[pa.RecordBatch]:
    """At least one, which may have no rows."""
    for piece in pieces:
        with records.query(sql, piece) as result:
            yield pa.RecordBatch.from_pylist([], result.schema)
            yield from result


def _export_lines(records: Records, view: str, lines: str, sink: IO[bytes], pieces: Iterable[Period]) -> Exported:
    sql = f"SELECT CASE WHEN rows > 0 THEN {lines} END AS lines FROM {quoted(view)} ORDER BY ts_ns, replica, epoch, seq"
    written = left_out = 0
    for batch in _batches(records, sql, pieces):
        column = batch.column("lines")
        left_out += column.null_count
        texts = column.flatten().to_pylist()
        written += len(texts)
        sink.write("".join(f"{text}\n" for text in texts).encode())
    return Exported(written, left_out)


def _write_parquet(batches: Iterator[pa.RecordBatch], sink: IO[bytes]) -> Exported:
    first = next(batches)
    written = 0
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=_ROW_GROUP_ROWS)
            written += batch.num_rows
    return Exported(written)


def _write_csv(batches: Iterator[pa.RecordBatch], sink: IO[bytes]) -> Exported:
    text = io.TextIOWrapper(sink, "utf-8", newline="", write_through=True)
    writer = csv_writer(text)
    first = next(batches)
    writer.writerow(first.schema.names)
    written = 0
    for batch in batches:
        writer.writerows([cell(value) for value in row] for row in plain_rows(batch))
        written += batch.num_rows
    text.detach()
    return Exported(written)
