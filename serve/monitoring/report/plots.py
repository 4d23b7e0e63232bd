"""Plots over time: performance, traffic, alerts. Functions of the monitoring document's parts, each an SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.monitoring.report.svg import Scale, clip, figure, mark, nice_ticks, number, path, text, time_axis, tip, value_axis

Document = Mapping[str, Any]
WIDTH = 1080.0
# Fewer labels than this say little: the window's truth is drawn faintly, and no line leads to it.
FEW_LABELS = 100
# Of every plot over time: so one time is one place all down the page. Names of features fit in.
LEFT, RIGHT = 138.0, 10.0
# Around the lines of a plot, so that dots at its edge are seen whole.
_MARGIN = 5.0

# kind -> what the lane is called, and its class of colour.
KINDS = {
    "drift": ("inputs", "warn"), "prediction_drift": ("predictions", "warn"), "embedding_drift": ("embeddings", "warn"),
    "canary_drift": ("against stable", "warn"), "concept_drift": ("concept", "bad"), "estimated_performance": ("estimated", "bad"),
    "realised_performance": ("realised", "bad"), "data_invalid": ("data", "info"),
}


@dataclass(frozen=True, slots=True)
class Period:
    """Of the report, nanoseconds since the epoch."""

    start_ns: int
    end_ns: int

    def scale(self) -> Scale:
        return Scale(self.start_ns, self.end_ns, LEFT, WIDTH - RIGHT)


def performance_plot(
    period: Period, metric: str, estimated: Sequence[Document], realised: Sequence[Document], height: float = 220.0,
) -> str:
    """One metric of one version. estimated, realised: the windows that have it. The band is the newest one's.

    A truth of few labels does not stretch the axis: it is seen where it is within it.
    """
    top, bottom = 12.0, height - 28
    found = [(one["from_ns"], one["to_ns"], one["estimated"][metric]) for one in estimated]
    true = [(one["from_ns"], one["to_ns"], one["metrics"][metric], one["labelled"]) for one in realised]
    band = next((one["bands"][metric] for one in reversed([*realised, *estimated]) if metric in one.get("bands", {})), None)
    values = [one[2] for one in (*found, *(one for one in true if one[3] >= FEW_LABELS))] + list(band or ()) or [one[2] for one in true]
    room = (max(values) - min(values)) * 0.12 or 0.05
    x, y = period.scale(), Scale(min(values) - room, max(values) + room, bottom, top)
    parts = [value_axis(y, nice_ticks(y.low, y.high), x.start, x.end), time_axis(x, period.start_ns, period.end_ns, top, bottom)]
    if band is not None:
        parts.insert(0, mark("rect", tip(f"as good as the baseline: {number(band[0])} to {number(band[1])}"), class_="band", x=x.start,
                             width=x.end - x.start, y=y(band[1]), height=y(band[0]) - y(band[1])))
        parts.append(mark("line", class_="limit", x1=x.start, x2=x.end, y1=y(band[0]), y2=y(band[0])))
    lines = [mark("path", d=path(_stepped(found, x, y)), class_="line estimated")]
    for at, end, value in found:
        said = f"estimated {metric} {number(value)}"
        lines.append(mark("circle", tip(said), cx=x((at + end) / 2), cy=y(value), r=2.6, class_="dot estimated"))
    lines += _realised_marks(metric, true, x, y)
    parts.append(clip(x.start - _MARGIN, top - _MARGIN, x.end + _MARGIN, bottom + _MARGIN, "".join(lines)))
    return figure(WIDTH, height, "".join(parts), f"{metric}, estimated and realised, over time")


def _realised_marks(metric: str, true: Sequence[tuple[int, int, float, int]], x: Scale, y: Scale) -> list[str]:
    """true: (from_ns, to_ns, value, labelled) of each window."""
    lines = [mark("path", d=path(_stepped([one[:3] for one in true if one[3] >= FEW_LABELS], x, y)), class_="line realised")]
    for at, end, value, labelled in true:
        said = f"realised {metric} {number(value)} over {labelled:,} labels"
        css = "dot realised" if labelled >= FEW_LABELS else "dot realised few"
        lines.append(mark("circle", tip(said), cx=x((at + end) / 2), cy=y(value), r=3.4, class_=css))
    return lines


def _stepped(windows: Sequence[tuple[int, int, float]], x: Scale, y: Scale) -> list[tuple[float, float] | None]:
    """Their middles, interrupted where windows are missing."""
    points: list[tuple[float, float] | None] = []
    last_end = None
    for at, end, value in windows:
        if last_end is not None and at > last_end + (end - at):
            points.append(None)
        points.append((x((at + end) / 2), y(value)))
        last_end = end
    return points


def traffic_plot(period: Period, windows: Sequence[Document], height: float = 150.0) -> str:
    """Rows of each window, stacked by version and variant."""
    top, bottom = 8.0, height - 26
    names = series_names(windows)
    stacks: dict[tuple[int, int], dict[str, int]] = {}
    for one in windows:
        stacks.setdefault((one["from_ns"], one["to_ns"]), {})[name_of(one)] = one["rows"]
    highest = max((sum(stack.values()) for stack in stacks.values()), default=1) or 1
    x, y = period.scale(), Scale(0, highest * 1.05, bottom, top)
    parts = [value_axis(y, nice_ticks(0, highest * 1.05, 3), x.start, x.end), time_axis(x, period.start_ns, period.end_ns, top, bottom)]
    for (start, end), stack in sorted(stacks.items()):
        total = 0
        for index, name in enumerate(names):
            if not (rows := stack.get(name, 0)):
                continue
            left, right = x(start), x(end)
            gap = min(1.0, (right - left) * 0.1)
            parts.append(mark("rect", tip(f"{name}: {rows:,} rows"), class_=f"series{index % 6}", x=left + gap / 2,
                              width=max(0.6, right - left - gap), y=y(total + rows), height=y(total) - y(total + rows)))
            total += rows
    return figure(WIDTH, height, "".join(parts), "rows of each window by version")


def alerts_plot(period: Period, alerts: Sequence[Document]) -> str:
    """A lane for each kind that had an alert: from its first bad window to when it was cleared."""
    kinds = [kind for kind in KINDS if any(one["kind"] == kind for one in alerts)]
    top, lane = 6.0, 26.0
    bottom = top + lane * len(kinds)
    x = period.scale()
    parts = [time_axis(x, period.start_ns, period.end_ns, top, bottom)]
    for index, kind in enumerate(kinds):
        middle = top + lane * (index + 0.5)
        parts.append(text(LEFT - 10, middle + 4, KINDS[kind][0], class_="lane", text_anchor="end"))
        for one in (one for one in alerts if one["kind"] == kind):
            start = x(max(one["since_ns"], period.start_ns))
            end = x(min(one["cleared_ns"] or period.end_ns, period.end_ns))
            state = "stands" if not one["cleared_ns"] else f"cleared {one['cleared'][:16]}"
            said = f"{one['id']}, version {name_of(one)}: since {one['since'][:16]}, {state}"
            parts.append(mark("rect", tip(said), class_=f"alert {KINDS[kind][1]}", x=start, width=max(3.0, end - start), y=middle - 7,
                              height=14, rx=4))
            raised = x(min(max(one["raised_ns"], period.start_ns), period.end_ns))
            parts.append(mark("line", class_="raised", x1=raised, x2=raised, y1=middle - 10, y2=middle + 10))
    return figure(WIDTH, bottom + 24, "".join(parts), "alerts over time")


def name_of(one: Document) -> str:
    """Of a version as a variant: "1 stable", "1" where it has no variant or one of its own name."""
    return f"{one['version']} {one['variant']}" if one["variant"] not in ("", one["version"]) else str(one["version"])


def series_names(windows: Sequence[Document]) -> list[str]:
    """Each once, in the order that gives them their colours."""
    return sorted({name_of(one) for one in windows})


__all__ = ["FEW_LABELS", "KINDS", "LEFT", "WIDTH", "Period", "alerts_plot", "name_of", "performance_plot", "series_names", "traffic_plot"]
