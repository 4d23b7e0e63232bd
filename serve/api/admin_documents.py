"""The OpenAPI document's parts that the framework cannot know: bodies that we read ourselves, answers that are documents, errors."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from serve.api.admin_bodies import JSON_TYPES, YAML_TYPES
from serve.api.admin_problems import MEDIA_TYPE, Problem
from serve.monitoring.gate_report import GateReport
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan

Json = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

_TAGS = [
    {"name": "server", "description": "The server and what it has loaded."},
    {"name": "traffic", "description": "How a model's requests are split over its versions, and what versions are called."},
    {"name": "rollouts", "description": "A candidate that gets traffic step by step while the judge looks on."},
    {"name": "experiments", "description": "Versions beside each other for a period, with a read-out."},
    {"name": "gates", "description": "Reports of `headrace gate`, which a rollout may ask for."},
    {"name": "monitoring", "description": "Drift, performance and data validation, by the records and their labels."},
    {"name": "records", "description": "What was changed, by whom, and what is happening now."},
]

PLAN_EXAMPLE = {
    "variants": [{"version": "1", "weight": 7000}, {"version": "2", "weight": 3000}], "sticky": {"header": "x-user-id"},
}
ROLLOUT_EXAMPLE = {"to": "2", "steps": [{"weight": 100}, {"weight": 2500, "seconds": 300, "requests": 5000}, {"weight": 5000}]}
EXPERIMENT_EXAMPLE = {
    "variants": [{"version": "1", "weight": 5000, "name": "control"}, {"version": "2", "weight": 5000, "name": "larger"}],
    "sticky": {"header": "x-user-id"}, "seconds": 604800,
}

_BODIES: dict[str, Json] = {
    "RoutingPlan": {"description": "A RoutingPlan, or traffic in the form of Seldon, Databricks, SageMaker or KServe."},
    "RolloutPlan": {"description": "A RolloutPlan, or steps in the form of Argo Rollouts or SageMaker."},
    "ExperimentPlan": {"description": "An ExperimentPlan."},
    "GateReport": {"description": "What `headrace gate` wrote."},
    "Labels": {"description": "Label to version."},
}
_SCHEMAS: dict[str, Json] = {
    "Labels": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
               "description": "Label to version."},
}


def body(schema: str, example: Json) -> Json:
    """`openapi_extra` of an operation that reads its body by `read_document`."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    # Forms of other systems are told by their keys; their own documentation has the schemas.
    offered = {"anyOf": [reference, {"type": "object"}]} if schema in ("RoutingPlan", "RolloutPlan") else reference
    media: Json = {"schema": offered, "example": example}
    return {"requestBody": {"required": True, **_BODIES[schema], "content": {JSON_TYPES[0]: media, YAML_TYPES[0]: media}}}


def problems(*statuses: int) -> Responses:
    """Errors of an operation, as the document has them. 403 is everywhere: RefuseForeigners."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in (*statuses, 403)}


def document_response(description: str, example: Json) -> Json:
    """An answer whose fields the routing layer defines."""
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}, "example": example}}}


def install_openapi(app: FastAPI) -> None:
    """Makes the app's document whole. It is built when it is first asked for."""

    def openapi() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi       # type: ignore[method-assign]


def _document(app: FastAPI) -> Json:
    document: Json = get_openapi(
        title=app.title, version=app.version, routes=app.routes, tags=_TAGS, separate_input_output_schemas=False,
        description="Operate the server. Errors are problem documents (RFC 9457). Weights are basis points.")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in {**_SCHEMAS, **_definitions((RoutingPlan, RolloutPlan, ExperimentPlan, GateReport, Problem))}.items():
        schemas.setdefault(name, schema)
    for name in ("HTTPValidationError", "ValidationError"):     # the framework's own; ours are problems
        schemas.pop(name, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                operation["responses"].update({str(k): v for k, v in problems(422).items()})
    return document


def _definitions(models: Iterable[Any]) -> Json:
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template="#/components/schemas/{model}")
    return dict(schema["$defs"])
