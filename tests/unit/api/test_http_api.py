"""Every route, verb and error of the slow path over HTTP, with the exact JSON that clients index into."""

import io
import json
import re
from typing import Any

import pytest

import serve
from serve.api.http import HttpApi, HttpRequest, HttpResponse, routes
from serve.api.http_handlers import HttpHandlers
from serve.api.http_message import BODY_LIMIT_BYTES
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.errors import ConfigurationError, InternalError, Unavailable
from serve.telemetry.logs import Logs
from tests.unit.api.fakes import DIGITS, FakeModels


async def ask(http: HttpApi, method: str, path: str, body: bytes | dict[str, Any] = b"") -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await http(HttpRequest(method, path, body=raw))
    if not response.body:
        return response.status, None
    assert response.headers["content-type"] == "application/json"
    return response.status, json.loads(response.body)


async def get(http: HttpApi, path: str) -> Any:
    status, body = await ask(http, "GET", path)
    assert status == 200, body
    return body


async def test_server_metadata(http: HttpApi) -> None:
    assert await get(http, "/v2") == {
        "name": "headrace", "version": serve.__version__,
        "extensions": ["classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics",
                       "logging"],
    }


async def test_the_reported_name_can_be_chosen(models: FakeModels, readiness: Readiness, logs: Logs) -> None:
    http = HttpApi(models, readiness, logs, ApiSettings(server_name="triton"))
    assert (await get(http, "/v2"))["name"] == "triton"
    assert (await get(http, "/v2/health/ready"))["name"] == "triton"


async def test_health_has_both_keys_on_both_endpoints(http: HttpApi) -> None:
    body = {"name": "headrace", "live": True, "ready": True}
    assert await get(http, "/v2/health/live") == body
    assert await get(http, "/v2/health/ready") == body


@pytest.mark.parametrize("status", [503, 400])
async def test_not_ready(models: FakeModels, readiness: Readiness, logs: Logs, status: Any) -> None:
    models.ready = False
    http = HttpApi(models, readiness, logs, ApiSettings(not_ready_status=status))
    body = {"name": "headrace", "live": True, "ready": False}
    assert await ask(http, "GET", "/v2/health/live") == (200, body)
    assert await ask(http, "GET", "/v2/health/ready") == (status, body)
    assert await ask(http, "GET", "/v2/models/broken/ready") == (status, {"name": "broken", "ready": False})


async def test_models(http: HttpApi) -> None:
    assert await get(http, "/v2/models") == {"models": ["broken", "digits", "later"]}


@pytest.mark.parametrize("path", ["/v2/models/digits", "/v2/models/digits/versions/1", "/v2/models/digits/versions/canary",
                                  "/v2/models/digits/labels/canary", "/v2/models/%64igits"])
async def test_model_metadata(http: HttpApi, path: str) -> None:
    assert await get(http, path) == {
        "name": "digits", "versions": ["1", "2"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}, {"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
        "headrace": {"version": "1" if path.endswith("/1") else "2", "digest": DIGITS.digest, "provenance": {"git_revision": "0f1e2d3"}},
    }


@pytest.mark.parametrize("target", ["", "/versions/2", "/versions/stable", "/labels/stable"])
async def test_model_ready(http: HttpApi, target: str) -> None:
    assert await get(http, f"/v2/models/digits{target}/ready") == {"name": "digits", "ready": True}


@pytest.mark.parametrize("target", ["", "/versions/2", "/labels/canary"])
async def test_model_config(http: HttpApi, target: str) -> None:
    config = await get(http, f"/v2/models/digits{target}/config")
    assert config["max_batch_size"] == 64
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]


EXPECTED_STATISTICS = {
    "name": "digits", "version": "2", "last_inference": 1_700_000_000_123, "inference_count": 12, "execution_count": 5,
    "inference_stats": {
        "success": {"count": 9, "ns": 9_000_500}, "fail": {"count": 1, "ns": 100_000}, "queue": {"count": 9, "ns": 1_000_000},
        "compute_input": {"count": 9, "ns": 200_000}, "compute_infer": {"count": 9, "ns": 3_000_000},
        "compute_output": {"count": 9, "ns": 300_000}, "cache_hit": {"count": 0, "ns": 0}, "cache_miss": {"count": 0, "ns": 0},
    },
    "response_stats": {},
    "batch_stats": [{"batch_size": 4, "compute_input": {"count": 2, "ns": 20}, "compute_infer": {"count": 2, "ns": 40},
                     "compute_output": {"count": 2, "ns": 60}}],
    "memory_usage": [],
}


