"""Rollouts that ask for a gate: what is refused, what is kept, and that a report counts for the files that it was made of."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serve.errors import Conflict, NotFound
from serve.routing.gates import KIND, MAX_REPORTS
from serve.routing.rollout_plan import RolloutPlan
from tests.unit.routing.rollout_bench import BY, QUICK, Bench

DIGEST = "sha256:" + "2" * 64
OTHER = "sha256:" + "3" * 64


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    found = Bench(tmp_path)
    found.models.digests = {"1": "sha256:" + "1" * 64, "2": DIGEST}
    await found.open()
    yield found
    assert found.service is not None
    assert found.store is not None
    await found.service.close()
    await found.store.close()


def report(verdict: str = "pass", digest: str = DIGEST, version: str = "2", finished_s: float = 1_700_000_000) -> dict[str, Any]:
    text = "accuracy 0.91 (0.89 to 0.93) on 1,000 rows; at least 0.95"
    return {
        "candidate": {"version": version, "digest": digest}, "verdict": verdict,
        "checks": [{"name": "self_test", "status": "pass", "text": "fine"}, {"name": "accuracy", "status": verdict, "text": text}],
        "finished": datetime.fromtimestamp(finished_s, UTC).isoformat(),
    }


def plan(**more: Any) -> RolloutPlan:
    return RolloutPlan.model_validate({**QUICK, "require_gate": True, **more})


async def refused(bench: Bench, **more: Any) -> str:
    assert bench.service is not None
    with pytest.raises(Conflict) as raised:
        await bench.service.create_rollout("m", plan(**more), BY)
    assert bench.service.rollouts("m") == []
    return str(raised.value)


async def put(bench: Bench, **more: Any) -> None:
    assert bench.service is not None
    await bench.service.put_gate("m", report(**more), BY)


async def test_a_rollout_begins_with_a_passing_report_of_its_candidate(bench: Bench) -> None:
    assert bench.service is not None
    await put(bench)
    await bench.service.create_rollout("m", plan(), BY)
    await bench.until(lambda: bench.models.weights() == {"1": 9000, "2": 1000}, "the first step")


async def test_without_a_report_it_is_refused(bench: Bench) -> None:
    text = await refused(bench)
    assert text == (f"the plan has require_gate, and there is no gate report of version 2 of 'm' as it is now ({DIGEST}): run "
                    "`headrace gate m 2 --data FILE --submit` (or --records DIR)")


async def test_a_report_of_other_files_does_not_count(bench: Bench) -> None:
    await put(bench, digest=OTHER)
    assert f"; there is one of {OTHER}, other files under the same number: run" in await refused(bench)


@pytest.mark.parametrize("verdict", ["fail", "not_enough_data"])
async def test_only_a_pass_counts(bench: Bench, verdict: str) -> None:
    await put(bench)
    await put(bench, verdict=verdict)           # the newest of these files
    text = await refused(bench)
    assert text.endswith(f"says {verdict}: accuracy 0.91 (0.89 to 0.93) on 1,000 rows; at least 0.95")


async def test_a_failure_of_other_files_takes_nothing_away(bench: Bench) -> None:
    assert bench.service is not None
    await put(bench)
    await put(bench, verdict="fail", digest=OTHER)
    await bench.service.create_rollout("m", plan(), BY)


async def test_a_report_may_be_too_old(bench: Bench) -> None:
    assert bench.service is not None
    await put(bench, finished_s=1_700_000_000 - 7200)
    assert "is 7,200 s old; the plan takes at most 3,600 s: run" in await refused(bench, gate_max_age_seconds=3600.0)
    await bench.service.create_rollout("m", plan(gate_max_age_seconds=7201.0), BY)


async def test_a_clock_that_is_ahead_keeps_no_report_young(bench: Bench) -> None:
    await put(bench, finished_s=1_900_000_000)
    bench.wall_ns += 7200 * 10**9
    assert "is 7,200 s old; the plan takes at most 3,600 s: run" in await refused(bench, gate_max_age_seconds=3600.0)


async def test_files_that_change_before_they_are_loaded_fail_the_rollout(bench: Bench) -> None:
    assert bench.service is not None
    await put(bench)
    begun = bench.models.load_version

    async def load_something_else(name: str, version: str) -> None:
        bench.models.digests["2"] = OTHER
        await begun(name, version)

    bench.models.load_version = load_something_else     # type: ignore[method-assign]
    await bench.service.create_rollout("m", plan(), BY)
    await bench.until(lambda: bench.phase() == "failed", "the failure")
    assert "no gate report of version 2" in bench.service.rollout("m-r1")["why"]
    assert bench.models.weights() == {"1": 10_000}


async def test_a_plan_that_asks_for_none_needs_none(bench: Bench) -> None:
    assert bench.service is not None
    await bench.service.create_rollout("m", RolloutPlan.model_validate(QUICK), BY)


async def test_reports_are_kept_shown_and_told_in_the_audit(bench: Bench) -> None:
    assert bench.service is not None
    assert bench.store is not None
    await put(bench, verdict="fail")
    await put(bench)
    await put(bench, version="1", digest=OTHER)
    assert [(one["version"], one["report"]["verdict"]) for one in await bench.service.gates("m")] == [("1", "pass"), ("2", "pass")]
    assert [one["digest"] for one in await bench.service.gates("m", "2")] == [DIGEST]
    row = [row for row in await bench.store.audit() if row["type"] == "dev.headrace.gate.reported"][1]
    assert (row["subject"], row["data"]["actor"], row["data"]["digests"]) == ("m", "ada", {"2": DIGEST})
    assert row["data"]["before"]["verdict"] == "fail"
    assert row["data"]["after"] == {"verdict": "pass", "checks": {"self_test": "pass", "accuracy": "pass"}}
    with pytest.raises(NotFound):
        await bench.service.put_gate("other", report(), BY)


async def test_old_reports_of_a_version_make_way(bench: Bench) -> None:
    assert bench.store is not None
    for at in range(MAX_REPORTS + 3):
        await put(bench, digest=f"sha256:{at:064x}")
    await put(bench, digest=f"sha256:{3:064x}")        # one that is still there is the newest now
    kept = {one.content["digest"] for one in await bench.store.list(KIND)}
    assert kept == {f"sha256:{at:064x}" for at in range(3, MAX_REPORTS + 3)}
