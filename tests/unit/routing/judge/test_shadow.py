import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from serve.routing.judge.observations import ShadowCounts
from serve.routing.judge.settings import ShadowSettings
from serve.routing.judge.shadow import find_shadow, log_above, log_below, log_failures, pairs_wanted

SETTINGS = ShadowSettings()


@pytest.mark.parametrize(("total", "n", "limit"), [(3, 100, 0.01), (20, 1000, 0.01), (9.5, 300, 0.02), (0, 50, 0.1)])
def test_the_mixture_is_the_integral_over_its_prior(total, n, limit):
    def likelihood(p):
        return (p / limit) ** total * ((1 - p) / (1 - limit)) ** (n - total)

    def prior(p):
        return (1 - p) ** (1 / limit - 2)

    expected = quad(lambda p: likelihood(p) * prior(p), limit, min(1, 30 * limit), limit=500)[0] / quad(prior, limit, 1, limit=500)[0]
    assert float(log_above(total, n, limit)) == pytest.approx(math.log(expected), rel=1e-6, abs=1e-9)


def paths(rng, mean, kind, runs, n):
    values = rng.random((runs, n)) < mean if kind == "binary" else rng.beta(mean, 1 - mean, (runs, n))
    return np.cumsum(values, axis=1)


@pytest.mark.parametrize("log_e", [log_above, log_below])
def test_at_the_limit_the_chance_of_ever_tripping_is_under_alpha(log_e):
    """Exactly: the law of the number of disagreements, pair by pair to 2,000, without what has tripped. Looked at every 10 pairs."""
    law, tripped = np.array([1.0]), 0.0
    for n in range(1, 2001):
        law = (np.append(law * 0.99, 0) + np.append(0, law * 0.01))[:100]
        if n % 10 == 0:
            k = np.arange(len(law))[: n + 1]
            is_over = log_e(k, np.full(len(k), n), 0.01) >= math.log(20)
            tripped += law[: len(k)][is_over].sum()
            law[: len(k)][is_over] = 0
    assert 0.005 < tripped < 0.05


def test_shares_of_rows_trip_no_more_often():
    total = paths(np.random.default_rng(8), 0.01, "share", 1000, 2000)[:, 19::20]
    n = np.arange(20, 2001, 20)
    assert (log_above(total, n, 0.01) >= math.log(20)).any(axis=1).mean() < 0.05
    assert (log_below(total, n, 0.01) >= math.log(20)).any(axis=1).mean() < 0.05


def test_two_percent_against_one_is_found_near_the_information_floor():
    floor = math.log(100) / (0.02 * math.log(2) + 0.98 * math.log(0.98 / 0.99))
    total = paths(np.random.default_rng(9), 0.02, "binary", 200, 8000)[:, 9::10]
    hit = log_above(total, np.arange(10, 8001, 10), 0.01) >= math.log(100)
    median = np.median(np.where(hit.any(axis=1), hit.argmax(axis=1) * 10 + 10, np.inf))
    assert floor * 0.7 < median < floor * 1.3


def test_no_disagreement_at_all_is_enough_in_a_few_hundred_pairs():
    """rollout.md: 298 pairs for the point alternative to 492 for a 7-point mixture, at d = 1 % and alpha .05; half a prior costs ln 2."""
    n = np.arange(1, 1000)
    first = int(n[(log_below(0, n, 0.01) >= math.log(20)).argmax()])
    assert 298 <= first <= 367


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.001, 0.5))
def test_both_sides_never_reject_at_once(n, fraction, limit):
    total = fraction * n
    assert min(float(log_above(total, n, limit)), float(log_below(total, n, limit))) < math.log(20)


@given(st.integers(1, 2000), st.floats(0, 0.9), st.floats(0.001, 0.5))
def test_more_disagreement_is_more_evidence(n, fraction, limit):
    assert float(log_above(fraction * n + 0.5, n + 1, limit)) <= float(log_above(fraction * n + 1, n + 1, limit)) + 1e-9


def test_failures_of_the_shadow_against_those_of_the_primary():
    """Nine to none at one half."""
    expected = sum((2 * r / (r + 1)) ** 9 for r in (1.25, 1.5, 2, 3, 5, 10, 30)) / 7
    assert float(log_failures(9, 0)) == pytest.approx(math.log(expected))
    assert float(log_failures(9, 9)) < 0


def test_disagreement_over_the_limit_holds():
    disagreement, failures = find_shadow(ShadowCounts(sampled=2100, compared=2000, disagreement=80.0, dropped=100), SETTINGS)
    assert disagreement.is_tripped
    assert disagreement.action == "hold"
    assert disagreement.estimate == 0.04
    assert disagreement.interval[0] > 0.01
    assert "80 disagreements in 2,000 shadow pairs (4 %, allowed 1 %)" in disagreement.sentence
    assert not failures.is_tripped


def test_a_shadow_that_fails_where_the_primary_answers_holds_by_its_own_test():
    found = find_shadow(ShadowCounts(sampled=5000, compared=5000, disagreement=9.0, failed=9), SETTINGS)
    assert [finding.is_tripped for finding in found] == [False, True]
    shared = find_shadow(ShadowCounts(sampled=5000, compared=5000, disagreement=9.0, failed=9, primary_failed=8), SETTINGS)
    assert [finding.is_tripped for finding in shared] == [False, False]


def test_no_shadow_is_no_finding_and_none_compared_is_no_estimate():
    assert find_shadow(ShadowCounts(), SETTINGS) == ()
    found = find_shadow(ShadowCounts(sampled=5, dropped=5), SETTINGS)[0]
    assert found.estimate is None
    assert found.interval == (0, 1)
    assert not found.is_tripped


def test_a_rounding_error_over_the_count_is_no_failure():
    assert find_shadow(ShadowCounts(sampled=3, compared=3, disagreement=3.0000000000000004), SETTINGS)[0].estimate == 1.0


@pytest.mark.parametrize(("total", "n", "limit"), [(0.0, 0, 0.01), (0.0, 150, 0.01), (1.0, 500, 0.01), (3.5, 400, 0.01), (40.0, 50, 0.2)])
def test_so_many_pairs_are_wanted(total, n, limit):
    wanted = pairs_wanted(total, n, limit, 20.0)
    assert log_below(total, wanted, limit) >= math.log(20)
    assert log_below(total, 0.88 * wanted, limit) < math.log(20)
