"""Line plots as SVG text: small, diffable, no library. Data in, one string out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 56, 58
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito: told apart by colour-blind readers
INK, FAINT, GRID = "#222", "#666", "#e4e4e4"
FONT = "font-family='system-ui,Segoe UI,Helvetica,Arial,sans-serif'"


@dataclass(frozen=True, slots=True)
class Series:
    """x, y: data. high: upper ends of whiskers. is_open: hollow markers; line: "solid", "dashed" or "" for none; marker: radius, 0 for
    none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    high: Sequence[float] = ()
    line: str = "solid"
    marker: float = 4
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """low, high: range; ticks: (value, label). Logarithmic unless is_linear."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_linear: bool = False

    def place(self, value: float) -> float:
        """Position in [0, 1], clipped."""
        if self.is_linear:
            at = (value - self.low) / (self.high - self.low)
        else:
            at = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return min(max(at, 0.0), 1.0)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, said: str, *, size: int = 13, anchor: str = "middle", colour: str = INK, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{colour}'{more}>{escape(said)}</text>"


def _frame(title: str, x: Axis, y: Axis) -> list[str]:
    parts = [_text(LEFT, 28, title, size=16, anchor="start", more=" font-weight='600'")]
    for value, label in y.ticks:
        at = _y(y, value)
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at:.1f}' y2='{at:.1f}' stroke='{GRID}'/>")
        parts.append(_text(LEFT - 8, at + 4, label, size=12, anchor="end", colour=FAINT))
    for value, label in x.ticks:
        at = _x(x, value)
        parts.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{HEIGHT - BOTTOM}' y2='{HEIGHT - BOTTOM + 5}' stroke='{FAINT}'/>")
        parts.append(_text(at, HEIGHT - BOTTOM + 20, label, size=12, colour=FAINT))
    bottom = HEIGHT - BOTTOM
    parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{bottom}' y2='{bottom}' stroke='{FAINT}'/>")
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(_text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 14, x.title))
    parts.append(_text(20, middle, y.title, more=f" transform='rotate(-90 20 {middle:.0f})'"))
    return parts


def _draw(series: Series, x: Axis, y: Axis) -> list[str]:
    points = [(_x(x, a), _y(y, b)) for a, b in zip(series.x, series.y, strict=True) if math.isfinite(b)]
    parts = []
    for (at, top), high in zip(points, series.high, strict=False):
        end = _y(y, high)
        whisker = f"M{at:.1f},{top:.1f}V{end:.1f}M{at - 4:.1f},{end:.1f}h8"
        parts.append(f"<path d='{whisker}' stroke='{series.colour}' stroke-width='1.4' fill='none'/>")
    if series.line:
        dash = " stroke-dasharray='6 5'" if series.line == "dashed" else ""
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{series.colour}' stroke-width='2'{dash}/>")
    if series.marker:
        parts += [_marker(a, b, series) for a, b in points]
    return parts


def _marker(x: float, y: float, series: Series) -> str:
    fill = "#fff" if series.is_open else series.colour
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{series.marker:g}' fill='{fill}' stroke='{series.colour}' stroke-width='1.6'/>"


def _legend(series: Sequence[Series], x: float, y: float) -> list[str]:
    parts = []
    for i, one in enumerate(series):
        at = y + 20 * i
        if one.line:
            dash = " stroke-dasharray='6 5'" if one.line == "dashed" else ""
            parts.append(f"<line x1='{x}' x2='{x + 26}' y1='{at}' y2='{at}' stroke='{one.colour}' stroke-width='2'{dash}/>")
        if one.marker:
            parts.append(_marker(x + 13, at, one))
        parts.append(_text(x + 34, at + 4, one.name, size=12, anchor="start"))
    return parts


def plot(title: str, x: Axis, y: Axis, series: Sequence[Series], legend_at: tuple[float, float]) -> str:
    """The drawing. legend_at: of its upper left corner, in pixels of the 720 x 440 picture; series without a name are not in it."""
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' {FONT} role='img'>",
        f"<title>{escape(title)}</title>",
        "<rect width='100%' height='100%' fill='#fff'/>",
        *_frame(title, x, y),
    ]
    for one in series:
        parts += _draw(one, x, y)
    parts += _legend([one for one in series if one.name], *legend_at)
    return "\n".join([*parts, "</svg>", ""])


__all__ = ["COLOURS", "FAINT", "INK", "Axis", "Series", "plot"]
