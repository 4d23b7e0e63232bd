"""`headrace monitor`: against an admin API, and baselines made without a server."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from typer.testing import CliRunner

from serve import cli
from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.api.routing_ports import Actor
from serve.commands.common import show
from serve.commands.monitor_view import baseline_picture, spark, status_picture
from serve.errors import ConfigurationError, InvalidArgument, NotFound
from serve.models.offline import OfflineModel
from serve.monitoring.baseline import baseline_of_json
from serve.monitoring.baseline_source import Target, arrow_of, of_records
from serve.records import RecordedTensor
from tests.unit.api.fakes import FakeModels
from tests.unit.monitoring.documents import document
from tests.unit.pictures import drawn


class Served:
    """serve.api.admin_monitoring.Monitoring with one document."""

    def __init__(self) -> None:
        self.made = document(n_windows=20, drift_from=12)
        self.asked: list[tuple[Any, ...]] = []
        self.baselines: list[dict[str, Any]] = []

    async def document(self, model: str, version: str = "", variant: str = "", since_ns: int = 0, limit: int = 288) -> Mapping[str, Any]:
        if model != "digits":
            raise NotFound(f"model '{model}' is not watched")
        self.asked.append((version, since_ns, limit))
        return self.made

    async def baseline(self, model: str, version: str = "") -> Mapping[str, Any]:
        return self.baselines[-1]

    async def put_baseline(self, model: str, version: str, document: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        self.baselines.append(dict(document))
        self.asked.append((model, version, by.reason))
        return document

    async def acknowledge(self, model: str, alert_id: str, by: Actor) -> Mapping[str, Any]:
        return {"id": alert_id, "acknowledged_by": by.name}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    one, models = Served(), FakeModels()
    app = admin_app(models, Readiness(models.server_ready), ApiSettings(), None, one)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", lifespan="off", ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        monkeypatch.setenv("HEADRACE_ADMIN", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield one
        server.should_exit = True
        thread.join()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["monitor", *arguments])


def test_status(served: Served) -> None:
    found = run("status", "digits", "--version", "1", "--since", "2026-01-31T12:00:00Z")
    assert found.exit_code == 0, found.output
    for words in ("3 alerts", "input[23] (PSI 1.39) and 20 more", "estimated accuracy", "realised accuracy", "input[2]", "seen by"):
        assert words in found.output
    assert served.asked == [("1", 1_769_860_800 * 10**9, 288)]
    assert json.loads(run("status", "digits", "--json").output)["model"] == "digits"
    assert run("status", "digits", "--exit-code").exit_code == 10
    served.made["alerts"] = []
    assert run("status", "digits", "--exit-code").exit_code == 0


def test_what_is_drawn_of_documents_with_holes() -> None:
    made = document(n_windows=10, drift_from=99)
    made["series"][0] |= {"baseline": None, "collecting": {"rows": 300, "wanted": 1000}, "latest": None}
    made["series"][1]["latest"] |= {"concluded": False, "reason": "130 rows; 500 are needed"}
    made["alerts"] = []
    text = drawn(status_picture(made))
    assert "no alerts" in text
    assert "300 of 1,000 rows are collected" in text
    assert "130 rows; 500 are needed" in text
    made |= {"series": [], "violations": []}
    assert "no row has been watched yet" in drawn(status_picture(made))


def test_a_version_without_a_variant_of_its_own() -> None:
    made = document(n_windows=4)
    made["series"][0] |= {"variant": "1", "latest": None}
    made["series"][1] |= {"variant": "", "latest": None}
    text = drawn(status_picture(made))
    assert "version 1 baseline 1-3f2a9c" in text
    assert "version 2 baseline 2-aa" in text
    assert "version 1 as stable baseline" in drawn(status_picture(document(n_windows=4)))


def test_sparks() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert (spark([]), spark([3, 3]), spark([float("nan"), 1, 2]), len(spark(list(range(99))))) == ("", "▁▁", "▁█", 24)


def test_report(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serve.clock.wall_ns", lambda: 1_769_900_000 * 10**9)
    page = tmp_path / "report.html"
    found = run("report", "digits", "-o", str(page), "--windows", "20")
    assert (found.exit_code, found.output.strip()) == (0, str(page))
    assert "<svg" in page.read_text()
    assert run("report", "digits", "-o", "-", "--windows", "20").output == page.read_text()
    refused = run("report", "digits", "-o", str(tmp_path / "none" / "report.html"))
    assert isinstance(refused.exception, ConfigurationError)
    assert list(tmp_path.iterdir()) == [page]


def test_acknowledge(served: Served) -> None:
    assert run("acknowledge", "digits", "digits-a31", "--as", "ada").output.strip() == "digits-a31: seen by ada"


# Baselines

@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two numbers and a word: class 1 where x0 + x1 > 0; scores from a sigmoid."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, kind: int, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [None, *shape])

    folder = tmp_path_factory.mktemp("models")
    nodes = [helper.make_node(operator, inputs, [output], **attributes) for operator, inputs, output, attributes in (
        ("MatMul", ["x", "w"], "z", {}), ("Mul", ["z", "zero"], "n", {}), ("Concat", ["n", "z"], "both", {"axis": 1}),
        ("Softmax", ["both"], "scores", {"axis": 1}), ("ArgMax", ["scores"], "label", {"axis": 1, "keepdims": 0}),
        ("Identity", ["word"], "echo", {}))]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, 2), value("word", TensorProto.STRING, 1)],
        [value("label", TensorProto.INT64), value("scores", TensorProto.FLOAT, 2), value("echo", TensorProto.STRING, 1)],
        [numpy_helper.from_array(np.array([[2.0], [2.0]], np.float32), "w"), numpy_helper.from_array(np.array(0, np.float32), "zero")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "sums" / "1").mkdir(parents=True)
    onnx.save(model, folder / "sums" / "1" / "model.onnx")
    return folder


@pytest.fixture
def repository(models: Path, tmp_path: Path) -> Path:
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


def training(n: int = 600, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 2)).astype(np.float32)
    truth = (draw.random(n) < 1 / (1 + np.exp(-2 * x.sum(axis=1)))).astype(np.int64)
    age = [None if i % 10 == 0 else float(x[i, 0]) for i in range(n)]
    return pa.table({"age": pa.array(age), "x1": x[:, 1], "word": [("red", "green")[i % 2] for i in range(n)], "truth": truth})


def made(folder: Path, *more: str) -> Any:
    return run("baseline", "sums", "--repository", str(folder), *more)


def test_training_data_becomes_a_baseline_beside_the_model(repository: Path, tmp_path: Path) -> None:
    table = training()
    pairs = zip(table["age"].fill_null(float("nan")).to_pylist(), table["x1"].to_pylist(), strict=True)
    table = table.append_column("x", pa.array(list(pairs)))
    pq.write_table(table.drop_columns(["age", "x1"]), tmp_path / "training.parquet")
    found = made(repository, "--from", str(tmp_path / "training.parquet"), "--labels", "truth")
    assert found.exit_code == 0, (found.output, found.exception)
    file = repository / "sums" / "1" / "baseline.json"
    baseline = baseline_of_json(file.read_bytes())
    assert baseline.digest == OfflineModel(repository, "sums").load("1", "cpu").digest, "the file itself is no part of it"
    assert (baseline.rows, baseline.source, baseline.task) == (600, "training", "classification")
    assert {one.name: one.nans for one in baseline.numeric} == {"x[0]": 60, "x[1]": 0}
    assert {one.name: one.values for one in baseline.categories} == {"word": ("green", "red")}
    assert baseline.answers is not None
    assert (baseline.answers.classes, baseline.answers.positive, baseline.answers.maps[0].is_calibrated) == (("0", "1"), "1", True)
    assert 0.6 < baseline.performance["accuracy"].value < 0.9
    assert "scores calibrated" in found.output
    assert json.loads(made(repository, "--from", str(tmp_path / "training.parquet"), "--json", "-o", str(tmp_path / "b.json")).stdout)[
        "performance"] == {}


def test_a_baseline_is_not_written_to_a_folder_that_is_not_there(repository: Path, tmp_path: Path) -> None:
    pq.write_table(training().rename_columns(["x_0", "x_1", "word", "truth"]), tmp_path / "t.parquet")
    found = made(repository, "--from", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "none" / "b.json"))
    assert isinstance(found.exception, ConfigurationError)
    assert "No such file or directory" in str(found.exception)
    assert not (tmp_path / "none").exists()


def test_csv_with_columns_by_name_and_a_sample(repository: Path, tmp_path: Path) -> None:
    from pyarrow import csv

    table = training().rename_columns(["x_0", "x_1", "word", "truth"])
    csv.write_csv(table, tmp_path / "training.csv")
    found = made(repository, "--from", str(tmp_path / "training.csv"), "--labels", "truth", "--rows", "200", "-o", str(tmp_path / "b.json"))
    assert found.exit_code == 0, (found.output, found.exception)
    baseline = baseline_of_json((tmp_path / "b.json").read_bytes())
    assert baseline.rows == 200
    assert not (repository / "sums" / "1" / "baseline.json").exists()


def test_it_can_be_given_to_the_server_and_is_shown_from_there(served: Served, repository: Path, tmp_path: Path) -> None:
    table = training().rename_columns(["x_0", "x_1", "word", "truth"])
    pq.write_table(table, tmp_path / "t.parquet")
    found = made(repository, "--from", str(tmp_path / "t.parquet"), "--submit", "--reason", "new data")
    assert found.exit_code == 0, (found.output, found.exception)
    assert (served.asked, served.baselines[0]["rows"]) == ([("sums", "1", "new data")], 600)
    shown = run("baseline", "sums")
    assert "600 rows of training" in shown.output
    assert "watches 2 numbers, 1 categories" in shown.output
    assert "cannot be estimated; give --labels" in drawn(baseline_picture(served.baselines[0]))


@pytest.mark.parametrize(("arguments", "said"), [
    (["--from", "x.parquet", "--from-records"], "give one of"), (["--from-records"], "need --records"),
    (["--from", "missing.csv"], "cannot read"), (["--from", "x.txt"], "want .csv or .parquet"),
    (["--from", "x.parquet", "--version", "7"], "version 7 of 'sums' is not in"),
    (["--from", "t.parquet", "--labels", "truht"], "no column 'truht'"),
    (["--from", "t.parquet", "--column", "x"], "want INPUT=COLUMN"), (["--from", "few.parquet"], "at least 30")])
def test_what_cannot_be(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_RECORDS", raising=False)
    table = training(100).rename_columns(["x_0", "x_1", "word", "truth"])
    pq.write_table(table, tmp_path / "t.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "few.parquet")
    found = made(repository, *arguments)
    assert found.exit_code != 0
    assert said in f"{found.output} {found.exception}".replace("\n", " ")


class FakeResult:
    def __init__(self, table: pa.Table) -> None:
        self.schema, self._table = table.schema, table

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self._table.to_batches())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeRecords:
    """The queries that a baseline asks, and rows for them."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.sql = ""

    def view(self, kind: str, model: str = "", version: str = "") -> str:
        return f"records_{model}_{kind}"

    def columns(self, view: str) -> list[tuple[str, str]]:
        return [(name, "") for name in ("ts_ns", "in_x", "in_word", "out_label", "out_scores")]

    def query(self, sql: str, period: object) -> FakeResult:
        self.sql = sql
        return FakeResult(self.table)


