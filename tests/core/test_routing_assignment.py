"""Who is drawn to which arm: against plain Python, against the binomial, and under changes of weights."""

import dataclasses
import gc
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from serve._core.batcher import InstancePool
from serve._core.engine import NativeVersion
from serve._core.routing_harness import RouteHarness
from serve._core.routing_plan import NativePlan
from serve._core.units import UnitMemory
from serve.errors import InvalidArgument
from serve.traffic import Arm, CompareRule, JudgeCounting, JudgedOutput, Override, RoutingSpec, Segment, Shadow, Source
from tests.core import onnx_models, plans
from tests.core.loopback import version
from tests.core.plans import Weights, spec_of

KEYS = [f"user-{i}".encode() for i in range(100_000)]
FEW = KEYS[:30_000]
Versions = dict[str, NativeVersion]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """Versions 1 to 16. Hypothesis keeps the dictionary; what counts runners elsewhere must not see them go then."""
    onnx_models.start_runtime("cpu")
    pool = InstancePool(1)
    path = onnx_models.identity(tmp_path_factory.mktemp("model") / "model.onnx")
    made = {str(i): version(path, pool, "m", str(i), max_batch_size=4) for i in range(1, 17)}
    yield made
    made.clear()
    gc.collect()


def plan_of(versions: Versions, spec: RoutingSpec) -> NativePlan:
    return NativePlan("m", spec, versions)


def arms_of(versions: Versions, weights: Weights, keys: list[bytes] = FEW, **options: Any) -> list[str]:
    plan = plan_of(versions, spec_of(weights, **options))
    return [plan.assign(key) for key in keys]


# --- the draw -----------------------------------------------------------------------------------------------------------

@st.composite
def weights_of(draw: st.DrawFn) -> Weights:
    """Basis points of up to 16 versions, in any order."""
    numbers = draw(st.lists(st.integers(1, 16).map(str), min_size=1, max_size=16, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), min_size=len(numbers) - 1, max_size=len(numbers) - 1)))
    return {number: high - low for number, (low, high) in zip(numbers, itertools.pairwise([0, *cuts, 10_000]), strict=True)}


@settings(deadline=None)
@given(weights=weights_of(), salt=st.text(min_size=1, max_size=20), keys=st.lists(st.binary(max_size=40), min_size=1, max_size=20),
       coverage=st.sampled_from([0, 1, 5000, 10_000]), holdout=st.sampled_from([0, 2500, 10_000]))
def test_assignments_are_the_definitions(versions: Versions, weights: Weights, salt: str, keys: list[bytes], coverage: int,
                                         holdout: int) -> None:
    spec = spec_of(weights, salt=salt, coverage_bp=coverage, holdout_bp=holdout)
    plan = plan_of(versions, spec)
    assert [plan.assign(key) for key in keys] == [plans.assigned(spec, key) for key in keys]


@pytest.mark.parametrize("share", [1, 100, 1000, 5000])
def test_shares_lie_within_the_binomials_bounds(versions: Versions, share: int) -> None:
    """99.9 %, for 100,000 keys."""
    n = arms_of(versions, {"1": 10_000 - share, "2": share}, KEYS).count("v2")
    low, high = stats.binom.interval(0.999, len(KEYS), share / 10_000)
    assert low <= n <= high


@pytest.mark.parametrize("weights", [{"1": 9900, "2": 100}, {"3": 2000, "1": 3000, "2": 5000}])
def test_the_same_key_has_the_same_arm_whatever_the_generation_and_the_order(versions: Versions, weights: Weights) -> None:
    turned = dict(reversed(list(weights.items())))
    assert arms_of(versions, weights, generation=1) == arms_of(versions, turned, generation=99)


def test_another_salt_is_another_draw(versions: Versions) -> None:
    one, other = (np.array(arms_of(versions, {"1": 5000, "2": 5000}, salt=salt)) == "v2" for salt in ("a", "b"))
    assert stats.chi2_contingency(np.histogram2d(one, other, 2)[0]).pvalue > 0.001


# --- changes of weights ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("before", "after"), [(0, 100), (100, 500), (500, 2500), (2500, 10_000), (5000, 100), (10_000, 0)])
def test_two_arms_move_exactly_the_change_of_weight(versions: Versions, before: int, after: int) -> None:
    """Whoever moves, moves towards the arm that grows, and lies between the two weights in the draw."""
    plan = plan_of(versions, spec_of({"1": 10_000 - before, "2": before}))
    at = [plan.positions(key)["variant"] for key in FEW]
    was = arms_of(versions, {"1": 10_000 - before, "2": before})
    now = arms_of(versions, {"1": 10_000 - after, "2": after})
    low, high = sorted([before / 10_000, after / 10_000])
    assert [a != b for a, b in zip(was, now, strict=True)] == [low <= u < high for u in at]
    assert {pair for pair in zip(was, now, strict=True) if pair[0] != pair[1]} == {("v1", "v2") if after > before else ("v2", "v1")}


