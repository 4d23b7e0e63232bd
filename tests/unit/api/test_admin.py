import io
import json
from typing import Any

import httpx
import pytest

import serve
from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.errors import Unavailable
from serve.telemetry.logs import Logs
from tests.unit.api.fakes import FakeModels


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings, logs: Logs) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8003")


async def get(admin: httpx.AsyncClient, path: str) -> tuple[int, Any]:
    async with admin:
        response = await admin.get(path)
    return response.status_code, response.json()


@pytest.mark.parametrize(("ready", "path", "status"), [
    (True, "live", 200), (True, "ready", 200), (False, "live", 200), (False, "ready", 503),
])
async def test_health(admin: httpx.AsyncClient, models: FakeModels, ready: bool, path: str, status: int) -> None:
    models.ready = ready
    body = {"name": "headrace", "version": serve.__version__, "live": True, "ready": ready}
    assert await get(admin, f"/admin/v1/health/{path}") == (status, body)


async def test_models(admin: httpx.AsyncClient) -> None:
    status, body = await get(admin, "/admin/v1/models")
    assert status == 200
    broken, _, second, later = body["models"]
    assert broken == {
        "name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "model.onnx is not an ONNX model", "labels": [],
        "inputs": None, "outputs": None, "max_batch_size": None, "statistics": None}
    assert second == {
        "name": "digits", "version": "2", "state": "READY", "reason": "", "labels": ["canary"], "max_batch_size": 64,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}, {"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
        "statistics": {"inference_count": 12, "execution_count": 5, "success_count": 9, "failure_count": 1, "success_ns": 9_000_500,
                       "last_inference_ms": 1_700_000_000_123, "queue_depth": 3, "in_flight": 4}}
    assert (later["version"], later["state"]) == ("", "UNKNOWN")


async def test_the_document_is_there_and_the_pages_that_load_scripts_from_elsewhere_are_not(admin: httpx.AsyncClient) -> None:
    async with admin:
        paths = (await admin.get("/admin/v1/openapi.json")).json()["paths"]
        missing = [(await admin.get(path)).status_code for path in ("/docs", "/redoc", "/openapi.json")]
    assert set(paths) == {"/admin/v1/health/live", "/admin/v1/health/ready", "/admin/v1/models"}
    assert missing == [404, 404, 404]


async def test_errors_are_problem_documents(admin: httpx.AsyncClient, models: FakeModels, log_stream: io.StringIO) -> None:
    async with admin:
        missing = await admin.get("/admin/v1/nothing")
        wrong_verb = await admin.post("/admin/v1/models")
        models.failure = Unavailable("draining")
        unavailable = await admin.get("/admin/v1/models")
        models.failure = RuntimeError("the secret")
        fault = await admin.get("/admin/v1/models")
    answers = (missing, wrong_verb, unavailable, fault)
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert [answer.json()["status"] for answer in answers] == [answer.status_code for answer in answers] == [404, 405, 503, 500]
    assert missing.json() == {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "Not Found"}
    assert wrong_verb.headers["allow"] == "GET"
    assert unavailable.json() == {"type": "urn:headrace:problem:unavailable", "title": "Unavailable", "status": 503, "detail": "draining"}
    (record,) = [record for record in map(json.loads, log_stream.getvalue().splitlines()) if record["logger"] == "serve.api"]
    assert record["error_id"] in fault.json()["detail"]
    assert "secret" not in fault.text
