"""Distances and tests of histograms: against scipy where it defines the same thing, and against closed forms."""

import math

import numpy as np
import pytest
from scipy import spatial, special, stats

from serve.monitoring import distances as d
from serve.monitoring.baseline_features import slot_means
from serve.monitoring.bins import frozen_edges
from serve.monitoring.special import chi2_isf, chi2_sf, kolmogorov_sf, normal_sf

STREAM = np.random.default_rng(0)
TABLES = [(STREAM.integers(low, 400, size), STREAM.integers(low, 400, size)) for low, size in ((0, 5), (1, 2), (0, 32), (5, 12), (0, 200))]


@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 30.5, 255, 4000])
def test_chi_squared_tails(freedom: float) -> None:
    for x in np.concatenate([[0.0, 1e-8], np.geomspace(0.01, 40, 30) * freedom]).tolist():
        assert chi2_sf(x, freedom) == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-300)
    for p in (0.5, 0.05, 0.01, 1e-6, 1e-12):
        assert chi2_isf(p, freedom) == pytest.approx(stats.chi2.isf(p, freedom), rel=1e-9)
    assert chi2_sf(math.inf, freedom) == 0


def test_the_other_tails() -> None:
    for x in np.linspace(0.05, 5, 80).tolist():
        assert kolmogorov_sf(x) == pytest.approx(special.kolmogorov(x), rel=1e-9, abs=1e-14)
        assert normal_sf(x) == pytest.approx(stats.norm.sf(x), rel=1e-12)
    assert kolmogorov_sf(0) == 1


@pytest.mark.parametrize(("a", "b"), TABLES)
def test_what_scipy_defines_too(a: np.ndarray, b: np.ndarray) -> None:
    assert d.jensen_shannon(a, b) == pytest.approx(spatial.distance.jensenshannon(a, b, base=2), abs=1e-9)
    known = (a + b) > 0
    want = stats.chi2_contingency([a[known], b[known]], correction=False)
    found = d.chi_squared(a, b)
    assert (found.statistic, found.freedom) == (pytest.approx(want.statistic, rel=1e-9), want.dof)
    assert found.p_value == pytest.approx(want.pvalue, rel=1e-9)
    at = np.sort(STREAM.normal(size=len(a)))
    assert d.wasserstein(a, b, at) == pytest.approx(stats.wasserstein_distance(at, at, a, b), rel=1e-9)
    rows = [np.repeat(np.arange(len(a)), counts) for counts in (a, b)]
    assert d.kolmogorov_smirnov(a, b) == pytest.approx(stats.ks_2samp(*rows, method="asymp").statistic, rel=1e-9)
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (a, b))
    assert d.psi(a, b) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-9)
    assert d.l_infinity(a, b) == pytest.approx(spatial.distance.chebyshev(a / a.sum(), b / b.sum()), rel=1e-9)


def test_adjusted_p_values() -> None:
    for n in (1, 2, 30):
        p = STREAM.random(n) ** 3
        assert d.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), rel=1e-12)
    assert len(d.benjamini_hochberg(np.zeros(0))) == 0


@pytest.mark.parametrize("mu", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_normals_a_mean_apart(mu: float) -> None:
    """W1 = mu and D = 2 Phi(mu / 2) - 1, of bins that are quantiles of the first; exact masses instead of samples."""
    sample = stats.norm.ppf((np.arange(30_000) + 0.5) / 30_000)
    edges = np.array(frozen_edges(sample))
    ends = np.concatenate([[-np.inf], edges, [np.inf]])
    masses = [np.rint(np.diff(stats.norm.cdf(ends - shift)) * 1e9).astype(np.int64) for shift in (0, mu)]
    true_d = 2 * stats.norm.cdf(mu / 2) - 1
    found = d.kolmogorov_smirnov(*masses)
    assert true_d - 1 / 30 <= found <= true_d + 1e-6        # a lower bound, off by a bin at most
    if mu <= 1:
        assert d.wasserstein(*masses, slot_means(sample, edges.tolist())) == pytest.approx(mu, abs=0.01 + 0.05 * mu)
    groups = d.groups_of(masses[0])
    few = [d.grouped(one, groups) for one in masses]
    assert len(few[0]) == 10
    if mu <= 1:     # KL is mu^2 / 2 either way; deciles lose a little
        assert 0.85 * mu * mu <= d.psi(*few) <= mu * mu + 1e-6


def test_no_shift_is_no_distance() -> None:
    counts = np.array([0, 10, 20, 30, 0])
    assert d.psi(counts, counts) == d.jensen_shannon(counts, counts) == d.kolmogorov_smirnov(counts, counts) == 0
    assert d.chi_squared(counts, counts).p_value == 1
    assert d.ks_p_value(0.0, 10, 10) == 1


def test_nothing_to_compare() -> None:
    none, some = np.zeros(3, np.int64), np.array([1, 2, 3])
    assert d.chi_squared(none, some) == d.ChiSquared(0.0, 2, 1.0)
    assert d.kolmogorov_smirnov(none, some) == d.wasserstein(none, some, np.arange(3.0)) == 0
    assert d.psi_critical(0, 10, 10, 0.01) == math.inf
    assert d.psi_critical(10, 10, 1, 0.01) == 0, "of a single bin PSI is always 0"
    assert d.ks_p_value(0.5, 0, 10) == 1


def test_psi_exceeds_its_critical_value_as_often_as_it_should() -> None:
    """Yurdakul's law, on multinomial samples from one distribution."""
    stream = np.random.default_rng(5)
    shares, n, m = np.full(10, 0.1), 700, 3000
    found = np.array([d.psi(stream.multinomial(m, shares), stream.multinomial(n, shares)) for _ in range(4000)])
    for alpha in (0.1, 0.01):
        rate = np.mean(found > d.psi_critical(m, n, 10, alpha))
        assert rate == pytest.approx(alpha, abs=3.5 * math.sqrt(alpha / 4000))


def test_groups_are_deciles_and_hold_what_lies_outside() -> None:
    reference = np.array([0, *[100] * 30, 0])
    groups = d.groups_of(reference)
    assert d.grouped(reference, groups).tolist() == [300] * 10
    assert groups[0] == groups[1]
    assert groups[-1] == groups[-2]


@pytest.mark.parametrize(("reference", "grouped"), [
    ([0, 500, 0], [500, 0]),                    # a constant: it, and everything else
    ([0, 300, 0, 700, 0], [300, 700]),
    ([0, 960, 0, 30, 10, 0], [960, 40]),
    ([0, 995, 5, 0], [995, 5]),                 # the last two stay, however rare one is
    ([0, 500, 3, 497, 0], [500, 500]),
])
def test_groups_of_values_that_are_few(reference: list[int], grouped: list[int]) -> None:
    counts = np.array(reference)
    assert d.grouped(counts, d.groups_of(counts)).tolist() == grouped


def test_a_constant_that_varies_is_seen() -> None:
    reference, now = np.array([0, 500, 0]), np.array([100, 400, 0])
    groups = d.groups_of(reference)
    assert d.psi(d.grouped(reference, groups), d.grouped(now, groups)) > 1
