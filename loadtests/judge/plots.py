"""The three pictures of the page."""

import math
from collections.abc import Mapping
from typing import Any

from loadtests.judge.svg import COLOURS, FAINT, Axis, Series, plot

RATIOS = Axis("times the stable version's error rate", 1.75, 11.5, [(2, "2"), (3, "3"), (5, "5"), (10, "10")])


def false_alarms(data: Mapping[str, Any]) -> str:
    """Share of runs of a version against itself that were rolled back by the n-th error."""
    looks, alpha = data["looks"], data["alpha"]
    x = Axis("errors so far, a look after each", 10, looks[-1], [(10, "10"), (100, "100"), (1000, "1,000")])
    percents = [(1e-4, "0.01 %"), (1e-3, "0.1 %"), (1e-2, "1 %"), (0.1, "10 %"), (1, "100 %")]
    y = Axis("rollouts of a version against itself rolled back", 1e-4, 1, percents)
    # Nothing to draw on a logarithmic axis before the first.
    z, ours = ([v if v > 0 else math.nan for v in data[key]] for key in ("z", "ours"))
    series = [
        Series("z test at the same level, from 30 errors on", looks, z, COLOURS[1], marker=0),
        Series(f"allowed: {100 * alpha:g} %", (10, looks[-1]), (alpha, alpha), FAINT, line="dashed", marker=0),
        Series("error test of the judge", looks, ours, COLOURS[0], marker=0),
    ]
    return plot("False rollbacks through a ramp and a daily swing", x, y, series, (110, 80))


def _by_share(data: Mapping[str, Any], shares: tuple[float, ...], key: str) -> list[tuple[list[float], list[float]]]:
    rows = list(zip(data["share"], data["ratio"], data[key], strict=True))
    return [([r for s, r, _ in rows if s == share], [v for s, _, v in rows if s == share]) for share in shares]


def _dodged(ratios: list[float], place: int) -> list[float]:
    # Whiskers of three series beside each other, not on each other.
    return [r * (1 + 0.025 * (place - 1)) for r in ratios]


def requests_to_rollback(data: Mapping[str, Any]) -> str:
    """Median requests until rollback by error ratio, one line a share, the reference as hollow points."""
    shares = tuple(dict.fromkeys(data["share"]))
    y = Axis("requests of both arms (median, whisker to p90)", 1e3, 1e6, [(1e3, "1k"), (1e4, "10k"), (1e5, "100k"), (1e6, "1M")])
    ours, high, reference = (_by_share(data, shares, key) for key in ("requests", "requests_p90", "reference"))
    series = [
        Series(f"{100 * share:g} % of traffic", _dodged(x, i), values, colour, high[i][1])
        for i, (share, (x, values), colour) in enumerate(zip(shares, ours, COLOURS, strict=True))
    ]
    series += [
        Series("reference" if i == 0 else "", _dodged(x, i), values, FAINT, line="", marker=6.5, is_open=True)
        for i, (x, values) in enumerate(reference)
    ]
    title = "Requests until an erring candidate is rolled back (error rate 0.1 %)"
    return plot(title, RATIOS, y, [*series[len(shares) :], *series[: len(shares)]], (556, 76))


def blast_radius(data: Mapping[str, Any]) -> str:
    """The candidate's errors that clients saw before the rollback."""
    shares = tuple(dict.fromkeys(data["share"]))
    y = Axis("errors served (median, whisker to p90)", 3, 150, [(3, "3"), (5, "5"), (10, "10"), (20, "20"), (50, "50"), (100, "100")])
    ours, high = (_by_share(data, shares, key) for key in ("bad", "bad_p90"))
    series = [
        Series(f"{100 * share:g} % of traffic", _dodged(x, i), values, colour, high[i][1])
        for i, (share, (x, values), colour) in enumerate(zip(shares, ours, COLOURS, strict=True))
    ]
    return plot("Bad answers that the candidate served before the abort", RATIOS, y, series, (556, 76))


__all__ = ["blast_radius", "false_alarms", "requests_to_rollback"]
