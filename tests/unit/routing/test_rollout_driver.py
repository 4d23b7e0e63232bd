"""The driver against counters that tests write: what is committed, what is in force, and what comes back after a restart."""

import asyncio
from pathlib import Path

import pytest

from serve.errors import Conflict, InternalError, InvalidArgument, NotFound
from serve.routing.plan import RoutingPlan
from serve.routing.traffic_service import Actor
from serve.traffic import ArmReading, PlanReading, ShadowReading
from tests.unit.routing.rollout_bench import BY, Bench, start


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
    service = bench.service

    def reading(pairs: int) -> PlanReading:
        return PlanReading("m", spec.generation, (ArmReading("1", "1", assigned=9000), ArmReading("2", "2")),
                           (ShadowReading("2", sampled=pairs, compared=pairs),))

    bench.models.readings = [reading(150)]
    bench.now_ns += 1_000_000_000
    await bench.until(lambda: "150 shadow pairs, about 330 wanted" in service.live()[0].state.verdict_why, "too few pairs")
    assert bench.phase() == "shadowing"
    bench.models.readings = [reading(800)]
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


async def test_the_audit_of_a_rollout_says_what_its_versions_are_made_of(bench: Bench) -> None:
    assert bench.store is not None
    bench.models.digests = {"1": "sha256:11", "2": "sha256:22"}
    await start(bench)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")
    rows = [row for row in await bench.store.audit() if row["type"].startswith("dev.headrace.rollout.")]
    assert rows[0]["type"] == "dev.headrace.rollout.created"
    assert rows[0]["data"]["digests"] == {"1": "sha256:11"}         # the candidate was not loaded yet
    assert rows[-1]["data"]["digests"] == {"1": "sha256:11", "2": "sha256:22"}


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