@pytest.mark.parametrize("target", ["/versions/2", "/versions/canary", "/labels/canary"])
async def test_statistics_of_a_version(http: HttpApi, target: str) -> None:
    assert await get(http, f"/v2/models/digits{target}/stats") == {"model_stats": [EXPECTED_STATISTICS]}


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/digits/stats"])
async def test_statistics_of_several_versions(http: HttpApi, path: str) -> None:
    versions = (await get(http, path))["model_stats"]
    assert [(v["name"], v["version"]) for v in versions] == [("digits", "1"), ("digits", "2")]
    assert versions[1] == EXPECTED_STATISTICS
    assert versions[0].keys() == EXPECTED_STATISTICS.keys()
    assert versions[0]["inference_stats"] == {
        name: {"count": 0, "ns": 0} for name in EXPECTED_STATISTICS["inference_stats"]}


READY = [{"name": "digits", "version": "1", "state": "READY"}, {"name": "digits", "version": "2", "state": "READY"}]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready":false}'])
async def test_the_index_names_everything(http: HttpApi, body: bytes) -> None:
    assert await ask(http, "POST", "/v2/repository/index", body) == (200, [
        {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "model.onnx is not an ONNX model"},
        *READY,
        {"name": "later", "state": "UNKNOWN"},
    ])


async def test_the_index_of_what_is_ready(http: HttpApi) -> None:
    assert await ask(http, "POST", "/v2/repository/index", {"ready": True}) == (200, READY)


@pytest.mark.parametrize(("body", "text"), [
    (b'{"ready":1}', "must be true or false, got 1"), (b'{"redy":true}', "unknown index parameter 'redy'"),
    (b"[]", "must be a JSON object, not list"), (b"{", "failed to parse the request JSON"),
    (b"\xff\xfe{", "failed to parse the request JSON"),
    (b'{"a":' * 100_000, "failed to parse the request JSON"),
])
async def test_a_bad_index_request(http: HttpApi, body: bytes, text: str) -> None:
    status, answer = await ask(http, "POST", "/v2/repository/index", body)
    assert status == 400
    assert text in answer["error"]


async def test_a_body_over_the_limit(http: HttpApi) -> None:
    status, answer = await ask(http, "POST", "/v2/logging", b" " * (BODY_LIMIT_BYTES + 1))
    assert status == 413
    assert answer["error"] == "the body has 1048577 bytes; /v2/logging takes at most 1048576"


async def test_load_and_unload(http: HttpApi, models: FakeModels) -> None:
    assert await ask(http, "POST", "/v2/repository/models/later/load") == (200, None)
    override = '{"max_batch_size": 8}'
    assert await ask(http, "POST", "/v2/repository/models/sl%2Fash/load", {"parameters": {"config": override}}) == (200, None)
    assert await ask(http, "POST", "/v2/repository/models/later/unload", {"parameters": {"unload_dependents": True}}) == (200, None)
    assert await ask(http, "POST", "/v2/repository/models/later/unload") == (200, None)
    assert models.calls == [("load", "later"), ("load", "sl/ash", override), ("unload", "later"), ("unload", "later")]


@pytest.mark.parametrize(("action", "parameters", "status", "text"), [
    ("load", {"file:1/model.onnx": "AAAA", "config": "{}"}, 400, "model files are not accepted over the network ('file:1/model.onnx')"),
    ("load", {"config": {}}, 400, "'config' must be a string that holds JSON, got dict"),
    ("load", {"colour": "red"}, 400, "unknown load parameter 'colour'"),
    ("load", [], 400, "'parameters' must be a JSON object, got list"),
    ("unload", {"unload_dependents": "yes"}, 400, "must be true or false, got 'yes'"),
    ("unload", {"force": True}, 400, "unknown unload parameter 'force'"),
])
async def test_a_bad_load_or_unload(http: HttpApi, models: FakeModels, action: str, parameters: Any, status: int, text: str) -> None:
    answered, body = await ask(http, "POST", f"/v2/repository/models/later/{action}", {"parameters": parameters})
    assert answered == status
    assert text in body["error"]
    assert models.calls == []


