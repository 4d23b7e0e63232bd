"""The admin API's OpenAPI document, held against the routes and against what they answer."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve.api.admin import admin_app
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.monitoring.gate_report import GateReport
from serve.routing.documents import validated
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels

PLANS = {"RoutingPlan": RoutingPlan, "RolloutPlan": RolloutPlan, "ExperimentPlan": ExperimentPlan, "GateReport": GateReport}
CHANGES = ("put", "post", "delete")


@pytest.fixture
def document(models: FakeModels, readiness: Readiness, settings: ApiSettings) -> dict[str, Any]:
    return admin_app(models, readiness, settings, FakeRouting()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            yield verb, path, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_in_it(document: dict[str, Any]) -> None:
    model = "/admin/v1/models/{model}"
    verbs = ("promote", "promote-full", "pause", "resume", "abort", "retry")
    rollouts = {f"{prefix}/rollouts/{{rollout}}/{verb}" for prefix in ("/admin/v1", model) for verb in verbs}
    assert set(document["paths"]) == rollouts | {
        "/admin/v1/health/live", "/admin/v1/health/ready", "/admin/v1/models", f"{model}/traffic", f"{model}/traffic/assignment",
        f"{model}/traffic/counters", f"{model}/labels", f"{model}/rollouts", f"{model}/rollouts/{{rollout}}", "/admin/v1/rollouts",
        "/admin/v1/rollouts/{rollout}", "/admin/v1/rollouts/{rollout}/evidence", f"{model}/experiments", "/admin/v1/experiments",
        "/admin/v1/experiments/{experiment}", "/admin/v1/experiments/{experiment}/stop", f"{model}/gates", f"{model}/gates/{{version}}",
        "/admin/v1/audit", "/admin/v1/events"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = [reference.removeprefix("#/components/schemas/") for reference in references(document)]
    assert set(names) <= set(document["components"]["schemas"])
    assert {*PLANS, "Problem", "TrafficView", "JudgeSettings"} <= set(names)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_operation_says_what_it_does_and_how_it_fails(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    for verb, path, operation in operations(document):
        where = f"{verb} {path}"
        assert operation["summary"][0].isupper(), where
        assert set(operation["tags"]) <= tags, where
        assert operation["tags"], where
        responses = operation["responses"]
        assert any(status.startswith("2") for status in responses), where
        assert "403" in responses, where
        for status, response in responses.items():
            assert response["description"], where
            if status.startswith("4"):
                assert response["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, where
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        assert set(re.findall(r"{(\w+)}", path)) <= names, where
        assert ("404" in responses) >= ("{" in path), where
        if verb in CHANGES:
            assert {"x-headrace-actor", "x-headrace-reason"} <= names, where
        if "if-match" in names:
            assert {"412", "428", "409"} <= set(responses), where
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description") or parameter["in"] == "path" or parameter["name"] == "limit", f"{where} {parameter}"


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_bodies_have_schemas_and_examples_that_are_accepted(document: dict[str, Any]) -> None:
    bodies = {path: operation["requestBody"] for _, path, operation in operations(document) if "requestBody" in operation}
    assert {path.rpartition("/")[2] for path in bodies} == {"traffic", "labels", "rollouts", "experiments", "{version}"}
    for path, body in bodies.items():
        assert set(body["content"]) == {"application/json", "application/yaml"}
        media = body["content"]["application/json"]
        (name,) = [reference.rpartition("/")[2] for reference in references(media["schema"])]
        if name in PLANS:
            validated(PLANS[name], media["example"])
        else:
            assert path.endswith("labels")


def test_without_routing_there_is_nothing_to_change(models: FakeModels, readiness: Readiness, settings: ApiSettings) -> None:
    document = admin_app(models, readiness, settings).openapi()
    assert set(document["paths"]) == {"/admin/v1/health/live", "/admin/v1/health/ready", "/admin/v1/models"}
