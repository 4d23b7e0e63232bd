"""Marks and scales of the plots. All sizes are in user units of an SVG that the page scales; colours are classes of page.html."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

NS = 1_000_000_000
# Between two labels of the time axis, in seconds.
_STEPS_S = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to user units, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        width = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / width if width else 0.5)


def mark(name: str, content: str = "", /, **attributes: object) -> str:
    """An element. Attributes: `_` for `-`, a trailing one is left out (class_); numbers to a tenth; content is markup already."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value is not None)
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def text(x: float, y: float, said: object, **attributes: object) -> str:
    """A line of text."""
    return mark("text", escape(str(said)), x=x, y=y, **attributes)


def tip(said: str) -> str:
    """What the browser shows of a mark that is pointed at."""
    return f"<title>{escape(said)}</title>"


def figure(width: float, height: float, content: str, label: str) -> str:
    """The SVG itself. label: for those who do not see it."""
    return (f'<svg viewBox="0 0 {_value(width)} {_value(height)}" role="img" aria-label="{escape(label)}" '
            f'preserveAspectRatio="xMidYMid meet">{content}</svg>')


def clip(left: float, top: float, right: float, bottom: float, content: str) -> str:
    """Marks in the units of the plot, of which nothing outside this box is seen (svg.clip of page.html)."""
    width, height = right - left, bottom - top
    box = " ".join(map(_value, (left, top, width, height)))
    return mark("svg", content, class_="clip", x=left, y=top, width=width, height=height, viewBox=box)


def path(points: Iterable[tuple[float, float] | None]) -> str:
    """The `d` of a line through points; None interrupts it."""
    said, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        said.append(f"{pen}{_value(point[0])} {_value(point[1])}")
        pen = "L"
    return "".join(said)


def nice_ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About n round values within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / n
    base = 10.0 ** math.floor(math.log10(raw))
    step = min((base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw), default=base * 10)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(low_ns: int, high_ns: int, n: int = 6) -> list[tuple[int, str]]:
    """Round times within [low_ns, high_ns], with their labels: the date where it begins, else the time of day, UTC."""
    span_s = max(1, (high_ns - low_ns) // NS)
    step = next((step for step in _STEPS_S if span_s / step <= n), _STEPS_S[-1]) * NS
    found = []
    last_day = ""
    for at in range(-(-low_ns // step) * step, high_ns + 1, step):
        when = datetime.fromtimestamp(at // NS, UTC)
        day = f"{when:%b %-d}"
        time = f"{when:%H:%M}" if step >= 60 * NS else f"{when:%H:%M:%S}"
        found.append((at, time if day == last_day else f"{day} {time}"))
        last_day = day
    return found


def time_axis(scale: Scale, low_ns: int, high_ns: int, top: float, bottom: float) -> str:
    """Grid lines and labels below. scale: of nanoseconds."""
    said = []
    for at, label in time_ticks(low_ns, high_ns):
        x = scale(at)
        said.append(mark("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        anchor = "start" if x < scale.start + 20 else "end" if x > scale.end - 20 else "middle"
        said.append(text(x, bottom + 16, label, class_="axis", text_anchor=anchor))
    return "".join(said)


def value_axis(scale: Scale, ticks: Sequence[float], left: float, right: float) -> str:
    """Grid lines and labels at the left."""
    said = []
    for value in ticks:
        y = scale(value)
        said.append(mark("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        said.append(text(left - 6, y + 3.5, number(value), class_="axis", text_anchor="end"))
    return "".join(said)


def number(value: float) -> str:
    """Short: 12,345; 0.913; 1.2e-07."""
    if value != value:
        return "none"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value))


__all__ = ["NS", "Scale", "clip", "figure", "mark", "nice_ticks", "number", "path", "text", "time_axis", "time_ticks", "tip", "value_axis"]
