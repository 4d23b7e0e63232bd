"""Intervals against scipy, against plain definitions, and against what they promise: to hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from serve.monitoring import paired

Counts = st.integers(0, 300)


@given(st.integers(1, 10_000), st.data())
def test_the_interval_of_a_share_is_wilson_s(of: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, of))
    found = paired.share(count, of, 0.95)
    expected = stats.binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert found.estimate == count / of
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(Counts, Counts)
def test_mcnemar_is_the_exact_binomial_test(b: int, c: int) -> None:
    assert paired.mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1.0, rel=1e-9)


@given(st.integers(1, 500), st.sampled_from([0.9, 0.975, 0.995]))
def test_student(freedom: int, probability: float) -> None:
    assert paired.student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = np.random.default_rng(1).normal(3, 2, 17)
    found = paired.mean(values, 0.95)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_no_discordant_row_is_no_certainty() -> None:
    few, many = paired.share_difference(0, 0, 20, 0.95), paired.share_difference(0, 0, 20_000, 0.95)
    assert few.estimate == many.estimate == 0
    assert few.low < -0.05
    assert -0.0002 < many.low < 0


def coverage(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def test_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(2), []
    for _ in range(4000):
        _both, b, c, _ = random.multinomial(200, [0.8, 0.08, 0.05, 0.07])
        found = paired.share_difference(int(b), int(c), 200, 0.95)
        hits.append(found.low <= 0.03 <= found.high)
    assert 0.935 < coverage(hits) < 0.975


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), min_size=6, max_size=60))
def test_an_area_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int, int]]) -> None:
    truth = np.array([row[0] for row in rows])
    if min(truth.sum(), (~truth).sum()) < 2:
        return
    scores = np.array([row[1:] for row in rows], float).T
    found = paired.areas(truth, scores[0], scores[1], 0.95)
    for area, values in ((found.candidate, scores[0]), (found.stable, scores[1])):
        pairs = values[truth][:, None] - values[~truth][None, :]
        assert area.estimate == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert found.difference.estimate == pytest.approx(found.candidate.estimate - found.stable.estimate)


def test_delong_s_variance_is_that_of_repeated_draws() -> None:
    random, differences, widths = np.random.default_rng(3), [], []
    for _ in range(1500):
        truth = np.arange(200) < 80
        signal = truth + random.normal(0, 1, 200)
        found = paired.areas(truth, signal + random.normal(0, 0.5, 200), signal + random.normal(0, 1, 200), 0.95)
        differences.append(found.difference.estimate)
        widths.append((found.difference.high - found.difference.low) / (2 * 1.959964))
    assert np.mean(widths) == pytest.approx(np.std(differences), rel=0.08)


def macro_f1(truth: np.ndarray, said: np.ndarray) -> float:
    found = []
    for one in sorted({*truth.tolist(), *said.tolist()}):
        right = int(((truth == one) & (said == one)).sum())
        found.append(2 * right / (int((truth == one).sum()) + int((said == one).sum())))
    return float(np.mean(found))


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=80))
def test_f1_is_the_mean_over_the_classes_that_occur(rows: list[tuple[int, int, int]]) -> None:
    truth, one, other = (np.array(column) for column in zip(*rows, strict=True))
    found = paired.f1s(truth, one, other, 4, 0.95)
    assert found.candidate.estimate == pytest.approx(macro_f1(truth, one))
    assert found.stable.estimate == pytest.approx(macro_f1(truth, other))
    assert found.difference.low <= found.difference.estimate <= found.difference.high
    assert paired.f1s(truth, one, other, 4, 0.95) == found


def test_the_bootstrap_of_f1_is_as_wide_as_repeated_draws() -> None:
    random, differences, widths = np.random.default_rng(4), [], []
    for _ in range(60):
        truth = random.integers(0, 3, 400)
        one, other = (np.where(random.random(400) < right, truth, random.integers(0, 3, 400)) for right in (0.8, 0.7))
        found = paired.f1s(truth, one, other, 3, 0.95).difference
        differences.append(found.estimate)
        widths.append((found.high - found.low) / (2 * 1.959964))
    assert np.mean(widths) == pytest.approx(np.std(differences), rel=0.25)


@pytest.mark.parametrize(("probability", "n"), [(0.5, 100), (0.5, 1001), (0.99, 1000), (0.99, 3000)])
def test_a_quantile_s_interval_holds_it_as_often_as_it_says(probability: float, n: int) -> None:
    random, truth, hits = np.random.default_rng(5), stats.expon.ppf(probability), []
    for _ in range(1500):
        found = paired.quantile(random.exponential(size=n), probability, 0.95)
        assert found is not None
        hits.append(found.low <= truth <= found.high)
    assert coverage(hits) >= 0.94


def test_too_few_values_bound_no_quantile() -> None:
    assert paired.quantile(np.arange(100.0), 0.99, 0.95) is None
    assert paired.quantile(np.arange(5.0), 0.5, 0.95) is None
    assert paired.quantile(np.arange(6.0), 0.5, 0.95) == paired.Interval(2.0, 0.0, 5.0)


def test_two_intervals_together_hold_a_ratio() -> None:
    random, hits = np.random.default_rng(6), []
    for _ in range(800):
        one, other = (paired.quantile(random.lognormal(mu, 0.3, 200), 0.5, paired.half_each(0.95)) for mu in (0.2, 0.0))
        assert one is not None
        assert other is not None
        found = paired.ratio(one, other)
        hits.append(found.low <= np.exp(0.2) <= found.high)
    assert coverage(hits) >= 0.95
