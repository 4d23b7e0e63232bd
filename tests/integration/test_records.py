"""Records of a running server, by an operator's own commands: every answer is there, labelled, sealed, and none is lost or doubled."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from onnx import helper, numpy_helper

from serve.protocol.messages import FeedbackItem, FeedbackRequest, FeedbackResponse
from tests.core import onnx_models
from tests.integration.http1_wire import Http1Connection
from tests.integration.running_server import ROOT, RunningServer, running_server

WAIT_S = 30.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """m: y = 2 x, the largest of whose values is the class that it predicts."""
    folder = tmp_path / "models" / "m"
    (folder / "1").mkdir(parents=True)
    onnx_models.save(folder / "1" / "model.onnx", [helper.make_node("Mul", ["x", "two"], ["y"])],
                     [onnx_models.info("x", "FP32", ["batch", 3])], [onnx_models.info("y", "FP32", ["batch", 3])],
                     [numpy_helper.from_array(np.array(2, np.float32), "two")])
    (folder / "model.yaml").write_text(yaml.safe_dump({
        "recording": {"tags": {"tenant": {"header": "x-tenant"}}}, "monitoring": {"task": "classification", "scores": "y"},
        "provenance": {"git_revision": "abc123"}}))
    whole = folder.parent / "whole" / "1"       # fixed first dimensions: no batches
    whole.mkdir(parents=True)
    onnx_models.save(whole / "model.onnx", [helper.make_node("Neg", ["x"], ["y"])],
                     [onnx_models.info("x", "FP32", [2, 3])], [onnx_models.info("y", "FP32", [2, 3])])
    (whole.parent / "model.yaml").write_text("recording: {}\n")
    return folder.parent


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[RunningServer]:
    flags = ("--records", str(tmp_path / "records"), "--record-seal", "1", "--replica-id", "r1")
    with running_server(repository, tmp_path, *flags) as running:
        yield running


def records(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", "records", *arguments, "--records", str(folder / "records"),
         "--state-dir", str(folder / "state")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def query(folder: Path, sql: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in records(folder, "query", sql, "--format", "json").splitlines()]


def verified(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(records(folder, "verify", "--format", "json"))
    return found


def until(condition: Any, what: str) -> Any:
    """What the condition returns once it is true: what happens in another process can only be looked at."""
    end = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end, f"after {WAIT_S:g} s still not: {what}"
        time.sleep(0.1)
    return found


def infer(connection: Http1Connection, request_id: str, rows: list[list[float]], model: str = "m", **headers: str) -> int:
    body = json.dumps({"id": request_id, "inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])],
                                                    "data": np.ravel(rows).tolist()}]}).encode()
    return connection.request("POST", f"/v2/models/{model}/infer", body, {"Content-Type": "application/json", **headers}).status


def test_answers_are_found_where_an_operator_looks_for_them(server: RunningServer, tmp_path: Path) -> None:
    with Http1Connection(server.http) as connection:
        for i in range(50):
            assert infer(connection, f"id-{i}", [[i, 1, 2], [0, i, 5]], **{"x-tenant": "blue"}) == 200
        assert infer(connection, "bad", [[1.0, 2.0]]) == 400
    until(lambda: query(tmp_path, "SELECT count(*) AS n FROM records")[0]["n"] == 101, "all rows to be visible")
    (row,) = query(tmp_path, "SELECT * FROM records_m WHERE request_id = 'id-7' AND row = 1")
    assert (row["in_x"], row["out_y"], row["model"], row["version"], row["variant"]) == ([0.0, 7.0, 5.0], [0.0, 14.0, 10.0], "m", "1", "1")
    assert (row["status"], row["protocol"], row["replica"], row["error_codes"]) == (200, "http", "r1", [])
    assert row["digest"].startswith("sha256:")
    (failed,) = query(tmp_path, "SELECT row, status, error_codes FROM records WHERE request_id = 'bad'")
    assert failed == {"row": -1, "status": 400, "error_codes": ["INVALID_ARGUMENT"]}
    sealed = until(lambda: list((tmp_path / "records").rglob("part-*.parquet")), "the journal to be sealed")
    assert "model=m/version=1/dt=" in str(sealed[0])

    def kept() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("headrace_records_ke")}

    until(lambda: kept().get('headrace_records_kept{what="parts"}', 0) >= 1, "the keeper to have said what it keeps")
    assert kept()["headrace_records_keeper_running"] == 1
    assert verified(tmp_path)["is_intact"]


def test_an_export_has_the_shapes_that_were_sent(server: RunningServer, tmp_path: Path) -> None:
    with Http1Connection(server.http) as connection:
        for model in ("m", "whole"):
            assert infer(connection, f"to-{model}", [[0, 1, 2], [3, 4, 5]], model) == 200
    until(lambda: query(tmp_path, "SELECT count(*) AS n FROM records")[0]["n"] == 3, "all rows to be visible")
    for model in ("m", "whole"):
        (line,) = records(tmp_path, "export", model, "--as", "sagemaker", "--to", "-").splitlines()
        sent, answered = (json.loads(json.loads(line)["captureData"][end]["data"]) for end in ("endpointInput", "endpointOutput"))
        assert (sent["inputs"][0]["shape"], answered["outputs"][0]["shape"]) == ([2, 3], [2, 3])
    assert [row["in_x"] for row in query(tmp_path, "SELECT in_x FROM records_whole")] == [[0, 1, 2, 3, 4, 5]]


def test_nothing_appended_is_lost_by_a_kill(server: RunningServer, tmp_path: Path) -> None:
    with Http1Connection(server.http) as connection:
        for i in range(200):
            assert infer(connection, f"before-{i}", [[i, 1, 2]]) == 200
    until(lambda: query(tmp_path, "SELECT count(*) AS n FROM records")[0]["n"] == 200, "the rows to be appended")
    os.kill(server.worker().pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            with Http1Connection(server.http) as connection:
                return infer(connection, "after", [[1, 2, 3]]) == 200
        except OSError:
            return False

    until(is_back, "a new worker")
    until(lambda: query(tmp_path, "SELECT count(*) AS n FROM records WHERE request_id = 'after'")[0]["n"] == 1, "its row")
    assert query(tmp_path, "SELECT count(*) AS n, count(DISTINCT request_id) AS ids FROM records WHERE request_id LIKE 'before-%'") == [
        {"n": 200, "ids": 200}]
    found = until(lambda: (books := verified(tmp_path)) and [a for a in books["accounts"] if a["state"] != "open"] and books, "the account")
    assert found["is_intact"]
    (dead,) = [account for account in found["accounts"] if account["epoch"] == 1]
    assert (dead["assigned"], dead["found"]["rows"], dead["lost"], dead["unexplained"]) == (200, 200, 0, 0)


def test_labels_find_their_predictions(server: RunningServer, tmp_path: Path) -> None:
    def tell(item: dict[str, Any], path: str = "/v2/models/m/feedback") -> int:
        return connection.request("POST", path, json.dumps(item).encode(), {"Content-Type": "application/json"}).status

    def counted() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("headrace_feedback_labels_total{")]
        return {line.partition('result="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}

    with Http1Connection(server.http) as connection:
        assert infer(connection, "seen", [[0, 9, 1], [5, 1, 1]]) == 200
        assert tell({"request_id": "seen", "row": 0, "label": 1}) == 202
        assert tell({"request_id": "seen", "row": 1, "label": 2}, "/v2/models/m/feedback?durable=true") == 202
        assert tell({"request_id": "seen", "row": 0, "label": 1}) == 202
        assert tell({"request_id": "seen"}) == 400
        assert tell({"request_id": "seen", "label": 1}, "/v2/models/nobody/feedback") == 404
    until(lambda: counted().get("joined") == 2, "the labels to be joined")
    assert (counted()["duplicate"], counted()["appended"]) == (1, 3)
    assert [row["value"] for row in query(tmp_path, "SELECT value FROM labels ORDER BY seq")] == [1.0, 2.0, 1.0]


def test_a_stream_of_labels_may_be_long(server: RunningServer) -> None:
    """4 MB in 40 requests, sent as fast as they are taken; each is acknowledged."""
    host, port = server.grpc
    items = [FeedbackItem(request_id=f"{i:080d}", number=i) for i in range(1000)]
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        submit = channel.stream_stream("/headrace.v1.Feedback/SubmitStream", request_serializer=FeedbackRequest.SerializeToString,
                                       response_deserializer=FeedbackResponse.FromString)
        answers = list(submit((FeedbackRequest(model="m", feedback=items) for _ in range(40)), timeout=60))
    assert [(answer.accepted, answer.error_message) for answer in answers] == [(1000, "")] * 40


def test_a_server_that_cannot_record_does_not_start(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "serve.cli", "serve", str(repository), "--state-dir", str(tmp_path / "s"), "--records",
         str(tmp_path / "file" / "records"), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--admin-port", "0"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "records" in done.stderr
