"""Outcome metrics: numbers per answer that feedback brings later (clicked or not, an absolute error, a rating), compared by their means.

The test rests on each arm's count, sum and sum of squares, so replicas and late feedback only add. Within one share the difference of means
D and its standard error are formed; over shares they are combined with weights n1 n0 / (n1 + n0), so a drift of the metric while the
candidate's share grows cancels. With z = (D - margin) / se and t values in all,

    e = (1 + t g)^(-1/2) exp(t g z^2 / (2 (1 + t g))),   g = (2 ln(1/alpha) + ln(1 + 2 ln(1/alpha))) / t_best,

is the normal mixture whose inversion is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Time-uniform
central limit theory and asymptotic confidence sequences, Annals of Statistics 52(6) 2024, arXiv 2103.06476):

    D +- se sqrt(2 (1 + t g) / (t g) ln(sqrt(1 + t g) / alpha)).

Its level holds as t grows, not at every small t; hence min_values, and one value at each end of the range is added to each arm before its
variance is taken, so that a metric that has shown one value only is not taken for certain. Only a z in the bad direction trips.

Everything here is about means. What is none is made one before it comes here (docs/feedback.md): AUC is the mean, over disjoint pairs of a
positive and a negative answer of one arm, of "the positive scored higher"; F1 = 2 J / (1 + J) rises with J, the mean of "both" over the
answers that are positive by prediction, label or both, so that J is compared in its place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve.routing.judge.judgement import Finding
from serve.routing.judge.observations import OutcomeSums
from serve.routing.judge.settings import OutcomeSettings
from serve.routing.judge.wording import count, exp_capped, number

_BEST_AT = 5000.0  # values at which the interval is tightest


@dataclass(frozen=True, slots=True)
class OutcomeTotals:
    """All values of one metric that answers under one share of the candidate got."""

    name: str
    share: float
    stable: OutcomeSums = field(default_factory=OutcomeSums)
    candidate: OutcomeSums = field(default_factory=OutcomeSums)


def add_sums(a: OutcomeSums, b: OutcomeSums) -> OutcomeSums:
    """Counts of two spans together."""
    return OutcomeSums(a.n + b.n, a.total + b.total, a.squares + b.squares)


def add_outcome(totals: Sequence[OutcomeTotals], new: OutcomeTotals) -> tuple[OutcomeTotals, ...]:
    """Ascending by name and share, each once."""
    by_key = {(t.name, t.share): t for t in totals}
    old = by_key.get((new.name, new.share))
    if old is not None:
        new = OutcomeTotals(new.name, new.share, add_sums(old.stable, new.stable), add_sums(old.candidate, new.candidate))
    by_key[new.name, new.share] = new
    return tuple(by_key[key] for key in sorted(by_key))


def difference(totals: Sequence[OutcomeTotals], settings: OutcomeSettings) -> tuple[float, float, int] | None:
    """(candidate - stable, standard error, values of both). None while no share has values of both arms."""
    weights = d = variance = 0.0
    values = 0
    for t in totals:
        n1, n0 = t.candidate.n, t.stable.n
        if not n1 or not n0:
            continue
        weight = n1 * n0 / (n1 + n0)
        weights += weight
        d += weight * (t.candidate.total / n1 - t.stable.total / n0)
        variance += weight**2 * (_variance(t.candidate, settings) / n1 + _variance(t.stable, settings) / n0)
        values += n1 + n0
    return (d / weights, math.sqrt(variance) / weights, values) if weights else None


def _variance(sums: OutcomeSums, settings: OutcomeSettings) -> float:
    n = sums.n + 2
    mean = (sums.total + settings.low + settings.high) / n
    return max((sums.squares + settings.low**2 + settings.high**2) / n - mean**2, 1e-12 * (settings.high - settings.low) ** 2)


def find_outcome(totals: Sequence[OutcomeTotals], settings: OutcomeSettings) -> Finding:
    """totals: of this metric. The estimate is candidate minus stable, in the metric's unit."""
    limit = 1 / settings.alpha
    n1, n0 = sum(t.candidate.n for t in totals), sum(t.stable.n for t in totals)
    compared = difference(totals, settings)
    if compared is None or min(n1, n0) < settings.min_values:
        sentence = f"{settings.name}: {count(n1, 'candidate value')} and {n0:,} stable; {settings.min_values:,} of each are needed"
        return Finding(
            test="outcome", action=settings.action, is_tripped=False, sentence=sentence, e_value=1.0, limit=limit,
            counts={"candidate": n1, "stable": n0}, thresholds={"name": settings.name},
        )
    d, error, values = compared
    z = (_worse_by(d, settings) - settings.margin) / error
    log_alpha = math.log(settings.alpha)
    tg = _scaled(values, log_alpha)
    log_e = _log_mixture(max(z, 0.0), tg)      # that it is better is no evidence that it is worse
    radius = error * math.sqrt(2 * (1 + tg) / tg * (0.5 * math.log1p(tg) - log_alpha))
    return Finding(
        test="outcome",
        action=settings.action,
        is_tripped=log_e >= math.log(limit),
        sentence=(
            f"{settings.name}: candidate differs by {d:+.3g} ({d - radius:+.3g} to {d + radius:+.3g}) over {count(n1, 'value')}; "
            f"evidence {number(exp_capped(log_e))} against a limit of {number(limit)}"
        ),
        e_value=exp_capped(log_e),
        limit=limit,
        estimate=d,
        interval=(d - radius, d + radius),
        counts={"candidate": n1, "stable": n0},
        thresholds={"name": settings.name, "worse": settings.worse, "margin": settings.margin},
    )


def log_not_worse(totals: Sequence[OutcomeTotals], settings: OutcomeSettings, alpha: float) -> float:
    """ln of the e-value against H0: the candidate's mean is worse by promote_margin or more. 0 below min_values.

    totals: of this metric. alpha: the level that the mixture is tuned for.
    """
    compared = difference(totals, settings)
    counts = (sum(t.candidate.n for t in totals), sum(t.stable.n for t in totals))
    if compared is None or settings.promote_margin is None or min(counts) < settings.min_values:
        return 0.0
    d, error, values = compared
    z = (settings.promote_margin - _worse_by(d, settings)) / error
    return _log_mixture(max(z, 0.0), _scaled(values, math.log(alpha)))


def _worse_by(d: float, settings: OutcomeSettings) -> float:
    return d if settings.worse == "higher" else -d


def _scaled(values: int, log_alpha: float) -> float:
    return values * (-2 * log_alpha + math.log(1 - 2 * log_alpha)) / _BEST_AT


def _log_mixture(z: float, tg: float) -> float:
    return -0.5 * math.log1p(tg) + tg * z * z / (2 * (1 + tg))


__all__ = ["OutcomeTotals", "add_outcome", "add_sums", "difference", "find_outcome", "log_not_worse"]
