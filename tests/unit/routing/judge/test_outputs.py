import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.judge.outputs import (
    Groups,
    find_outputs,
    freeze,
    jensen_shannon,
    log_evidence,
    psi_needed,
    stability_index,
    standardised,
)
from serve.routing.judge.settings import OutputSettings
from serve.routing.judge.strata import StratumTotals

SETTINGS = OutputSettings(output="label")


def test_classes_get_a_group_each_and_the_unseen_one_together():
    groups = freeze({3: 500, 7: 400, 1: 100}, SETTINGS)
    assert groups == Groups(classes=(1, 3, 7))
    assert groups.count({1: 5, 3: 2, 99: 4, 7: 1}) == (5, 2, 1, 4)


def test_many_classes_keep_the_most_frequent():
    bins = {i: 1000 - i for i in range(1000)}
    groups = freeze(bins, OutputSettings(output="label", kind="class"))
    assert groups.n_groups == 64
    assert groups.classes == tuple(range(63))


def test_ordered_values_get_groups_of_like_count():
    rng = np.random.default_rng(1)
    values, counts = np.unique(rng.integers(20_000, 40_000, 5000), return_counts=True)
    bins = dict(zip(values.tolist(), counts.tolist(), strict=True))
    groups = freeze(bins, SETTINGS)
    assert groups.n_groups == 20
    inside = groups.count(bins)
    assert sum(inside) == 5000
    assert max(inside) - min(inside) <= 10
    assert groups.count({0: 1, 65_535: 2})[0] == 1
    assert groups.count({0: 1, 65_535: 2})[-1] == 2


@given(st.dictionaries(st.integers(0, 65_535), st.integers(1, 50), min_size=1, max_size=200), st.sampled_from([None, "class", "ordered"]))
def test_every_answer_is_in_one_group(bins, kind):
    groups = freeze(bins, OutputSettings(output="y", kind=kind, calibration_answers=50))
    if sum(bins.values()) < 50:
        assert groups is None
    else:
        assert sum(groups.count(bins)) == sum(bins.values())
        assert len(groups.count(bins)) == groups.n_groups <= 65


def test_nothing_freezes_before_there_are_enough():
    assert freeze({1: 999}, SETTINGS) is None
    assert freeze({1: 1000}, SETTINGS) is not None


def test_evidence_is_half_product_half_average_of_the_groups():
    """One group that shifts among sixty that do not is found by the average, where the product would lose."""
    stable, candidate = np.full((60, 1), 900.0), np.full((60, 1), 100.0)
    candidate[0] += 100
    log_e = float(log_evidence(candidate, stable, [0.1]))
    assert log_e >= math.log(100)
    assert float(log_evidence(candidate[1:], stable[1:], [0.1])) < 0


def test_one_answer_wins_nothing_on_average():
    share = 0.1
    base = np.array([[30.0], [5.0], [0.0]]), np.array([[200.0], [50.0], [9.0]])
    now = math.exp(float(log_evidence(*base, [share])))
    for group in range(3):
        unit = np.zeros((3, 1))
        unit[group] = 1
        mean = share * math.exp(float(log_evidence(base[0] + unit, base[1], [share])))
        mean += (1 - share) * math.exp(float(log_evidence(base[0], base[1] + unit, [share])))
        assert mean == pytest.approx(now)


def test_a_shift_of_psi_point_one_is_found_in_thousands_and_no_shift_is_not():
    """The design's table: 10 bins, share 10 %, alpha .01: 4.1k requests at the median for PSI .10."""
    rng = np.random.default_rng(7)
    before = np.full(10, 0.1)
    after = before * np.exp(np.linspace(-0.5, 0.5, 10))
    after /= after.sum()
    assert 0.09 < ((after - before) * np.log(after / before)).sum() < 0.11
    firsts = {"shift": [], "none": []}
    for name, law in (("shift", after), ("none", before)):
        for _ in range(40):
            arm = rng.random(10_000) < 0.1
            group = np.where(arm, rng.choice(10, 10_000, p=law), rng.choice(10, 10_000, p=before))
            one_hot = np.eye(10)[group]
            ones, zeros = np.cumsum(one_hot * arm[:, None], axis=0)[99::100], np.cumsum(one_hot * ~arm[:, None], axis=0)[99::100]
            hit = log_evidence(ones[..., None], zeros[..., None], [0.1]) >= math.log(100)
            firsts[name].append((hit.argmax() + 1) * 100 if hit.any() else np.inf)
    assert 2500 < np.median(firsts["shift"]) < 5500
    assert np.isinf(firsts["none"]).mean() >= 0.95


def test_drift_of_the_inputs_is_not_a_shift_of_the_candidate():
    """Morning answers are class 0, afternoon ones class 1, and the candidate has more of the afternoon."""
    strata = [
        StratumTotals(share=0.1, groups=((900, 100), (90, 10), (0, 0))),
        StratumTotals(share=0.5, groups=((50, 50), (450, 450), (0, 0))),
    ]
    found = find_outputs(Groups(classes=(0, 1)), strata, SETTINGS)
    assert found.estimate < 0.01
    assert not found.is_tripped
    pooled = stability_index([150, 460, 0], [950, 540, 0])
    assert float(pooled) > 0.25


def test_a_large_shift_trips_and_only_holds():
    strata = [StratumTotals(share=0.5, groups=((800, 300), (200, 700), (0, 0)))]
    found = find_outputs(Groups(classes=(0, 1)), strata, SETTINGS)
    assert found.is_tripped
    assert found.action == "hold"
    assert found.thresholds["candidate"] == [300, 700, 0]


def test_a_significant_but_small_shift_does_not_trip():
    strata = [StratumTotals(share=0.5, groups=((50_000, 59_000), (50_000, 41_000), (0, 0)))]
    found = find_outputs(Groups(classes=(0, 1)), strata, SETTINGS)
    assert found.e_value > found.limit
    assert found.estimate < 0.1
    assert not found.is_tripped


def test_what_chance_gives_rises_as_answers_are_few():
    """rollout.md section 2.4: at B = 10 and 100 answers each, chance alone is over .1 most of the time."""
    few, many = (float(psi_needed(10, n, n, OutputSettings(output="y", alpha=0.05))) for n in (100, 1_000_000))
    assert few == pytest.approx(16.92 * 0.02, rel=1e-3)
    assert many == 0.1


def test_psi_and_jensen_shannon_by_hand():
    assert float(jensen_shannon([10, 0], [0, 10])) == pytest.approx(1)
    assert float(jensen_shannon([10, 10], [10, 10])) == pytest.approx(0)
    assert float(jensen_shannon([0, 0], [1, 2])) == 0
    a, e = np.array([60.5, 40.5]) / 101, np.array([50.5, 50.5]) / 101
    assert float(stability_index([60, 40], [50, 50])) == pytest.approx(((a - e) * np.log(a / e)).sum())


def test_standardising_one_stratum_changes_nothing():
    np.testing.assert_allclose(standardised([[5.0], [5.0]], [[30.0], [70.0]]), [30, 70])


def test_nothing_is_watched_without_an_output():
    assert find_outputs(None, [], OutputSettings()) is None


def test_before_the_freeze_it_says_so():
    assert "not frozen" in find_outputs(None, [], SETTINGS).sentence
    assert "no answer since" in find_outputs(Groups(classes=(1,)), [], SETTINGS).sentence
