"""What an operator sees: metrics, the admin plane, the command line, the log."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.client import Client, ClientError
from serve.types import VersionState
from tests.integration.http1_wire import Http1Connection
from tests.integration.http2_wire import Http2Connection
from tests.integration.payloads import FLOATS, INFER, grpc_request, json_request
from tests.integration.running_server import ROOT, RunningServer, log_events


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return str(response.read().decode())


def _scrape(server: RunningServer) -> Callable[..., float]:
    """The metrics as they are now: name and labels to the sum of what has them."""
    samples = [one for family in text_string_to_metric_families(_get(server.ports["metrics"], "/metrics")) for one in family.samples]

    def value(name: str, **labels: str) -> float:
        found = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
        assert found, f"no {name} with {labels}"
        return sum(found)
    return value


def test_metrics_count_what_was_served(server: RunningServer) -> None:
    before = _scrape(server)
    with Http1Connection(server.http) as one, Http2Connection(server.grpc) as two:
        for _ in range(5):
            assert one.request("POST", INFER, json_request(np.ones((3, 4), np.float32))).status == 200
            assert two.call("ModelInfer", grpc_request()).grpc_status == 0
        assert one.request("POST", INFER, json_request(FLOATS[:, :3])).status == 400
    after = _scrape(server)

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown("nv_inference_request_success", model="scores", version="1") == 10
    assert grown("nv_inference_count", model="scores", version="1") == 20
    assert grown("nv_inference_exec_count", model="scores", version="1") == 10
    assert grown("nv_inference_request_failure", model="scores") == 1
    for protocol in ("http", "grpc"):
        assert grown("headrace_stage_duration_seconds_count", model="scores", protocol=protocol, stage="total") == 5


def test_admin_plane(server: RunningServer) -> None:
    port = server.ports["admin"]
    assert json.loads(_get(port, "/admin/v1/health/ready"))["ready"] is True
    models = {(one["name"], one["version"]): one for one in json.loads(_get(port, "/admin/v1/models"))["models"]}
    assert models["scaled", "3"]["labels"] == ["canary"]
    assert models["mlp", "1"]["state"] == "READY"
    assert models["mlp", "1"]["max_batch_size"] == 64


def test_own_client(server: RunningServer) -> None:
    with Client(server.url) as client:
        assert client.is_ready()
        assert client.is_ready("mlp")
        assert not client.is_ready("absent")
        result = client.infer("two_by_two", {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2, 3), np.int64)}, outputs=["sum"])
        assert result.outputs["sum"].tolist() == [2.0, 2.0]
        assert client.infer("scaled", {"x": np.ones((1, 2), np.float32)}, "canary").outputs["y"].tolist() == [[3.0, 3.0]]
        texts = client.infer("normalise", {"text": np.array([["a b"]], object)}).outputs
        assert texts["normalised"].tolist() == [[b"A B"]]
        assert any(entry.name == "mlp" and entry.state is VersionState.READY for entry in client.index())
        with pytest.raises(ClientError, match="Request for unknown model: 'absent' is not found") as caught:
            client.infer("absent", {"x": FLOATS})
        assert caught.value.status == 404


@pytest.mark.parametrize(("arguments", "said"), [
    (["infer", "scores", "--json", '{"x": [[1.5, -2.0, 3.25, 0.0]]}'], "3.25"),
    (["infer", "normalise", "--text", "hello there"], "HELLO THERE"),
    (["models"], "two_by_two"),
    (["load", "mlp"], "loaded mlp"),
])
def test_command_line(server: RunningServer, arguments: list[str], said: str) -> None:
    done = _headrace(*arguments, "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_command_line_errors(server: RunningServer) -> None:
    done = _headrace("infer", "absent", "--json", "{}", "--url", server.url)
    assert done.returncode == 1
    assert "Request for unknown model: 'absent' is not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_cannot_be_changed_unless_that_was_asked_for(small_server: RunningServer) -> None:
    text = "explicit model load / unload is not allowed if polling is enabled"
    with Http1Connection(small_server.http) as one, Http2Connection(small_server.grpc) as two:
        for verb in ("load", "unload"):
            answer = one.request("POST", f"/v2/repository/models/mlp/{verb}")
            assert (answer.status, answer.json()["error"].startswith(text)) == (400, True)
        call = two.call("RepositoryModelLoad", b"\x12\x03mlp")
        assert call.grpc_status == 3
        assert call.headers["grpc-message"].startswith(text)
        assert one.request("POST", "/v2/repository/index").status == 200


def test_log_names_every_model_that_was_loaded(server: RunningServer) -> None:
    events = log_events(server)
    loaded = {event["model"] for event in events if event.get("event") == "model ready"}
    assert {"mlp", "scores", "waits"} <= loaded


def _headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command: list[Any] = [sys.executable, "-m", "serve.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
