"""Recorded rows in the forms of other tools."""

import base64
import csv
import io
import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.errors import NotFound
from serve.recording import exports
from serve.recording.exports import Exported, ExportKind, export
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.relations import ALWAYS, Period
from serve.recording.stores import open_store
from serve.recording.values import cell, plain_rows
from serve.records import RecordedTensor
from tests.unit.recording.recorded import HOST, HOUR_NS, T0, Recorder, write_records

AT = datetime(2026, 1, 1, 11)       # noqa: DTZ001  # request_time has no zone, and is UTC


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    folder = tmp_path_factory.mktemp("exports")
    recorder = write_records(str(folder / "records"), folder / "home")
    with read(recorder.store, host=HOST) as reading:
        yield Records(recorder.store, reading.snapshot)


def exported(records: Records, kind: ExportKind, model: str = "digits", period: Period = ALWAYS) -> tuple[bytes, Exported]:
    sink = io.BytesIO()
    done = export(records, kind, model, sink, period)
    return sink.getvalue(), done


def lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.splitlines()]


def refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


# SageMaker

def test_sagemaker_lines_are_those_of_data_capture(records: Records) -> None:
    content, done = exported(records, "sagemaker")
    found = lines(content)
    assert done == Exported(written=12, left_out=1)
    assert len(found) == 12
    capture, metadata = found[1]["captureData"], found[1]["eventMetadata"]
    same = {"observedContentType": "application/json", "encoding": "JSON"}
    assert found[1] == {
        "captureData": {"endpointInput": {**same, "mode": "INPUT", "data": capture["endpointInput"]["data"]},
                        "endpointOutput": {**same, "mode": "OUTPUT", "data": capture["endpointOutput"]["data"]}},
        "eventMetadata": {"eventId": metadata["eventId"], "inferenceId": "digits-1", "inferenceTime": "2026-01-01T10:00:00Z"},
        "eventVersion": "0"}
    assert json.loads(capture["endpointInput"]["data"]) == {
        "id": "digits-1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2, 2], "data": [1.0, 0.1, "NaN", -1.0]}]}
    assert json.loads(capture["endpointOutput"]["data"]) == {
        "model_name": "digits", "model_version": "1", "id": "digits-1",
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [1]}]}
    assert len({one["eventMetadata"]["eventId"] for one in found}) == 12


