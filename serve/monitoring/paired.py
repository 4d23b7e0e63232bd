"""Intervals for what two versions did on the same rows, and for shares and quantiles of one. Pure, on numpy.

Every interval is two-sided. Rows are taken for independent; two requests of one user are not, and the interval is then too narrow.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from serve.routing.judge.special import log_beta_tails, log_gamma

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """estimate with low <= estimate <= high."""

    estimate: float
    low: float
    high: float


def share(count: int, of: int, confidence: float) -> Interval:
    """Of `of` independent trials, 1 or more: Wilson's score interval (Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4)."""
    z = _z(confidence)
    p = count / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Interval(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def share_difference(only_candidate: int, only_stable: int, of: int, confidence: float) -> Interval:
    """Candidate's share less the stable one's, on the same rows.

    only_candidate, only_stable: rows that only one of them has. Half a row is added to each of the four cells (Agresti and Min 2005,
    sec. 3.1), so that no discordant row at all still leaves an interval of some width.
    """
    z = _z(confidence)
    n = of + 2.0
    b, c = only_candidate + 0.5, only_stable + 0.5
    difference = (b - c) / n
    half = z * math.sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    estimate = (only_candidate - only_stable) / of
    return Interval(estimate, max(-1.0, min(estimate, difference - half)), min(1.0, max(estimate, difference + half)))


def mcnemar(only_candidate: int, only_stable: int) -> float:
    """Two-sided p-value that neither is better: discordant rows are fair coins (McNemar 1947, exact)."""
    n, least = only_candidate + only_stable, min(only_candidate, only_stable)
    if n == 0 or 2 * least == n:
        return 1.0
    # P(Binomial(n, 1/2) <= least) = I_{1/2}(n - least, least + 1)
    log_tail, _ = log_beta_tails(float(n - least), float(least + 1), 0.5)
    return min(1.0, 2 * math.exp(float(log_tail)))


def mean(values: Floats, confidence: float) -> Interval:
    """Of at least two values: Student's interval."""
    n = len(values)
    middle = float(values.mean())
    half = student_quantile((1 + confidence) / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(middle, middle - half, middle + half)


def student_quantile(probability: float, freedom: int) -> float:
    """t with P(T <= t) = probability, 0.5 <= probability < 1: bisection on P(T > t) = I_{v/(v+tt)}(v/2, 1/2) / 2 (DLMF 8.17.20)."""
    low, high = 0.0, 1.0
    while _student_tail(high, freedom) > 1 - probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_tail(middle, freedom) > 1 - probability else (low, middle)
    return (low + high) / 2


def _student_tail(t: float, freedom: int) -> float:
    if t == 0:
        return 0.5
    log_tail, _ = log_beta_tails(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 0.5 * math.exp(float(log_tail))


@dataclass(frozen=True, slots=True)
class AreaComparison:
    """Areas under two ROC curves on the same rows, with DeLong's variances. difference: candidate less stable."""

    candidate: Interval
    stable: Interval
    difference: Interval


def areas(is_positive: Bools, candidate: Floats, stable: Floats, confidence: float) -> AreaComparison:
    """is_positive: [n], at least two of either kind. candidate, stable: scores [n], higher for the positive.

    DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014, algorithm 2). Equal scores count half.
    """
    placements = [_placements(is_positive, scores) for scores in (candidate, stable)]
    areas_ = [float(positive.mean()) for positive, _ in placements]
    m, n = len(placements[0][0]), len(placements[0][1])
    by_positive = np.atleast_2d(np.cov(np.stack([positive for positive, _ in placements])))
    by_negative = np.atleast_2d(np.cov(np.stack([negative for _, negative in placements])))
    covariance = by_positive / m + by_negative / n
    z = _z(confidence)
    one = [_clipped(area, z * math.sqrt(max(0.0, covariance[i, i])), 0.0) for i, area in enumerate(areas_)]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return AreaComparison(one[0], one[1], _clipped(areas_[0] - areas_[1], z * math.sqrt(max(0.0, variance)), -1.0))


def _placements(is_positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    positive, negative = scores[is_positive], scores[~is_positive]
    m, n = len(positive), len(negative)
    both = midranks(np.concatenate([positive, negative]))
    return (both[:m] - midranks(positive)) / n, 1 - (both[m:] - midranks(negative)) / m


def midranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


def _clipped(estimate: float, half: float, least: float) -> Interval:
    return Interval(estimate, max(least, estimate - half), min(1.0, estimate + half))


N_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class F1Comparison:
    """Macro F1 of two versions on the same rows. difference: candidate less stable."""

    candidate: Interval
    stable: Interval
    difference: Interval


def f1s(truth: Integers, candidate: Integers, stable: Integers, n_classes: int, confidence: float, seed: int = 0) -> F1Comparison:
    """Classes as 0 to n_classes - 1, one array [n] each; a class that is neither there nor predicted counts nowhere.

    Percentiles of a paired bootstrap (Efron and Tibshirani 1993, ch. 13). F1 depends on a row only by its three classes, so rows are
    drawn as counts of the cells (truth, candidate, stable): N_RESAMPLES of them, the same for the same seed.
    """
    cells, counts = np.unique(np.stack([truth, candidate, stable]), axis=1, return_counts=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(int(counts.sum()), counts / counts.sum(), size=N_RESAMPLES).astype(np.float64)
    weights = np.vstack([counts.astype(np.float64), drawn])
    one, other = (_macro_f1(cells[0], cells[which], weights, n_classes) for which in (1, 2))
    return F1Comparison(*(_percentiles(values, confidence) for values in (one, other, one - other)))


def _macro_f1(truth: Integers, predicted: Integers, weights: Floats, n_classes: int) -> Floats:
    """Of each row of weights [draws, cells]: 2 tp / (actual + predicted), the mean over the classes that are there."""
    indicator = np.arange(n_classes)[:, None]
    actual, said = weights @ (truth == indicator).T, weights @ (predicted == indicator).T
    right = weights @ ((truth == indicator) & (predicted == indicator)).T
    present = actual + said
    scores = np.divide(2 * right, present, out=np.zeros_like(present), where=present > 0)
    found: Floats = scores.sum(axis=1) / np.maximum(1, (present > 0).sum(axis=1))
    return found


def _percentiles(values: Floats, confidence: float) -> Interval:
    """values: of the rows as they are, then of each draw."""
    low, high = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    estimate = float(values[0])
    return Interval(estimate, min(estimate, float(low)), max(estimate, float(high)))


def quantile(values: Floats, probability: float, confidence: float) -> Interval | None:
    """A quantile of the distribution that values [n] come from, by order statistics (David and Nagaraja 2003, sec. 7.1).

    None where n values are too few to bound it on both sides.
    """
    n = len(values)
    k = np.arange(n + 1)
    log_choose = log_gamma(n + 1.0) - log_gamma(k + 1.0) - log_gamma(n - k + 1.0)
    cdf = np.cumsum(np.exp(log_choose + k * math.log(probability) + (n - k) * math.log1p(-probability)))
    tail = (1 - confidence) / 2
    # The r-th smallest is at most the quantile unless fewer than r values are: P(B < r) <= tail.
    low = int(np.searchsorted(cdf, tail, side="right"))
    high = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1
    if low < 1 or high > n:
        return None
    ordered = np.sort(values)
    estimate = float(ordered[min(n - 1, math.ceil(probability * n) - 1)])
    return Interval(estimate, min(estimate, float(ordered[low - 1])), max(estimate, float(ordered[high - 1])))


def ratio(candidate: Interval, stable: Interval) -> Interval:
    """Of two positive quantities, each with an interval of the confidence `half_each` gives: then this one has the wanted confidence."""
    return Interval(candidate.estimate / stable.estimate, candidate.low / stable.high, candidate.high / stable.low)


def half_each(confidence: float) -> float:
    """The confidence of two intervals that hold together with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / 2


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


__all__ = [
    "AreaComparison", "F1Comparison", "Interval", "areas", "f1s", "half_each", "mcnemar", "mean", "midranks", "quantile", "ratio", "share",
    "share_difference", "student_quantile",
]
