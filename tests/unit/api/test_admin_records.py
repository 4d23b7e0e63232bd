"""The audit and the event stream over the admin API."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from serve.api.admin import admin_app
from serve.api.admin_records import as_sse, event_stream
from serve.api.ports import ApiSettings
from serve.api.readiness import Readiness
from serve.api.routing_ports import Actor
from serve.store.audit import verify_rows
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.fakes import FakeModels


@pytest.fixture
async def routing() -> FakeRouting:
    routing = FakeRouting()
    for generation in range(3):
        await routing.set_labels("digits", {"stable": "1"}, generation, Actor("ada", f"change {generation}"))
    return routing


@pytest.fixture
def admin(models: FakeModels, readiness: Readiness, settings: ApiSettings, routing: FakeRouting) -> httpx.AsyncClient:
    app = admin_app(models, readiness, settings, routing)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8003")


async def test_the_audit_comes_in_pages_that_verify(admin: httpx.AsyncClient) -> None:
    first = (await admin.get("/admin/v1/audit?limit=2")).json()
    second = (await admin.get(f"/admin/v1/audit?after={first['next']}")).json()
    assert [row["data"]["reason"] for row in first["events"] + second["events"]] == ["change 0", "change 1", "change 2"]
    assert verify_rows(first["events"] + second["events"]).is_intact
    assert (await admin.get("/admin/v1/audit?after=3")).json() == {"events": [], "next": 3}


@pytest.mark.parametrize("query", ["after=-1", "limit=0", "limit=1001", "after=x"])
async def test_pages_that_are_none(admin: httpx.AsyncClient, query: str) -> None:
    response = await admin.get(f"/admin/v1/audit?{query}")
    assert (response.status_code, response.json()["errors"][0]["parameter"]) == (422, query.partition("=")[0])


def parse(text: str) -> list[dict[str, str]]:
    """By the event stream format of the HTML standard."""
    events, fields = [], {}
    for line in text.split("\n"):
        if line == "" and "data" in fields:
            events.append(fields)
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return events


@pytest.mark.parametrize(("headers", "query", "after", "expected"), [
    ({}, "", None, []), ({"last-event-id": "2"}, "", 2, ["change 2"]), ({}, "?after=1", 1, ["change 1", "change 2"]),
    ({"last-event-id": "2"}, "?after=0", 2, ["change 2"]), ({"last-event-id": ""}, "", None, [])])
async def test_events_go_on_where_the_client_left_off(
    admin: httpx.AsyncClient, routing: FakeRouting, headers: dict[str, str], query: str, after: int | None, expected: list[str],
) -> None:
    await routing.live.put({"type": "dev.headrace.rollout.verdict", "data": {"reason": "now"}})
    await routing.live.put({})
    response = await admin.get(f"/admin/v1/events{query}", headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert response.headers["cache-control"] == "no-store"
    events = parse(response.text)
    assert [json.loads(event["data"])["data"]["reason"] for event in events] == [*expected, "now"]
    assert [event.get("id") for event in events] == [*map(str, range((after or 0) + 1, 4) if after is not None else ()), None]
    assert events[-1]["event"] == "dev.headrace.rollout.verdict"
    assert (routing.listening_after, routing.n_closed) == ([after], 1)


async def test_a_place_that_is_none_is_refused(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/admin/v1/events", headers={"last-event-id": "seven"})).status_code == 400


def test_an_event_cannot_break_out_of_its_line() -> None:
    text = as_sse({"type": "a\nb", "sequence": "0007", "data": {"reason": "x\n\ndata: forged\r\n", "odds": float("nan")}})
    (event,) = parse(text)
    assert (event["id"], event["event"]) == ("7", "ab")
    assert json.loads(event["data"])["data"] == {"reason": "x\n\ndata: forged\r\n", "odds": "NaN"}


async def test_silence_is_filled_with_comments_and_loses_no_event() -> None:
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    is_closed = False

    async def source() -> AsyncIterator[Mapping[str, Any]]:
        nonlocal is_closed
        try:
            while True:
                yield await coming.get()
        finally:
            is_closed = True

    stream = event_stream(source(), heartbeat_s=0.005)
    assert await anext(stream) == ": connected\n\n"
    assert [await anext(stream) for _ in range(3)] == [": heartbeat\n\n"] * 3
    coming.put_nowait({"type": "t", "sequence": "1"})
    said = await anext(stream)
    while said == ": heartbeat\n\n":
        said = await anext(stream)
    assert said.startswith("id: 1\n")
    await stream.aclose()       # type: ignore[attr-defined]
    assert is_closed
