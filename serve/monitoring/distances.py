"""How far apart two histograms over the same bins are: effect sizes and tests. Pure; counts are int64 of one shape, a the reference.

What is estimated is said with each. Effect sizes do not grow with the number of rows, p-values shrink with it: at 300,000 rows a shift of a
hundredth of a standard deviation is significant and means nothing.
"""

import math
from dataclasses import dataclass

import numpy as np

from serve.monitoring.bins import Floats, Ints
from serve.monitoring.special import chi2_isf, chi2_sf, kolmogorov_sf

# When bins are put together for PSI and chi-squared: so many groups at most, with so much of the reference at least.
_N_GROUPS = 10
_LEAST_SHARE = 0.01


def shares(counts: Ints) -> Floats:
    """Of their sum; zeros where it is 0."""
    found: Floats = counts / max(1, int(counts.sum()))
    return found


def groups_of(reference: Ints) -> Ints:
    """The group of each slot: neighbours are put together by the decile of the reference that their middle is in, so that PSI means what
    its rules of thumb are about. Groups with less than a hundredth go to a neighbour, while more than two are left. What lies outside the
    range goes with the outermost; a constant has two groups, its value and everything else.
    """
    total = int(reference.sum())
    if np.count_nonzero(reference) < 2:
        return np.asarray(reference == 0, np.int64)
    middles = np.cumsum(reference) - reference / 2
    _, groups = np.unique(np.minimum(middles * _N_GROUPS // total, _N_GROUPS - 1), return_inverse=True)
    counts = grouped(reference, groups).tolist()
    while len(counts) > 2 and min(counts) < _LEAST_SHARE * total:
        place = counts.index(min(counts))
        into = place - 1 if place == len(counts) - 1 or (place and counts[place - 1] <= counts[place + 1]) else place
        groups = groups - (groups > into)
        counts[into:into + 2] = [counts[into] + counts[into + 1]]
    return np.asarray(groups, np.int64)


def grouped(counts: Ints, groups: Ints) -> Ints:
    """Counts by group."""
    return np.asarray(np.bincount(groups, weights=counts, minlength=int(groups.max()) + 1), np.int64)


def psi(a: Ints, b: Ints) -> float:
    """Population stability index, sum of (q - p) ln(q / p), that is KL(p, q) + KL(q, p). Half a row is added to every bin, so that an empty
    one does not make it infinite.
    """
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (a, b))
    return float(np.sum((q - p) * np.log(q / p)))


def psi_critical(n_a: int, n_b: int, n_bins: int, alpha: float) -> float:
    """What PSI exceeds with probability alpha where nothing has changed: (1/n + 1/m) times the chi-squared quantile of B - 1 degrees of
    freedom (Yurdakul 2018, Statistical properties of population stability index, theorem 3.3). Of a single bin it is always 0, and without
    rows nothing is said: infinite.
    """
    if not n_a or not n_b:
        return math.inf
    return (1 / n_a + 1 / n_b) * chi2_isf(alpha, n_bins - 1) if n_bins > 1 else 0.0


def jensen_shannon(a: Ints, b: Ints) -> float:
    """Jensen-Shannon distance, the square root of the divergence to base 2: 0 where they are the same, 1 where they share no bin."""
    p, q = shares(a), shares(b)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(one > 0, one * np.log2(one / middle), 0.0).sum() for one in (p, q)]
    return float(math.sqrt(max(0.0, sum(parts) / 2)))


def kolmogorov_smirnov(a: Ints, b: Ints) -> float:
    """The greatest difference of the cumulative shares at the edges: a lower bound of the statistic D of the values."""
    if not a.sum() or not b.sum():
        return 0.0
    return float(np.max(np.abs(np.cumsum(shares(a)) - np.cumsum(shares(b)))))


def ks_p_value(d: float, n_a: int, n_b: int) -> float:
    """P(D > d) in Kolmogorov's limit; of a lower bound d an upper bound of the p-value."""
    return kolmogorov_sf(d * math.sqrt(n_a * n_b / (n_a + n_b))) if n_a and n_b else 1.0


def wasserstein(a: Ints, b: Ints, at: Floats) -> float:
    """Wasserstein-1 distance in the feature's unit, of the histograms with all of a bin's rows at one place. at: the places, ascending."""
    if not a.sum() or not b.sum() or len(at) < 2:
        return 0.0
    apart = np.abs(np.cumsum(shares(a)) - np.cumsum(shares(b)))[:-1]
    return float(np.sum(apart * np.diff(at)))


def l_infinity(a: Ints, b: Ints) -> float:
    """The greatest difference of a share: the category that changed most."""
    return float(np.max(np.abs(shares(a) - shares(b)))) if len(a) else 0.0


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """statistic 0 and p_value 1 where there is nothing to compare."""

    statistic: float
    freedom: int
    p_value: float


def chi_squared(a: Ints, b: Ints) -> ChiSquared:
    """Pearson's test that both come from one law, of the 2 x B table without its empty columns; no continuity correction."""
    table = np.array([a, b], dtype=np.float64)
    table = table[:, table.sum(axis=0) > 0]
    rows = table.sum(axis=1, keepdims=True)
    freedom = table.shape[1] - 1
    if freedom < 1 or not rows.all():
        return ChiSquared(0.0, max(freedom, 0), 1.0)
    expected = rows * table.sum(axis=0) / table.sum()
    statistic = float(np.sum((table - expected) ** 2 / expected))
    return ChiSquared(statistic, freedom, chi2_sf(statistic, freedom))


def benjamini_hochberg(p_values: Floats) -> Floats:
    """Adjusted p-values: those at most q are a set of discoveries with false discovery rate q (Benjamini & Hochberg 1995)."""
    n = len(p_values)
    order = np.argsort(p_values)[::-1]
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(p_values[order] * n / np.arange(n, 0, -1)) if n else []
    return np.minimum(adjusted, 1.0)


__all__ = [
    "ChiSquared", "benjamini_hochberg", "chi_squared", "grouped", "groups_of", "jensen_shannon", "kolmogorov_smirnov", "ks_p_value",
    "l_infinity", "psi", "psi_critical", "shares", "wasserstein",
]