def test_rows_of_a_request_are_one_body(records: Records) -> None:
    pair, = [one for one in lines(exported(records, "sagemaker")[0]) if one["eventMetadata"]["inferenceId"] == "pair"]
    body = json.loads(pair["captureData"]["endpointInput"]["data"])
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [2, 2, 2], "data": [0.0, 0.1, 2.5, -1.0, 1.0, 0.1, "NaN", -1.0]}]
    answer = json.loads(pair["captureData"]["endpointOutput"]["data"])
    assert answer["outputs"] == [{"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}]


def test_bodies_of_dynamic_shapes_and_bytes(records: Records) -> None:
    last = lines(exported(records, "sagemaker", "text")[0])[2]["captureData"]
    assert json.loads(last["endpointInput"]["data"])["inputs"] == [
        {"name": "tokens", "datatype": "INT64", "shape": [1, 2], "data": [0, 1]},
        {"name": "grid", "datatype": "FP64", "shape": [1, 2, 2], "data": [0.5] * 4}]
    assert json.loads(last["endpointOutput"]["data"])["outputs"] == [
        {"name": "words", "datatype": "BYTES", "shape": [1, 2], "data": ["a", {"b64": "/g=="}]},
        {"name": "half", "datatype": "FP16", "shape": [1], "data": [0.5]}]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_bodies_of_a_model_without_batches_have_its_own_shapes(tmp_path: Path, is_sealed: bool) -> None:
    """max_batch_size 0: a request is one row with the tensors whole, and no dimension counts rows."""
    tensors = (RecordedTensor("in", "image", "FP32", (1, 2), 0), RecordedTensor("in", "tokens", "INT64", (2, -1), 1),
               RecordedTensor("out", "grid", "FP32", (-1, -1), 0), RecordedTensor("out", "one", "INT64", (1, 1), 1),
               RecordedTensor("out", "scalar", "FP64", (), 2))
    row = {"in_image": [1.0, 2.0], "in_tokens": [1, 2, 3, 4], "out_grid": {"data": [0.5, 0.5], "shape": [1, 2]}, "out_one": 5,
           "out_scalar": 0.25}
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    for is_batched in (False, True):        # of one version: its graph was exported again with a dynamic first dimension
        journal = recorder.journal("m", "1", tensors, [{**row, "ts_ns": T0 + is_batched}], is_batched=is_batched)
        if is_sealed:
            recorder.seal(journal)
    with read(recorder.store, host=HOST) as reading:
        single, batched = [one["captureData"] for one in lines(exported(Records(recorder.store, reading.snapshot), "sagemaker", "m")[0])]

    def shapes(capture: Any) -> list[list[int]]:
        ins, outs = json.loads(capture["endpointInput"]["data"]), json.loads(capture["endpointOutput"]["data"])
        return [one["shape"] for one in (*ins["inputs"], *outs["outputs"])]

    assert shapes(single) == [[1, 2], [2, 2], [1, 2], [1, 1], []]
    assert shapes(batched) == [[1, 1, 2], [1, 2, 2], [1, 1, 2], [1, 1, 1], [1]]


# CloudEvents

def test_cloudevents_are_pairs_in_strict_json(records: Records) -> None:
    content, done = exported(records, "cloudevents")
    assert done == Exported(written=24, left_out=1)
    events = [json.loads(line, parse_constant=refuse) for line in content.splitlines()]
    request, response = [one for one in events if one["id"] == "pair"]
    assert request == {
        "specversion": "1.0", "id": "pair", "source": "/headrace/r-0", "type": "org.kubeflow.serving.inference.request",
        "time": "2026-01-01T10:00:00.000000Z", "recordedtime": "2026-01-01T10:00:00.002000Z", "datacontenttype": "application/json",
        "inferenceservicename": "digits", "namespace": "default", "component": "predictor", "endpoint": "stable",
        "metadata": '{"model_version":"1","status":200,"replica":"r-0","epoch":1,"seq":4}', "annotations": '{"tenant":"a"}',
        "data": {"id": "pair", "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2, 2], "data": [0.0, 0.1, 2.5, -1.0, 1.0, 0.1, "NaN", -1.0]}]}}
    assert response == {
        **request, "type": "org.kubeflow.serving.inference.response", "time": "2026-01-01T10:00:00.002000Z", "data": {
            "model_name": "digits", "model_version": "1", "id": "pair",
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]}]}}


# Databricks, Parquet, CSV

def test_the_inference_table_of_databricks(records: Records) -> None:
    content, done = exported(records, "databricks")
    table = pq.read_table(io.BytesIO(content))
    assert done == Exported(written=13)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("databricks_request_id", "string"), ("request_date", "date32[day]"), ("client_request_id", "string"),
        ("request_time", "timestamp[us]"), ("status_code", "int32"), ("sampling_fraction", "double"), ("execution_duration_ms", "int64"),
        ("request", "string"), ("response", "string"), ("logging_error_codes", "list<element: string>"), ("served_entity_id", "string"),
        ("requester", "string")]
    failed, = [row for row in table.to_pylist() if row["status_code"] == 503]
    assert failed == {
        "databricks_request_id": failed["databricks_request_id"], "request_date": date(2026, 1, 1), "client_request_id": "digits-12",
        "request_time": AT, "status_code": 503, "sampling_fraction": 1.0, "execution_duration_ms": 0, "request": None,
        "response": None, "logging_error_codes": ["UNAVAILABLE"], "served_entity_id": "digits-2", "requester": None}
    assert len(set(table["databricks_request_id"].to_pylist())) == 13


def test_parquet_has_all_rows_with_their_bytes(records: Records) -> None:
    content, done = exported(records, "parquet")
    table = pq.read_table(io.BytesIO(content))
    assert done == Exported(written=15)
    assert table["seq"].to_pylist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16]
    assert table["in_word"].to_pylist()[10:] == ["café".encode(), b"\xff\x00a", None, b"w", b"w"]
    assert table["variant"].to_pylist().count("shadow") == 1


def test_csv_is_read_back(records: Records) -> None:
    content, done = exported(records, "csv")
    assert done == Exported(written=15)
    assert (content.count(b"\n"), content.count(b"\r")) == (16, 0)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert json.loads(rows[1]["in_x"]) == [1.0, 0.1, "NaN", -1.0]
    assert rows[0]["in_word"] == ""
    assert rows[10]["in_word"] == "café"
    assert json.loads(rows[4]["tags"]) == {"tenant": "a"}


