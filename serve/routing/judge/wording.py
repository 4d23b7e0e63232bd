"""How numbers read in the judge's sentences."""

import math


def number(value: float) -> str:
    """An e-value or count for people: 412, 50,211, 3.2, 0.004, 2.1e+12."""
    if not math.isfinite(value):
        return "more than 1e+300" if value > 0 else "0"
    if value >= 1e9:
        return f"{value:.2g}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.001 else "under 0.001" if value > 0 else "0"


def percent(share: float) -> str:
    """1.2 %, 0.034 %."""
    return f"{100 * share:.3g} %"


def duration(seconds: float) -> str:
    """1.5 ms, 2 s, 120 us; inf reads as unknown."""
    if not math.isfinite(seconds):
        return "unknown"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def count(n: int, noun: str) -> str:
    """1 error, 3 errors."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def exp_capped(log_value: float) -> float:
    """exp, finite: what JSON can carry. Evidence over 1e300 is 1e300."""
    return math.exp(min(log_value, 690.0))
