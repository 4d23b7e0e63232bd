import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.routing.judge.eprocess import ONE_SIDED, information_floor, log_bets, log_different, log_greater, log_less, log_mean_exp

SHARES = st.floats(0.001, 0.999)
COUNTS = st.integers(0, 300)


def p(share, ratio):
    return share * ratio / (share * ratio + 1 - share)


def stepwise(events, bets, ratio):
    """The definition: one event at a time, at the share in force."""
    wealth = [1.0] * len(bets)
    for is_candidate, share in events:
        for j, bet in enumerate(bets):
            ours, null = p(share, bet * ratio), p(share, ratio)
            wealth[j] *= ours / null if is_candidate else (1 - ours) / (1 - null)
    return math.log(sum(wealth) / len(wealth))


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_counts_per_stratum_give_what_events_in_order_give(margin):
    rng = np.random.default_rng(3)
    shares = [0.01, 0.05, 0.25, 0.5]
    events = [(bool(rng.random() < 0.4), shares[rng.integers(4)]) for _ in range(40)]
    ones = [sum(a for a, s in events if s == share) for share in shares]
    zeros = [sum(not a for a, s in events if s == share) for share in shares]
    assert float(log_greater(ones, zeros, shares, margin=margin)) == pytest.approx(stepwise(events, ONE_SIDED, 1 + margin), abs=1e-10)


@given(SHARES, st.floats(0.01, 1), st.sampled_from([0.0, 0.1, 0.5]))
def test_one_event_wins_nothing_on_average_under_the_null(share, fraction, margin):
    """The increment of each single bet, under every ratio up to the null's: the heart of the validity."""
    ratio = (1 + margin) * fraction
    won, lost = (np.exp(log_bets([a], [b], [share], ratio=1 + margin, bets=ONE_SIDED)) for a, b in ((1, 0), (0, 1)))
    mean = p(share, ratio) * won + (1 - p(share, ratio)) * lost
    assert (mean <= 1 + 1e-12).all()
    if fraction == 1:
        np.testing.assert_allclose(mean, 1, atol=1e-12)


@given(SHARES, st.floats(1, 50))
def test_non_inferiority_wins_nothing_where_the_candidate_is_worse(share, times):
    ratio = 1.5
    won, lost = (np.exp(float(log_less([a], [b], [share], ratio=ratio))) for a, b in ((1, 0), (0, 1)))
    q = p(share, ratio * times)
    assert q * won + (1 - q) * lost <= 1 + 1e-12


@given(SHARES)
def test_the_two_sided_bet_is_a_martingale(share):
    won, lost = (np.exp(float(log_different([a], [b], [share]))) for a, b in ((1, 0), (0, 1)))
    assert share * won + (1 - share) * lost == pytest.approx(1)


@settings(max_examples=50)
@given(st.lists(st.tuples(SHARES, COUNTS, COUNTS), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_and_the_splitting_of_strata_do_not_matter(strata, random):
    whole = float(log_greater([c for _, c, _ in strata], [s for _, _, s in strata], [share for share, _, _ in strata]))
    parts = [part for share, c, s in strata for part in ((share, c // 2, s), (share, c - c // 2, 0))]
    random.shuffle(parts)
    again = float(log_greater([c for _, c, _ in parts], [s for _, _, s in parts], [share for share, _, _ in parts]))
    assert again == pytest.approx(whole, rel=1e-9, abs=1e-9)


@given(COUNTS, COUNTS, SHARES)
def test_an_error_of_the_candidate_adds_evidence_and_one_of_stable_takes_some(candidate, stable, share):
    now = float(log_greater([candidate], [stable], [share]))
    assert float(log_greater([candidate + 1], [stable], [share])) > now
    assert float(log_greater([candidate], [stable + 1], [share])) < now
    assert float(log_less([candidate + 1], [stable], [share], ratio=1.5)) < float(log_less([candidate], [stable], [share], ratio=1.5))


def test_no_events_are_no_evidence():
    assert float(log_greater([0], [0], [0.1])) == 0
    assert float(log_different([0, 0], [0, 0], [0.1, 0.2])) == 0


def test_runs_of_a_simulation_are_leading_axes():
    rng = np.random.default_rng(4)
    ones, zeros = rng.integers(0, 50, (2, 5, 3, 4))
    shares = [0.01, 0.05, 0.25, 0.5]
    together = log_greater(ones, zeros, shares)
    assert together.shape == (5, 3)
    assert together[2, 1] == pytest.approx(float(log_greater(ones[2, 1], zeros[2, 1], shares)))
    per_run = log_greater(ones, zeros, np.broadcast_to(shares, ones.shape))
    np.testing.assert_allclose(per_run, together)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_that_leaves_an_arm_empty_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        log_greater([1], [1], [share])


def test_the_mean_of_nothing_but_zeros_is_zero():
    assert float(log_mean_exp(np.array([-np.inf, -np.inf]))) == -np.inf


def test_the_information_floor_is_the_designs():
    assert [round(information_floor(0.1, r, 0.01)) for r in (2, 3, 5, 10)] == [150, 50, 19, 8]
    assert [round(information_floor(0.05, r, 0.01)) for r in (2, 3, 5, 10)] == [267, 84, 30, 11]


def test_false_alarms_through_a_ramp_stay_under_alpha():
    """1,000 rollouts of 400 errors each, looked at after every error, 1 -> 5 -> 25 -> 50 %, alpha .05."""
    rng = np.random.default_rng(5)
    shares = np.array([0.01, 0.05, 0.25, 0.5])
    stage = np.repeat(np.arange(4), 100)
    arm = rng.random((1000, 400)) < shares[stage]
    in_stage = stage[:, None] == np.arange(4)
    ones = np.cumsum(arm[..., None] & in_stage, axis=1)
    zeros = np.cumsum(~arm[..., None] & in_stage, axis=1)
    tripped = (log_greater(ones, zeros, shares) >= math.log(20)).any(axis=1).mean()
    assert 0 < tripped < 0.05


def test_errors_until_a_tenfold_rate_is_found_are_the_designs():
    """Share 10 %, ratio 10, alpha .01: a median of 11 errors of both arms in the design's table."""
    rng = np.random.default_rng(6)
    arm = np.cumsum(rng.random((1500, 80)) < p(0.1, 10), axis=1)
    n = np.arange(1, 81)
    tripped = log_greater(arm[..., None], (n - arm)[..., None], [0.1]) >= math.log(100)
    first = np.where(tripped.any(axis=1), tripped.argmax(axis=1) + 1, 81)
    assert np.median(first) == pytest.approx(11, rel=0.15)
