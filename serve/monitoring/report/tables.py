"""The tables of the report."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from serve.monitoring.report.plots import KINDS, name_of
from serve.monitoring.report.svg import number

Document = Mapping[str, Any]
MAX_LINES = 200

_COLUMNS = (
    ("psi", "PSI"), ("critical", "by chance"), ("js", "JS"), ("ks", "KS"), ("wasserstein_std", "W1, in std"), ("p_adjusted", "p, adjusted"),
    ("mean", "mean"), ("reference_mean", "baseline's"),
)


def alerts_table(alerts: Sequence[Document]) -> str:
    """The newest first."""
    head = _row("th", [("alert", ""), ("about", ""), ("version, variant", ""), ("since", ""), ("state", ""), ("what", ""), ("seen by", "")])
    lines = []
    for one in sorted(alerts, key=lambda one: -one["raised_ns"])[:MAX_LINES]:
        kind = KINDS.get(one["kind"], (one["kind"], "warn"))
        state = '<span class="chip bad">stands</span>' if one["state"] == "raised" else f"cleared {_when(one['cleared'])}"
        lines.append(_row("td", [(escape(one["id"]), ""), (f'<span class="{kind[1]}">{escape(kind[0])}</span>', ""),
                                 (escape(name_of(one)), ""), (_when(one["since"]), ""), (state, ""),
                                 (escape(str(one["evidence"].get("said", ""))), "wrap"), (escape(one["acknowledged_by"]), "")]))
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def features_table(window: Document | None) -> str:
    """Every feature of the newest window, folded away."""
    if not window or not window["features"]:
        return ""
    found = {**window["features"], **window["predictions"]}
    return f"<details><summary>the newest window in numbers</summary>{compared_table(found)}</details>"


def compared_table(compared: Mapping[str, Document]) -> str:
    """Features with their distances, the largest first."""
    found = sorted(compared.items(), key=lambda item: -item[1]["psi"])[:MAX_LINES]
    columns = [(key, said) for key, said in _COLUMNS if any(one.get(key) is not None for _, one in found)]
    head = _row("th", [("feature", ""), *((said, "n") for _, said in columns), ("values", "n"), ("", "")])
    lines = []
    for name, one in found:
        verdict = '<span class="bad">drift</span>' if one["drifted"] else ""
        cells = [(number(one[key]) if one.get(key) is not None else "", "n") for key, _ in columns]
        lines.append(_row("td", [(escape(name), ""), *cells, (f"{one.get('n', 0):,}", "n"), (verdict, "")]))
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def embeddings_table(window: Document) -> str:
    """Embeddings of the newest window."""
    numbers = ("effect", "mmd2", "critical")
    head = _row("th", [("embedding", ""), *((said, "n") for said in ("share of the variance", "MMD²", "by chance", "vectors")), ("", "")])
    lines = [_row("td", [
        (escape(name), ""), *((number(one[key]), "n") for key in numbers), (f"{one['n']:,}", "n"),
        ('<span class="bad">drift</span>' if one["drifted"] else "", ""),
    ]) for name, one in window["embeddings"].items()]
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def violations_table(violations: Sequence[Document]) -> str:
    """The most first, with bars."""
    found = sorted(violations, key=lambda one: -one["count"])[:MAX_LINES]
    highest = max(one["count"] for one in found)
    head = _row("th", [("version", ""), ("feature", ""), ("kind", ""), ("values", "n"), ("", "")])
    lines = [_row("td", [
        (escape(one["version"]), ""), (escape(one["feature"]), ""), (escape(one["kind"].replace("_", " ")), ""), (f"{one['count']:,}", "n"),
        (f'<i style="width:{max(1.0, 100 * one["count"] / highest):.0f}%"></i>', "bar"),
    ]) for one in found]
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _row(tag: str, cells: Sequence[tuple[str, str]]) -> str:
    said = [f'<{tag} class="{css}">{content}</{tag}>' if css else f"<{tag}>{content}</{tag}>" for content, css in cells]
    return f"<tr>{''.join(said)}</tr>"


def _when(time: str) -> str:
    return escape(time[5:16].replace("T", " "))


__all__ = ["alerts_table", "compared_table", "embeddings_table", "features_table", "violations_table"]
