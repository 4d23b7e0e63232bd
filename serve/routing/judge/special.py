"""The few special functions that the tests need, on arrays. The server does not depend on scipy; the tests check against it."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
_SHIFT = 10  # under it the series wants more terms
_TINY = 1e-300
_FEW = 64  # values for which a loop is quicker than arrays


def log_gamma(x: npt.ArrayLike) -> Floats:
    """ln Gamma(x), x > 0, to 1e-12 relative: Stirling's series after the recurrence has raised x to 10 or more (DLMF 5.11.1, 5.5.1)."""
    z = np.array(x, dtype=np.float64, copy=True)
    if z.size <= _FEW:
        return np.array([math.lgamma(v) for v in z.ravel().tolist()]).reshape(z.shape)
    product = np.ones_like(z)
    for _ in range(_SHIFT):
        low = z < _SHIFT
        product = np.where(low, product * z, product)
        z = np.where(low, z + 1, z)
    series = sum(c / z ** (2 * k + 1) for k, c in enumerate(_STIRLING))
    value: Floats = (z - 0.5) * np.log(z) - z + 0.5 * np.log(2 * np.pi) + series - np.log(product)
    return value


def log_beta(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """ln B(a, b), a and b over 0."""
    return log_gamma(a) + log_gamma(b) - log_gamma(np.asarray(a, dtype=np.float64) + np.asarray(b, dtype=np.float64))


def _beta_fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method; converges fast for x < (a+1)/(a+b+2)."""
    c = np.ones_like(x)
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
    value = d.copy()
    for m in range(1, 2000):
        for step in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 + step * d
            d = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
            c = 1 + step / c
            c = np.where(np.abs(c) < _TINY, _TINY, c)
            value = value * (d * c)
        if np.all(np.abs(d * c - 1) < 1e-14):
            break
    return value


def log_beta_tails(a: npt.ArrayLike, b: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Floats, Floats]:
    """ln I_x(a, b) and ln(1 - I_x(a, b)), a and b over 0, 0 < x < 1. Broadcasts. Small tails keep their relative accuracy."""
    if np.ndim(a) == np.ndim(b) == np.ndim(x) == 0:
        one = _log_beta_tails_of_one(float(np.asarray(a)), float(np.asarray(b)), float(np.asarray(x)))
        return np.asarray(one[0]), np.asarray(one[1])
    a, b, x = (np.array(v, dtype=np.float64) for v in np.broadcast_arrays(a, b, x))
    flip = x >= (a + 1) / (a + b + 2)
    p, q, y = np.where(flip, b, a), np.where(flip, a, b), np.where(flip, 1 - x, x)
    small = p * np.log(y) + q * np.log1p(-y) - np.log(p) - log_beta(p, q) + np.log(_beta_fraction(p, q, y))
    small = np.minimum(small, 0.0)
    with np.errstate(divide="ignore"):
        large = np.log1p(-np.exp(small))
    return np.where(flip, large, small), np.where(flip, small, large)


def _log_beta_tails_of_one(a: float, b: float, x: float) -> tuple[float, float]:
    """The same without arrays, some thirty times as quick: a judgement asks for one value at a time."""
    is_flipped = x >= (a + 1) / (a + b + 2)
    p, q, y = (b, a, 1 - x) if is_flipped else (a, b, x)
    log_front = p * math.log(y) + q * math.log1p(-y) - math.log(p) - (math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q))
    small = min(log_front + math.log(_beta_fraction_of_one(p, q, y)), 0.0)
    large = math.log1p(-math.exp(small)) if small < 0 else -math.inf
    return (large, small) if is_flipped else (small, large)


def _beta_fraction_of_one(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or _TINY)
    value = d
    for m in range(1, 100_000):
        for step in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / ((1 + step * d) or _TINY)
            c = (1 + step / c) or _TINY
            value *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return value


def chi_square_quantile(probability: float, freedom: int) -> float:
    """x with P(chi-square <= x) = probability, 0 < probability < 1, freedom >= 1: bisection on the gamma series (DLMF 8.7.1)."""
    low, high = 0.0, float(freedom + 10)
    while _chi_square_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _chi_square_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _chi_square_cdf(x: float, freedom: int) -> float:
    if x <= 0:
        return 0.0
    a, z = freedom / 2, x / 2
    term = total = 1 / a
    k = a
    while term > total * 1e-16:
        k += 1
        term *= z / k
        total += term
    return float(min(1.0, total * np.exp(a * np.log(z) - z - log_gamma(a))))


__all__ = ["chi_square_quantile", "log_beta", "log_beta_tails", "log_gamma"]
