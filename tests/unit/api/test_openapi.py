"""The document against the routing table, against real answers, and against OpenAPI's own model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI

from serve.api import http_handlers
from serve.api.http import HttpApi, HttpRequest, routes
from serve.api.http_handlers import HttpHandlers
from serve.api.openapi import document
from serve.api.openapi_schemas import EXAMPLES, SCHEMAS
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.telemetry.logs import Logs
from tests.unit.api.fakes import FakeModels

DOCUMENT = document(ApiSettings())


def matches(value: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """What is wrong with a value: the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        yield from matches(value, SCHEMAS[schema["$ref"].rsplit("/", 1)[1]], at)
        return
    types: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not any(isinstance(value, types[name]) and (name not in ("integer", "number") or is_number) for name in names):
            yield f"{at}: {value!r} is no {names}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{at}: {value} is below {schema['minimum']}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
        if schema.get("additionalProperties") is False:
            yield from (f"{at}: {name} is not in the schema" for name in value if name not in properties)
        for name in value.keys() & properties.keys():
            yield from matches(value[name], properties[name], f"{at}.{name}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from matches(item, schema.get("items", {}), f"{at}[{index}]")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_openapi() -> None:
    parsed = OpenAPI.model_validate(json.loads(json.dumps(DOCUMENT)))
    assert parsed.openapi == "3.1.0"
    assert set(references(DOCUMENT)) <= {f"#/components/schemas/{name}" for name in SCHEMAS}


def test_it_has_exactly_what_is_implemented(models: FakeModels, readiness: Readiness, logs: Logs, settings: ApiSettings) -> None:
    refused = (http_handlers.not_implemented, http_handlers.repository_name_refused)
    served = {(route.method.lower(), route.template) for route in routes(HttpHandlers(models, readiness, logs, settings))
              if route.target not in refused}
    documented = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert documented == served


def test_every_hole_in_a_path_is_a_parameter_and_every_tag_is_declared() -> None:
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            named = [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"]
            assert [f"{{{name}}}" for name in named] == [segment for segment in path.split("/") if segment.startswith("{")]
            assert set(operation["tags"]) <= tags


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_examples(name: str) -> None:
    assert list(matches(EXAMPLES[name], SCHEMAS[name])) == []


BODIES = {"/v2/repository/index": b"{}", "/v2/logging": b"{}"}


@pytest.mark.parametrize(("method", "template"), sorted(
    (method, path) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
    if "application/json" in operation["responses"].get("200", {}).get("content", {}) and not path.endswith("/infer")))
async def test_answers_are_as_the_document_says(http: HttpApi, method: str, template: str) -> None:
    path = template.replace("{model}", "digits").replace("{version}", "2").replace("{label}", "canary")
    response = await http(HttpRequest(method.upper(), path))
    assert response.status == 200
    schema = DOCUMENT["paths"][template][method]["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(matches(json.loads(response.body), schema)) == []


def test_the_checker_can_fail() -> None:
    assert list(matches({"error": 1}, SCHEMAS["Error"])) == ["$.error: 1 is no ['string']"]
    assert list(matches({}, SCHEMAS["Error"])) == ["$: error is missing"]
    assert list(matches({"error": "", "x": 1}, SCHEMAS["Error"])) == ["$: x is not in the schema"]
    assert list(matches({"count": True, "ns": -1}, SCHEMAS["Duration"])) != []


def test_the_not_ready_status_is_the_chosen_one() -> None:
    habit = document(ApiSettings(not_ready_status=400))["paths"]["/v2/health/ready"]["get"]["responses"]
    assert "400" in habit
    assert "503" in DOCUMENT["paths"]["/v2/health/ready"]["get"]["responses"]
