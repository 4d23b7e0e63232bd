"""Plots of drift: the heat map of features over windows, and a feature's values now beside those of its baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.monitoring.report.plots import LEFT, WIDTH, Period
from serve.monitoring.report.svg import Scale, figure, mark, number, text, time_axis, tip

Document = Mapping[str, Any]

MIN_ROWS, MAX_ROWS = 8, 40
MAX_CELLS = 144
# Multiples of the PSI that counts as drift, where the colour changes: cool below it, warm above.
_STEPS = (0.2, 0.5, 1.0, 2.0, 5.0)


def heat_class(psi: float, min_psi: float) -> str:
    """h0 to h5."""
    # The least bit below is not below.
    return f"h{sum(psi >= step * min_psi * (1 - 1e-9) for step in _STEPS)}"


def heat_legend(min_psi: float) -> list[tuple[str, str]]:
    """(class, what it stands for)."""
    edges = [number(step * min_psi) for step in _STEPS]
    return [("h0", f"< {edges[0]}"), *((f"h{i}", f"{edges[i - 1]} to {edges[i]}") for i in range(1, 5)), ("h5", f"≥ {edges[-1]}")]


def heat_map(period: Period, windows: Sequence[Document], min_psi: float) -> str:
    """Features by windows of one version, the worst features first. A dot: it is drift, by size and by test."""
    columns = _columns(windows)
    worst: dict[str, float] = {}
    for column in columns:
        for feature, (psi, _) in column[2].items():
            worst[feature] = max(worst.get(feature, 0.0), psi)
    names = sorted(worst, key=lambda name: (-worst[name], name))[:MAX_ROWS]
    # Beyond a few, those where nothing was ever to be seen say nothing.
    names = names[:MIN_ROWS] + [name for name in names[MIN_ROWS:] if worst[name] >= _STEPS[0] * min_psi]
    row, top = (22.0 if len(names) <= 12 else 15.0), 4.0
    bottom = top + row * len(names)
    x = period.scale()
    parts = [time_axis(x, period.start_ns, period.end_ns, top, bottom)]
    for index, name in enumerate(names):
        y = top + index * row
        parts.append(text(LEFT - 8, y + row / 2 + 3.5, _short(name), class_="feature", text_anchor="end"))
        for start, end, found in columns:
            if name not in found:
                continue
            psi, is_drift = found[name]
            a, b = x(start), x(end)
            gap = min(1.0, (b - a) * 0.1)
            said = f"{name}: PSI {number(psi)}{', drift' if is_drift else ''}"
            parts.append(mark("rect", tip(said), class_=heat_class(psi, min_psi), x=a + gap / 2, y=y + 0.5, width=max(0.5, b - a - gap),
                              height=row - 1))
            if is_drift and b - a >= 5:
                parts.append(mark("circle", cx=(a + b) / 2, cy=y + row / 2, r=1.5, class_="drifted"))
    return figure(WIDTH, bottom + 24, "".join(parts), "population stability index of each feature over time")


def _columns(windows: Sequence[Document]) -> list[tuple[int, int, dict[str, tuple[float, bool]]]]:
    """At most MAX_CELLS, each the worst of the windows that it holds."""
    concluded = [one for one in windows if one["concluded"]]
    together = -(-len(concluded) // MAX_CELLS) or 1
    columns = []
    for at in range(0, len(concluded), together):
        group = concluded[at:at + together]
        found: dict[str, tuple[float, bool]] = {}
        for one in group:
            for name, drift in {**one["features"], **one["predictions"]}.items():
                before = found.get(name, (0.0, False))
                found[name] = (max(before[0], drift["psi"]), before[1] or drift["drifted"])
        columns.append((group[0]["from_ns"], group[-1]["to_ns"], found))
    return columns


def distribution_plot(one: Document, width: float = 256.0, height: float = 132.0) -> str:
    """Shares of a feature's bins or categories: the baseline as an outline, the window filled."""
    baseline, current, labels = one["baseline"], one["current"], one["labels"]
    top, bottom, left, right = 6.0, height - 20, 4.0, width - 4
    highest = max([*baseline, *current, 1e-9])
    y = Scale(0, highest * 1.04, bottom, top)
    step = (right - left) / max(1, len(baseline))
    gap = min(1.5, step * 0.15)
    parts = []
    for index, (before, now) in enumerate(zip(baseline, current, strict=True)):
        said = f"{labels[index]}: {now:.1%}, baseline {before:.1%}"
        parts.append(mark("rect", tip(said), class_="now", x=left + index * step + gap / 2, width=max(0.5, step - gap), y=y(now),
                          height=bottom - y(now)))
    outline = []
    for index, before in enumerate(baseline):
        outline.append(f"{'M' if not index else 'L'}{left + index * step:.1f} {y(before):.1f}H{left + (index + 1) * step:.1f}")
    parts.append(mark("path", d="".join(outline), class_="before"))
    parts.append(mark("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="base"))
    parts += _ends(labels, left, right, step, bottom)
    return figure(width, height, "".join(parts), f"{one['feature']}: now and in the baseline")


def _ends(labels: Sequence[str], left: float, right: float, step: float, bottom: float) -> list[str]:
    """All labels where there is room, else the first and the last."""
    if all(len(label) * 6.2 <= step for label in labels):
        middles = [left + (index + 0.5) * step for index in range(len(labels))]
        return [text(x, bottom + 14, label, class_="axis", text_anchor="middle") for x, label in zip(middles, labels, strict=True)]
    return [text(left, bottom + 14, _short(labels[0], 18), class_="axis"),
            text(right, bottom + 14, _short(labels[-1], 18), class_="axis", text_anchor="end")]


def _short(name: str, n: int = 22) -> str:
    return name if len(name) <= n else f"{name[:n - 1]}…"


__all__ = ["MAX_ROWS", "distribution_plot", "heat_legend", "heat_map"]