async def test_a_load_that_fails_says_which_and_why(http: HttpApi) -> None:
    assert await ask(http, "POST", "/v2/repository/models/broken/load") == (
        503, {"error": "failed to load 'broken': model.onnx is not an ONNX model"})
    assert await ask(http, "POST", "/v2/repository/models/nobody/load") == (
        404, {"error": "Request for unknown model: 'nobody' is not found"})


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_loading_is_for_explicit_model_control(models: FakeModels, readiness: Readiness, logs: Logs, action: str) -> None:
    http = HttpApi(models, readiness, logs, ApiSettings())
    status, body = await ask(http, "POST", f"/v2/repository/models/later/{action}")
    assert status == 400
    assert body["error"].startswith("explicit model load / unload is not allowed if polling is enabled")
    assert (await ask(http, "POST", "/v2/repository/index"))[0] == 200
    assert models.calls == []


@pytest.mark.parametrize("path", ["index", "models/m/load", "models/m/unload"])
async def test_a_repository_name_is_not_supported(http: HttpApi, path: str) -> None:
    status, body = await ask(http, "POST", f"/v2/repository/mine/{path}")
    assert status == 501
    assert "'repository_name' specification is not supported" in body["error"]


DEFAULT_LOGGING = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "default",
}


async def test_logging_settings_are_reported_and_changed(http: HttpApi, logs: Logs) -> None:
    assert await get(http, "/v2/logging") == DEFAULT_LOGGING
    changed = {**DEFAULT_LOGGING, "log_info": False, "log_verbose_level": 2, "log_format": "ISO8601"}
    change = {"log_info": False, "log_verbose_level": 2, "log_format": "ISO8601", "log_error": None, "log_file": None}
    assert await ask(http, "POST", "/v2/logging", change) == (200, changed)
    assert await get(http, "/v2/logging") == changed
    assert (logs.settings.log_info, logs.settings.log_verbose_level) == (False, 2)
    assert await ask(http, "POST", "/v2/logging", changed) == (200, changed), "what was read can be written back"


@pytest.mark.parametrize(("change", "status", "text"), [
    ({"log_file": "x.log", "log_info": False}, 501, "log file location can not be updated through network protocol"),
    ({"log_info": False, "log_format": "xml"}, 400, "invalid argument for --log_format, got: xml"),
    ({"log_info": False, "log_verbose_level": -1}, 400, "must be an integer from 0 to 2147483647, got -1"),
    ({"log_info": False, "log_verbose_level": True}, 400, "got True"),
    ({"log_info": 0}, 400, "'log_info' must be true or false, got 0"),
    ({"log_info": False, "log_colour": "red"}, 400, "unknown log setting 'log_colour'"),
])
async def test_a_bad_logging_change_changes_nothing(http: HttpApi, change: dict[str, Any], status: int, text: str) -> None:
    answered, body = await ask(http, "POST", "/v2/logging", change)
    assert answered == status
    assert text in body["error"]
    assert await get(http, "/v2/logging") == DEFAULT_LOGGING


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v2/models/digits/generate"), ("POST", "/v2/models/digits/versions/1/generate_stream"),
    ("GET", "/v2/trace/setting"), ("POST", "/v2/models/digits/trace/setting"),
    ("GET", "/v2/systemsharedmemory/status"), ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/region/r/status"), ("POST", "/v2/cudasharedmemory/region/r/register"),
])
async def test_what_is_not_implemented_says_so(http: HttpApi, method: str, path: str) -> None:
    assert await ask(http, method, path) == (501, {"error": f"{method} {path} is not implemented by this server"})


@pytest.mark.parametrize("path", [
    "/v2/models/nobody", "/v2/models/nobody/ready", "/v2/models/nobody/config", "/v2/models/nobody/stats", "/v2/models/digits/versions/9",
    "/v2/models/digits/versions/9/ready", "/v2/models/digits/labels/blue", "/v2/models/digits/labels/1", "/v2/models/digits/labels/1/stats",
])
async def test_an_unknown_model_version_or_label(http: HttpApi, path: str) -> None:
    status, body = await ask(http, "GET", path)
    assert status == 404
    assert body["error"].startswith("Request for unknown model: '")


@pytest.mark.parametrize("path", [
    "/v2/", "/v1/models", "/v2/models/", "/v2/models//config", "/v2/models/m/versions/", "/v2/models/m/nothing", "/v2/health",
    "/metrics",
])
async def test_no_route(http: HttpApi, path: str) -> None:
    assert await ask(http, "GET", path) == (404, {"error": "Not Found"})


