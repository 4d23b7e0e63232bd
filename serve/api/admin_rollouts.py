"""Routes of rollouts and experiments."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from serve.api.admin_bodies import read_document
from serve.api.admin_documents import EXPERIMENT_EXAMPLE, ROLLOUT_EXAMPLE, Responses, body, document_response, problems
from serve.api.admin_plans import PlanReader
from serve.api.admin_requests import By
from serve.api.routing_ports import Routing, Verb
from serve.errors import NotFound
from serve.routing.documents import validated
from serve.routing.experiment_plan import ExperimentPlan
from serve.store.canonical import plain

VERBS: tuple[Verb, ...] = get_args(Verb)

_SUMMARIES: dict[Verb, str] = {
    "promote": "Leave this step, or the manual gate, for the next",
    "promote-full": "Give the candidate everything now",
    "pause": "Stay at this weight; the judge goes on looking and may still roll back",
    "resume": "Go on after a pause or a hold",
    "abort": "Take the candidate back: no request reaches it any more",
    "retry": "Start again from the first step, after an abort, a rollback or a failure",
}
_ROLLOUT_SHOWN = {
    "id": "digits-r1", "model": "digits", "stable": "1", "candidate": "2", "phase": "stepping", "step": 2, "elapsed_s": 31.5,
    "step_requests": 412, "verdict": "continue", "described": "step 2 of 4: 5 % to version 2 of digits", "possible": ["pause", "abort"],
}
_JUDGED = {
    "verdict": "rollback",
    "why": "candidate 17 errors in 512 answers (3.3 %), stable 3 in 9,633 (0.031 %); evidence 410 against a limit of 167",
    "findings": [{"test": "errors", "action": "rollback", "is_tripped": True, "e_value": 410.2, "limit": 166.7}], "generation": 7,
}
_ONE = document_response("The rollout, with the newest judgement", {**_ROLLOUT_SHOWN, "judgement": _JUDGED})
_MANY = document_response("Rollouts, oldest first", {"rollouts": [_ROLLOUT_SHOWN]})
_EVIDENCE = document_response("Judgements that changed something, and the newest, oldest first", {"rollout": "digits-r1", "evidence": [
    {"time": "2026-01-31T12:00:00.000000Z", "phase": "rolling_back", "step": 2, "candidate_bp": 0, "judgement": _JUDGED}]})
_EXPERIMENT_SHOWN = {"id": "digits-e1", "model": "digits", "phase": "running", "elapsed_s": 3600.0}
_EXPERIMENT = document_response("The experiment and its read-out", _EXPERIMENT_SHOWN)
_EXPERIMENTS = document_response("Experiments, oldest first", {"experiments": [_EXPERIMENT_SHOWN]})
_LOCATION = {"Location": {"description": "Path of what was created.", "schema": {"type": "string"}}}


def rollout_routes(routing: Routing, plans: PlanReader) -> APIRouter:
    """Create, list, look, command, evidence; commands under the model's path too."""
    router = APIRouter(prefix="/admin/v1", tags=["rollouts"])
    created: Responses = {201: {**_ONE, "headers": _LOCATION}}

    @router.post("/models/{model}/rollouts", status_code=201, summary="Start a rollout", openapi_extra=body("RolloutPlan", ROLLOUT_EXAMPLE),
                 responses={**created, **problems(400, 404, 409, 413, 415, 422)})
    async def create(
        model: str, request: Request, by: By,
        to: Annotated[str | None, Query(description="The candidate version, where the body does not name it.")] = None,
        dry_run: Annotated[bool | None, Query(description="Judge and tell, and change no weight.")] = None,
    ) -> JSONResponse:
        plan = await plans.rollout_plan(model, await read_document(request), to)
        if dry_run is not None:
            plan = plan.model_copy(update={"dry_run": dry_run})
        found = await routing.create_rollout(model, plan, by)
        return _document(found, 201, {"location": f"/admin/v1/rollouts/{found['id']}"})

    _add_looking(router, routing)
    for verb in VERBS:
        _add_verb(router, routing, verb)
    return router


