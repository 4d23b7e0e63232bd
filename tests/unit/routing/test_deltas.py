"""What the judge is told: differences between looks, each counted once."""

from hypothesis import given
from hypothesis import strategies as st

from serve.routing.deltas import Arms, Look, difference, look
from serve.traffic import ArmReading, PlanReading, RunReading, ShadowReading

ARMS = Arms("1", "2", "2", {1: 0.0, 2: 0.1, 3: 0.5})
NOTHING = RunReading("m", "1")


def plan(generation: int, stable: tuple[int, int], candidate: tuple[int, int], **more: int) -> PlanReading:
    arms = tuple(
        ArmReading(name, name, assigned=n, judged=n, judged_errors=errors, outputs={3: n - errors}, total_counts=(n, 0))
        for name, (n, errors) in (("1", stable), ("2", candidate)))
    return PlanReading("m", generation, arms, longest_streak=more.get("streak", 0))


def at(*plans: PlanReading) -> Look:
    return look(plans, NOTHING, NOTHING)


def test_only_what_is_new_is_told() -> None:
    first, second = at(plan(2, (900, 4), (100, 2))), at(plan(2, (1800, 5), (200, 7), streak=3))
    delta = difference(first, second, ARMS)
    (stratum,) = delta.strata
    assert (stratum.generation, stratum.share) == (2, 0.1)
    assert (stratum.stable.requests, stratum.stable.errors) == (900, 1)
    assert (stratum.candidate.requests, stratum.candidate.errors) == (100, 5)
    assert stratum.candidate.outputs == {3: 95}
    assert stratum.candidate.total_counts == (100, 0)
    assert stratum.assigned == (900, 100)
    assert delta.failing_units == 5
    assert delta.streak == 3


def test_each_generation_is_told_apart_also_after_it_was_replaced() -> None:
    before = at(plan(2, (900, 0), (100, 0)))
    after = at(plan(2, (990, 1), (110, 0)), plan(3, (50, 0), (50, 2)))
    strata = {s.generation: s for s in difference(before, after, ARMS).strata}
    assert (strata[2].stable.requests, strata[2].stable.errors) == (90, 1)
    assert (strata[3].share, strata[3].candidate.errors) == (0.5, 2)


def test_a_generation_without_a_share_is_not_compared() -> None:
    assert difference(Look(), at(plan(1, (1000, 5), (0, 0))), ARMS).strata == ()


def test_counters_that_began_again_are_all_news() -> None:
    before = at(plan(2, (900, 4), (100, 2)))
    (stratum,) = difference(before, at(plan(2, (9, 1), (1, 0))), ARMS).strata
    assert (stratum.stable.requests, stratum.stable.errors, stratum.candidate.requests) == (9, 1, 1)


def test_requests_of_a_sticky_unit_say_nothing_about_the_split() -> None:
    reading = PlanReading("m", 2, (ArmReading("1", "1", assigned=100, keyed=60), ArmReading("2", "2", assigned=50, keyed=50)))
    (stratum,) = difference(Look(), at(reading), ARMS).strata
    assert stratum.assigned == (40, 0)


def test_shadows_add_up_over_generations() -> None:
    def shadow(generation: int, sampled: int, compared: int, failed: int, dropped: dict[str, int]) -> PlanReading:
        return PlanReading("m", generation, (), (ShadowReading("2", sampled, compared, compared / 2, failed, dropped),))

    before = at(shadow(1, 10, 8, 0, {"capacity": 1, "primary": 1}))
    after = at(shadow(1, 12, 9, 1, {"capacity": 1, "primary": 2}), shadow(2, 5, 4, 0, {"late": 1}))
    counted = difference(before, after, ARMS).shadow
    assert (counted.sampled, counted.compared, counted.failed, counted.dropped, counted.primary_failed) == (7, 5, 1, 2, 1)
    assert counted.disagreement == 2.5


def test_runs_by_size_of_batch() -> None:
    before = look([], RunReading("m", "1", {0: (5, 1), 1: (2, 2)}, (3, 0)), NOTHING)
    after = look([], RunReading("m", "1", {0: (7, 1), 1: (2, 2), 2: (1, 0)}, (5, 1)), NOTHING)
    delta = difference(before, after, ARMS)
    assert delta.stable_runs.runs == {0: (2, 0), 2: (1, 0)}
    assert delta.stable_runs.waits == (2, 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_however_often_one_looks_everything_is_told_once(steps: list[tuple[int, int, int, int]]) -> None:
    total = [0, 0, 0, 0]
    told = [0, 0, 0, 0]
    last = Look()
    for step in steps:
        total = [a + b for a, b in zip(total, step, strict=True)]
        now = at(plan(2, (total[0] + total[2], total[2]), (total[1] + total[3], total[3])))
        for stratum in difference(last, now, ARMS).strata:
            told = [told[0] + stratum.stable.requests, told[1] + stratum.candidate.requests, told[2] + stratum.stable.errors,
                    told[3] + stratum.candidate.errors]
        last = now
    assert told == [total[0] + total[2], total[1] + total[3], total[2], total[3]]
