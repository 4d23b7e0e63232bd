"""Comparisons that may be looked at continuously, under fixed weights and under weights that follow the outcomes.

Two of them, for a variant k and the control 0 that requests reach with known probabilities w_k and w_0:

- The ratio of hit rates r, exactly. Given that a hit fell on one of the two, it fell on k with probability p(r) = w_k r / (w_k r + w_0),
  whatever the hit rate does meanwhile (Lindon and Malek, arXiv 2011.03567). Each hit is one Bernoulli trial, weights may change between
  hits, and the likelihood ratio of a fixed mixture over r against one r0 is a martingale under r0. The interval holds every r0 that the
  mixture has not yet beaten by 1/alpha (Ville's inequality).
- The difference of hit rates, asymptotically: an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, arXiv
  2103.06476, theorem 2.2) of the augmented inverse-propensity scores. The scores are centred by hit rates of earlier looks, so that they
  stay a martingale when the weights follow the outcomes (Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro, arXiv 2210.10768).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Number = TypeVar("Number", int, float)

# Of the mixture over ln r: half of it lies within a factor of 1.6. A sample-ratio fault is smaller: half within 7 %.
EFFECT_SPREAD = math.log(2.0)
SHARE_SPREAD = 0.1
# The difference is tightest after about so many units.
UNITS_OPTIMAL = 5_000
# Below it a count of hits is too small for a normal law.
LEAST_HITS = 20

_STEPS = 257
_WIDEST = math.log(1e6)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Counts under one set of weights. weights: basis points by variant; n: units that answered; hits: among them.

    totals, squares: of a metric of any values, their sums and sums of squares by variant; () where a value is a hit (1) or none (0).
    """

    weights: tuple[int, ...]
    n: tuple[int, ...]
    hits: tuple[int, ...]
    totals: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PairSums:
    """Of a pair's scores: how many, their sum, the sum of their squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0


def merge(strata: tuple[Stratum, ...], new: Stratum) -> tuple[Stratum, ...]:
    """The strata with the counts added to the one of the same weights, or as one more."""
    for i, old in enumerate(strata):
        if old.weights == new.weights:
            added = Stratum(old.weights, _plus(old.n, new.n), _plus(old.hits, new.hits),
                            _plus(old.totals, new.totals), _plus(old.squares, new.squares))
            return (*strata[:i], added, *strata[i + 1 :])
    return (*strata, new)


def _plus(a: tuple[Number, ...], b: tuple[Number, ...]) -> tuple[Number, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def add_pair(sums: PairSums, new: Stratum, variant: int, control: int, before: tuple[Sequence[int], Sequence[float]]) -> PairSums:
    """Adds the scores of every unit in `new`: m_k - m_0 + 1[k] (y - m_k) / w_k - 1[0] (y - m_0) / w_0.

    before: (n, sum of values) of each variant before these units; its means are the m, which must not depend on the units that are scored.
    """
    n_before, total_before = before
    m_k, m_0 = (total_before[i] / n_before[i] if n_before[i] else 0.0 for i in (variant, control))
    centre = m_k - m_0
    total, squares = sums.total + sum(new.n) * centre, sums.squares + sum(new.n) * centre**2
    for i, mean, sign in ((variant, m_k, 1.0), (control, m_0, -1.0)):
        scale = sign * sum(new.weights) / new.weights[i]
        value, square = (new.totals or new.hits)[i], (new.squares or new.hits)[i]
        spread = value - new.n[i] * mean        # sum of y - m
        total += scale * spread
        squares += 2 * centre * scale * spread + scale**2 * (square - 2 * mean * value + new.n[i] * mean**2)
    return PairSums(sums.n + sum(new.n), total, squares)


def difference_interval(sums: PairSums, alpha: float) -> tuple[float, float, float] | None:
    """(difference of hit rates, lower, upper) at 1 - alpha whenever it is looked at; None below two units.

    Half-width s sqrt(2 (n rho^2 + 1) / (n^2 rho^2) ln(sqrt(n rho^2 + 1) / alpha)), s the scores' standard deviation, rho tuned for
    UNITS_OPTIMAL: theorem 2.2 of arXiv 2103.06476.
    """
    if sums.n < 2:
        return None
    mean = sums.total / sums.n
    variance = max(sums.squares / sums.n - mean * mean, 0.0)
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / UNITS_OPTIMAL
    scaled = sums.n * rho2 + 1
    half = math.sqrt(variance * 2 * scaled / (sums.n * sums.n * rho2) * math.log(math.sqrt(scaled) / alpha))
    return mean, mean - half, mean + half


def _log_likelihood(x: Floats, ours: Floats, theirs: Floats, log_odds: Floats) -> Floats:
    # ln prod p^ours (1 - p)^theirs with logit p = log_odds + x, summed over strata; shape of x.
    z = x[:, None] + log_odds[None, :]
    found: Floats = -(ours * np.logaddexp(0, -z) + theirs * np.logaddexp(0, z)).sum(axis=1)
    return found


def _peak(ours: Floats, theirs: Floats, log_odds: Floats, spread: float) -> tuple[float, float]:
    # Mode and standard deviation (Laplace) of likelihood times prior, whose logarithm is strictly concave: bisection on its slope.
    low, high = -_WIDEST, _WIDEST
    for _ in range(40):
        middle = (low + high) / 2
        p = 1 / (1 + np.exp(-(log_odds + middle)))
        slope = float((ours * (1 - p) - theirs * p).sum()) - middle / spread**2
        low, high = (middle, high) if slope > 0 else (low, middle)
    p = 1 / (1 + np.exp(-(log_odds + low)))
    return low, 1 / math.sqrt(float(((ours + theirs) * p * (1 - p)).sum()) + 1 / spread**2)


def _log_mixture(ours: Floats, theirs: Floats, log_odds: Floats, spread: float) -> float:
    # ln of the likelihood's mean over ln r ~ N(0, spread^2). The integrand is log-concave: nothing of it matters 12 deviations off its
    # peak.
    peak, deviation = _peak(ours, theirs, log_odds, spread)
    x = np.linspace(peak - 12 * deviation, peak + 12 * deviation, _STEPS)
    logs = _log_likelihood(x, ours, theirs, log_odds) - x * x / (2 * spread**2) - math.log(spread * math.sqrt(2 * math.pi))
    return float(np.logaddexp.reduce(logs)) + math.log(x[1] - x[0])


def _arrays(trials: Sequence[tuple[int, int, float]]) -> tuple[Floats, Floats, Floats]:
    columns = np.asarray(trials, dtype=np.float64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], np.log(columns[:, 2])


def log_evidence(trials: Sequence[tuple[int, int, float]], spread: float = EFFECT_SPREAD) -> float:
    """ln of the e-value against "the ratio is 1". trials: (ours, theirs, odds of ours at ratio 1) of each stratum."""
    ours, theirs, log_odds = _arrays(trials)
    if not (ours.sum() + theirs.sum()):
        return 0.0
    return _log_mixture(ours, theirs, log_odds, spread) - float(_log_likelihood(np.zeros(1), ours, theirs, log_odds)[0])


def ratio_interval(trials: Sequence[tuple[int, int, float]], alpha: float) -> tuple[float | None, float, float | None] | None:
    """(ratio of hit rates, lower, upper) at 1 - alpha whenever it is looked at, exactly; None without a hit.

    trials as in log_evidence. The ratio is None (infinite) while the control has no hit, and so is the upper end while nothing bounds it.
    """
    ours, theirs, log_odds = _arrays(trials)
    if not (ours.sum() + theirs.sum()):
        return None
    bar = _log_mixture(ours, theirs, log_odds, EFFECT_SPREAD) + math.log(alpha)
    peak, _ = _peak(ours, theirs, log_odds, 1e6)

    def end(outside: float) -> float:
        inside = peak
        for _ in range(60):
            middle = (inside + outside) / 2
            is_inside = _log_likelihood(np.array([middle]), ours, theirs, log_odds)[0] > bar
            inside, outside = (middle, outside) if is_inside else (inside, middle)
        return inside

    lower, upper = end(-_WIDEST), end(_WIDEST)
    return (
        None if theirs.sum() == 0 else 0.0 if ours.sum() == 0 else math.exp(peak),
        0.0 if lower < -_WIDEST + 1e-6 else math.exp(lower),
        None if upper > _WIDEST - 1e-6 else math.exp(upper),
    )


def hit_trials(strata: Sequence[Stratum], variant: int, control: int) -> list[tuple[int, int, float]]:
    """Hits of a variant and of the control, with the odds that a hit falls on the variant when their rates are equal."""
    return [(s.hits[variant], s.hits[control], s.weights[variant] / s.weights[control]) for s in strata]


def sample_ratio_evidence(strata: Sequence[Stratum]) -> float:
    """E-value against "units arrived in proportion to the weights": the average over variants of the test of that variant against all
    others. It holds across changes of weights, as ratio_interval does. The average of e-values is one (Vovk and Wang, Annals of Statistics
    2021).
    """
    n_variants = len(strata[0].weights) if strata else 0
    logs: list[float] = []
    for i in range(n_variants):
        trials = [(s.n[i], sum(s.n) - s.n[i], s.weights[i] / (sum(s.weights) - s.weights[i])) for s in strata]
        logs.append(log_evidence(trials, SHARE_SPREAD))
    return math.exp(min(float(np.logaddexp.reduce(logs)) - math.log(n_variants), 700.0)) if logs else 1.0


def json_ready(interval: tuple[Any, ...] | None, digits: int = 6) -> list[Any] | None:
    """A tuple of figures as a list, rounded to significant digits."""
    return None if interval is None else [None if v is None else float(f"{v:.{digits}g}") for v in interval]


__all__ = [
    "LEAST_HITS", "PairSums", "Stratum", "add_pair", "difference_interval", "hit_trials", "json_ready", "log_evidence", "merge",
    "ratio_interval", "sample_ratio_evidence",
]
