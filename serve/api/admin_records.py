"""Routes of the audit and of live events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, StreamingResponse

from serve.api.admin_documents import document_response, problems
from serve.api.routing_ports import Routing
from serve.errors import HeadraceError, InvalidArgument
from serve.store.audit import sequence_of
from serve.store.canonical import plain

HEARTBEAT_S = 15.0
MAX_ROWS = 1000

_EVENT = {
    "specversion": "1.0", "id": "b1946ac9-4", "source": "headrace/main", "type": "dev.headrace.traffic.set", "subject": "digits",
    "time": "2026-01-31T12:00:00.000000Z", "sequence": "00000000000000000004",
    "data": {"actor": "ada", "reason": "the new model is trained on more data"}, "prevhash": "0" * 64, "hash": "0" * 64,
}
_ROWS = document_response("Audit rows in order; `next` is the `after` of the next page", {"events": [_EVENT], "next": 4})
_STREAM: dict[str, Any] = {
    "description": "Server-sent events: `id` is the audit sequence number, `event` the type, `data` the CloudEvent.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": f"id: 4\nevent: {_EVENT['type']}\ndata: {{...}}\n\n"}},
}


def record_routes(routing: Routing) -> APIRouter:
    """GET /audit and GET /events."""
    router = APIRouter(prefix="/admin/v1", tags=["records"])

    @router.get("/audit", summary="What was changed, by whom and why", responses={200: _ROWS, **problems(422, 503)})
    async def audit(
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="Rows with a larger sequence number.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = 100,
    ) -> JSONResponse:
        rows = list(await routing.audit(after, limit))
        return JSONResponse(plain({"events": rows, "next": sequence_of(rows[-1]) if rows else after}))

    @router.get("/events", summary="Every change and verdict as it happens", response_class=StreamingResponse,
                responses={200: _STREAM, **problems(400, 422)})
    async def events(
        last_event_id: Annotated[str | None, Header(description="Where to go on: browsers send the id that they saw last.")] = None,
        after: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="The same, for clients that cannot set headers.")] = None,
    ) -> StreamingResponse:
        source = routing.events(_position(last_event_id, after))
        return StreamingResponse(event_stream(source), media_type="text/event-stream",
                                 headers={"cache-control": "no-store", "x-accel-buffering": "no"})

    return router


async def event_stream(source: AsyncIterator[Mapping[str, Any]], heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[str]:
    """Events in the format of the HTML standard, and a comment in every heartbeat_s seconds of silence, so that dead peers are noticed."""
    yield ": connected\n\n"
    coming: asyncio.Task[Mapping[str, Any]] | None = None
    try:
        while True:
            # One task for each event: cancelling a generator at each heartbeat would end it.
            coming = coming or asyncio.create_task(_next(source))
            done, _ = await asyncio.wait((coming,), timeout=heartbeat_s)
            if not done:
                yield ": heartbeat\n\n"
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            except HeadraceError as error:      # of the store, behind the head of the answer
                yield as_sse({"type": "problem", "detail": str(error)})
                return
            coming = None
            yield as_sse(event)
    finally:
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, HeadraceError):
                await coming
        if close := getattr(source, "aclose", None):
            await close()


def as_sse(event: Mapping[str, Any]) -> str:
    """One event. Without `id` where it is not of the audit chain, so that a client's place in the chain stays what it was."""
    sequence = sequence_of(event)
    head = f"id: {sequence}\n" if sequence else ""
    kind = "".join(str(event.get("type", "message")).splitlines())
    return f"{head}event: {kind}\ndata: {json.dumps(plain(event), ensure_ascii=False)}\n\n"


async def _next(source: AsyncIterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await anext(source)


def _position(last_event_id: str | None, after: int | None) -> int | None:
    if last_event_id is None or not last_event_id.strip():
        return after
    if not (last_event_id.isascii() and last_event_id.strip().isdigit()):
        raise InvalidArgument(f"Last-Event-ID {last_event_id!r} is no sequence number")
    return int(last_event_id)