@pytest.mark.parametrize(("before", "after"), [
    ({"1": 8000, "2": 1000, "3": 1000}, {"1": 7000, "2": 1000, "3": 2000}),
    ({"1": 6000, "2": 3000, "3": 1000}, {"1": 1000, "2": 3000, "3": 6000}),
    ({"1": 9800, "2": 100, "3": 100}, {"1": 9000, "2": 500, "3": 500}),
    ({"1": 7000, "2": 1000, "3": 1000, "4": 1000}, {"1": 4000, "2": 2000, "3": 2000, "4": 2000}),
])
def test_a_ramp_of_more_arms_moves_at_most_a_quarter_more_than_it_must(versions: Versions, before: Weights, after: Weights) -> None:
    moved, least = moves(versions, before, after, KEYS)
    assert moved <= 1.25 * least
    assert moved >= least - 4 * np.sqrt(least / len(KEYS))


@settings(deadline=None, max_examples=25)
@given(before=weights_of(), after=weights_of())
def test_no_change_moves_more_than_the_bound(versions: Versions, before: Weights, after: Weights) -> None:
    """2d / (1 + d) for a total variation of d, which no method without memory beats for every pair of weights."""
    before, after = ({number: weights.get(number, 0) for number in {**before, **after}} for weights in (before, after))
    moved, least = moves(versions, before, after, KEYS[:5000])
    bound = 2 * least / (1 + least)
    assert moved <= bound + 4 * np.sqrt((bound + 0.001) / 5000)


def moves(versions: Versions, before: Weights, after: Weights, keys: list[bytes]) -> tuple[float, float]:
    """(share of the keys whose arm changes, the least that any assignment must change)."""
    moved = sum(a != b for a, b in zip(arms_of(versions, before, keys), arms_of(versions, after, keys), strict=True)) / len(keys)
    return moved, sum(abs(before[number] - after[number]) for number in before) / 2 / 10_000


def test_three_arms_have_their_shares(versions: Versions) -> None:
    weights = {"1": 7000, "2": 2500, "3": 500}
    counts = Counter(arms_of(versions, weights, KEYS))
    expected = [weights[arm[1:]] / 10_000 * len(KEYS) for arm in sorted(counts)]
    assert stats.chisquare([counts[arm] for arm in sorted(counts)], expected).pvalue > 0.001


@pytest.mark.parametrize("weights", [
    {"1": 10_000, "2": 0}, {"1": 0, "2": 10_000}, {"1": 5000, "2": 0, "3": 5000}, {"1": 0, "2": 0, "3": 10_000}])
def test_weight_zero_is_nobody(versions: Versions, weights: Weights) -> None:
    assert set(arms_of(versions, weights, KEYS)) == {f"v{number}" for number, weight in weights.items() if weight}


def test_an_arm_that_comes_in_at_zero_moves_nobody(versions: Versions) -> None:
    before = arms_of(versions, {"1": 6000, "2": 3000, "4": 1000})
    assert arms_of(versions, {"1": 6000, "2": 3000, "3": 0, "4": 1000}) == before


# --- coverage and holdout ---------------------------------------------------------------------------------------------------

def test_draws_do_not_depend_on_each_other(versions: Versions) -> None:
    """Gate, holdout, variant and shadow of the same key, pair by pair, in a 10 by 10 table."""
    plan = plan_of(versions, spec_of({"1": 5000, "2": 5000}))
    positions = [plan.positions(key) for key in FEW]
    draws = {name: np.array([at[name] for at in positions]) for name in ("gate", "holdout", "variant", "shadow")}
    for name, draw in draws.items():
        assert stats.kstest(draw, "uniform").pvalue > 0.001, name
    for one, other in itertools.combinations(draws, 2):
        table = np.histogram2d(draws[one], draws[other], 10, [[0, 1], [0, 1]])[0]
        assert stats.chi2_contingency(table).pvalue > 0.0005, (one, other)


def test_who_is_covered_is_split_like_everybody(versions: Versions) -> None:
    """One hash for gate and variant would send nobody of the first tenth to the second half (Unleash's fault of 2021)."""
    arms = Counter(arms_of(versions, {"1": 5000, "2": 5000}, coverage_bp=1000))
    low, high = stats.binom.interval(0.999, arms["v1"] + arms["v2"], 0.5)
    assert low <= arms["v2"] <= high
    low, high = stats.binom.interval(0.999, len(FEW), 0.9)
    assert low <= arms["outside"] <= high


def test_raising_the_coverage_takes_in_and_never_expels(versions: Versions) -> None:
    small = arms_of(versions, {"1": 5000, "2": 5000}, coverage_bp=1000)
    large = arms_of(versions, {"1": 5000, "2": 5000}, coverage_bp=3000)
    assert all(a in (b, "outside") for a, b in zip(small, large, strict=True))


def test_the_holdout_stays_whatever_the_weights(versions: Versions) -> None:
    held = [[key for key, arm in zip(FEW, arms_of(versions, weights, holdout_bp=500), strict=True) if arm == "holdout"]
            for weights in ({"1": 9900, "2": 100}, {"1": 0, "2": 10_000})]
    assert held[0] == held[1]
    low, high = stats.binom.interval(0.999, len(FEW), 0.05)
    assert low <= len(held[0]) <= high


