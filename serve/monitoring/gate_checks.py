"""Limits held against intervals, and what is said of either. Pure."""

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from serve.monitoring.gate_report import Check, CheckStatus
from serve.monitoring.gate_settings import GateSettings
from serve.monitoring.paired import Interval


def held(found: Interval, limit: float | None, bound: Literal["least", "most"], settings: GateSettings) -> CheckStatus:
    """Whether a quantity keeps a limit; TOLD without one."""
    if limit is None:
        return CheckStatus.TOLD
    sign = 1 if bound == "least" else -1
    worst, best = sorted((sign * found.low, sign * found.high))
    if settings.decide_by == "estimate":
        worst = best = sign * found.estimate
    if worst >= sign * limit:
        return CheckStatus.PASS
    return CheckStatus.FAIL if best < sign * limit else CheckStatus.NOT_ENOUGH_DATA


def check_of(
    name: str, status: CheckStatus, found: Interval, limit: float | None, n: int, text: str, details: Mapping[str, JsonValue] | None = None
) -> Check:
    """A check of an interval. text: with {rows} and {limit} in it, where they belong."""
    said = text.replace("{rows}", counted(n, "row")).replace("{limit}", "" if limit is None else f"{limit:g}")
    return Check(name=name, status=status, text=said, value=found.estimate, low=found.low, high=found.high, limit=limit, n=n,
                 details=details or {})


def bounded(found: Interval) -> str:
    """0.972 (0.961 to 0.98)."""
    return f"{shown(found.estimate)} ({shown(found.low)} to {shown(found.high)})"


def bounded_share(found: Interval) -> str:
    """97.2 % (96.1 % to 98 %)."""
    return f"{percent(found.estimate)} ({percent(found.low)} to {percent(found.high)})"


def percent(share: float) -> str:
    """Four digits: 99.87 %."""
    return f"{100 * share:.4g} %"


def shown(value: float | None) -> str:
    """Four digits."""
    return "" if value is None else f"{value:.4g}"


def counted(n: int, what: str) -> str:
    """1 row, 2 rows."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


__all__ = ["bounded", "bounded_share", "check_of", "counted", "held", "percent", "shown"]
