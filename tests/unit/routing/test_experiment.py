"""An experiment from its plan to its read-out: readings that come twice, restarts, sticky keys, outcomes, and weights that follow them."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.experiment import (
    ExperimentPlan,
    ExperimentState,
    begin,
    fold,
    has_units,
    next_weights,
    put_in_force,
    read_out,
    resume,
)
from serve.routing.experiment_allocation import apportion
from serve.routing.experiment_state import FINISHED_KEPT
from serve.routing.judge.buckets import BOUNDS_NS, N_BUCKETS, bucket_of
from serve.traffic import ArmReading, OutcomeReading, OutcomeTally, PlanReading

TWO = [{"version": "1", "weight": 5000}, {"version": "2", "weight": 5000}]
THREE = [{"version": "1", "weight": 4000}, {"version": "2", "weight": 3000}, {"version": "3", "weight": 3000}]


def started(variants: list[dict[str, Any]] = TWO, **changes: Any) -> ExperimentState:
    plan = ExperimentPlan.model_validate({"variants": variants, "seconds": 3600.0, **changes})
    return put_in_force(begin(plan), 1, plan.weights())


def outcome(name: str, **counts: tuple[int, int]) -> OutcomeReading:
    """counts: v1=(units, hits)."""
    return OutcomeReading(1, name, {arm[1:]: OutcomeTally(n, float(hits), float(hits), hits) for arm, (n, hits) in counts.items()})


def reading(generation: int = 1, is_final: bool = False, **counts: tuple[int, int]) -> PlanReading:
    """counts: v1=(answered, errors)."""
    arms = [
        ArmReading(name[1:], name[1:], assigned=n + 1, success=n - bad, errors=bad, judged=n, judged_errors=bad)
        for name, (n, bad) in counts.items()
    ]
    return PlanReading("digits", generation, (*arms, ArmReading("explicit", "", assigned=5)), is_final=is_final)


def test_nothing_counted_decides_nothing() -> None:
    said = read_out(started())
    assert not said["is_decided"]
    assert said["comparisons"][0]["difference"] is None
    assert said["comparisons"][0]["ratio"] is None
    assert said["sentence"] == "2 against 1, errors: no data."


def test_counts_and_a_decision() -> None:
    state = fold(started(), [reading(v1=(10_000, 20), v2=(10_000, 120))])
    said = read_out(state)
    assert json.loads(json.dumps(said)) == said
    assert [v["assigned"] for v in said["variants"]] == [10_001, 10_001]
    assert said["variants"][1]["metrics"]["errors"] == {"n": 10_000, "hits": 120, "rate": 0.012}
    found = said["comparisons"][0]
    assert found["ratio"][0] == pytest.approx(6, rel=1e-4)
    assert found["ratio"][1] > 1
    assert found["difference"][0] == pytest.approx(0.01, rel=1e-4)
    assert (found["verdict"], said["is_decided"], said["sample_ratio"]["is_mismatch"]) == ("worse", True, False)
    assert said["sentence"].startswith("2 against 1, errors: difference 1 % (")


def test_fewer_errors_are_better_and_the_control_need_not_be_first() -> None:
    state = fold(started(control="2"), [reading(v1=(10_000, 20), v2=(10_000, 120))])
    assert read_out(state)["comparisons"][0] | {"sentence": ""} == {
        **read_out(state)["comparisons"][0], "variant": "1", "verdict": "better", "sentence": "",
    }


def test_a_reading_may_come_twice_and_only_its_news_counts() -> None:
    first, second = reading(v1=(100, 3), v2=(90, 2)), reading(v1=(300, 4), v2=(290, 7))
    twice = fold(fold(started(), [first, first]), [first, second, second])
    once = fold(fold(started(), [first]), [second])
    assert twice == once
    assert twice.metrics["errors"].totals(2) == ((300, 290), (4, 7))
    assert twice.assigned == (301, 291)


def test_a_final_reading_that_comes_again_and_again_counts_once() -> None:
    final = reading(v1=(100, 3), v2=(90, 2), is_final=True)
    state = fold(started(), [final])
    state = fold(put_in_force(state, 2, (5000, 5000)), [final, reading(2, v1=(10, 1), v2=(10, 1))])
    state = fold(state, [final, reading(2, v1=(10, 1), v2=(10, 1))])
    assert state.metrics["errors"].totals(2) == ((110, 100), (4, 3))
    assert state.assigned == (101 + 11, 91 + 11)
    assert len(state.metrics["errors"].strata) == 1


def test_only_so_much_is_remembered_of_generations_that_are_over() -> None:
    state = started()
    for generation in range(1, 2 * FINISHED_KEPT):
        state = fold(put_in_force(state, generation, (5000, 5000)), [reading(generation, is_final=True, v1=(10, 1), v2=(10, 1))])
    assert len(state.finished) == FINISHED_KEPT
    assert {int(key.partition("/")[0]) for key in state.taken} == set(state.finished)
    newest = [reading(generation, is_final=True, v1=(10, 1), v2=(10, 1)) for generation in state.finished]
    assert fold(state, newest) == state


def test_after_a_restart_the_counters_begin_again() -> None:
    state = fold(started(), [reading(v1=(100, 3), v2=(90, 2))])
    assert fold(resume(state), [reading(v1=(150, 3), v2=(150, 2))]).metrics["errors"].totals(2) == ((250, 240), (6, 4))


def test_a_plan_that_is_built_anew_counts_from_zero() -> None:
    state = fold(started(), [reading(v1=(100, 3), v2=(90, 2))])
    state = fold(state, [reading(v1=(50, 1), v2=(95, 1))])
    assert state.metrics["errors"].totals(2) == ((150, 185), (4, 3))
    state = fold(state, [reading(v1=(60, 1), v2=(100, 2))])
    assert state.metrics["errors"].totals(2) == ((160, 190), (4, 4))


def test_an_older_generation_that_counts_less_has_nothing_new() -> None:
    state = fold(put_in_force(started(), 2, (5000, 5000)), [reading(v1=(100, 3), v2=(90, 2))])
    less = fold(state, [reading(v1=(40, 1), v2=(30, 1))])
    assert (less.metrics, less.assigned) == (state.metrics, state.assigned)
    more = fold(less, [reading(v1=(45, 1), v2=(30, 1))])
    assert more.metrics["errors"].totals(2) == ((105, 90), (3, 2))


def test_without_one_of_the_variants_nothing_is_compared() -> None:
    state = fold(started(), [reading(v1=(100, 3), v2=(90, 2))])
    alone = fold(state, [reading(v1=(300, 200))])
    assert alone.metrics == state.metrics
    assert alone.assigned == (101 + 301, 91)
    both = fold(alone, [reading(v1=(310, 201), v2=(10, 0))])
    assert both.metrics["errors"].totals(2) == ((110, 100), (4, 2))


def test_what_is_not_of_the_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="never put in force"):
        fold(started(), [reading(9, v1=(1, 0), v2=(1, 0))])


def test_the_log_of_propensities_is_not_rewritten() -> None:
    state = started()
    assert put_in_force(state, 1, (5000, 5000)) == state
    with pytest.raises(ValueError, match="on record"):
        put_in_force(state, 1, (6000, 4000))
    with pytest.raises(ValueError, match="one over 0"):
        put_in_force(state, 2, (10_000, 0))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 500), st.integers(0, 500), st.integers(0, 20)), max_size=6))
def test_document_round_trip(steps: list[tuple[int, int, int, int]]) -> None:
    state = started(THREE, allocation={"kind": "thompson"})
    counted = {g: [0, 0, 0] for g in (1, 2, 3)}
    state = put_in_force(put_in_force(state, 2, (1000, 1000, 8000)), 3, (500, 9000, 500))
    for generation, a, b, bad in steps:
        held = counted[generation]
        held[:] = [held[0] + a + bad, held[1] + b, held[2] + bad]
        state = fold(state, [reading(generation, v1=(held[0], held[2]), v2=(held[1], 0), v3=(held[1], 0))])
    assert ExperimentState.from_document(json.loads(json.dumps(state.as_document()))) == state


def test_first_errors_of_sticky_units_are_compared_by_ratio_alone() -> None:
    state = fold(started(sticky={"header": "x-user"}), [reading(v1=(10_000, 20), v2=(14_000, 90))])
    said = read_out(state)
    assert said["comparisons"][0]["difference"] is None
    assert said["comparisons"][0]["verdict"] == "worse"
    assert said["sample_ratio"]["e_value"] is None  # heavier users on one side are no fault
    assert said["is_decided"]


def test_slow_and_failed_answers_miss_the_slo() -> None:
    edge = next(bound for bound in BOUNDS_NS if bound >= 5e6)
    counts = [0] * N_BUCKETS
    for ns, times in ((1_000_000, 70), (edge, 20), (edge + 1, 7), (10**9, 3)):
        counts[bucket_of(ns)] += times
    state = started(primary="latency_slo", slo_ms=5.0)
    arms = tuple(ArmReading(name, name, assigned=105, success=100, errors=5, total_counts=tuple(counts)) for name in "12")
    state = fold(state, [PlanReading("digits", 1, arms)])
    assert state.metrics["latency_slo"].totals(2) == ((105, 105), (15, 15))
    assert read_out(state)["slo_ms_effective"] == edge / 1e6


def test_outcomes_are_folded_by_generation_and_higher_is_better() -> None:
    state = started(primary="outcome:click", sticky={"parameter": "user"})
    clicks = outcome("click", v1=(4_000, 800), v2=(4_000, 1_000))
    state = fold(fold(state, (), [clicks, outcome("other", v1=(9, 9))]), (), [clicks])
    assert state.metrics["outcome:click"].totals(2) == ((4_000, 4_000), (800, 1_000))
    said = read_out(state)
    assert said["comparisons"][0]["verdict"] == "better"
    assert said["comparisons"][0]["difference"][0] == pytest.approx(0.05, abs=0.01)
    assert said["sample_ratio"]["e_value"] is not None
    lower = read_out(fold(started(primary="outcome:complaint", better="lower"), (), [
        outcome("complaint", v1=(4_000, 800), v2=(4_000, 1_000)),
    ]))
    assert lower["comparisons"][0]["verdict"] == "worse"


def test_a_mismatch_outranks_a_difference() -> None:
    said = read_out(fold(started(), [reading(v1=(10_000, 20), v2=(9_000, 220))]))
    assert said["sample_ratio"]["is_mismatch"]
    assert not said["is_decided"]
    assert "find out what is lost" in said["sentence"]


def test_several_variants_share_alpha() -> None:
    said = read_out(fold(started(THREE), [reading(v1=(4000, 10), v2=(3000, 10), v3=(3000, 60))]))
    assert said["alpha_each"] == 0.025
    assert [found["verdict"] for found in said["comparisons"]] == ["undecided", "worse"]


def test_units_wanted() -> None:
    state = started(units=100)
    assert not has_units(state)
    assert not has_units(fold(state, [reading(v1=(500, 0), v2=(99, 0))]))
    assert has_units(fold(state, [reading(v1=(500, 0), v2=(100, 0))]))
    assert not has_units(fold(started(), [reading(v1=(500, 0), v2=(100, 0))]))


def test_thompson_follows_the_better_variant_above_the_floor() -> None:
    state = started(THREE, allocation={"kind": "thompson", "floor": 600})
    fair = next_weights(state, np.random.default_rng(1))
    assert sum(fair) == 10_000
    assert max(fair) - min(fair) < 300
    state = fold(state, [reading(v1=(4000, 400), v2=(3000, 30), v3=(3000, 300))])
    assert next_weights(state, np.random.default_rng(1)) == (600, 8800, 600)
    assert next_weights(state, np.random.default_rng(1)) == next_weights(state, np.random.default_rng(1))


def test_thompson_may_follow_an_outcome() -> None:
    state = started(allocation={"kind": "thompson", "metric": "outcome:click"})
    state = fold(state, (), [outcome("click", v1=(1000, 100), v2=(1000, 300))])
    assert next_weights(state, np.random.default_rng(1)) == (500, 9500)
    assert set(read_out(state)["secondary"]) == {"outcome:click"}


def test_a_fixed_allocation_stays() -> None:
    state = fold(started(THREE), [reading(v1=(4000, 400), v2=(3000, 30), v3=(3000, 300))])
    assert next_weights(state, np.random.default_rng(1)) == (4000, 3000, 3000)


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=16), st.integers(500, 625))
def test_apportioned_weights_sum_up_above_the_floor(shares: list[float], floor: int) -> None:
    exact = np.asarray(shares) / sum(shares)
    weights = apportion(exact, floor)
    assert sum(weights) == 10_000
    assert min(weights) >= floor
    assert max(abs(np.asarray(weights) - floor - exact * (10_000 - floor * len(shares)))) < 1