async def test_the_root_says_where_to_look(http: HttpApi) -> None:
    assert await ask(http, "GET", "/") == (404, {"error": "Not Found: the API is described at /v2/docs"})


async def test_a_name_that_is_not_utf8(http: HttpApi) -> None:
    status, body = await ask(http, "GET", "/v2/models/%C3%28")
    assert status == 400
    assert "not UTF-8" in body["error"]


def test_every_route_is_reached_by_its_verb_alone(http: HttpApi, models: FakeModels, readiness: Readiness, logs: Logs,
                                                  settings: ApiSettings) -> None:
    table = routes(HttpHandlers(models, readiness, logs, settings))
    by_path: dict[str, set[str]] = {}
    for route in table:
        by_path.setdefault(re.sub(r"\{(\w+)\}", r"a-\1", route.template), set()).add(route.method)
    assert len(by_path) > 30
    for path, methods in by_path.items():
        match = http._router.match(path)
        assert match is not None, path
        assert set(match.targets) == methods


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("POST", "/v2", "GET, HEAD"), ("PUT", "/v2/logging", "GET, HEAD, POST"), ("GET", "/v2/repository/index", "POST"),
    ("GET", "/v2/models/digits/infer", "POST"),
    ("GET", "/v2/models/digits/versions/1/infer", "POST"), ("DELETE", "/v2/models/digits", "GET, HEAD"),
    ("POST", "/v2/health/ready", "GET, HEAD"),
    ("HEAD", "/v2/repository/index", "POST"), ("get", "/v2", "GET, HEAD"), ("GET", "/v2/repository/models/m/load", "POST"),
    ("POST", "/v2/cudasharedmemory/status", "GET, HEAD"), ("POST", "/v2/docs", "GET, HEAD"),
])
async def test_the_wrong_verb(http: HttpApi, method: str, path: str, allow: str) -> None:
    response = await http(HttpRequest(method, path))
    assert (response.status, json.loads(response.body)) == (405, {"error": "Method Not Allowed"})
    assert response.headers["allow"] == allow


async def test_head_is_get(http: HttpApi) -> None:
    assert await http(HttpRequest("HEAD", "/v2/models")) == await http(HttpRequest("GET", "/v2/models"))


@pytest.mark.parametrize("failure", [RuntimeError("the secret"), ConfigurationError("the secret"), KeyError("the secret")])
async def test_our_own_fault_is_an_id_to_the_client_and_a_traceback_in_the_log(
        http: HttpApi, models: FakeModels, log_stream: io.StringIO, failure: Exception) -> None:
    models.failure = failure
    status, body = await ask(http, "GET", "/v2/models")
    assert status == 500
    assert "secret" not in body["error"]
    record = json.loads(log_stream.getvalue())
    assert record["error_id"] in body["error"]
    assert (record["level"], record["operation"]) == ("error", "GET /v2/models")
    assert "the secret" in record["exception"]
    assert "Traceback" in record["exception"]


async def test_an_error_made_for_clients_is_shown(http: HttpApi, models: FakeModels, log_stream: io.StringIO) -> None:
    models.failure = Unavailable("draining; ask another server")
    assert await ask(http, "GET", "/v2/models") == (503, {"error": "draining; ask another server"})
    models.failure = InternalError("the model returned 2 outputs, 3 were declared")
    assert await ask(http, "GET", "/v2/models") == (500, {"error": "the model returned 2 outputs, 3 were declared"})
    assert log_stream.getvalue() == ""


async def test_an_inference_never_gets_here(http: HttpApi) -> None:
    status, body = await ask(http, "POST", "/v2/models/digits/labels/canary/infer")
    assert status == 500
    assert "handed to the control plane" in body["error"]


async def test_what_a_client_sent_cannot_break_out_of_the_json(http: HttpApi) -> None:
    response: HttpResponse = await http(HttpRequest("GET", "/v2/models/%0D%0A%1B%5B31m%E2%80%A8%22"))
    assert response.status == 404
    assert all(0x20 <= byte < 0x7F for byte in response.body)
    assert json.loads(response.body)["error"] == "Request for unknown model: '\r\n\x1b[31m\u2028\"' is not found"


async def test_the_docs_page_asks_nobody_else(http: HttpApi) -> None:
    response = await http(HttpRequest("GET", "/v2/docs"))
    assert response.status == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = response.body.decode()
    assert "openapi.json" in page
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|innerHTML|<script\s+src|<link[^>]+href=\"(?!data:)", page)
