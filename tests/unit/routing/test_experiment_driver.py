"""Experiments carried out: their weights in force, their counts in the store, their end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serve.errors import Conflict, InvalidArgument, NotFound, Unavailable
from serve.routing import experiment_driver
from serve.routing.board import TrafficBoard
from serve.routing.experiment_driver import ExperimentDriver
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.traffic_service import Actor, TrafficService
from serve.store.audit import AuditEntry
from serve.store.port import Change, Commit, Lease
from serve.store.sqlite import SqliteStore
from serve.traffic import ArmReading, PlanReading
from tests.unit.routing.fakes import FakeCounters, FakeModels, FakeUnits

BY = Actor("ada")
PLAN = {"variants": [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}], "seconds": 100.0}


@dataclass
class Bench:
    folder: Path
    models: FakeModels = field(default_factory=FakeModels)
    counters: FakeCounters = field(default_factory=FakeCounters)
    now_ns: int = 0
    wall_ns: int = 1_700_000_000_000_000_000
    counts: dict[int, dict[str, list[int]]] = field(default_factory=dict)

    async def open(self) -> None:
        self.store = await SqliteStore.open(self.folder)
        self.board = TrafficBoard(self.store, self.models)
        await self.board.open()
        for model in self.board.models():
            self.board.apply(model)
        self.driver = ExperimentDriver(self.board, self.models, self.counters, lambda: self.now_ns, lambda: self.wall_ns)
        await self.driver.open()
        self.driver.resume()

    async def close(self) -> None:
        await self.driver.close()
        await self.store.close()
        self.counts.clear()
        self.models.readings = []

    def serve(self, n: int, errors: dict[str, int], seconds: float = 1.0) -> None:
        spec = self.models.spec
        assert spec is not None
        arms = self.counts.setdefault(spec.generation, {arm.name: [0, 0] for arm in spec.arms})
        for arm in spec.arms:
            arms[arm.name][0] += n * arm.weight // 10_000
            arms[arm.name][1] += errors.get(arm.name, 0)
        self.models.readings = [
            PlanReading("m", generation, tuple(
                ArmReading(name, name, assigned=n, success=n - errors, errors=errors, judged=n, judged_errors=errors)
                for name, (n, errors) in of.items()))
            for generation, of in sorted(self.counts.items())
        ]
        self.now_ns += int(seconds * 1e9)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.driver.documents())


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_driver, "TICK_S", 0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.open()
    yield bench
    await bench.close()


async def start(bench: Bench, **changes: object) -> str:
    document = await bench.driver.create("m", ExperimentPlan.model_validate({**PLAN, **changes}), BY)
    await bench.until(lambda: bench.driver.document(document["id"])["phase"] == "running")
    return str(document["id"])


async def test_it_splits_counts_and_puts_back_what_was_before(bench: Bench) -> None:
    before = RoutingPlan.model_validate({"variants": [{"version": "1", "weight": 10_000}]})
    await TrafficService(bench.board, bench.models, FakeCounters()).set_traffic("m", before, 0, BY)
    name = await start(bench)
    assert bench.models.loaded == ["2"]
    assert bench.models.weights() == {"1": 5000, "2": 5000}
    bench.serve(20_000, {"1": 100, "2": 400})
    await bench.until(lambda: bench.driver.document(name)["read_out"]["is_decided"])
    comparison = bench.driver.document(name)["read_out"]["comparisons"][0]
    assert comparison["verdict"] == "worse"
    bench.serve(100, {}, seconds=200)
    await bench.until(lambda: bench.driver.document(name)["phase"] == "ended")
    assert bench.models.weights() == {"1": 10_000}
    assert bench.board.document("m").owner == ""
    rows = await bench.store.audit()
    assert [row["type"].removeprefix("dev.headrace.") for row in rows] == [
        "traffic.set", "experiment.created", "experiment.started", "experiment.ended"]
    assert rows[-1]["data"]["evidence"]["is_decided"]


async def test_stopping_keeps_the_variant_that_is_named(bench: Bench) -> None:
    name = await start(bench)
    with pytest.raises(InvalidArgument, match="no variant '7'"):
        await bench.driver.stop(name, BY, keep="7")
    await bench.driver.stop(name, BY, keep="2")
    assert bench.models.weights() == {"2": 10_000}
    with pytest.raises(InvalidArgument, match="ended"):
        await bench.driver.stop(name, BY)


async def test_one_at_a_time(bench: Bench) -> None:
    await start(bench)
    with pytest.raises(Conflict):
        await start(bench)
    with pytest.raises(NotFound):
        bench.driver.document("m-e9")


async def test_the_counts_go_on_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    name = await start(bench)
    bench.serve(20_000, {"1": 100, "2": 100})
    await bench.until(lambda: bench.driver.document(name)["read_out"]["variants"][0]["assigned"] == 10_000)
    await asyncio.sleep(0.1)
    await bench.close()

    await bench.open()
    assert bench.models.weights() == {"1": 5000, "2": 5000}
    bench.serve(2000, {"1": 10, "2": 10})
    await bench.until(lambda: bench.driver.document(name)["read_out"]["variants"][0]["assigned"] == 11_000)
    await bench.close()


async def test_thompson_gives_more_to_the_better_variant_and_logs_its_weights(bench: Bench) -> None:
    name = await start(bench, allocation={"kind": "thompson", "floor": 1000, "update_seconds": 10})
    bench.serve(20_000, {"1": 100, "2": 800}, seconds=11)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000})
    reallocated = [row for row in await bench.store.audit() if row["type"].endswith("reallocated")]
    assert [v["weight"] for v in reallocated[-1]["data"]["after"]["variants"]] == [9000, 1000]
    await bench.driver.stop(name, BY)


@pytest.mark.parametrize("version_2", [(), (ArmReading("2", "2"),)])
async def test_counters_that_begin_anew_or_lack_a_variant_do_not_keep_it_from_its_end(
    bench: Bench, version_2: tuple[ArmReading, ...]
) -> None:
    name = await start(bench)
    bench.serve(20_000, {"1": 100})
    await bench.until(lambda: assigned(bench, name) == [10_000, 10_000])
    generation = bench.board.document("m").generation
    bench.models.readings = [PlanReading("m", generation, (ArmReading("1", "1", assigned=10, success=10, judged=10), *version_2))]
    await bench.until(lambda: assigned(bench, name) == [10_010, 10_000])
    bench.now_ns += 10**12
    await bench.until(lambda: bench.driver.document(name)["phase"] == "ended")


async def test_counters_that_make_no_sense_do_not_keep_it_from_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await start(bench)

    def broken(_: str) -> list[PlanReading]:
        raise ValueError("no such counter")

    monkeypatch.setattr(bench.models, "plan_readings", broken)
    await bench.until(lambda: bench.driver.document(name)["why"] == "no such counter")
    bench.now_ns += 10**12
    await bench.until(lambda: bench.driver.document(name)["phase"] == "ended")


async def test_a_final_reading_is_counted_once(bench: Bench) -> None:
    name = await start(bench)
    arms = tuple(ArmReading(version, version, assigned=1000, success=990, errors=10, judged=1000, judged_errors=10) for version in "12")
    bench.models.readings = [PlanReading("m", bench.board.document("m").generation, arms, is_final=True)]
    await bench.until(lambda: assigned(bench, name) == [1000, 1000])
    await asyncio.sleep(0.1)
    assert assigned(bench, name) == [1000, 1000]


async def test_what_is_loaded_for_it_gets_nothing_before_its_start_and_after_its_end(bench: Bench) -> None:
    document = await bench.driver.create("m", ExperimentPlan.model_validate({**PLAN, "start_at": "2030-01-01T00:00:00Z"}), BY)
    assert bench.models.loaded == ["2"]
    assert bench.models.weights() == {"1": 10_000}
    bench.wall_ns = 1_900_000_000_000_000_000
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000})
    await bench.driver.stop(document["id"], BY)
    assert bench.board.document("m").plan is None
    assert bench.models.weights() == {"1": 10_000}


async def test_the_plan_put_back_is_the_one_that_was_replaced_at_the_start(bench: Bench) -> None:
    service = TrafficService(bench.board, bench.models, bench.counters)
    bench.models.in_memory = ["1", "2", "3"]
    document = await bench.driver.create("m", ExperimentPlan.model_validate({**PLAN, "start_at": "2030-01-01T00:00:00Z"}), BY)
    await service.set_traffic("m", RoutingPlan.model_validate({"variants": [{"version": "3", "weight": 10_000}]}), 0, BY)
    bench.wall_ns = 1_900_000_000_000_000_000
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000})
    assert bench.driver.pinned("m") == {"1", "2", "3"}
    await bench.driver.stop(document["id"], BY)
    assert bench.models.weights() == {"3": 10_000}
    assert bench.driver.pinned("m") == frozenset()


async def test_a_scheduled_one_loads_and_proves_its_versions_again_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    document = await bench.driver.create("m", ExperimentPlan.model_validate({**PLAN, "start_at": "2030-01-01T00:00:00Z"}), BY)
    assert bench.driver.pinned("m") == {"1", "2"}
    await bench.close()
    bench.models.in_memory, bench.models.loaded, bench.models.proved = ["1"], [], []
    bench.models.broken = {"2": Unavailable("no memory")}
    bench.wall_ns = 1_900_000_000_000_000_000

    await bench.open()
    await bench.until(lambda: bench.driver.document(document["id"])["why"] == "no memory")
    bench.models.broken = {}
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000})
    assert (bench.models.loaded, bench.models.proved) == (["2"], ["2"])
    assert bench.driver.document(document["id"])["why"] == ""
    await bench.close()


@pytest.mark.parametrize("what", ["started", "reallocated", "ended"])
async def test_a_commit_that_fails_is_made_at_the_next_look(bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = refuse_first(bench, f"dev.headrace.experiment.{what}", monkeypatch)
    allocation = {"kind": "thompson", "floor": 1000, "update_seconds": 10}
    name = await start(bench, allocation=allocation)
    assert (await bench.store.get("experiment", name)).content["phase"] == "running"
    bench.serve(20_000, {"1": 100, "2": 800}, seconds=11)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000})
    bench.serve(100, {}, seconds=200)
    await bench.until(lambda: bench.driver.document(name)["phase"] == "ended")
    assert bench.board.document("m").owner == ""
    assert len(refused) == 1


async def test_a_stop_that_could_not_be_written_may_be_repeated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await start(bench)
    refuse_first(bench, "dev.headrace.experiment.ended", monkeypatch)
    with pytest.raises(Unavailable):
        await bench.driver.stop(name, BY)
    assert bench.driver.document(name)["phase"] == "running"
    await bench.driver.stop(name, BY)
    assert bench.board.document("m").owner == ""


async def test_a_stop_waits_for_the_look_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await start(bench)
    commit, began, may_end = bench.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(changes: Sequence[Change], audit: Sequence[AuditEntry] = (), *, fence: Lease | None = None) -> Commit:
        done = await commit(changes, audit, fence=fence)
        began.set()
        await may_end.wait()
        return done

    monkeypatch.setattr(bench.store, "commit", slow)
    await began.wait()
    stopping = asyncio.create_task(bench.driver.stop(name, BY))
    await asyncio.sleep(0.05)
    may_end.set()
    assert (await stopping)["phase"] == "ended"
    assert bench.board.document("m").owner == ""


async def test_an_older_plan_whose_versions_are_still_being_loaded_does_not_replace_it(bench: Bench) -> None:
    bench.models.in_memory, bench.models.gate = ["1", "2"], asyncio.Event()
    service = TrafficService(bench.board, bench.models, bench.counters)
    older = RoutingPlan.model_validate({"variants": [{"version": "1", "weight": 5000}, {"version": "3", "weight": 5000}]})
    await service.set_traffic("m", older, 0, BY, wait=False)
    await start(bench)
    assert bench.board.document("m").pending is None
    bench.models.gate.set()
    await asyncio.sleep(0.1)
    assert bench.models.weights() == {"1": 5000, "2": 5000}


async def test_counts_go_on_when_a_label_is_set(bench: Bench) -> None:
    name = await start(bench)
    bench.serve(2000, {})
    service = TrafficService(bench.board, bench.models, bench.counters)
    await service.set_labels("m", {"old": "1"}, bench.board.document("m").generation, BY)
    bench.serve(2000, {})
    await bench.until(lambda: assigned(bench, name) == [2000, 2000])


async def test_sticky_units_come_back_after_a_restart_and_go_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    name = await start(bench, sticky={"header": "x-user"})
    bench.counters.memory[name] = FakeUnits(n_failing=3, content=(b"failing", b"seen"))
    await asyncio.sleep(0.1)
    await bench.close()
    bench.counters.memory.clear()

    await bench.open()
    assert bench.counters.memory[name].content == (b"failing", b"seen")
    await bench.driver.stop(name, BY)
    assert name not in bench.counters.memory
    assert await bench.store.get_blob(f"units/{name}/failing") is None
    assert await bench.store.get_blob(f"units/{name}/seen") is None
    await bench.close()


async def test_units_whose_commit_failed_are_saved_with_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    name = await start(bench, sticky={"header": "x-user"})
    commit, refused = bench.store.commit, list[str]()

    async def flaky(changes: Sequence[Change], audit: Sequence[AuditEntry] = (), *, fence: Lease | None = None) -> Commit:
        if not refused and len(changes) > 1:
            refused.append(changes[1].key)
            raise Unavailable("locked by another process")
        return await commit(changes, audit, fence=fence)

    monkeypatch.setattr(bench.store, "commit", flaky)
    bench.counters.memory[name] = FakeUnits(n_failing=3, content=(b"failing", b"seen"))
    await bench.until(lambda: refused == [f"units/{name}/failing"])
    await asyncio.sleep(0.1)
    assert await bench.store.get_blob(f"units/{name}/failing") == b"failing"


async def test_nothing_can_be_kept_of_what_has_not_started(bench: Bench) -> None:
    document = await bench.driver.create("m", ExperimentPlan.model_validate({**PLAN, "start_at": "2030-01-01T00:00:00Z"}), BY)
    with pytest.raises(InvalidArgument, match="has not started"):
        await bench.driver.stop(document["id"], BY, keep="2")
    assert (await bench.driver.stop(document["id"], BY))["phase"] == "ended"


async def test_the_same_model_wanted_twice_at_once(bench: Bench) -> None:
    bench.models.gate = asyncio.Event()
    both = [asyncio.create_task(bench.driver.create("m", ExperimentPlan.model_validate(PLAN), BY)) for _ in range(2)]
    await asyncio.sleep(0.05)
    bench.models.gate.set()
    results = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results)[1] == "dict"
    assert len([result for result in results if isinstance(result, Conflict)]) == 1


def assigned(bench: Bench, name: str) -> list[int]:
    return [variant["assigned"] for variant in bench.driver.document(name)["read_out"]["variants"]]


def refuse_first(bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first commit with such an audit entry fails; returns the entries that were refused."""
    commit, refused = bench.store.commit, list[str]()

    async def flaky(changes: Sequence[Change], audit: Sequence[AuditEntry] = (), *, fence: Lease | None = None) -> Commit:
        if not refused and what in [entry.type for entry in audit]:
            refused.append(what)
            raise Unavailable("locked by another process for 5 s; try again")
        return await commit(changes, audit, fence=fence)

    monkeypatch.setattr(bench.store, "commit", flaky)
    return refused
