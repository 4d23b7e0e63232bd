"""`headrace gate`: exit codes, settings by file and flag, the report, and what is sent to a server."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result
from typer.testing import CliRunner

from serve.cli import app
from serve.errors import HeadraceError
from serve.models.offline import OfflineModel
from serve.models.runtime import start_runtime
from serve.monitoring.gate_report import GateReport
from serve.recording.arrow_schema import journal_schema
from serve.recording.stores import open_store
from serve.records import RecordedTensor
from tests.unit.admin_server import admin_server
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.monitoring.gated_models import rows, write_repository
from tests.unit.recording.recorded import _DEFAULTS, FAILED, T0, Recorder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    start_runtime("cpu")
    root = tmp_path_factory.mktemp("gate")
    write_repository(root)
    x, truth = rows(1500)
    np.savez(root / "heldout.npz", x=x, truth=truth)
    return root


def gate(repository: Path, *arguments: str, **flags: Any) -> Result:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return CliRunner().invoke(app, ["gate", *arguments, "--repository", str(repository), *given])


def labelled(repository: Path, candidate: str, *arguments: str, **flags: Any) -> Result:
    return gate(repository, "classes", candidate, "--no-latency", *arguments, data=repository / "heldout.npz", label="truth", **flags)


@pytest.mark.parametrize(("candidate", "flags", "code", "verdict"), [
    ("2", {}, 0, "version 2"), ("3", {}, 10, "FAILS"), ("2", {"min_rows": 2000}, 11, "is undecided: not enough data")])
def test_the_exit_code_says_it(repository: Path, candidate: str, flags: dict[str, Any], code: int, verdict: str) -> None:
    result = labelled(repository, candidate, **flags)
    assert (result.exit_code, verdict in result.output) == (code, True), result.output
    assert "accuracy" in result.output


def test_the_report_is_written_and_told(repository: Path, tmp_path: Path) -> None:
    result = labelled(repository, "2", "--json", report=tmp_path / "report.json")
    report = GateReport.model_validate_json((tmp_path / "report.json").read_text())
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())
    assert (report.verdict, report.data.labelled) == ("pass", 1500)


def test_a_report_that_cannot_be_written_is_told_all_the_same(repository: Path, tmp_path: Path) -> None:
    result = labelled(repository, "2", "--json", report=tmp_path / "none" / "report.json")
    assert json.loads(result.stdout)["verdict"] == "pass"
    assert isinstance(result.exception, HeadraceError)
    assert "cannot write" in str(result.exception)


def test_flags_go_over_the_file(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text(
        "stable: 3\nrows: 800\nlatency: {runs: 20, max_median_ratio: 99}\nmetrics: {accuracy: {min: 0.1}, f1: {min: 0.2}}\n")
    result = gate(repository, "classes", "2", "--json", "--min", "accuracy=0.15", "--max-drop", "accuracy=0.5",
                  config=tmp_path / "gate.yaml", stable="1", data=repository / "heldout.npz", label="truth", min_agreement=0.5,
                  max_latency_ratio=50)
    settings = json.loads(result.stdout)["settings"]
    assert (settings["stable"], settings["rows"], settings["agreement"]["min"]) == ("1", 800, 0.5)
    assert (settings["latency"]["runs"], settings["latency"]["max_median_ratio"]) == (20, 50.0)
    accuracy, f1 = settings["metrics"]["accuracy"], settings["metrics"]["f1"]
    assert (accuracy["min"], accuracy["max_drop"], f1["min"]) == (0.15, 0.5, 0.2)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("arguments", "code"), [
    (["--min", "accuracy=0.01"], 10), (["--min", "accuracy=0.01", "--max-drop", "accuracy=none"], 0)])
def test_only_none_switches_the_comparison_off(repository: Path, arguments: list[str], code: int) -> None:
    result = labelled(repository, "3", *arguments, stable="1")
    assert result.exit_code == code, result.output


@pytest.mark.parametrize(("arguments", "flags", "text"), [
    ([], {}, "give one of --data and --records: a gate needs rows to replay"),
    (["--min", "accuracy"], {}, "'accuracy': want METRIC=VALUE, accuracy=0.95 for instance, or METRIC=none"),
    (["--min", "recall=0.5"], {}, "metrics.recall"),
    (["--max", "accuracy=0.5"], {}, "metrics.accuracy.max: accuracy is limited by min and max_drop"),
    (["--column", "x"], {"data": "heldout.npz"}, "--column x: want INPUT=COLUMN"),
    ([], {"data": "absent.npz"}, "cannot read"),
    ([], {"config": "absent.yaml", "data": "heldout.npz"}, "cannot read"),
])
def test_what_cannot_be_asked_is_said(repository: Path, arguments: list[str], flags: dict[str, str], text: str) -> None:
    files = {name: repository / value for name, value in flags.items()}
    result = gate(repository, "classes", "2", "--no-latency", *arguments, **files)
    assert isinstance(result.exception, HeadraceError)      # `main` says it and leaves with 1
    assert text in str(result.exception)


def test_the_report_is_sent_to_the_server(repository: Path) -> None:
    x, truth = rows(500)
    np.savez(repository / "few.npz", x=x, truth=truth)
    routing = FakeRouting()
    (repository / "digits").symlink_to(repository / "classes")      # the name of the model that the server knows
    with admin_server(routing) as url:
        result = CliRunner().invoke(app, [
            "gate", "digits", "2", "--no-latency", "--repository", str(repository / "digits"), "--data", str(repository / "few.npz"),
            "--label", "truth", "--submit", "--admin", url, "--as", "ci", "--reason", "build 7"])
    assert result.exit_code == 0, result.output
    name, model, by = routing.calls[0]
    assert (name, model, by.name, by.reason) == ("gate", "digits", "ci", "build 7")


# --- recorded predictions -----------------------------------------------------------------------------------------------

def write_predictions(root: Path, digest: str, x: Any, label: Any, truth: Any) -> None:
    """Rows of classes version 1, journalled, with a label for each; and one that failed."""
    recorder = Recorder(open_store(str(root / "records")), root / "home", host=os.uname().nodename)
    tensors = (RecordedTensor("in", "x", "FP32", x.shape[1:], 0), RecordedTensor("out", "label", "INT64", (), 0))
    predicted = [{**_DEFAULTS, "ts_ns": T0 + at, "request_id": f"p{at}", "seq": at, "in_x": x[at].tolist(), "out_label": int(label[at])}
                 for at in range(len(x))]
    predicted.append({**_DEFAULTS, **FAILED, "request_id": "failed", "seq": len(x)})
    header = recorder._header("records", model="classes", version="1", digest=digest, tensors=tensors)
    recorder._write(header, pa.RecordBatch.from_pylist(predicted, journal_schema(tensors)))
    recorder.labels([{"request_id": f"p{at}", "value": float(one), "model": "classes"} for at, one in enumerate(truth)])


def test_redacted_inputs_cannot_be_replayed(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    for version in ("1", "2"):
        (tmp_path / "classes" / version).symlink_to(repository / "classes" / version)
    (tmp_path / "classes" / "model.yaml").write_text("recording: {redact: {in_x: mask}}")
    result = gate(tmp_path, "classes", "2", stable="1", records=tmp_path / "records")
    assert "input 'x' of 'classes' is redacted before it is recorded" in str(result.exception)


def test_rows_of_a_state_directory_that_was_moved_are_seen(repository: Path, tmp_path: Path) -> None:
    x, truth = rows(300)
    write_predictions(tmp_path, f"sha256:{1:064x}", x, truth, truth)
    (tmp_path / "moved").mkdir()
    (tmp_path / "home").rename(tmp_path / "moved" / "records")
    arguments = ("classes", "2", "--no-latency", "--json")
    seen = gate(repository, *arguments, records=tmp_path / "records", state_dir=tmp_path / "moved")
    assert json.loads(seen.stdout)["data"]["rows"] == 300
    assert isinstance(gate(repository, *arguments, records=tmp_path / "records", state_dir=tmp_path).exception, HeadraceError)


def test_redacted_outputs_are_not_held_against_the_replay(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    for version in ("1", "2"):
        (tmp_path / "classes" / version).symlink_to(repository / "classes" / version)
    (tmp_path / "classes" / "model.yaml").write_text("recording: {redact: {out_label: {bucket: [1]}}}")
    x, truth = rows(300)
    digest = OfflineModel(tmp_path, "classes").load("1", "cpu").digest
    write_predictions(tmp_path, digest, x, np.full(300, 9), truth)
    result = gate(tmp_path, "classes", "2", "--no-latency", "--json", stable="1", records=tmp_path / "records")
    assert "recorded" not in {check["name"] for check in json.loads(result.stdout)["checks"]}


def test_labels_that_are_asked_for_and_not_there_are_told(repository: Path, tmp_path: Path) -> None:
    x, truth = rows(300)
    np.savez(tmp_path / "rows.npz", x=x, y=np.full(300, np.nan))
    result = gate(repository, "classes", "2", data=tmp_path / "rows.npz", label="y")
    assert f"--label y: none of 300 rows of {tmp_path / 'rows.npz'} has one" in str(result.exception)
    write_predictions(tmp_path, f"sha256:{1:064x}", x, truth, truth)
    result = gate(repository, "classes", "2", records=tmp_path / "records", label="labl")
    assert "--label labl: none of 300 rows of" in str(result.exception)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_are_above_zero(repository: Path, tmp_path: Path, hours: str) -> None:
    result = gate(repository, "classes", "2", records=tmp_path, hours=hours)
    assert "want a number above 0" in str(result.exception)


@pytest.mark.parametrize(("candidate", "code"), [("2", 0), ("3", 10)])
def test_recorded_predictions_are_replayed_with_their_labels(repository: Path, tmp_path: Path, candidate: str, code: int) -> None:
    x, truth = rows(1000)
    stable = OfflineModel(repository, "classes").load("1", "cpu")
    label = np.concatenate([stable.run({"x": x[at:at + 10]})["label"] for at in range(0, 1000, 10)])
    write_predictions(tmp_path, stable.digest, x, label, truth)
    result = gate(repository, "classes", candidate, "--no-latency", "--json", records=tmp_path / "records")
    assert result.exit_code == code, result.output
    report = json.loads(result.stdout)
    assert (report["data"]["rows"], report["data"]["labelled"]) == (1000, 1000)
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert (statuses["recorded"], statuses["accuracy_vs_stable"]) == ("pass", "pass" if code == 0 else "fail")
