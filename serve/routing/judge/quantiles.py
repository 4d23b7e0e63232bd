"""Confidence sequences: intervals that hold at all times at once with probability 1 - alpha, for the reports beside the tests.

A rate: the Krichevsky-Trofimov mixture. A ratio of error rates: all ratios that the two-sided e-process does not reject. A quantile of a
latency: Howard & Ramdas, Sequential Estimation of Quantiles, Bernoulli 28(3) 2022, arXiv 1906.09712.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from serve.routing.judge.eprocess import ONE_SIDED, log_mean_exp
from serve.routing.judge.special import log_beta

Floats = npt.NDArray[np.float64]

_RATIOS = np.geomspace(0.01, 100, 161)
_HALF = float(log_beta(0.5, 0.5))


def rate_interval(successes: float, n: int, alpha: float) -> tuple[float, float]:
    """For the mean of n values in [0, 1] with this sum (0/1 values, or any bounded ones). (0, 1) without values.

    Every d with M_d < 1 / alpha, M_d = B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) / (d^s (1 - d)^(n - s)): a mixture over p of likelihood ratios
    of p to d with the Jeffreys prior, each a supermartingale for bounded values because exp is convex (Howard et al., Time-uniform
    Chernoff Bounds, 2020, arXiv 1808.03204; "sub-Bernoulli"). ln M_d is convex in d and lowest at s / n.
    """
    if n <= 0:
        return 0.0, 1.0
    height = float(log_beta(successes + 0.5, n - successes + 0.5)) - _HALF - math.log(1 / alpha)

    def is_rejected(d: float) -> bool:
        hits = successes * math.log(d) if successes else 0.0
        misses = (n - successes) * math.log1p(-d) if n > successes else 0.0
        return height >= hits + misses

    mean = successes / n
    return _edge(is_rejected, mean, 0.0), _edge(is_rejected, mean, 1.0)


def _edge(is_rejected: Callable[[float], bool], inside: float, outside: float) -> float:
    """The nearest rejected point between a point that is not rejected and the end of the range."""
    if inside == outside:
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
    return outside


def ratio_interval(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, alpha: float) -> tuple[float, float]:
    """For theta_1 / theta_0 of `eprocess`, from events per stratum of shape (n_strata,); 0 and inf where no ratio is rejected.

    Every ratio c that neither of the two one-sided mixtures rejects at alpha / 2. Searched between 0.01 and 100, to 6 %.
    """
    rho, ones, zeros = (np.asarray(v, dtype=np.float64) for v in (share, candidate, stable))

    def log_e(multiples: Floats) -> Floats:
        bets, nulls = _RATIOS[:, None] * multiples, _RATIOS[:, None]
        d = np.log((rho[:, None, None] * bets + (1 - rho)[:, None, None]) / (rho[:, None, None] * nulls + (1 - rho)[:, None, None]))
        return log_mean_exp(ones.sum() * np.log(multiples) - np.tensordot(ones + zeros, d, axes=1))

    limit = math.log(2 / alpha)
    grid = np.asarray(ONE_SIDED)
    below, above = _RATIOS[log_e(grid) >= limit], _RATIOS[log_e(1 / grid) >= limit]
    return float(below.max(initial=0.0)), float(above.min(initial=math.inf))


def quantile_radius(n: int, quantile: float, alpha: float) -> float:
    """f_n of Howard & Ramdas: at all n at once, Q(quantile) lies between the empirical quantiles at quantile -+ f_n.

    f_n = 1.5 sqrt(q (1 - q) l) + 0.8 l, l = (1.4 ln ln(2.1 n) + ln(10 / alpha)) / n, their iterated-logarithm form. inf for n < 1.
    """
    if n < 1:
        return math.inf
    spread = (1.4 * math.log(math.log(2.1 * n)) + math.log(10 / alpha)) / n
    return 1.5 * math.sqrt(quantile * (1 - quantile) * spread) + 0.8 * spread


def quantile_interval(counts: Sequence[int], bounds: Sequence[float], quantile: float, alpha: float) -> tuple[float, float, float]:
    """(estimate, lower, upper) of a quantile, in the unit of bounds; upper is inf and lower 0 until there is enough.

    counts: values by bucket; bounds: each bucket's upper bound, ascending, the last may be inf. A value is known to its bucket only: the
    lower bound is the lower edge, the estimate and the upper bound the upper edge.
    """
    n = sum(counts)
    if n == 0:
        return math.nan, 0.0, math.inf
    radius = quantile_radius(n, quantile, alpha)
    cumulative = np.cumsum(counts)
    estimate = float(bounds[int(np.searchsorted(cumulative, quantile * n))])
    lower = upper = None
    if quantile - radius > 0:
        lower = int(np.searchsorted(cumulative, (quantile - radius) * n, side="right"))
    if quantile + radius < 1:
        upper = int(np.searchsorted(cumulative, (quantile + radius) * n, side="right"))
    return (
        estimate,
        float(bounds[lower - 1]) if lower else 0.0,
        float(bounds[min(upper, len(bounds) - 1)]) if upper is not None else math.inf,
    )


__all__ = ["quantile_interval", "quantile_radius", "rate_interval", "ratio_interval"]