def _add_looking(router: APIRouter, routing: Routing) -> None:
    @router.get("/models/{model}/rollouts", summary="Rollouts of a model", responses={200: _MANY, **problems(404)})
    async def list_of_model(model: str) -> JSONResponse:
        return _document({"rollouts": list(routing.rollouts(model))})

    @router.get("/rollouts", summary="Rollouts of all models", responses={200: _MANY, **problems()})
    async def list_all() -> JSONResponse:
        return _document({"rollouts": list(routing.rollouts())})

    @router.get("/rollouts/{rollout}", summary="One rollout", responses={200: _ONE, **problems(404)})
    async def get(rollout: str) -> JSONResponse:
        return _document(routing.rollout(rollout))

    @router.get("/models/{model}/rollouts/{rollout}", summary="One rollout", responses={200: _ONE, **problems(404)})
    async def get_of_model(model: str, rollout: str) -> JSONResponse:
        return _document(_of_model(routing.rollout(rollout), model))

    @router.get("/rollouts/{rollout}/evidence", summary="What the judge has said", responses={200: _EVIDENCE, **problems(404)})
    async def evidence(rollout: str) -> JSONResponse:
        return _document({"rollout": rollout, "evidence": list(await routing.evidence(rollout))})


def _add_verb(router: APIRouter, routing: Routing, verb: Verb) -> None:
    responses = {200: _ONE, **problems(400, 404, 409)}

    @router.post(f"/rollouts/{{rollout}}/{verb}", summary=_SUMMARIES[verb], responses=responses)
    async def command(rollout: str, by: By) -> JSONResponse:
        return _document(await routing.command(rollout, verb, by))

    @router.post(f"/models/{{model}}/rollouts/{{rollout}}/{verb}", summary=_SUMMARIES[verb], responses=responses)
    async def command_of_model(model: str, rollout: str, by: By) -> JSONResponse:
        _of_model(routing.rollout(rollout), model)
        return _document(await routing.command(rollout, verb, by))


def experiment_routes(routing: Routing) -> APIRouter:
    """Create, list, look, stop."""
    router = APIRouter(prefix="/admin/v1", tags=["experiments"])

    @router.post("/models/{model}/experiments", status_code=201, summary="Start an experiment",
                 openapi_extra=body("ExperimentPlan", EXPERIMENT_EXAMPLE),
                 responses={201: {**_EXPERIMENT, "headers": _LOCATION}, **problems(400, 404, 409, 413, 415, 422)})
    async def create(model: str, request: Request, by: By) -> JSONResponse:
        plan = validated(ExperimentPlan, await read_document(request))
        found = await routing.create_experiment(model, plan, by)
        return _document(found, 201, {"location": f"/admin/v1/experiments/{found['id']}"})

    @router.get("/models/{model}/experiments", summary="Experiments of a model", responses={200: _EXPERIMENTS, **problems(404)})
    async def list_of_model(model: str) -> JSONResponse:
        return _document({"experiments": list(routing.experiments(model))})

    @router.get("/experiments", summary="Experiments of all models", responses={200: _EXPERIMENTS, **problems()})
    async def list_all() -> JSONResponse:
        return _document({"experiments": list(routing.experiments())})

    @router.get("/experiments/{experiment}", summary="One experiment and its read-out", responses={200: _EXPERIMENT, **problems(404)})
    async def get(experiment: str) -> JSONResponse:
        return _document(await routing.experiment(experiment))

    @router.post("/experiments/{experiment}/stop", summary="End an experiment",
                 responses={200: _EXPERIMENT, **problems(400, 404, 409, 422)})
    async def stop(
        experiment: str, by: By,
        keep: Annotated[str, Query(description="Variant that gets everything afterwards; without it the traffic goes back to what it was.")]
        = "",
    ) -> JSONResponse:
        return _document(await routing.stop_experiment(experiment, by, keep))

    return router


def _of_model(rollout: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    if rollout.get("model") != model:
        raise NotFound(f"model {model!r} has no rollout {rollout.get('id')!r}")
    return rollout


def _document(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # e-values may be infinite, which JSON has no number for: "Infinity".
    return JSONResponse(plain(document), status, headers)
