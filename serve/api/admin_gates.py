"""Routes of release gates: reports are stored, shown, and asked for by rollouts."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from serve.api.admin_bodies import read_document
from serve.api.admin_documents import body, document_response, problems
from serve.api.admin_requests import By
from serve.api.routing_ports import Routing
from serve.errors import NotFound, Unprocessable
from serve.monitoring.gate_report import GateReport
from serve.routing.documents import validated
from serve.store.canonical import plain

_DIGEST = f"sha256:{'3' * 64}"
_EXAMPLE = {
    "format": 1, "model": "digits", "candidate": {"version": "2", "digest": _DIGEST}, "stable": None, "verdict": "pass",
    "checks": [{"name": "self_test", "status": "pass", "text": "version 2 passes its self-test"}],
    "data": {"source": "heldout.parquet", "rows": 2000, "labelled": 2000}, "settings": {},
    "started": "2026-01-31T12:00:00.000000Z", "finished": "2026-01-31T12:00:09.000000Z",
}
_STORED = {"model": "digits", "version": "2", "digest": _DIGEST, "received": "2026-01-31T12:00:10.000000Z", "report": _EXAMPLE}
_ONE = document_response("The report as it is kept: the newest of this version and digest", _STORED)
_MANY = document_response("Reports, the newest first", {"gates": [_STORED]})


def gate_routes(routing: Routing) -> APIRouter:
    """PUT and GET of reports. What a report says of a version counts for the digest in it."""
    router = APIRouter(prefix="/admin/v1/models/{model}/gates", tags=["gates"])

    @router.put("/{version}", summary="Keep the report of a release gate", openapi_extra=body("GateReport", _EXAMPLE),
                responses={200: _ONE, **problems(400, 404, 413, 415, 422)})
    async def put_gate(model: str, version: str, request: Request, by: By) -> JSONResponse:
        report = validated(GateReport, await read_document(request))
        if (report.model, report.candidate.version) != (model, version):
            raise Unprocessable(f"the report is about version {report.candidate.version} of '{report.model}', the path about version "
                                f"{version} of '{model}'")
        return JSONResponse(plain(await routing.put_gate(model, report.model_dump(mode="json"), by)))

    @router.get("", summary="Reports of all versions", responses={200: _MANY, **problems(404)})
    async def list_gates(model: str) -> JSONResponse:
        return JSONResponse(plain({"gates": list(await routing.gates(model))}))

    @router.get("/{version}", summary="The newest report of a version", responses={200: _ONE, **problems(404)})
    async def get_gate(model: str, version: str) -> JSONResponse:
        found = await routing.gates(model, version)
        if not found:
            raise NotFound(f"there is no gate report of version {version} of '{model}': run `headrace gate {model} {version} "
                           "--data FILE --submit` (or --records DIR)")
        return JSONResponse(plain(found[0]))

    return router


__all__ = ["gate_routes"]
