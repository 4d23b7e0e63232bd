"""The routes of monitoring over a fake service: what is asked of it, what is refused, and the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.admin_monitoring import MAX_BASELINE_BYTES, time_ns
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.api.routing_ports import Actor
from serve.errors import Conflict, InvalidArgument, NotFound, Unavailable
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

NOON_NS = 1_769_860_800 * 10**9
PATH = "/admin/v1/models/digits/monitoring"


class FakeMonitoring:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def _known(self, model: str) -> None:
        if model != "digits":
            raise NotFound(f"model '{model}' is not monitored")

    async def document(self, model: str, version: str = "", variant: str = "", since_ns: int = 0, limit: int = 288) -> Mapping[str, Any]:
        self._known(model)
        self.calls.append(("document", model, version, variant, since_ns, limit))
        return {"model": model, "series": [], "windows": [{"psi": float("inf")}], "realised": [], "alerts": [], "violations": []}

    async def baseline(self, model: str, version: str = "") -> Mapping[str, Any]:
        self._known(model)
        self.calls.append(("baseline", model, version))
        return {"format": 1, "id": f"{version or 'default'}-ab"}

    async def put_baseline(self, model: str, version: str, document: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        self._known(model)
        if document.get("digest") == "sha256:other":
            raise Conflict("the baseline is of digest sha256:other, version 1 has sha256:ab: build it anew")
        self.calls.append(("put", model, version, dict(document), by))
        return document

    async def acknowledge(self, model: str, alert_id: str, by: Actor) -> Mapping[str, Any]:
        self._known(model)
        if alert_id != "digits-a1":
            raise NotFound(f"model '{model}' has no alert {alert_id!r}")
        self.calls.append(("acknowledge", alert_id, by.name))
        return {"id": alert_id, "acknowledged_by": by.name}


@pytest.fixture
def monitoring() -> FakeMonitoring:
    return FakeMonitoring()


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings, monitoring: FakeMonitoring) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings, None, monitoring)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8003")


async def test_the_summary_and_what_it_can_be_narrowed_to(admin: httpx.AsyncClient, monitoring: FakeMonitoring) -> None:
    plain = await admin.get(PATH)
    await admin.get(PATH, params={"version": "2", "variant": "canary", "since": "2026-01-31T12:00:00Z", "limit": 5})
    assert (plain.status_code, plain.json()["windows"]) == (200, [{"psi": "Infinity"}])
    assert monitoring.calls == [("document", "digits", "", "", 0, 288), ("document", "digits", "2", "canary", NOON_NS, 5)]


@pytest.mark.parametrize(("text", "expected"), [
    ("", 0), ("17.5", 17_500_000_000), ("2026-01-31T12:00:00Z", NOON_NS), ("2026-01-31T13:00:00+01:00", NOON_NS),
    ("2026-01-31T13:00:00 01:00", NOON_NS)])
def test_times(text: str, expected: int) -> None:
    assert time_ns(text) == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-01-31T12:00:00", "nan", "inf", "1769860800000", "-1e300", "9999-01-01T00:00:00Z"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="since"):
        time_ns(text)


@pytest.mark.parametrize(("query", "status"), [("since=yesterday", 400), ("since=1769860800000", 400), ("limit=0", 422), ("limit=x", 422)])
async def test_what_cannot_be_asked(admin: httpx.AsyncClient, query: str, status: int) -> None:
    response = await admin.get(f"{PATH}?{query}")
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


async def test_baselines(admin: httpx.AsyncClient, monitoring: FakeMonitoring) -> None:
    assert (await admin.get(f"{PATH}/baseline")).json()["id"] == "default-ab"
    headers = {"x-headrace-actor": "ada", "x-headrace-reason": "new training data"}
    put = await admin.put(f"{PATH}/baseline?version=1", json={"format": 1, "digest": "sha256:ab"}, headers=headers)
    assert put.status_code == 200
    assert monitoring.calls[-1] == ("put", "digits", "1", {"format": 1, "digest": "sha256:ab"}, Actor("ada", "new training data"))
    refused = await admin.put(f"{PATH}/baseline?version=1", json={"digest": "sha256:other"})
    assert (refused.status_code, "build it anew" in refused.json()["detail"]) == (409, True)
    assert (await admin.put(f"{PATH}/baseline", json={})).status_code == 422, "which version?"
    assert (await admin.put(f"{PATH}/baseline?version=1", content=b"{")).status_code == 400
    assert (await admin.put(f"{PATH}/baseline?version=1", content=b"\xff")).status_code == 400


async def test_a_baseline_is_bounded(admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.api.admin_monitoring.MAX_BASELINE_BYTES", 10)
    assert MAX_BASELINE_BYTES > 1 << 20, "more than other bodies: a baseline has a histogram a feature"
    assert (await admin.put(f"{PATH}/baseline?version=1", json={"format": "x" * 100})).status_code == 413


async def test_acknowledging(admin: httpx.AsyncClient, monitoring: FakeMonitoring) -> None:
    seen = await admin.post(f"{PATH}/alerts/digits-a1/acknowledge", headers={"x-headrace-actor": "ada"})
    assert (seen.status_code, seen.json()["acknowledged_by"], monitoring.calls) == (200, "ada", [("acknowledge", "digits-a1", "ada")])
    assert (await admin.post(f"{PATH}/alerts/digits-a9/acknowledge")).status_code == 404
    assert (await admin.get("/admin/v1/models/other/monitoring")).status_code == 404


async def test_faults_are_problems(admin: httpx.AsyncClient, monitoring: FakeMonitoring, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> Mapping[str, Any]:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(monitoring, "document", fails)
    response = await admin.get(PATH)
    assert (response.status_code, response.json()["detail"]) == (503, "the disk is full")


def test_the_openapi_document_has_them_as_it_has_the_others(
    models: FakeModels, readiness: Readiness, settings: ApiSettings, monitoring: FakeMonitoring,
) -> None:
    document = admin_app(models, readiness, settings, FakeRouting(), monitoring).openapi()
    ours = {path: item for path, item in document["paths"].items() if "/monitoring" in path}
    base = "/admin/v1/models/{model}/monitoring"
    assert {path: set(item) for path, item in ours.items()} == {
        base: {"get"}, f"{base}/baseline": {"get", "put"}, f"{base}/alerts/{{alert}}/acknowledge": {"post"}}
    assert "monitoring" in {tag["name"] for tag in document["tags"]}
    for item in ours.values():
        for operation in item.values():
            assert operation["tags"] == ["monitoring"]
            assert {"403", "404"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if status.startswith("4"):
                    assert response["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    names = {parameter["name"] for parameter in ours[f"{base}/baseline"]["put"]["parameters"]}
    assert {"x-headrace-actor", "x-headrace-reason", "version", "model"} <= names


async def test_categories_of_bytes_that_are_no_text(admin: httpx.AsyncClient) -> None:
    content = b'{"format":1,"values":["Z\\udcfcrich"]}'
    put = await admin.put(f"{PATH}/baseline?version=1", content=content)
    assert (put.status_code, put.content) == (200, content)
    assert put.json()["values"] == ["Z\udcfcrich"]