# --- the cost ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("weights", "sticky"), [
    ({"1": 9000, "2": 1000}, True), ({"1": 9000, "2": 1000}, False), ({"1": 8000, "2": 1000, "3": 1000}, True)])
def test_routing_costs_little(versions: Versions, weights: Weights, sticky: bool, record_property: Any) -> None:
    """With twelve headers, the key the first of them. The bound is generous, for a machine that does other things as well."""
    counting = JudgeCounting("r", "v1", "v2", output=JudgedOutput("y", "float"))
    source = Source("header", "x-user-id") if sticky else None
    plan = NativePlan("m", spec_of(weights, sticky=source, counting=counting), versions, UnitMemory())
    headers = [(b"x-user-id", b"3f9d1c70-user"), *((b"x-header-%d" % i, b"value") for i in range(11))]
    harness = RouteHarness(plan, headers, [])
    best = min((harness.route(20_000) for _ in range(10)), key=lambda found: found[2])
    arm, is_keyed, route_ns, count_ns = best
    assert (is_keyed, arm if sticky else "") == (sticky, plan.assign(b"3f9d1c70-user") if sticky else "")
    record_property("ns", (route_ns, count_ns))
    print(f"{len(weights)} arms, sticky {sticky}: {route_ns:.0f} ns to route, {count_ns:.0f} ns to count")
    assert route_ns < 1000
    assert count_ns < 1000


# --- plans ------------------------------------------------------------------------------------------------------------------

def test_a_new_plan_has_counted_nothing(versions: Versions) -> None:
    spec = spec_of({"2": 100, "1": 9900}, generation=7, stable="v1", counting=JudgeCounting("r", "v1", "v2", warmup=50),
                   shadows=(Shadow("3", 100),))
    reading = plan_of(versions, spec).read()
    assert (reading.model, reading.generation, reading.streak, reading.longest_streak, reading.warmup_left) == ("m", 7, 0, 0, 50)
    assert [(arm.name, arm.version) for arm in reading.arms] == [
        ("v1", "1"), ("v2", "2"), ("explicit", ""), ("forced", ""), ("outside", "1"), ("holdout", "1")]
    assert all((arm.assigned, arm.success, arm.errors, arm.refused, arm.judged, arm.judged_errors, sum(arm.total_counts)) == (0,) * 7
               for arm in reading.arms)
    (shadow,) = reading.shadows
    assert (shadow.version, shadow.sampled, shadow.dropped) == ("3", 0, dict.fromkeys(("capacity", "late", "primary", "gone"), 0))
    assert not reading.is_final
    assert plan_of(versions, spec).read(True).is_final


@pytest.mark.parametrize(("changes", "text"), [
    ({"arms": ()}, "0 variants"),
    ({"stable": "v9"}, "no variant is named v9; they are v1, v2"),
    ({"counting": JudgeCounting("r", "v1", "v3")}, "no variant is named v3"),
    ({"counting": JudgeCounting("r", "v1", "v2", output=JudgedOutput("nope", "class"))}, "has no output nope"),
    ({"overrides": (Override(Source("header", "h"), "x", "99"),)}, "version 99 is not loaded"),
    ({"coverage_bp": 10_001}, "over 10000"),
    ({"arms": (Arm("a\r\nx: y", "1", 10_000),), "stable": "a\r\nx: y"}, "want printable ASCII"),
])
def test_what_does_not_fit_is_refused(versions: Versions, changes: dict[str, Any], text: str) -> None:
    spec = dataclasses.replace(spec_of({"1": 9000, "2": 1000}), **changes)
    with pytest.raises(ValueError, match=text):
        plan_of(versions, spec)


def test_weights_must_add_up(versions: Versions) -> None:
    with pytest.raises(ValueError, match=r"the weights are \[1, 2\]; want a sum of 10000"):
        plan_of(versions, spec_of({"1": 1, "2": 2}))


def test_a_comparison_that_does_not_fit_is_refused(versions: Versions) -> None:
    with pytest.raises(InvalidArgument):
        plan_of(versions, spec_of({"1": 10_000}, shadows=(Shadow("2", 100, (CompareRule("nope", "exact"),)),)))


def test_all_that_a_plan_may_hold_at_once(versions: Versions) -> None:
    """Built and dropped, so that a sanitizer can look."""
    source = Source("header", "x")
    spec = spec_of({str(i): 625 for i in range(1, 17)}, sticky=Source("parameter", "user"), segment=Segment(source, ("a", "ü")),
                   overrides=tuple(Override(source, str(i), "1") for i in range(64)), shadows=tuple(Shadow(str(i), 1) for i in range(1, 5)),
                   counting=JudgeCounting("r", "v1", "v2", output=JudgedOutput("y", "float")))
    plan = plan_of(versions, spec)
    assert plan.assign(b"somebody").startswith("v")
    assert [native.number for native in plan.versions] == [str(i) for i in range(1, 17)]
