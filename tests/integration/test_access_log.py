"""The access log of a running server: one line a call when it is on, and none when it is off."""

import json
from pathlib import Path

import httpx
import pytest

from tests.integration import models
from tests.integration.running_server import running_server


@pytest.mark.parametrize("flags", [("--access-log",), ()])
def test_one_line_a_call(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = tmp_path / "repository" / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    models.scaled(path, 2)
    with running_server(tmp_path / "repository", tmp_path, *flags) as server, httpx.Client(base_url=server.url) as client:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
        assert client.post("/v2/models/m/infer", json=body, headers={"x-request-id": "one"}).status_code == 200
        assert client.get("/v2/models/none", headers={"x-request-id": "two"}).status_code == 404
    lines = [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines() if "headrace.access" in line]
    expected = [("one", "/v2/models/m/infer", 200), ("two", "/v2/models/none", 404)] if flags else []
    assert [(line["request_id"], line["path"], line["status"]) for line in lines] == expected
