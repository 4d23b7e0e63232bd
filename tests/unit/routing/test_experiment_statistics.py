"""The experiments' comparisons: against numerical integration, and how often they are wrong when looked at continuously."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from serve.routing.experiment_statistics import (
    EFFECT_SPREAD,
    PairSums,
    Stratum,
    add_pair,
    difference_interval,
    hit_trials,
    log_evidence,
    merge,
    ratio_interval,
    sample_ratio_evidence,
)


def likelihood(x: float, trials: list[tuple[int, int, float]]) -> float:
    product = 1.0
    for ours, theirs, odds in trials:
        p = odds * math.exp(x) / (1 + odds * math.exp(x))
        product *= p**ours * (1 - p) ** theirs
    return product


@pytest.mark.parametrize(
    "trials",
    [[(3, 1, 1.0)], [(0, 12, 0.25)], [(7, 0, 1.0)], [(30, 41, 0.5), (9, 2, 3.0)], [(1, 0, 1 / 19), (5, 60, 1 / 9), (12, 11, 1.0)]],
)
def test_evidence_is_the_integral_over_the_mixture(trials: list[tuple[int, int, float]]) -> None:
    prior = stats.norm(0, EFFECT_SPREAD)
    value, _ = integrate.quad(lambda x: likelihood(x, trials) * prior.pdf(x), -8, 8, epsabs=0, epsrel=1e-10, limit=500)
    assert log_evidence(trials) == pytest.approx(math.log(value / likelihood(0.0, trials)), abs=1e-6)


def test_no_hit_is_no_evidence() -> None:
    assert log_evidence([(0, 0, 1.0)]) == 0.0
    assert ratio_interval([(0, 0, 1.0)], 0.05) is None
    assert sample_ratio_evidence(()) == 1.0


def test_interval_ends_where_the_evidence_reaches_one_over_alpha() -> None:
    trials = [(30, 41, 0.5), (9, 2, 3.0)]
    found = ratio_interval(trials, 0.05)
    assert found is not None
    ratio, lower, upper = found
    assert ratio is not None
    assert upper is not None
    at_one = log_evidence(trials) + math.log(likelihood(0.0, trials))
    for end in (lower, upper):
        assert at_one - math.log(likelihood(math.log(end), trials)) == pytest.approx(math.log(20), abs=1e-6)
    assert lower < ratio < upper


def test_interval_without_hits_on_one_side() -> None:
    found = ratio_interval([(40, 0, 1.0)], 0.05)
    assert found is not None
    assert found[0] is None
    assert found[1] > 1
    assert found[2] is None
    mirrored = ratio_interval([(0, 40, 1.0)], 0.05)
    assert mirrored is not None
    assert mirrored[:2] == (0.0, 0.0)
    assert mirrored[2] == pytest.approx(1 / found[1], rel=1e-6)


@given(ours=st.integers(0, 300), theirs=st.integers(0, 300), odds=st.floats(0.01, 100), cut=st.floats(0, 1))
def test_dividing_a_stratum_changes_nothing(ours: int, theirs: int, odds: float, cut: float) -> None:
    a, b = int(ours * cut), int(theirs * cut)
    assert log_evidence([(a, b, odds), (ours - a, theirs - b, odds)]) == pytest.approx(log_evidence([(ours, theirs, odds)]), abs=1e-7)


def test_scores_are_unbiased_whatever_they_are_centred_by() -> None:
    """The mean score over every way in which a unit can be drawn is the true difference."""
    weights, rates = (2000, 500, 7500), (0.3, 0.1, 0.6)
    for before in (((0, 0, 0), (0, 0, 0)), ((10, 10, 10), (3, 9, 1))):
        expected = 0.0
        for arm in range(3):
            for hit in (0, 1):
                n, hits = [0, 0, 0], [0, 0, 0]
                n[arm], hits[arm] = 1, hit
                chance = weights[arm] / 10_000 * (rates[arm] if hit else 1 - rates[arm])
                expected += chance * add_pair(PairSums(), Stratum(weights, tuple(n), tuple(hits)), 1, 0, before).total
        assert expected == pytest.approx(rates[1] - rates[0])


def test_scores_add_up() -> None:
    one = add_pair(PairSums(), Stratum((5000, 5000), (3, 1), (2, 1)), 1, 0, ((10, 10), (5, 2)))
    # m0 = .5, m1 = .2: two hits and a miss on the control, a hit on the other.
    scores = [-0.3 - 0.5 / 0.5, -0.3 - 0.5 / 0.5, -0.3 + 0.5 / 0.5, -0.3 + 0.8 / 0.5]
    assert (one.n, one.total, one.squares) == (4, pytest.approx(sum(scores)), pytest.approx(sum(s * s for s in scores)))


def test_difference_interval_by_hand() -> None:
    found = difference_interval(PairSums(5_000, 500.0, 5_000 * 1.01), 0.05)
    assert found is not None
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / 5_000
    half = math.sqrt(2 * (5_000 * rho2 + 1) / (5_000**2 * rho2) * math.log(math.sqrt(5_000 * rho2 + 1) / 0.05))
    assert found == pytest.approx((0.1, 0.1 - half, 0.1 + half))
    assert difference_interval(PairSums(1, 1.0, 1.0), 0.05) is None


def test_merge_keeps_one_stratum_for_each_set_of_weights() -> None:
    a, b = Stratum((1, 9), (5, 50), (1, 2)), Stratum((2, 8), (1, 1), (0, 1))
    assert merge(merge((a,), b), a) == (Stratum((1, 9), (10, 100), (2, 4)), b)


RUNS, LOOKS, UNITS = 200, 30, 250


def drawn(rng: np.random.Generator, weight: float, rates: tuple[float, float]) -> Stratum:
    n = int(rng.binomial(UNITS, weight))
    counts = (UNITS - n, n)
    hits = tuple(int(rng.binomial(c, r)) for c, r in zip(counts, rates, strict=True))
    return Stratum((round(10_000 * (1 - weight)), round(10_000 * weight)), counts, hits)


@pytest.mark.slow
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_wrong_at_most_alpha_over_all_looks(is_adaptive: bool) -> None:
    """Equal arms, a base rate that triples and falls, a look after each 250 units; weights that chase the hits where they are adaptive."""
    rng = np.random.default_rng(20261122)
    wrong = {"ratio": 0, "difference": 0, "share": 0}
    for _ in range(RUNS):
        strata: tuple[Stratum, ...] = ()
        sums, before, weight = PairSums(), ((0, 0), (0, 0)), 0.3
        seen: set[str] = set()
        for look in range(LOOKS):
            rate = 0.1 * (1 + math.sin(look / 6) ** 2)
            new = drawn(rng, weight, (rate, rate))
            sums = add_pair(sums, new, 1, 0, before)
            strata = merge(strata, new)
            n, hits = (tuple(sum(getattr(s, f)[i] for s in strata) for i in (0, 1)) for f in ("n", "hits"))
            before = (n, hits)
            difference = difference_interval(sums, 0.05)
            if log_evidence(hit_trials(strata, 1, 0)) >= math.log(20):  # then the interval excludes 1
                seen.add("ratio")
            if sum(hits) >= 20 and difference is not None and not difference[1] <= 0 <= difference[2]:
                seen.add("difference")
            if sample_ratio_evidence(strata) >= 20:
                seen.add("share")
            if is_adaptive:
                weight = 0.8 if hits[1] * n[0] > hits[0] * n[1] else 0.2
        for what in seen:
            wrong[what] += 1
    # 99.9 % bound of a binomial with p = .05.
    assert max(wrong.values()) <= stats.binom.ppf(0.999, RUNS, 0.05), wrong


def test_a_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    strata: tuple[Stratum, ...] = ()
    sums, before = PairSums(), ((0, 0), (0, 0))
    for _ in range(80):
        new = drawn(rng, 0.5, (0.10, 0.15))
        sums = add_pair(sums, new, 1, 0, before)
        strata = merge(strata, new)
        before = (strata[0].n, strata[0].hits)
    ratio, difference = ratio_interval(hit_trials(strata, 1, 0), 0.05), difference_interval(sums, 0.05)
    assert ratio is not None
    assert 1 < ratio[1] < 1.5 < (ratio[2] or 0)
    assert difference is not None
    assert 0 < difference[1] < 0.05 < difference[2]


def test_a_lossy_arm_is_a_mismatch() -> None:
    assert sample_ratio_evidence((Stratum((5000, 5000), (10_000, 9_300), (0, 0)),)) > 100
    assert sample_ratio_evidence((Stratum((5000, 5000), (10_000, 9_950), (0, 0)),)) < 1