@pytest.mark.parametrize("kind", ["databricks", "sagemaker", "cloudevents", "parquet", "csv"])
def test_periods_and_pieces_make_the_same_rows(records: Records, kind: ExportKind, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, done = exported(records, kind)
    monkeypatch.setattr(exports, "_SLICE_ROWS", 2)
    seen: list[tuple[int, int]] = []
    sink = io.BytesIO()
    assert export(records, kind, "digits", sink, ALWAYS, lambda n_done, of: seen.append((n_done, of))) == done
    assert len(seen) > 5
    assert seen[-1][0] == seen[-1][1]
    if kind in {"databricks", "parquet"}:
        assert str(pq.read_table(sink).to_pylist()) == str(pq.read_table(io.BytesIO(whole)).to_pylist())    # NaN is not NaN
    else:
        assert sink.getvalue() == whole
    hour = exported(records, kind, period=Period(T0 + HOUR_NS, T0 + 2 * HOUR_NS))[1]
    assert hour == {"databricks": Exported(6), "sagemaker": Exported(5, 1), "cloudevents": Exported(10, 1)}.get(kind, Exported(6))


@pytest.mark.parametrize("kind", ["databricks", "sagemaker", "cloudevents", "parquet", "csv"])
def test_no_rows_make_an_empty_file_of_that_form(records: Records, kind: ExportKind) -> None:
    content, done = exported(records, kind, period=Period(1, 2))
    assert done == Exported(0)
    if kind in {"databricks", "parquet"}:
        assert pq.read_table(io.BytesIO(content)).num_columns > 10
    elif kind == "csv":
        assert content.startswith(b"ts_ns,ts,request_id,")
    else:
        assert content == b""


def test_a_model_that_was_never_recorded(records: Records) -> None:
    with pytest.raises(NotFound, match="there are digits, text"):
        exported(records, "sagemaker", "nope")


ALL_TYPES = [
    ("BOOL", True, True), ("INT8", -128, -128), ("UINT64", 2**64 - 1, 2**64 - 1), ("INT64", -(2**63), -(2**63)), ("FP32", 0.1, 0.1),
    ("FP64", 1e300, 1e300), ("FP64", float("inf"), "Infinity"), ("FP32", float("-inf"), "-Infinity"), ("FP64", float("nan"), "NaN"),
    ("BYTES", b"a\"b\\\n", 'a"b\\\n'), ("BYTES", b"\xfe", {"b64": base64.b64encode(b"\xfe").decode()}), ("BF16", 0.5, 0.5)]


def test_every_datatype_in_a_body(tmp_path: Path) -> None:
    tensors = tuple(RecordedTensor("in", f"t'{i}\"", datatype, (2,), i) for i, (datatype, _, _) in enumerate(ALL_TYPES))
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    row = {one.column: [value] * 2 for one, (_, value, _) in zip(tensors, ALL_TYPES, strict=True)}
    recorder.seal(recorder.journal("m", "1", tensors, [row]))
    with read(recorder.store, host=HOST) as reading:
        event = lines(exported(Records(recorder.store, reading.snapshot), "cloudevents", "m")[0])[0]
    assert event["data"]["inputs"] == [
        {"name": one.name, "datatype": one.datatype, "shape": [1, 2], "data": [expected] * 2}
        for one, (_, _, expected) in zip(tensors, ALL_TYPES, strict=True)]


# Values

def test_values_for_people_and_programs() -> None:
    batch = pa.RecordBatch.from_pydict({
        "f": pa.array([0.1, float("nan"), None], pa.float32()), "l": pa.array([[0.1], None, []], pa.list_(pa.float32())),
        "n": pa.array([[float("inf"), 1.0], [], [float("-inf")]], pa.list_(pa.float64(), -1)), "b": pa.array([b"a", b"\xff", None]),
        "t": pa.array([0, None, 1], pa.timestamp("ns")), "m": pa.array([[("k", 0.5)], [], None], pa.map_(pa.string(), pa.float64())),
        "s": pa.array([{"x": 0.1}, None, {"x": None}], pa.struct([("x", pa.float32())])),
        "x": pa.array([[0.1, 0.2], None, [1, 2]], pa.list_(pa.float32(), 2)), "d": pa.array([1, 2, None], pa.decimal128(38, 0))})
    assert plain_rows(batch) == [
        (0.1, [0.1], ["Infinity", 1.0], "a", "1970-01-01T00:00:00.000000000", {"k": 0.5}, {"x": 0.1}, [0.1, 0.2], 1),
        ("NaN", None, [], {"b64": "/w=="}, None, {}, None, None, 2),
        (None, [], ["-Infinity"], None, "1970-01-01T00:00:00.000000001", None, {"x": None}, [1.0, 2.0], None)]
    assert [cell(value) for value in (None, "a", 1, 0.1, True, [1, "é"])] == ["", "a", "1", "0.1", "true", '[1, "é"]']
