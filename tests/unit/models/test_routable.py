"""What of a plan is done with the versions that serve, and sums over plans that were built twice."""

from typing import Any

import pytest

from serve.models.plan_readings import merged_readings
from serve.models.states import routable
from serve.traffic import Arm, ArmReading, JudgeCounting, Override, PlanReading, RoutingSpec, Shadow, ShadowReading, Source


def spec(*weights: tuple[str, int], **more: Any) -> RoutingSpec:
    arms = tuple(Arm(version, version, weight) for version, weight in weights)
    return RoutingSpec(3, "salt", arms, arms[0].name, **more)


def weights(found: RoutingSpec | None) -> dict[str, int] | None:
    return None if found is None else {arm.version: arm.weight for arm in found.arms}


def test_a_whole_plan_is_followed_as_it_is() -> None:
    plan = spec(("1", 9000), ("2", 1000))
    assert routable(plan, ["1", "2", "3"]) is plan
    assert routable(None, ["1"]) is None


@pytest.mark.parametrize(("plan", "served", "expected"), [
    (spec(("1", 9000), ("2", 1000)), ["1"], {"1": 10_000}),
    (spec(("1", 2000), ("2", 3000), ("3", 5000)), ["1", "3"], {"1": 5000, "3": 5000}),
    # Without stable: who has most of the requests already gets the rest, a candidate with little does not.
    (spec(("1", 9000), ("2", 1000)), ["2"], None),
    (spec(("1", 10_000), ("2", 0)), ["2"], None),
    (spec(("1", 0), ("2", 10_000)), ["2"], {"2": 10_000}),
    (spec(("1", 3000), ("2", 7000)), ["2"], {"2": 10_000}),
    (spec(("1", 10_000)), [], None),
])
def test_what_does_not_serve_gives_its_share_away(plan: RoutingSpec, served: list[str], expected: dict[str, int] | None) -> None:
    assert weights(routable(plan, served)) == expected


def test_a_missing_override_does_not_blind_the_judge() -> None:
    counting = JudgeCounting("r", "1", "2")
    plan = spec(("1", 9000), ("2", 1000), counting=counting, overrides=(Override(Source("header", "x"), "b", "9"),),
                shadows=(Shadow("8", 100),))
    found = routable(plan, ["1", "2"])
    assert found is not None
    assert (found.overrides, found.shadows, found.counting) == ((), (), counting)
    without = routable(plan, ["1"])
    assert without is not None
    assert without.counting is None


def test_a_generation_that_was_built_twice_is_one_reading() -> None:
    def reading(n: int, generation: int = 2, **more: Any) -> PlanReading:
        arm = ArmReading("1", "1", n, 1, n - 2, 2, 0, n, 1, {3: n}, (n, 0) if n > 5 else ())
        return PlanReading("m", generation, (arm,), (ShadowReading("2", n, n, 0.5, 1, {"late": 1}),), **more)

    one, two = merged_readings([reading(10, is_final=True, longest_streak=4), reading(5, warmup_left=7), reading(1, 3)])
    assert (one.generation, one.is_final, one.longest_streak, one.warmup_left) == (2, False, 4, 7)
    assert one.arms == (ArmReading("1", "1", 15, 2, 11, 4, 0, 15, 2, {3: 15}, (10, 0)),)
    assert one.shadows == (ShadowReading("2", 15, 15, 1.0, 2, {"late": 2}),)
    assert two.generation == 3
