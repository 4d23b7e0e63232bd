"""Plans and labels by hand: what is checked, in which order things happen, and what is left when something fails."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve.errors import Conflict, InternalError, InvalidArgument, NotFound, StaleGeneration
from serve.routing.board import TrafficBoard
from serve.routing.plan import RoutingPlan
from serve.routing.traffic_service import Actor, TrafficService
from serve.store.sqlite import SqliteStore
from tests.unit.routing.fakes import FakeCounters, FakeModels

BY = Actor("ada", "because")


def split(**weights: int) -> RoutingPlan:
    return RoutingPlan.model_validate({"variants": [{"version": name[1:], "weight": weight} for name, weight in weights.items()]})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
def board(store: SqliteStore, models: FakeModels) -> TrafficBoard:
    return TrafficBoard(store, models)


@pytest.fixture
def service(board: TrafficBoard, models: FakeModels) -> TrafficService:
    return TrafficService(board, models, FakeCounters())


async def test_without_a_plan_the_implied_one_is_told_at_generation_0(service: TrafficService) -> None:
    state = service.traffic("m")
    assert state.plan is None
    assert state.generation == 0
    assert state.implied is not None
    assert [(v.version, v.weight) for v in state.implied.variants] == [("1", 10_000)]


async def test_a_plan_loads_and_proves_what_it_names_before_it_is_in_force(service: TrafficService, models: FakeModels) -> None:
    models.gate = asyncio.Event()
    task = asyncio.create_task(service.set_traffic("m", split(v1=9000, v2=1000), 0, BY))
    while service.traffic("m").state != "loading":
        await asyncio.sleep(0.005)
    # While version 2 is loaded, 1 answers everything: 2 is the latest one, and must not get it all.
    assert models.weights() == {"1": 10_000}
    models.gate.set()
    state = await task
    assert (state.generation, state.state) == (1, "in_force")
    assert models.weights() == {"1": 9000, "2": 1000}
    assert models.loaded == ["2"]
    assert models.proved == ["2"]


async def test_not_waiting_returns_while_it_loads(service: TrafficService, models: FakeModels) -> None:
    models.gate = asyncio.Event()
    state = await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY, wait=False)
    assert (state.state, state.generation) == ("loading", 0)
    models.gate.set()
    while service.traffic("m").state == "loading":
        await asyncio.sleep(0.005)
    assert models.weights() == {"1": 9000, "2": 1000}


async def test_a_version_that_does_not_load_leaves_everything_to_what_answered(service: TrafficService, models: FakeModels) -> None:
    models.broken["2"] = InternalError("no such operator")
    with pytest.raises(InternalError, match="no such operator"):
        await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    state = service.traffic("m")
    assert (state.state, state.reason, state.generation) == ("failed", "no such operator", 0)
    assert models.spec is None          # nothing was loaded, so nothing has to be held
    models.broken.clear()
    assert (await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)).state == "in_force"


async def test_a_version_that_fails_its_self_test_gets_nothing(service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    models.bad["2"] = InvalidArgument("self-test a.json: output 'y' differs")
    with pytest.raises(InvalidArgument, match="differs"):
        await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    assert models.routed == []


async def test_a_version_that_loads_and_is_bad_does_not_become_the_default(service: TrafficService, models: FakeModels) -> None:
    models.bad["2"] = InvalidArgument("self-test a.json: output 'y' differs")
    with pytest.raises(InvalidArgument, match="differs"):
        await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    assert "2" in models.in_memory
    assert models.weights() == {"1": 10_000}


async def test_a_plan_that_its_versions_cannot_follow_is_not_committed(
    board: TrafficBoard, service: TrafficService, models: FakeModels, store: SqliteStore
) -> None:
    models.unfit = InvalidArgument("no output 'z'")
    with pytest.raises(InvalidArgument, match="no output 'z'"):
        await service.set_traffic("m", split(v1=10_000), 0, BY)
    assert models.routed == []
    assert await store.list("traffic") == []
    assert board.document("m").generation == 0


async def test_a_version_that_is_unloaded_meanwhile_gets_nothing(service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")

    async def unload_while_proving(name: str, version: str) -> None:
        models.in_memory.remove("2")

    models.prove = unload_while_proving     # type: ignore[method-assign]
    with pytest.raises(Conflict, match="unloaded meanwhile"):
        await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    assert models.routed == []


async def test_a_label_does_not_let_its_version_take_over(service: TrafficService, models: FakeModels) -> None:
    await service.set_labels("m", {"canary": "2"}, 0, BY)
    assert models.proved == ["2"]
    assert models.weights() == {"1": 10_000}


async def test_stale_writes_are_refused(service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    await service.set_traffic("m", split(v1=5000, v2=5000), 0, BY)
    with pytest.raises(StaleGeneration, match="generation 1, not 0"):
        await service.set_traffic("m", split(v1=10_000), 0, BY)
    assert models.weights() == {"1": 5000, "2": 5000}


async def test_of_two_writers_that_saw_the_same_generation_one_wins(service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    outcomes = await asyncio.gather(
        *(service.set_traffic("m", split(v1=10_000 - w, v2=w), 0, BY) for w in (100, 200, 300)), return_exceptions=True)
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StaleGeneration) for outcome in outcomes) == 2


async def test_the_salt_stays_so_that_no_unit_moves(board: TrafficBoard, service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    first = board.document("m").spec()
    await service.set_traffic("m", split(v1=8000, v2=2000), 1, BY)
    second = board.document("m").spec()
    assert first is not None
    assert second is not None
    assert first.salt == second.salt
    assert len(first.salt) >= 16


async def test_clearing_goes_back_to_the_default(service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    state = await service.clear_traffic("m", 1, BY)
    assert (state.plan, state.generation) == (None, 2)
    assert models.spec is None


async def test_labels_are_set_whole_and_load_their_versions(service: TrafficService, models: FakeModels) -> None:
    state = await service.set_labels("m", {"champion": "3"}, 0, BY)
    assert state.labels == {"champion": "3"}
    assert models.loaded == ["3"]
    assert models.routed[-1][1] == {"champion": "3"}
    with pytest.raises(InvalidArgument, match="never all digits"):
        await service.set_labels("m", {"12": "3"}, 1, BY)


async def test_the_audit_says_what_the_versions_were_made_of(service: TrafficService, models: FakeModels, store: SqliteStore) -> None:
    models.digests = {"1": "sha256:11", "2": "sha256:22", "3": "sha256:33"}
    await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    models.digests["2"] = "sha256:2222"         # loaded anew, from other files
    await service.set_labels("m", {"champion": "2"}, 1, BY)
    await service.clear_traffic("m", 2, BY)
    said = {row["type"].removeprefix("dev.headrace."): row["data"]["digests"] for row in await store.audit()}
    first, later = {"1": "sha256:11", "2": "sha256:22"}, {"1": "sha256:11", "2": "sha256:2222"}
    assert said == {
        "traffic.held": {"1": "sha256:11"}, "traffic.pending": {"1": "sha256:11"},      # 2 is not loaded yet
        "traffic.set": first, "labels.set": later, "traffic.cleared": later,
    }
    assert (await store.verify_audit()).is_intact


async def test_an_unknown_model_is_not_found(service: TrafficService) -> None:
    with pytest.raises(NotFound):
        service.traffic("other")
    with pytest.raises(NotFound):
        await service.clear_traffic("other", 0, BY)


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    models = FakeModels(in_memory=["1", "2"])
    store = await SqliteStore.open(tmp_path)
    service = TrafficService(TrafficBoard(store, models), models, FakeCounters())
    await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    await service.set_labels("m", {"champion": "2"}, 1, BY)
    before = service.traffic("m")
    await store.close()

    store = await SqliteStore.open(tmp_path)
    board = TrafficBoard(store, models)
    await board.open()
    assert TrafficService(board, models, FakeCounters()).traffic("m") == before
    assert board.pinned("m") == {"1", "2"}
    board.apply("m")
    assert models.weights() == {"1": 9000, "2": 1000}
    await store.close()


async def test_a_plan_that_was_pending_goes_on_after_a_restart(tmp_path: Path) -> None:
    models = FakeModels(gate=asyncio.Event())
    store = await SqliteStore.open(tmp_path)
    first = TrafficService(TrafficBoard(store, models), models, FakeCounters())
    await first.set_traffic("m", split(v1=9000, v2=1000), 0, BY, wait=False)
    await first.close()
    await store.close()

    store = await SqliteStore.open(tmp_path)
    board = TrafficBoard(store, models)
    await board.open()
    service = TrafficService(board, models, FakeCounters())
    assert models.gate is not None
    models.gate.set()
    await service.resume()
    while service.traffic("m").state == "loading":
        await asyncio.sleep(0.005)
    assert models.weights() == {"1": 9000, "2": 1000}
    await store.close()


async def test_every_change_is_in_the_audit_with_who_and_why(store: SqliteStore, service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")
    await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    await service.clear_traffic("m", 1, Actor("bob"))
    rows = await store.audit()
    assert [row["type"] for row in rows] == ["dev.headrace.traffic.set", "dev.headrace.traffic.cleared"]
    assert rows[0]["subject"] == "m"
    assert rows[0]["data"]["actor"] == "ada"
    assert rows[0]["data"]["reason"] == "because"
    assert rows[0]["data"]["after"]["variants"][1] == {"version": "2", "weight": 1000, "name": ""}
    assert (await store.verify_audit()).is_intact


async def test_what_the_store_refuses_is_not_in_force(board: TrafficBoard, service: TrafficService, models: FakeModels) -> None:
    models.in_memory.append("2")

    async def refuse(*_: object, **__: object) -> None:
        raise Conflict("somebody else was first")

    board.store.commit = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(Conflict):
        await service.set_traffic("m", split(v1=9000, v2=1000), 0, BY)
    assert models.routed == []
    assert service.traffic("m").plan is None
