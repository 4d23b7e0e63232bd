"""Traffic and labels, drawn. Functions of the admin API's documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve.commands.shares import percent

Document = Mapping[str, Any]

_STATES = {"in_force": "in force", "loading": "loading versions for another plan", "failed": "the last plan failed"}


def traffic_picture(document: Document, counters: Sequence[Document] = ()) -> RenderableType:
    """The plan, and under it what was counted in its generation."""
    state = _STATES.get(document["state"], document["state"])
    head = Text(f"{document['model']}  generation {document['generation']}, {'no plan' if document['implied'] else state}", "bold")
    if document.get("owner"):
        head.append(f"  owned by {document['owner'].replace(':', ' ')}", "yellow")
    parts: list[RenderableType] = [head]
    if document["reason"]:
        parts.append(Text(document["reason"], "red"))
    plan = document["plan"]
    if plan is None:
        parts.append(Text("nothing serves"))
    else:
        parts += [_variants(plan, arms_of(counters, document["generation"])), _rest(plan, document["labels"])]
    return Group(*parts)


def labels_picture(document: Document) -> RenderableType:
    """A line for each label."""
    table = plain_table("label", "version")
    for label, version in sorted(document["labels"].items()):
        table.add_row(Text(label), Text(version))
    return Group(Text(f"{document['model']}  generation {document['generation']}", "bold"), table)


def arms_of(counters: Sequence[Document], generation: int) -> dict[str, Document]:
    """Variant to what it has counted under the generation."""
    return {arm["name"]: arm for reading in counters if reading["generation"] == generation for arm in reading["arms"]}


def observed_shares(arms: Mapping[str, Document], drawn: Sequence[str]) -> dict[str, float]:
    """Shares in [0, 1] of the requests that were drawn; nothing before the first."""
    total = sum(arms[name]["assigned"] for name in drawn if name in arms)
    return {name: arms[name]["assigned"] / total for name in drawn if name in arms} if total else {}


def _variants(plan: Document, arms: Mapping[str, Document]) -> Table:
    table = plain_table("variant", "version", "set", "observed", "requests", "errors")
    names = [variant.get("name") or variant["version"] for variant in plan["variants"]]
    observed = observed_shares(arms, names)
    for name, variant in zip(names, plan["variants"], strict=True):
        arm = arms.get(name)
        share = f"{100 * observed[name]:.2f} %" if name in observed else ""
        table.add_row(Text(name), Text(variant["version"]), percent(variant["weight"]), share, *_counted(arm))
    for name, arm in arms.items():
        if name not in names and arm["assigned"]:
            table.add_row(Text(name, "dim"), Text(arm["version"], "dim"), "", "", *_counted(arm))
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _counted(arm: Document | None) -> tuple[str, str]:
    return (f"{arm['assigned']:,}", f"{arm['errors']:,}") if arm else ("", "")


def _rest(plan: Document, labels: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    if sticky := plan.get("sticky"):
        table.add_row("sticky", Text(source(sticky)))
    for override in plan.get("overrides", ()):
        table.add_row("override", Text(f"{source(override)} = {override['value']}: version {override['version']}"))
    if segment := plan.get("segment"):
        table.add_row("segment", Text(f"{source(segment)} in {', '.join(segment['values'])}"))
    for name in ("coverage", "holdout"):
        if name in plan:
            table.add_row(name, percent(plan[name]))
    for shadow in plan.get("shadows", ()):
        table.add_row("shadow", Text(f"version {shadow['version']}, {percent(shadow['sample'])} of the requests"))
    if labels:
        table.add_row("labels", Text(", ".join(f"{label}={version}" for label, version in sorted(labels.items()))))
    return table


def source(document: Document) -> str:
    """Header x-user-id, or parameter user."""
    return f"header {document['header']}" if document.get("header") else f"parameter {document['parameter']}"


def plain_table(*columns: str) -> Table:
    """Columns without lines between them."""
    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
