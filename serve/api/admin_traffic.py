"""Routes of traffic and labels: what a model's requests are split into, and what its versions are called."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from serve.api.admin_bodies import read_document
from serve.api.admin_documents import PLAN_EXAMPLE, Responses, body, document_response, problems
from serve.api.admin_plans import PlanReader
from serve.api.admin_problems import FieldError, InvalidFields, pointer
from serve.api.admin_requests import By, IfMatch, etag, expected_generation
from serve.api.admin_views import LabelsView, TrafficView, labels_document, reading_document, traffic_document
from serve.api.routing_ports import Routing, TrafficState
from serve.models.names import LABEL_RULE, VERSION_RULE, is_label, is_version

_ETAG = {"ETag": {"description": "The generation, in quotes.", "schema": {"type": "string"}}}
_SHOWN: Responses = {200: {"model": TrafficView, "headers": _ETAG}}
_CHANGED: Responses = {
    200: {"model": TrafficView, "headers": _ETAG, "description": "In force: the next request goes by it"}}

_COUNTERS = document_response("Cumulative since each generation came into force, the newest last", {"model": "digits", "generations": [{
    "generation": 3, "is_final": False, "streak": 0, "longest_streak": 1, "warmup_left": 0,
    "arms": [{"name": "2", "version": "2", "assigned": 120, "keyed": 120, "success": 117, "errors": 2, "refused": 1, "judged": 69,
              "judged_errors": 1}],
    "shadows": [{"version": "3", "sampled": 12, "compared": 11, "disagreement": 0.5, "failed": 0, "dropped": {"capacity": 1}}]}]})


def traffic_routes(routing: Routing, plans: PlanReader) -> APIRouter:
    """GET, PUT and DELETE of a plan, where a key goes, GET and PUT of labels."""
    router = APIRouter(prefix="/admin/v1/models/{model}", tags=["traffic"])

    @router.get("/traffic", summary="How requests are split", responses={**_SHOWN, **problems(404)})
    async def get_traffic(model: str) -> JSONResponse:
        return _answer(routing.traffic(model))

    @router.put("/traffic", summary="Split requests another way", openapi_extra=body("RoutingPlan", PLAN_EXAMPLE),
                responses={**_CHANGED, 202: {"model": TrafficView, "headers": _ETAG, "description": "Accepted; versions are being loaded"},
                           **problems(400, 404, 409, 412, 413, 415, 422, 428)})
    async def put_traffic(
        model: str, request: Request, by: By, if_match: IfMatch = None,
        wait: Annotated[bool, Query(description="Answer when the plan is in force; else at once, with its state.")] = True,
    ) -> JSONResponse:
        expected = expected_generation(if_match, routing.traffic(model).generation)
        plan = await plans.routing_plan(model, await read_document(request))
        return _answer(await routing.set_traffic(model, plan, expected, by, wait=wait))

    @router.delete("/traffic", summary="Forget the plan: requests go to `stable`, or to the latest version",
                   responses={**_CHANGED, **problems(400, 404, 409, 412, 428)})
    async def delete_traffic(model: str, by: By, if_match: IfMatch = None) -> JSONResponse:
        expected = expected_generation(if_match, routing.traffic(model).generation)
        return _answer(await routing.clear_traffic(model, expected, by))

    @router.get("/traffic/assignment", summary="Where a sticky key goes now", responses=problems(400, 404, 422))
    async def get_assignment(
        model: str, key: Annotated[str, Query(min_length=1, max_length=4096, description="The value of the sticky header or parameter.")],
    ) -> dict[str, Any]:
        return dict(routing.assignment(model, key))

    @router.get("/traffic/counters", summary="What was counted, by generation and variant", responses={200: _COUNTERS, **problems(404)})
    async def get_counters(model: str) -> JSONResponse:
        routing.traffic(model)
        return JSONResponse({"model": model, "generations": [reading_document(reading) for reading in routing.readings(model)]})

    _add_labels(router, routing)
    return router


def _add_labels(router: APIRouter, routing: Routing) -> None:
    responses: Responses = {200: {"model": LabelsView, "headers": _ETAG}}

    @router.get("/labels", summary="What versions are called", responses={**responses, **problems(404)})
    async def get_labels(model: str) -> JSONResponse:
        state = routing.traffic(model)
        return JSONResponse(labels_document(state), headers=etag(state.generation))

    @router.put("/labels", summary="Name versions; replaces all names", openapi_extra=body("Labels", {"stable": "1", "canary": "2"}),
                responses={**responses, **problems(400, 404, 409, 412, 413, 415, 422, 428)})
    async def put_labels(model: str, request: Request, by: By, if_match: IfMatch = None) -> JSONResponse:
        expected = expected_generation(if_match, routing.traffic(model).generation)
        state = await routing.set_labels(model, _labels_of(await read_document(request)), expected, by)
        return JSONResponse(labels_document(state), headers=etag(state.generation))


def _labels_of(document: dict[str, Any]) -> dict[str, str]:
    # YAML reads `stable: 1` as a number.
    labels = {name: str(version) if type(version) is int else version for name, version in document.items()}
    faults = [FieldError(pointer=pointer((name,)), detail=f"{name!r} is no label: {LABEL_RULE}") for name in labels if not is_label(name)]
    faults += [FieldError(pointer=pointer((name,)), detail=f"{version!r} is no version as text: {VERSION_RULE}")
               for name, version in labels.items() if not (isinstance(version, str) and is_version(version))]
    if faults:
        raise InvalidFields(faults)
    return labels


def _answer(state: TrafficState) -> JSONResponse:
    return JSONResponse(traffic_document(state), 202 if state.state == "loading" else 200, etag(state.generation))
