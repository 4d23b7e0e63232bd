"""A page of results, STEM.md beside STEM.json: each case puts its tables in as soon as it is done, and leaves those of others alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.bench.report import circumstances as machine_facts
from loadtests.judge.report import table_page
from loadtests.judge.tables import Bound, Table

Section = dict[str, Any]

def circumstances(server_cores: str, client_cores: str, is_quick: bool) -> dict[str, str]:
    """What a reader needs to judge the figures of one case."""
    facts = machine_facts(0, 0, server_cores, client_cores)
    facts.pop("runs")
    return {**facts, "scale": "quick" if is_quick else "full"}


def as_section(facts: Mapping[str, str], tables: Sequence[Table], seconds: float) -> Section:
    """A case's part of the JSON file."""
    return {
        "facts": {**facts, "took": f"{seconds:.0f} s"},
        "tables": [{**asdict(table), "bounds": [{**asdict(b), "is_met": b.is_met} for b in table.bounds]} for table in tables],
    }


def read_table(document: Mapping[str, Any]) -> Table:
    """A table from the JSON file."""
    bounds = [Bound(b["name"], b["value"], b["least"], b["most"]) for b in document["bounds"]]
    return Table(**{**document, "bounds": bounds})


def page(head: Sequence[str], sections: Mapping[str, Section], order: Sequence[str]) -> str:
    """The whole page under its head; cases that were never run are named as such."""
    tables = {name: [read_table(table) for table in sections[name]["tables"]] for name in order if name in sections}
    bounds = [bound for found in tables.values() for table in found for bound in table.bounds]
    missed = [bound.name for bound in bounds if not bound.is_met]
    absent = [name for name in order if name not in sections]
    lines = [*head, ""]
    lines += [f"{len(bounds) - len(missed)} of {len(bounds)} bounds are met{'' if not missed else '; missed: ' + '; '.join(missed)}.", ""]
    lines += [f"Not run yet: {', '.join(absent)}.", ""] if absent else []
    for name, found in tables.items():
        for table in found:
            lines += table_page(table)
        facts = sections[name]["facts"]
        lines += [f"<sub>{'; '.join(f'{key}: {value}' for key, value in facts.items())}</sub>", ""]
    return "\n".join(lines).rstrip() + "\n"


def merge(folder: Path, stem: str, head: Sequence[str], name: str, section: Section, order: Sequence[str]) -> Path:
    """Put one case's section into STEM.json and write STEM.md anew; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}.json"
    sections: dict[str, Section] = json.loads(file.read_text())["cases"] if file.exists() else {}
    sections[name] = json.loads(json.dumps(section, default=float))
    ordered = {key: sections[key] for key in order if key in sections}
    file.write_text(json.dumps({"cases": ordered}, indent=1) + "\n")
    path = folder / f"{stem}.md"
    path.write_text(page(head, ordered, order))
    return path


__all__ = ["as_section", "circumstances", "merge", "page", "read_table"]
