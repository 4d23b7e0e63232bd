"""The page, the JSON file and the pictures."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.bench.report import ROOT, first_line
from loadtests.judge import plots
from loadtests.judge.tables import Bound, Table

# Picture -> (title of the table whose series it draws, what draws it, what it shows).
PICTURES = {
    "judge-false-rollbacks": ("False rollbacks under a ramp and a daily swing", plots.false_alarms, "rollbacks by number of errors"),
    "judge-requests": ("Requests until an erring candidate is rolled back", plots.requests_to_rollback, "requests by error ratio"),
    "judge-blast-radius": ("Bad answers served before the abort", plots.blast_radius, "bad answers served by error ratio"),
}


def circumstances(runs: int, slow_runs: int) -> dict[str, str]:
    """What a reader needs to repeat the figures."""
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line(["git", "rev-parse", "--short", "HEAD"]) + (" with changes" if changed else ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runs": f"{runs:,} a cell where not said otherwise, {slow_runs:,} where each is slow; seeds fixed",
    }


def bound_line(bound: Bound) -> str:
    """One sentence: the figure, its bounds, met or missed."""
    wanted = " and ".join(
        f"{what} {limit:g}" for what, limit in (("at least", bound.least), ("at most", bound.most)) if limit is not None
    )
    value = f"{bound.value:.3g}" if abs(bound.value) < 1000 else f"{bound.value:,.0f}"
    return f"- {bound.name}: **{value}**, {wanted}: {'met' if bound.is_met else 'MISSED'}"


def table_page(table: Table, pictures: Sequence[str] = ()) -> list[str]:
    """A section of the page."""
    lines = [f"## {table.title}", "", "| " + " | ".join(table.headers) + " |", "|---" * len(table.headers) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    lines += ["", " ".join(table.notes), ""]
    lines += [bound_line(bound) for bound in table.bounds] + [""] * bool(table.bounds)
    for name in pictures:
        lines += [f"![{PICTURES[name][2]}]({name}.svg)", ""]
    return lines


def page(facts: Mapping[str, str], tables: Sequence[Table]) -> str:
    """The whole page."""
    missed = [bound.name for table in tables for bound in table.bounds if not bound.is_met]
    total = sum(len(table.bounds) for table in tables)
    lines = [
        "# The judge, simulated",
        "",
        "Written by `make bench-judge`, which calls the functions that judge in the server.",
        "References: published figures where there are any, else those of the design, which were computed independently.",
        "",
        f"{total - len(missed)} of {total} bounds are met{'' if not missed else '; missed: ' + '; '.join(missed)}.",
        "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), "",
    ]
    for table in tables:
        lines += table_page(table, [name for name, (title, _, _) in PICTURES.items() if title == table.title])
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path, facts: Mapping[str, str], tables: Sequence[Table]) -> Path:
    """Writes judge.md, judge.json and the pictures; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "facts": dict(facts),
        "tables": [{**asdict(table), "bounds": [{**asdict(b), "is_met": b.is_met} for b in table.bounds]} for table in tables],
    }
    (folder / "judge.json").write_text(json.dumps(document, indent=1, default=float) + "\n")
    by_title = {table.title: table for table in tables}
    for name, (title, draw, _) in PICTURES.items():
        if title in by_title:
            (folder / f"{name}.svg").write_text(draw(by_title[title].series))
    path = folder / "judge.md"
    path.write_text(page(facts, tables))
    return path


__all__ = ["ROOT", "circumstances", "page", "table_page", "write"]
