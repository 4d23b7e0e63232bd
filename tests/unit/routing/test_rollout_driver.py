"""The driver against counters that tests write: what is committed, what is in force, and what comes back after a restart."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve._core.histogram import histogram_bounds
from serve.errors import Conflict, InternalError, InvalidArgument, NotFound, Unavailable
from serve.routing import rollout_driver
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_ledger import Clock
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.service import RoutingService
from serve.routing.traffic_service import Actor
from serve.store.hub import EventHub
from serve.store.sqlite import SqliteStore
from serve.traffic import ArmReading, PlanReading, RunReading, ShadowReading
from tests.unit.routing.fakes import FakeCounters, FakeModels

N_BUCKETS = len(histogram_bounds())
BY = Actor("ada", "a new version")
QUICK = {"to": "2", "shadow": None, "steps": [{"weight": weight, "seconds": 0.5, "requests": 100} for weight in (1000, 5000)]}


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_driver, "TICK_S", 0.01)
    monkeypatch.setattr(rollout_driver, "FIRST_WAKE_S", 0.0)


@dataclass
class Bench:
    """A routing service with one model, and traffic that `serve` makes up: per generation, (stable, candidate) -> (answers, errors)."""

    folder: Path
    models: FakeModels = field(default_factory=FakeModels)
    counters: FakeCounters = field(default_factory=FakeCounters)
    now_ns: int = 1_000_000_000
    wall_ns: int = 1_700_000_000_000_000_000
    counts: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    store: SqliteStore | None = None
    service: RoutingService | None = None

    async def open(self, is_started: bool = True) -> RoutingService:
        self.store = await SqliteStore.open(self.folder)
        hub = EventHub(self.store.audit)
        clock = Clock(lambda: self.now_ns, lambda: self.wall_ns)
        self.service = RoutingService(
            self.store, self.models, self.counters, hub, clock, self.store.back_up, lambda _, verdict: self.verdicts.append(verdict))
        await self.service.open()
        if is_started:
            await self.service.start()
        return self.service

    async def kill(self) -> None:
        """What a SIGKILL leaves: nothing is saved any more."""
        assert self.service is not None
        assert self.store is not None
        for live in self.service.live():
            if live.task is not None:
                live.task.cancel()
                await asyncio.gather(live.task, return_exceptions=True)
        for task in tuple(self.service._rollouts._background):
            task.cancel()
        await self.store.close()
        self.counts.clear()
        self.models.readings = []

    def serve(self, n: int, stable_errors: int = 0, candidate_errors: int = 0, seconds: float = 1.0) -> None:
        """n requests more by the weights in force, and the time that they took."""
        spec = self.models.spec
        assert spec is not None
        arms = self.counts.setdefault(spec.generation, {})
        for arm in spec.arms:
            counted = arms.setdefault(arm.name, [0, 0])
            counted[0] += n * arm.weight // 10_000
            counted[1] += stable_errors if arm.name == "1" else candidate_errors
        self.models.readings = [
            PlanReading("m", generation, tuple(
                ArmReading(name, name, assigned=n, success=n - errors, errors=errors, judged=n, judged_errors=errors)
                for name, (n, errors) in arms.items()), longest_streak=0)
            for generation, arms in sorted(self.counts.items())
        ]
        for version in ("1", "2"):
            n_runs = sum(arms.get(version, [0])[0] for arms in self.counts.values())
            took = tuple(n_runs if bucket == 20 else 0 for bucket in range(N_BUCKETS))
            self.models.runs[version] = RunReading("m", version, {0: took}, took)
        self.now_ns += int(seconds * 1e9)

    def phase(self, name: str = "m-r1") -> str:
        assert self.service is not None
        return str(self.service.rollout(name)["phase"])

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(500):
            if condition():
                return
            await asyncio.sleep(0.01)
        assert self.service is not None
        raise AssertionError(f"waited for {what}: {self.service.rollouts()}")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.open()
    yield bench
    assert bench.service is not None
    assert bench.store is not None
    await bench.service.close()
    await bench.store.close()


async def start(bench: Bench, **changes: Any) -> None:
    assert bench.service is not None
    await bench.service.create_rollout("m", RolloutPlan.model_validate({**QUICK, **changes}), BY)


async def test_a_good_candidate_gets_everything_in_steps(bench: Bench) -> None:
    await start(bench)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    assert bench.models.loaded == ["2"]
    bench.serve(20_000, stable_errors=90, candidate_errors=10)
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000}, "the second step")
    for _ in range(40):
        if bench.phase() == "succeeded":
            break
        bench.serve(200_000, stable_errors=100, candidate_errors=100)
        await asyncio.sleep(0.03)
    await bench.until(lambda: bench.phase() == "succeeded", "the end")
    assert bench.models.weights() == {"2": 10_000}
    assert bench.verdicts[-1] == "promote"


async def test_a_bad_candidate_is_taken_back_with_its_evidence(bench: Bench) -> None:
    assert bench.service is not None
    assert bench.store is not None
    await start(bench)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
    assert bench.models.weights() == {"1": 10_000}
    shown = bench.service.rollout("m-r1")
    assert "candidate" in shown["why"]
    evidence = await bench.service.evidence("m-r1")
    errors = next(f for f in evidence[-1]["judgement"]["findings"] if f["test"] == "errors")
    assert errors["is_tripped"]
    assert errors["e_value"] >= errors["limit"]
    rows = await bench.store.audit()
    verdict = next(row for row in rows if row["type"] == "dev.headrace.rollout.verdict" and row["data"]["after"] == "rollback")
    assert verdict["data"]["evidence"]["findings"]
    assert [row["data"]["after"]["phase"] for row in rows if row["type"].startswith("dev.headrace.rollout.r")][-1] == "rolled_back"
    # Its traffic is the operator's again.
    assert bench.service.traffic("m").owner == ""


async def test_the_candidate_gets_nothing_while_it_is_loaded(bench: Bench) -> None:
    bench.models.gate = asyncio.Event()
    await start(bench)
    await bench.until(lambda: bench.models.weights() == {"1": 10_000}, "stable alone")
    assert bench.phase() == "warming"
    bench.models.gate.set()
    await bench.until(lambda: bench.phase() == "stepping", "the first step")


@pytest.mark.parametrize("why", ["load", "self-test", "schema"])
async def test_a_candidate_that_cannot_serve_fails_the_rollout(bench: Bench, why: str) -> None:
    if why == "load":
        bench.models.broken["2"] = InternalError("no such operator")
    elif why == "self-test":
        bench.models.bad["2"] = InvalidArgument("self-test differs")
    else:
        bench.models.change = "output 'y' is gone"
    await start(bench)
    await bench.until(lambda: bench.phase() == "failed", "the failure")
    assert bench.models.weights() == {"1": 10_000}
    assert bench.service is not None
    assert bench.service.rollout("m-r1")["why"]


async def test_another_schema_is_taken_where_the_plan_says_so(bench: Bench) -> None:
    bench.models.change = "output 'y' is gone"
    await start(bench, allow_schema_change=True)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")


async def test_an_abort_is_in_force_when_it_returns(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    shown = await bench.service.command("m-r1", "abort", Actor("bob", "wrong model"))
    assert bench.models.weights() == {"1": 10_000}
    assert shown["phase"] == "rolled_back"
    assert "bob" in shown["why"]
    assert "wrong model" in shown["why"]


async def test_a_rollout_owns_its_traffic(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    generation = bench.service.traffic("m").generation
    with pytest.raises(Conflict, match="m-r1"):
        await bench.service.clear_traffic("m", generation, BY)
    with pytest.raises(Conflict):
        await start(bench)


async def test_a_worker_that_died_comes_back_with_the_candidate_at_0_and_paused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    await bench.kill()

    service = await bench.open()
    assert bench.models.weights()["1"] == 10_000
    assert bench.phase() == "paused"
    assert "worker died" in service.rollout("m-r1")["why"]
    await service.command("m-r1", "resume", BY)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the step again")
    await bench.kill()

    # The second death within ten minutes is the candidate's doing.
    await bench.open()
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
    assert bench.models.weights() == {"1": 10_000}
    assert bench.service is not None
    assert bench.store is not None
    await bench.service.close()
    await bench.store.close()


async def test_a_worker_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    service = await bench.open()
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    bench.serve(500, stable_errors=3, seconds=0.1)
    await bench.until(lambda: service.rollout("m-r1")["step_requests"] == 50, "50 requests")
    await service.close()
    assert bench.store is not None
    await bench.store.close()
    bench.counts.clear()
    bench.models.readings = []

    service = await bench.open()
    assert bench.models.weights() == {"1": 9000, "2": 1000}
    shown = service.rollout("m-r1")
    assert (shown["phase"], shown["step_requests"]) == ("stepping", 50)
    live = service.live()[0]
    assert sum(stratum.errors[0] for stratum in live.judge.strata) == 3
    await service.close()
    assert bench.store is not None
    await bench.store.close()


async def test_a_shadow_stage_samples_and_gives_no_weight(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench, shadow={"sample": 1000, "seconds": 0.5, "requests": 50})
    await bench.until(lambda: bench.phase() == "shadowing", "the shadow stage")
    assert bench.models.weights() == {"1": 10_000, "2": 0}
    spec = bench.models.spec
    assert spec is not None
    assert [(s.version, s.sample_bp) for s in spec.shadows] == [("2", 1000)]
    bench.models.readings = [PlanReading("m", spec.generation, (ArmReading("1", "1", assigned=9000), ArmReading("2", "2")),
                                         (ShadowReading("2", sampled=800, compared=800),))]
    bench.now_ns += 1_000_000_000
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    assert bench.models.spec is not None
    assert bench.models.spec.shadows == ()


async def test_a_dry_run_judges_and_changes_no_weight(bench: Bench) -> None:
    assert bench.service is not None
    bench.models.in_memory.append("2")
    plan = RoutingPlan.model_validate({"variants": [{"version": "1", "weight": 9000}, {"version": "2", "weight": 1000}]})
    await bench.service.set_traffic("m", plan, 0, BY)
    await start(bench, dry_run=True)
    await bench.until(lambda: bench.models.spec is not None and bench.models.spec.counting is not None, "counting")
    assert bench.models.weights() == {"1": 9000, "2": 1000}
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await bench.until(lambda: bench.phase() == "rolled_back", "what it would have done")
    assert bench.models.weights() == {"1": 9000, "2": 1000}


async def test_promoting_flips_the_label_stable(bench: Bench) -> None:
    assert bench.service is not None
    await bench.service.set_labels("m", {"stable": "1"}, 0, BY)
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    await bench.service.command("m-r1", "promote-full", BY)
    await bench.until(lambda: bench.phase() == "succeeded", "the end")
    assert bench.service.traffic("m").labels == {"stable": "2"}


async def test_a_retry_begins_again_with_nothing_counted(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
    await bench.service.command("m-r1", "retry", BY)
    await bench.until(lambda: bench.phase() == "stepping", "the first step again")
    assert bench.service.rollout("m-r1")["attempt"] == 2
    assert bench.service.live()[0].judge.strata == ()


async def test_an_unknown_rollout_is_not_found(bench: Bench) -> None:
    assert bench.service is not None
    with pytest.raises(NotFound, match="m-r9"):
        bench.service.rollout("m-r9")


async def test_rollouts_are_listed_oldest_first_after_a_restart_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    service = await bench.open()
    for number in range(1, 12):
        await start(bench)
        await service.command(f"m-r{number}", "abort", BY)
        await bench.until(lambda name=f"m-r{number}": bench.phase(name) == "rolled_back", "the abort")
    await bench.kill()
    service = await bench.open()
    assert [shown["id"] for shown in service.rollouts()] == [f"m-r{number}" for number in range(1, 12)]
    await service.close()
    assert bench.store is not None
    await bench.store.close()


async def refuse(*_: object, **__: object) -> None:
    raise Unavailable("the disk is gone")


async def test_labels_changed_during_a_rollout_do_not_blind_the_judge(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    await bench.service.set_labels("m", {"champion": "1"}, bench.service.traffic("m").generation, BY)
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_a_commit_that_fails_delays_a_rollback_and_does_not_lose_it(bench: Bench, failing: int) -> None:
    assert bench.store is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    commit, n_failed = bench.store.commit, 0

    async def fail_once(changes: Any, audit: Any = (), **more: Any) -> Any:
        nonlocal n_failed
        if any("rollback" in str(entry.type) or "rolling" in str(entry.type) or "rolled" in str(entry.type) for entry in audit):
            n_failed += 1
            if n_failed == failing:
                raise Unavailable("the disk is gone")
        return await commit(changes, audit, **more)

    bench.store.commit = fail_once      # type: ignore[method-assign]
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
    assert bench.models.weights() == {"1": 10_000}
    assert bench.service is not None
    assert bench.service.traffic("m").owner == ""


async def test_what_a_load_came_to_is_told_again_when_the_store_fails(bench: Bench) -> None:
    assert bench.store is not None
    bench.models.gate = asyncio.Event()
    await start(bench)
    await bench.until(lambda: bench.phase() == "warming", "the load")
    commit, bench.store.commit = bench.store.commit, refuse     # type: ignore[method-assign, assignment]
    bench.models.gate.set()
    await asyncio.sleep(0.1)
    assert bench.phase() == "warming"
    bench.store.commit = commit         # type: ignore[method-assign]
    await bench.until(lambda: bench.phase() == "stepping", "the first step")


async def test_aborting_a_scheduled_rollout_leaves_the_traffic_alone(bench: Bench) -> None:
    assert bench.service is not None
    bench.models.in_memory.append("3")
    plan = RoutingPlan.model_validate({"variants": [{"version": "1", "weight": 4000}, {"version": "3", "weight": 6000}]})
    await start(bench, start_at="2099-01-01T00:00:00Z")
    await bench.service.set_traffic("m", plan, 0, BY)
    await bench.service.command("m-r1", "abort", BY)
    assert bench.phase() == "rolled_back"
    assert bench.models.weights() == {"1": 4000, "3": 6000}


async def test_a_split_is_not_taken_apart(bench: Bench) -> None:
    assert bench.service is not None
    bench.models.in_memory.append("3")
    plan = RoutingPlan.model_validate({"variants": [{"version": "1", "weight": 4000}, {"version": "3", "weight": 6000}]})
    await bench.service.set_traffic("m", plan, 0, BY)
    with pytest.raises(Conflict, match="1=40 3=60"):
        await start(bench)


async def test_a_version_that_is_not_in_the_repository_is_refused_at_once(bench: Bench) -> None:
    with pytest.raises(NotFound, match="it has 1, 2, 3"):
        await start(bench, to="9")


async def test_promoting_past_the_shadow_overrules_it(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench, shadow={"sample": 1000, "seconds": 0.5, "requests": 50})
    await bench.until(lambda: bench.phase() == "shadowing", "the shadow stage")
    spec = bench.models.spec
    assert spec is not None
    bench.models.readings = [PlanReading("m", spec.generation, (ArmReading("1", "1"), ArmReading("2", "2")),
                                         (ShadowReading("2", sampled=800, compared=800, disagreement=400.0),))]
    bench.now_ns += 1_000_000_000
    await bench.until(lambda: bench.verdicts[-1:] == ["hold"], "the hold")
    await bench.service.command("m-r1", "promote", BY)
    bench.models.readings = []
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    bench.serve(20_000, stable_errors=90, candidate_errors=10)
    await bench.until(lambda: bench.models.weights() == {"1": 5000, "2": 5000}, "the second step")


async def test_what_answers_when_it_begins_is_stable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.service is not None
    await start(bench, start_at="2023-11-14T22:13:21Z")       # a second after the fake clock
    assert bench.phase() == "pending"
    bench.models.in_memory.append("3")
    await bench.service.set_traffic("m", RoutingPlan.model_validate({"variants": [{"version": "3", "weight": 10_000}]}), 0, BY)
    bench.wall_ns += 2_000_000_000
    await bench.until(lambda: bench.models.weights() == {"3": 9000, "2": 1000}, "the first step")


async def test_verbs_wait_for_the_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open(is_started=False)
    assert bench.service is not None
    assert bench.store is not None
    with pytest.raises(Unavailable, match="starting"):
        await bench.service.create_rollout("m", RolloutPlan.model_validate(QUICK), BY)
    await bench.service.close()
    await bench.store.close()


async def test_a_death_while_loading_is_not_followed_by_a_load_before_the_start(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.open()
    bench.models.gate = asyncio.Event()
    await start(bench)
    await bench.until(lambda: bench.phase() == "warming", "the load")
    await bench.kill()
    bench.models.in_memory.clear()

    await bench.open(is_started=False)
    bench.models.gate.set()
    await asyncio.sleep(0.1)
    assert bench.models.in_memory == []
    bench.models.in_memory.append("1")
    assert bench.service is not None
    await bench.service.start()
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    assert bench.store is not None
    await bench.service.close()
    await bench.store.close()


async def test_promoted_and_then_taken_back_the_label_goes_back_as_well(bench: Bench) -> None:
    assert bench.service is not None
    await bench.service.set_labels("m", {"stable": "1"}, 0, BY)
    await start(bench, holdback=None)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    assert bench.store is not None
    commit = bench.store.commit

    async def fail_success(changes: Any, audit: Any = (), **more: Any) -> Any:
        if any(entry.type == "dev.headrace.rollout.succeeded" for entry in audit):
            raise Unavailable("the disk is gone")
        return await commit(changes, audit, **more)

    bench.store.commit = fail_success       # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await bench.service.command("m-r1", "promote-full", BY)
    assert bench.service.traffic("m").labels == {"stable": "2"}
    await bench.service.command("m-r1", "abort", BY)
    assert bench.service.traffic("m").labels == {"stable": "1"}
    assert bench.models.weights() == {"1": 10_000}


async def test_a_dry_run_whose_candidate_has_no_share_waits(bench: Bench) -> None:
    assert bench.service is not None
    await start(bench, dry_run=True)
    await bench.until(lambda: bench.phase() == "stepping", "the dry step")
    # It held what answered, loaded the candidate beside it, and gave it nothing.
    assert bench.models.weights() == {"1": 10_000}
    bench.now_ns += 5_000_000_000
    await asyncio.sleep(0.1)
    assert bench.phase() == "stepping"


async def test_the_evidence_is_kept_while_the_store_is_away(bench: Bench) -> None:
    assert bench.service is not None
    assert bench.store is not None
    await start(bench)
    await bench.until(lambda: bench.phase() == "stepping", "the first step")
    live = bench.service.live()[0]
    await bench.until(lambda: bool(live.evidence), "the first look")
    before = len(live.evidence)
    commit, bench.store.commit = bench.store.commit, refuse     # type: ignore[method-assign, assignment]
    bench.serve(2000, stable_errors=1, candidate_errors=60)
    await asyncio.sleep(0.3)
    assert len(live.evidence) == before
    # What is in force is less than what is durable: the candidate gets nothing although nobody could write it down.
    assert bench.models.weights() == {"1": 10_000}
    bench.store.commit = commit         # type: ignore[method-assign]
    await bench.until(lambda: bench.phase() == "rolled_back", "the rollback")
