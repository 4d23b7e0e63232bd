"""Rollouts and experiments over the admin API."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.admin_rollouts import VERBS
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.routing.plan import RoutingPlan, VariantDoc
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

OF_MODEL = "/admin/v1/models/digits/rollouts"


@pytest.fixture
def routing() -> FakeRouting:
    return FakeRouting()


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings, routing: FakeRouting) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings, routing)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8003",
                             headers={"x-headrace-actor": "ada", "x-headrace-reason": "tried at home"})


async def test_a_rollout_is_created_listed_and_found_where_its_location_says(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    response = await admin.post(OF_MODEL, json={"to": "2", "steps": [{"weight": 100}, {"weight": 5000, "pause": True}]})
    assert (response.status_code, response.headers["location"]) == (201, "/admin/v1/rollouts/digits-r1")
    _, model, plan, by = routing.calls[0]
    assert (model, plan.to, [step.weight for step in plan.steps]) == ("digits", "2", [100, 5000])
    assert (by.name, by.reason) == ("ada", "tried at home")
    found = (await admin.get(response.headers["location"])).json()
    assert found == response.json()
    assert (await admin.get(f"{OF_MODEL}/digits-r1")).json() == found
    assert (await admin.get(OF_MODEL)).json() == (await admin.get("/admin/v1/rollouts")).json() == {"rollouts": [found]}


async def test_the_candidate_may_be_named_beside_the_plan(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    assert (await admin.post(f"{OF_MODEL}?to=2&dry_run=true", json={})).status_code == 201
    assert (routing.calls[0][2].to, routing.calls[0][2].dry_run, len(routing.calls[0][2].steps)) == ("2", True, 4)
    assert (await admin.post(f"{OF_MODEL}?dry_run=false", json={"to": "2", "dry_run": True})).status_code == 201
    assert routing.calls[1][2].dry_run is False
    response = await admin.post(f"{OF_MODEL}?to=3", json={"to": "2"})
    assert (response.status_code, "version 2, the command version 3" in response.json()["detail"]) == (422, True)


async def test_argos_steps_are_understood(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    text = b"steps:\n- setWeight: 20\n- pause: {duration: 1h}\n- setWeight: 60\n- pause: {}\n"
    response = await admin.post(f"{OF_MODEL}?to=1", content=text, headers={"content-type": "application/yaml"})
    assert response.status_code == 201, response.text
    plan = routing.calls[0][2]
    assert (plan.to, [(step.weight, step.pause) for step in plan.steps]) == ("1", [(2000, False), (6000, True)])


@pytest.mark.parametrize(("path", "document", "said"), [
    (OF_MODEL, {"variants": [{"version": "1", "weight": 10000}]}, None),
    (OF_MODEL, {"traffic_config": {"routes": [{"served_model_name": "digits-1", "traffic_percentage": 100}]}}, "PUT it to"),
    (OF_MODEL, {"to": "2", "steps": [{"weight": 500}, {"weight": 100}]}, "weights ascend"),
    (OF_MODEL, {"to": "2", "steps": [{"weight": 500, "until": "noon"}]}, "steps.0.until: unknown field"),
    (OF_MODEL, {"what": 1}, "no dialect"), (OF_MODEL, {}, "to")])
async def test_plans_that_are_refused(admin: httpx.AsyncClient, routing: FakeRouting, path: str, document: Any, said: str | None) -> None:
    response = await admin.post(path, json=document)
    assert response.status_code == 422
    assert said is None or said in response.json()["detail"]
    assert routing.calls == []


async def test_steps_are_no_split(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    routing.states["digits"] = replace(routing.states["digits"], plan=RoutingPlan(variants=(VariantDoc(version="1", weight=10_000),)))
    response = await admin.put("/admin/v1/models/digits/traffic", headers={"if-match": "0"}, json={"steps": [{"setWeight": 20}]})
    assert response.status_code == 422
    assert "POST it to /admin/v1/models/digits/rollouts" in response.json()["detail"]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "retry"])
async def test_commands_under_both_paths(admin: httpx.AsyncClient, routing: FakeRouting, verb: str) -> None:
    await admin.post(OF_MODEL, json={"to": "2"})
    for prefix in ("/admin/v1", "/admin/v1/models/digits"):
        response = await admin.post(f"{prefix}/rollouts/digits-r1/{verb}")
        assert (response.status_code, response.json()["phase"]) == (200, verb)
        assert (routing.calls[-1][:2], routing.calls[-1][2].name) == ((verb, "digits-r1"), "ada")


async def test_commands_that_are_refused(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    await admin.post(OF_MODEL, json={"to": "2"})
    n_calls = len(routing.calls)
    assert (await admin.post("/admin/v1/models/other/rollouts/digits-r1/abort")).status_code == 404
    assert (await admin.post("/admin/v1/rollouts/absent/abort")).status_code == 404
    assert (await admin.post("/admin/v1/rollouts/digits-r1/explode")).status_code == 404
    assert (await admin.get("/admin/v1/rollouts/digits-r1/abort")).status_code == 405
    assert len(routing.calls) == n_calls
    conflict = await admin.post("/admin/v1/rollouts/digits-r1/retry")
    assert (conflict.status_code, conflict.json()["type"]) == (409, "urn:headrace:problem:conflict")


async def test_evidence_that_is_infinite_is_still_json(admin: httpx.AsyncClient) -> None:
    await admin.post(OF_MODEL, json={"to": "2"})
    response = await admin.get("/admin/v1/rollouts/digits-r1/evidence")
    assert json.loads(response.text)["evidence"][0]["judgement"]["findings"][0]["e_value"] == "Infinity"
    assert (await admin.get("/admin/v1/rollouts/absent/evidence")).status_code == 404


async def test_experiments(admin: httpx.AsyncClient, routing: FakeRouting) -> None:
    plan = {"variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}], "seconds": 60}
    response = await admin.post("/admin/v1/models/digits/experiments", json=plan)
    assert (response.status_code, response.headers["location"]) == (201, "/admin/v1/experiments/digits-e1")
    assert routing.calls[0][2].seconds == 60
    found = (await admin.get("/admin/v1/experiments/digits-e1")).json()
    for path in ("/admin/v1/experiments", "/admin/v1/models/digits/experiments"):
        assert (await admin.get(path)).json() == {"experiments": [found]}
    assert (await admin.post("/admin/v1/experiments/digits-e1/stop?keep=2")).json()["phase"] == "ended"
    assert (routing.calls[-1][2], routing.calls[-1][3].reason) == ("2", "tried at home")
    assert (await admin.post("/admin/v1/experiments/digits-e1/stop?keep=9")).status_code == 400
    response = await admin.post("/admin/v1/models/digits/experiments", json={**plan, "secnods": 1})
    assert (response.status_code, response.json()["errors"]) == (422, [{"pointer": "#/secnods", "detail": "unknown field"}])
