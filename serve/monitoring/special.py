"""Tails of the laws that the tests of drift need; the server does not depend on scipy, the tests check against it. To 1e-11, relative."""

import functools
import math

_TINY = 1e-300
_MAX_STEPS = 100_000


def chi2_sf(x: float, freedom: float) -> float:
    """P(chi-square of so many degrees of freedom > x); freedom over 0, not necessarily whole."""
    if x <= 0:
        return 1.0
    if math.isinf(x):
        return 0.0
    a, z = freedom / 2, x / 2
    front = a * math.log(z) - z - math.lgamma(a)
    if z < a + 1:
        return max(0.0, 1.0 - math.exp(front) * _series(a, z))
    return min(1.0, math.exp(front) * _fraction(a, z))


def _series(a: float, z: float) -> float:
    """Of the lower incomplete gamma function (DLMF 8.7.1), without z^a e^-z / Gamma(a)."""
    term = total = 1 / a
    for k in range(1, _MAX_STEPS):
        term *= z / (a + k)
        total += term
        if term < total * 1e-17:
            break
    return total


def _fraction(a: float, z: float) -> float:
    """The continued fraction of the upper one (DLMF 8.9.2), by Lentz's method."""
    b = z + 1 - a
    c, d = 1 / _TINY, 1 / b
    value = d
    for k in range(1, _MAX_STEPS):
        step = -k * (k - a)
        b += 2
        d = 1 / ((step * d + b) or _TINY)
        c = (b + step / c) or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


@functools.lru_cache(maxsize=4096)
def chi2_isf(probability: float, freedom: float) -> float:
    """x with P(chi-square > x) = probability, 0 < probability < 1: bisection."""
    low, high = 0.0, freedom + 10.0
    while chi2_sf(high, freedom) > probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if chi2_sf(middle, freedom) > probability else (low, middle)
    return (low + high) / 2


def normal_sf(z: float) -> float:
    """P(standard normal > z)."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def kolmogorov_sf(x: float) -> float:
    """P(K > x) of Kolmogorov's limit law, of sqrt(n) D as n grows: the two series meet at 1 (Feller 1948, eq. 1.4)."""
    if x <= 0:
        return 1.0
    if x < 1:
        square = math.pi**2 / (8 * x * x)
        below = math.sqrt(2 * math.pi) / x * sum(math.exp(-((2 * k - 1) ** 2) * square) for k in range(1, 8))
        return 1.0 - below
    return 2 * sum((-1.0) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 12))


__all__ = ["chi2_isf", "chi2_sf", "kolmogorov_sf", "normal_sf"]
