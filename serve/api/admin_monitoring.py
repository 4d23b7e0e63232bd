"""Routes of monitoring: what is watched of a model, its baselines, and who has seen its alerts."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from serve.api.admin_bodies import parse_json
from serve.api.admin_documents import document_response, problems
from serve.api.admin_requests import By
from serve.api.routing_ports import Actor
from serve.errors import InvalidArgument, TooLarge
from serve.store.canonical import plain

MAX_BASELINE_BYTES = 64 << 20
_MAX_NS = (1 << 63) - 1

_WINDOW = {
    "version": "1", "variant": "stable", "from": "2026-01-31T12:00:00.000000Z", "to": "2026-01-31T12:05:00.000000Z", "rows": 15_000,
    "concluded": True, "n_features": 64, "n_drifted": 3, "features": {"input[7]": {"psi": 0.31, "critical": 0.004, "drifted": True}},
    "estimated": {"accuracy": 0.91},
}
_ALERT = {
    "id": "digits-a3", "model": "digits", "version": "1", "variant": "stable", "kind": "drift", "state": "raised",
    "since": "2026-01-31T12:00:00.000000Z", "raised": "2026-01-31T12:10:02.000000Z", "acknowledged_by": "",
}
_SUMMARY = document_response(
    "What is watched: each version and variant with its newest window, windows with the newest last, alerts, and realised performance",
    {"model": "digits", "series": [{"version": "1", "variant": "stable", "baseline": "1-3f2a", "latest": _WINDOW}], "windows": [_WINDOW],
     "realised": [{"version": "1", "variant": "stable", "from": _WINDOW["from"], "labelled": 812, "metrics": {"accuracy": 0.9}}],
     "alerts": [_ALERT], "violations": [{"version": "1", "feature": "input[7]", "kind": "out_of_range", "count": 12}]})
_BASELINE = document_response("The baseline as its file has it", {"format": 1, "id": "1-3f2a", "digest": "sha256:...", "rows": 1437})
_ONE_ALERT = document_response("The alert", _ALERT)
_BASELINE_BODY: dict[str, Any] = {"requestBody": {
    "required": True, "description": "A baseline, as `headrace monitor baseline` makes it.",
    "content": {"application/json": {"schema": {"type": "object"}}}}}


class Monitoring(Protocol):
    """What the routes need; `serve.monitoring.setup.Monitoring` in production. All raise NotFound for what is not known."""

    async def document(self, model: str, version: str = "", variant: str = "", since_ns: int = 0, limit: int = 288) -> Mapping[str, Any]:
        """The summary of a model. version, variant: "" is all. limit: windows of each version and variant."""

    async def baseline(self, model: str, version: str = "") -> Mapping[str, Any]:
        """version "": the one that an unversioned request gets."""

    async def put_baseline(self, model: str, version: str, document: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        """Replaces a version's baseline. Raises Conflict for one of another digest, InvalidArgument for what is none."""

    async def acknowledge(self, model: str, alert_id: str, by: Actor) -> Mapping[str, Any]: ...


# A query in which nobody wrote %2B for the + of a time zone.
_LOST_PLUS = re.compile(r"(?<=\d) (\d\d:\d\d)$")

Version = Annotated[str, Query(description="Only of this version.", max_length=128)]


def monitoring_routes(monitoring: Monitoring) -> APIRouter:
    """GET of the summary and of baselines, PUT of a baseline, POST that an alert was seen."""
    router = APIRouter(prefix="/admin/v1/models/{model}/monitoring", tags=["monitoring"])

    @router.get("", summary="Drift, performance, data validation and alerts", responses={200: _SUMMARY, **problems(400, 404, 422, 503)})
    async def summary(
        model: str, version: Version = "",
        variant: Annotated[str, Query(description="Only of this variant.", max_length=128)] = "",
        since: Annotated[str, Query(description="Windows that begin at this time or later: RFC 3339, or seconds since the epoch.")] = "",
        limit: Annotated[int, Query(ge=1, le=2016, description="The newest windows of each version and variant.")] = 288,
    ) -> JSONResponse:
        return _Json(plain(await monitoring.document(model, version, variant, time_ns(since), limit)))

    @router.get("/baseline", summary="What a version is compared with", responses={200: _BASELINE, **problems(404, 422, 503)})
    async def get_baseline(
        model: str, version: Annotated[str, Query(description="Default: what a request without version gets.", max_length=128)] = "",
    ) -> JSONResponse:
        return _Json(plain(await monitoring.baseline(model, version)))

    @router.put("/baseline", summary="Compare a version with something else", openapi_extra=_BASELINE_BODY,
                responses={200: _BASELINE, **problems(400, 404, 409, 413, 422, 503)})
    async def put_baseline(
        model: str, request: Request, by: By,
        version: Annotated[str, Query(description="Of this version.", min_length=1, max_length=128)],
    ) -> JSONResponse:
        return _Json(plain(await monitoring.put_baseline(model, version, parse_json(await _text(request), any_text=True), by)))

    @router.post("/alerts/{alert}/acknowledge", summary="Say that an alert was seen; it stands until its windows are good",
                 responses={200: _ONE_ALERT, **problems(404, 503)})
    async def acknowledge(model: str, alert: str, by: By) -> JSONResponse:
        return _Json(plain(await monitoring.acknowledge(model, alert, by)))

    return router


class _Json(JSONResponse):
    """In ASCII: a category of bytes that are no UTF-8 is half a surrogate pair, which JSON can say and UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def time_ns(text: str) -> int:
    """Nanoseconds since the epoch of RFC 3339 or of seconds; 0 for "". Raises InvalidArgument."""
    if not text:
        return 0
    try:
        return _bounded(round(float(text) * 1e9), text)
    except (ValueError, OverflowError):
        pass
    try:
        at = datetime.fromisoformat(_LOST_PLUS.sub(r"+\1", text))
    except ValueError as error:
        raise InvalidArgument(f"since = {text!r} is no time; write 2026-01-31T12:00:00Z, or seconds since the epoch") from error
    if at.tzinfo is None:
        raise InvalidArgument(f"since = {text!r} names no time zone; write 2026-01-31T12:00:00Z")
    return _bounded(round(at.timestamp() * 1e9), text)


def _bounded(at_ns: int, text: str) -> int:
    if abs(at_ns) > _MAX_NS:
        raise InvalidArgument(f"since = {text!r} is centuries away; write 2026-01-31T12:00:00Z, or seconds (not ms) since the epoch")
    return at_ns


async def _text(request: Request) -> str:
    parts, n_bytes = [], 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes > MAX_BASELINE_BYTES:
            raise TooLarge(f"the body is longer than {MAX_BASELINE_BYTES} bytes")
        parts.append(part)
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is not UTF-8: byte {error.start}") from error
