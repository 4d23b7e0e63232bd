"""Web pages are kept off the admin API."""

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.admin_guard import refusal
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

LOCAL = "127.0.0.1:8003"


@pytest.mark.parametrize("host", ["127.0.0.1:8003", "127.1.2.3", "localhost:8003", "LOCALHOST", "headrace.localhost:1", "localhost.:8003",
                                  "[::1]:8003", "[::1]", None])
def test_loopback_names_pass(host: str | None) -> None:
    assert refusal(host, None) == ""


@pytest.mark.parametrize("host", ["evil.example:8003", "evil.example", "localhost.evil.example", "notlocalhost", "10.0.0.7:8003",
                                  "[::2]:8003", "", "[", "127.0.0.1.evil.example", "2130706433", "0.0.0.0"])
def test_other_names_may_be_rebound(host: str) -> None:
    assert "no loopback name" in refusal(host, None)


@pytest.mark.parametrize(("host", "origin", "is_refused"), [
    (LOCAL, "http://127.0.0.1:8003", False), ("Localhost:8003", "http://localhost:8003", False), ("[::1]:8003", "http://[::1]:8003", False),
    (LOCAL, "http://evil.example", True), (LOCAL, "null", True), (LOCAL, "", True), (LOCAL, "https://127.0.0.1:8003", True),
    (LOCAL, "http://127.0.0.1:3000", True), (LOCAL, "http://127.0.0.1:8003.evil.example", True), (None, "http://127.0.0.1:8003", True)])
def test_only_the_very_same_origin_passes(host: str | None, origin: str, is_refused: bool) -> None:
    assert bool(refusal(host, origin)) == is_refused


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
async def test_refused_on_every_path_before_anything_happens(
    models: FakeModels, readiness: Readiness, settings: ApiSettings, headers: dict[str, str],
) -> None:
    routing = FakeRouting()
    app = admin_app(models, readiness, settings, routing)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=f"http://{LOCAL}", headers=headers) as admin:
        for response in [await admin.get("/admin/v1/models"), await admin.get("/admin/v1/openapi.json"), await admin.get("/nothing"),
                         await admin.put("/admin/v1/models/digits/traffic", json={"variants": []}, headers={"if-match": "0"})]:
            assert (response.status_code, response.headers["content-type"]) == (403, "application/problem+json")
            assert response.json()["type"] == "urn:headrace:problem:foreign"
    assert routing.calls == []
