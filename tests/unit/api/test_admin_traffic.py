"""Plans and labels over the admin API: documents, generations, who asked."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.routing.plan import RoutingPlan
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

TRAFFIC = "/admin/v1/models/digits/traffic"
LABELS = "/admin/v1/models/digits/labels"
SPLIT = {"variants": [{"version": "1", "weight": 7000}, {"version": "2", "weight": 3000}], "sticky": {"header": "x-user-id"}}


@pytest.fixture
def routing() -> FakeRouting:
    return FakeRouting()


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings, routing: FakeRouting) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings, routing)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=("127.0.0.1", 5)), base_url="http://127.0.0.1:8003")


async def put(
    admin: httpx.AsyncClient, path: str, body: object, tag: str | None = '"0"', headers: Mapping[str, str | bytes] | None = None,
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    tags = {} if tag is None else {"if-match": tag}
    return await admin.put(path, content=content, headers={"content-type": "application/json", **tags, **(headers or {})})     # type: ignore[arg-type]


def problem(response: httpx.Response) -> tuple[int, str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert body["title"]
    return response.status_code, body["type"], body["detail"]


async def test_without_a_plan_get_tells_the_implied_one(admin: httpx.AsyncClient) -> None:
    response = await admin.get(TRAFFIC)
    assert (response.status_code, response.headers["etag"]) == (200, '"0"')
    assert response.json() == {
        "model": "digits", "generation": 0, "state": "in_force", "reason": "", "implied": True, "labels": {}, "owner": "", "pending": None,
        "plan": {"variants": [{"version": "2", "weight": 10000}]}}


async def test_a_plan_is_set_seen_and_sent_back_as_it_was_shown(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    response = await put(admin, TRAFFIC, SPLIT)
    assert (response.status_code, response.headers["etag"], response.json()["plan"]) == (200, '"1"', SPLIT)
    shown = (await admin.get(TRAFFIC)).json()
    assert (shown["generation"], shown["implied"], shown["plan"]) == (1, False, SPLIT)
    assert (await put(admin, TRAFFIC, shown["plan"], '"1"')).json()["generation"] == 2
    assert routing.calls[-1][2] == RoutingPlan.model_validate(SPLIT)


@pytest.mark.parametrize(("tag", "status"), [
    ('"1"', 200), ("1", 200), (' "1" ', 200), ("*", 200), ('"7", "1"', 200), ('"0"', 412), ("2", 412), ('W/"1"', 412), ('"abc"', 412),
    ("abc", 400), ('"1', 400), ("", 428), (None, 428)])
async def test_if_match_guards_every_change(admin: httpx.AsyncClient, tag: str | None, status: int) -> None:
    assert (await put(admin, TRAFFIC, SPLIT)).status_code == 200
    headers = {} if tag is None else {"if-match": tag}
    assert (await put(admin, TRAFFIC, SPLIT, tag)).status_code == status
    if status != 200:
        assert (await put(admin, LABELS, {"stable": "1"}, tag)).status_code == status
        response = await admin.delete(TRAFFIC, headers=headers)
        assert problem(response)[:2] == (status, {400: "urn:headrace:problem:invalid-argument", 412: "urn:headrace:problem:stale",
                                                  428: "urn:headrace:problem:precondition-required"}[status])
        assert (await admin.get(TRAFFIC)).json()["generation"] == 1


async def test_every_wrong_field_is_named(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    wrong = {"variants": [{"version": "1", "weight": 70.5}, {"version": "02", "weight": 3000, "wieght": 1}], "stikcy": {}}
    response = await put(admin, TRAFFIC, wrong)
    assert problem(response)[:2] == (422, "urn:headrace:problem:unprocessable")
    errors = {error["pointer"]: error["detail"] for error in response.json()["errors"]}
    assert set(errors) == {"#/variants/0/weight", "#/variants/1/version", "#/variants/1/wieght", "#/stikcy"}
    assert errors["#/stikcy"] == "unknown field"
    assert errors["#/variants/1/version"].endswith("not '02'")
    assert routing.calls == []


async def test_weights_that_do_not_add_up(admin: httpx.AsyncClient) -> None:
    response = await put(admin, TRAFFIC, {"variants": [{"version": "1", "weight": 7000}]})
    assert response.status_code == 422
    assert "sum to 7000 basis points; want 10000" in response.json()["detail"]


async def test_not_waiting_is_accepted_with_its_state(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    response = await put(admin, f"{TRAFFIC}?wait=false", SPLIT)
    assert (response.status_code, response.json()["state"], response.json()["pending"]) == (202, "loading", SPLIT)
    assert routing.calls[0][4] is False
    response = await put(admin, f"{TRAFFIC}?wait=perhaps", SPLIT)
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "wait"


async def test_the_traffic_of_seldon_is_understood(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    document = {"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Experiment", "metadata": {"name": "e"},
                "spec": {"default": "digits-1", "candidates": [{"name": "digits-1", "weight": 75}, {"name": "digits-2", "weight": 25}]}}
    assert (await put(admin, TRAFFIC, document)).status_code == 200
    assert [(v.version, v.weight) for v in routing.calls[0][2].variants] == [("1", 7500), ("2", 2500)]


async def test_yaml_is_understood_by_its_content_type(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    text = b"variants:\n- {version: '1', weight: 2500}\n- {version: '2', weight: 7500}\nsticky: {parameter: user}\n"
    response = await put(admin, TRAFFIC, text, headers={"content-type": "application/yaml; charset=utf-8"})
    assert response.status_code == 200
    assert [v.weight for v in routing.calls[0][2].variants] == [2500, 7500]


@pytest.mark.parametrize(("body", "content_type", "status", "said"), [
    (b"{", "application/json", 400, "no JSON"), (b"[]", "application/json", 400, "must be an object"),
    (b"\xff", "application/json", 400, "UTF-8"),
    (b'{"variants": [], "variants": []}', "application/json", 400, "'variants' is given twice"),
    (b'{"holdout": NaN}', "application/json", 400, "NaN is no JSON number"), (b"[" * 100_000, "application/json", 400, "nested too deeply"),
    (b'{"salt": "\\ud800"}', "application/json", 400, "surrogate"),
    (b"a: 1\na: 2\n", "application/yaml", 400, "given twice"), (b"a: &x [1]\nb: *x\n", "application/yaml", 400, "alias"),
    (b"a: [", "application/yaml", 400, "not valid YAML"), (b"{}", "application/x-www-form-urlencoded", 415, "send application/json"),
    (b" " * ((1 << 20) + 1), "application/json", 413, "1048576 bytes")])
async def test_bodies_that_cannot_be_read(
    admin: httpx.AsyncClient, routing: FakeRouting, body: bytes, content_type: str, status: int, said: str,
) -> None:
    response = await put(admin, TRAFFIC, body, headers={"content-type": content_type})
    assert problem(response)[0] == status
    assert said in response.json()["detail"]
    assert routing.calls == []


async def test_no_content_type_is_json(admin: httpx.AsyncClient) -> None:
    response = await admin.request("PUT", TRAFFIC, content=json.dumps(SPLIT).encode(), headers={"if-match": "0"})
    assert response.status_code == 200


async def test_who_and_why_reach_the_service(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    await put(admin, TRAFFIC, SPLIT, headers={"x-headrace-actor": "Ada Łovelace".encode(), "x-headrace-reason": "größer".encode()})
    assert (routing.calls[0][3].name, routing.calls[0][3].reason) == ("Ada Łovelace", "größer")
    await put(admin, TRAFFIC, SPLIT, "1")
    assert (routing.calls[1][3].name, routing.calls[1][3].reason) == ("anonymous@127.0.0.1", "")
    for headers in ({"x-headrace-actor": "a" * 257}, {"x-headrace-reason": "a" * 1025}, {"x-headrace-actor": b"a\tb"}):
        assert (await put(admin, TRAFFIC, SPLIT, "2", headers)).status_code == 400      # type: ignore[arg-type]


async def test_delete_forgets_the_plan(admin: httpx.AsyncClient) -> None:
    await put(admin, TRAFFIC, SPLIT)
    response = await admin.delete(TRAFFIC, headers={"if-match": "1"})
    assert (response.status_code, response.headers["etag"], response.json()["implied"]) == (200, '"2"', True)


async def test_where_a_key_goes(admin: httpx.AsyncClient) -> None:
    response = await admin.get(f"{TRAFFIC}/assignment", params={"key": "user 7"})
    assert response.json() == {"unit": "user 7", "variant": "2", "version": "2", "generation": 0}
    response = await admin.get(f"{TRAFFIC}/assignment")
    assert problem(response)[0] == 422
    assert response.json()["errors"] == [{"parameter": "key", "detail": "missing"}]


async def test_counters_by_generation(admin: httpx.AsyncClient) -> None:
    assert (await admin.get(f"{TRAFFIC}/counters")).json() == {"model": "digits", "generations": [{
        "generation": 1, "is_final": False, "streak": 1, "longest_streak": 0, "warmup_left": 0,
        "arms": [{"name": "2", "version": "2", "assigned": 4, "keyed": 3, "success": 2, "errors": 1, "refused": 1, "judged": 3,
                  "judged_errors": 1}],
        "shadows": [{"version": "3", "sampled": 5, "compared": 4, "disagreement": 0.5, "failed": 1, "dropped": {"capacity": 1}}]}]}


async def test_labels(admin: httpx.AsyncClient) -> None:
    assert (await admin.get(LABELS)).json() == {"model": "digits", "generation": 0, "labels": {}}
    response = await put(admin, LABELS, {"stable": "1", "canary": "2"})
    assert (response.status_code, response.headers["etag"], response.json()["labels"]) == (200, '"1"', {"stable": "1", "canary": "2"})
    response = await put(admin, LABELS, {"7": "1", "a/b": "1", "ok": "01", "two": 2.0, "number": 2}, "1")
    assert {error["pointer"] for error in response.json()["errors"]} == {"#/7", "#/a~1b", "#/ok", "#/two"}
    assert (await admin.get(TRAFFIC)).json()["labels"] == {"stable": "1", "canary": "2"}


@pytest.mark.parametrize("path", ["traffic", "traffic/assignment?key=a", "traffic/counters", "labels", "rollouts"])
async def test_unknown_models(admin: httpx.AsyncClient, path: str) -> None:
    assert problem(await admin.get(f"/admin/v1/models/absent/{path}"))[:2] == (404, "urn:headrace:problem:not-found")


async def test_versions_are_not_deleted_here(admin: httpx.AsyncClient) -> None:
    assert (await admin.delete("/admin/v1/models/digits")).status_code == 404
    assert (await admin.delete("/admin/v1/models/digits/labels")).status_code == 405