def recorded(n: int = 100) -> pa.Table:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(n, 2))
    score = 1 / (1 + np.exp(-2 * x.sum(axis=1)))
    return pa.table({
        "c0": pa.array(x.tolist(), pa.list_(pa.float32())), "c1": pa.array([b"red"] * n), "c2": pa.array((score > 0.5).astype(np.int64)),
        "c3": pa.array([[1 - one, one] for one in score.tolist()], pa.list_(pa.float32())),
        "text": pa.array(["1" if i % 2 else None for i in range(n)]), "value": pa.array([None if i % 3 else 0.0 for i in range(n)])})


def test_recorded_rows_of_this_very_digest_become_a_baseline(repository: Path) -> None:
    model = OfflineModel(repository, "sums")
    target = Target(model, model.load("1", "cpu"), 7)
    records = FakeRecords(recorded())
    baseline = of_records(target, records, "label", 100, 0, shadow=True)      # type: ignore[arg-type]
    assert (baseline.source, baseline.rows, baseline.created_ns) == ("shadow", 100, 7)
    assert [one.name for one in baseline.numeric] == ["x[0]", "x[1]"]
    assert baseline.answers is not None
    assert baseline.answers.confusion is not None
    assert np.sum(baseline.answers.confusion) == 50 + 17, "labelled by text, else by number"
    for part in (f"r.digest = '{target.version.digest}'", "r.version = '1'", "r.row >= 0", "r.variant = 'shadow'", "LIMIT 100",
                 "ORDER BY r.ts_ns", "ORDER BY ts_ns, replica, epoch, seq", "name = 'label'"):
        assert part in records.sql
    of_records(target, records, "", 100, 0, shadow=False)      # type: ignore[arg-type]
    assert "r.variant <> 'shadow'" in records.sql
    records.table = recorded(0)
    with pytest.raises(InvalidArgument, match="has answered no recorded row as a shadow"):
        of_records(target, records, "", 100, 0, shadow=True)      # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "values", "expected"), [
    ((), [np.float32(1.5), None], [1.5, None]), ((2,), [np.ones(2), None], [[1.0, 1.0], None]), ((-1,), [np.ones(3)], [[1.0, 1.0, 1.0]]),
    ((-1, -1), [np.ones((1, 2))], [{"data": [1.0, 1.0], "shape": [1, 2]}])])
def test_values_as_a_journal_has_them(shape: tuple[int, ...], values: list[Any], expected: list[Any]) -> None:
    tensor = RecordedTensor("in", "x", "FP32", shape, 0)
    assert arrow_of(values, range(len(values)), tensor).to_pylist() == expected


def test_bfloat16_is_widened() -> None:
    bits = (np.array([1.5, -2.0], "<f4").view("<u4") >> 16).astype("<u2")
    assert arrow_of([bits], [0], RecordedTensor("in", "x", "BF16", (2,), 0)).to_pylist() == [[1.5, -2.0]]
    assert arrow_of([np.array(["é"], object)], [0], RecordedTensor("in", "x", "BYTES", (1,), 0)).to_pylist() == ["é".encode()]


def test_a_category_that_is_no_text_is_printed_as_json_has_it(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    show({"values": ["Z\udcfcrich", "Zürich"]}, True, "")
    assert capsysbinary.readouterr().out == '{"values": ["Z\\udcfcrich", "Zürich"]}\n'.encode()
