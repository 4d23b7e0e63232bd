"""The picture of the page."""

from collections.abc import Mapping
from typing import Any

from loadtests.judge.svg import COLOURS, FAINT, INK, Axis, Series, plot


def car_loans(data: Mapping[str, Any]) -> str:
    """Estimated and realised ROC AUC by chunk, with the band and the published estimates."""
    chunks = list(range(len(data["estimated"])))
    x = Axis("chunk of 5,000 rows; the inputs change at 5", -0.5, 9.5, [(i, str(i)) for i in chunks], is_linear=True)
    ticks = [(0.955 + 0.005 * i, f"{0.955 + 0.005 * i:.3f}") for i in range(6)]
    y = Axis("ROC AUC", 0.953, 0.982, ticks, is_linear=True)
    low, high = data["band"]
    series = [
        Series("alert band", (-0.5, 9.5), (low, low), FAINT, line="dashed", marker=0),
        Series("", (-0.5, 9.5), (high, high), FAINT, line="dashed", marker=0),
        Series("realised, by labels that come later", chunks, data["realised"], COLOURS[1]),
        Series("estimated, as published", chunks, data["published"], INK, line="", marker=7, is_open=True),
        Series("estimated without labels", chunks, data["estimated"], COLOURS[0]),
    ]
    return plot("Car loans: performance without labels", x, y, series, (100, 296))


__all__ = ["car_loans"]
