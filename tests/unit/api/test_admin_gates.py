"""Reports of release gates over the admin API."""

from typing import Any

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

GATES = "/admin/v1/models/digits/gates"
REPORT: dict[str, Any] = {
    "format": 1, "model": "digits", "candidate": {"version": "2", "digest": "sha256:" + "2" * 64}, "stable": None, "verdict": "pass",
    "checks": [{"name": "self_test", "status": "pass", "text": "fine"}], "data": {"source": "x.npz", "rows": 500}, "settings": {},
    "started": "2026-01-31T12:00:00.000000Z", "finished": "2026-01-31T12:00:09.000000Z",
}


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings, FakeRouting())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8003")


async def test_a_report_is_kept_and_shown(admin: httpx.AsyncClient) -> None:
    response = await admin.put(f"{GATES}/2", json=REPORT)
    assert response.status_code == 200, response.text
    assert response.json()["report"]["verdict"] == "pass"
    assert (await admin.get(f"{GATES}/2")).json() == response.json()
    assert (await admin.get(GATES)).json() == {"gates": [response.json()]}
    missing = await admin.get(f"{GATES}/1")
    assert (missing.status_code, "run `headrace gate digits 1 --data FILE --submit`" in missing.json()["detail"]) == (404, True)


@pytest.mark.parametrize(("path", "changed", "text"), [
    ("1", {}, "the report is about version 2 of 'digits', the path about version 1 of 'digits'"),
    ("2", {"model": "other"}, "the report is about version 2 of 'other'"),
    ("2", {"verdict": "fine"}, "#/verdict"),
    ("2", {"candidate": {"version": "2", "digest": "md5:1"}}, "candidate.digest: String should match pattern"),
    ("2", {"format": 2}, "format: Input should be 1"),
    ("2", {"more": 1}, "more: unknown field"),
    ("2", {"finished": "yesterday"}, "finished: Invalid isoformat string: 'yesterday'"),
    ("2", {"finished": "2026-01-31T12:00:09"}, "finished: want RFC 3339 with its zone"),
    ("2", {"checks": [{"name": "failed", "status": "fail", "text": "7 of 9 rows fail"}]}, "the verdict is pass, and the checks say fail"),
    ("2", {"checks": []}, "the verdict is pass, and the checks say not_enough_data"),
])
async def test_what_is_no_report_of_the_version_is_refused(
    admin: httpx.AsyncClient, path: str, changed: dict[str, Any], text: str
) -> None:
    response = await admin.put(f"{GATES}/{path}", json={**REPORT, **changed})
    assert response.status_code == 422
    assert text in str(response.json())


async def test_an_unknown_model_is_not_found(admin: httpx.AsyncClient) -> None:
    assert (await admin.put("/admin/v1/models/other/gates/2", json={**REPORT, "model": "other"})).status_code == 404
