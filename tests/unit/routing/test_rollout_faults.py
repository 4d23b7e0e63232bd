"""Rollouts when the store fails, the worker dies at a bad moment, or somebody changes something beside them: each went wrong once."""


import asyncio
from pathlib import Path
from typing import Any

import pytest

from serve.errors import Conflict, NotFound, Unavailable
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan
from serve.traffic import ArmReading, PlanReading, ShadowReading
from tests.unit.routing.rollout_bench import BY, QUICK, Bench, start


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
