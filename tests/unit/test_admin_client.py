"""The admin client against the admin API itself."""

import asyncio
from collections.abc import Iterator

import pytest

from serve.client.admin import YAML, AdminClient, AdminError, InTheWay, NotAcceptable, NotKnown, Stale, Text
from serve.client.connection import ClientError
from tests.unit.admin_server import admin_server
from tests.unit.api.fake_routing import FakeRouting
from tests.unit.api.test_admin_gates import REPORT

SPLIT = {"variants": [{"version": "1", "weight": 9000}, {"version": "2", "weight": 1000}]}
EXPERIMENT = {"variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}], "seconds": 60}


@pytest.fixture
def routing() -> FakeRouting:
    return FakeRouting()


@pytest.fixture
def admin(routing: FakeRouting) -> Iterator[AdminClient]:
    with admin_server(routing) as url, AdminClient(url, "Łucja", timeout_s=10) as client:
        yield client


def test_traffic(admin: AdminClient, routing: FakeRouting) -> None:
    assert admin.traffic("digits")["generation"] == 0
    assert admin.set_traffic("digits", SPLIT, 0, "größer")["plan"] == SPLIT
    by = routing.calls[0][3]
    assert (by.name, by.reason) == ("Łucja", "größer")
    assert admin.set_traffic("digits", SPLIT, 1, wait=False)["state"] == "loading"
    yaml = Text("variants: [{version: '1', weight: 10000}]", YAML)
    assert admin.set_traffic("digits", yaml, 1)["plan"] == {"variants": [{"version": "1", "weight": 10000}]}
    assert admin.assignment("digits", "a&b=ü")["unit"] == "a&b=ü"
    assert admin.counters("digits")[0]["arms"][0]["assigned"] == 4
    assert admin.set_labels("digits", {"stable": "1"}, 2)["labels"] == {"stable": "1"} == admin.labels("digits")["labels"]
    assert admin.clear_traffic("digits", 3)["implied"] is True
    assert {(one["name"], one["version"]) for one in admin.models()} >= {("digits", "1"), ("digits", "2")}


def test_rollouts_and_experiments(admin: AdminClient, routing: FakeRouting) -> None:
    found = admin.start_rollout("digits", {}, "why not", to="2", dry_run=True)
    assert (routing.calls[0][2].to, routing.calls[0][2].dry_run) == ("2", True)
    assert admin.rollout(found["id"]) == found == admin.rollouts()[0] == admin.rollouts("digits")[0]
    assert admin.command(found["id"], "promote-full")["phase"] == "promote-full"
    assert admin.evidence(found["id"])[0]["judgement"]["verdict"] == "hold"
    found = admin.start_experiment("digits", EXPERIMENT)
    assert admin.experiment(found["id"]) == found == admin.experiments("digits")[0]
    assert admin.stop_experiment(found["id"], keep="2")["phase"] == "ended"


def test_gates(admin: AdminClient, routing: FakeRouting) -> None:
    stored = admin.put_gate("digits", "2", REPORT, "from the pipeline")
    assert stored["report"]["verdict"] == "pass"
    assert admin.gates("digits") == [stored]
    assert routing.calls[-1][2].reason == "from the pipeline"


def test_each_refusal_is_an_error_of_its_own(admin: AdminClient) -> None:
    with pytest.raises(NotKnown, match="404: Request for unknown model: 'absent' is not found"):
        admin.traffic("absent")
    with pytest.raises(NotKnown):
        admin.rollout("a/b?c")
    with pytest.raises(Stale) as stale:
        admin.set_traffic("digits", SPLIT, 7)
    assert (stale.value.status, stale.value.problem) == (412, "stale")
    with pytest.raises(NotAcceptable) as wrong:
        admin.set_traffic("digits", {**SPLIT, "stikcy": 1}, 0)
    assert wrong.value.errors == ({"pointer": "#/stikcy", "detail": "unknown field"},)
    found = admin.start_rollout("digits", {"to": "2"})
    with pytest.raises(InTheWay):
        admin.command(found["id"], "retry")
    with pytest.raises(AdminError, match="413"):
        admin.start_rollout("digits", {"to": "2" * (1 << 20)})


def test_the_whole_audit_is_read_page_by_page(admin: AdminClient, routing: FakeRouting) -> None:
    for generation in range(3):
        admin.set_labels("digits", {"stable": "1"}, generation)
    assert [row["sequence"] for row in admin.audit(after=1, limit=1)] == [routing.rows[1]["sequence"]]
    routing.rows = [{**routing.rows[0], "sequence": str(number)} for number in range(1, 1501)]      # a page holds 1000
    assert [int(row["sequence"]) for row in admin.all_audit()] == list(range(1, 1501))
    routing.rows = [{**row, "sequence": "1"} for row in routing.rows]
    with pytest.raises(ClientError, match="out of order"):
        list(admin.all_audit())


def test_events_are_followed_from_where_one_left_off(admin: AdminClient, routing: FakeRouting) -> None:
    for generation in range(2):
        admin.set_labels("digits", {"stable": "1"}, generation, f"change {generation}")
    routing.live = asyncio.Queue()
    routing.live.put_nowait({"type": "dev.headrace.rollout.verdict", "data": {"reason": "now"}})
    routing.live.put_nowait({})
    assert [event["data"]["reason"] for event in admin.events(after=1)] == ["change 1", "now"]


def test_nobody_there() -> None:
    with pytest.raises(ClientError, match=r"no answer from http://127\.0\.0\.1:1: ") as caught:
        AdminClient("127.0.0.1:1").models()
    assert caught.value.status == 0
    for url in ("ftp://x", "http://127.0.0.1:99999", "http://"):
        with pytest.raises(ClientError, match=r"no URL like http://127\.0\.0\.1:8003"):
            AdminClient(url)
