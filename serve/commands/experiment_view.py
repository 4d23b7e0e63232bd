"""Experiments, drawn. Functions of the admin API's documents."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve.commands.shares import percent
from serve.commands.traffic_view import plain_table

Document = Mapping[str, Any]

_COLOURS = {"better": "green", "worse": "red"}


def experiments_table(experiments: Sequence[Document]) -> Table:
    """A line for each."""
    table = plain_table("experiment", "model", "phase", "read-out")
    for one in experiments:
        table.add_row(one["id"], Text(one["model"]), one["phase"], Text(_sentence(one)))
    return table


def experiment_picture(document: Document) -> RenderableType:
    """Variants, comparisons and the sample ratio."""
    read_out = document["read_out"]
    head = Text.assemble((f"{document['id']}  {document['model']}  ", "bold"), document["phase"], f"  {document['elapsed_s']:,.0f} s",
                         f"  by {read_out['primary']}, alpha {read_out['alpha']:g}")
    parts: list[RenderableType] = [head, _variants(read_out)]
    parts += [Text(one["sentence"], _COLOURS.get(one["verdict"], "")) for one in read_out["comparisons"]]
    parts += [Text(one["sentence"], "dim") for found in read_out["secondary"].values() for one in found]
    parts.append(Text(read_out["sample_ratio"]["sentence"], "bold red" if read_out["sample_ratio"]["is_mismatch"] else "dim"))
    if document.get("why"):
        parts.append(Text(document["why"], "yellow"))
    return Group(*parts)


def _variants(read_out: Document) -> Table:
    metrics = list(read_out["variants"][0]["metrics"])
    table = plain_table("variant", "version", "weight", "assigned", *metrics)
    for column in table.columns[2:]:
        column.justify = "right"
    for variant in read_out["variants"]:
        is_control = variant["name"] == read_out["control"]
        cells = [_counts(variant["metrics"][name]) for name in metrics]
        table.add_row(Text(f"{variant['name']} (control)" if is_control else variant["name"]), variant["version"],
                      percent(variant["weight"]), f"{variant['assigned']:,}", *cells)
    return table


def _counts(metric: Document) -> str:
    rate = "" if metric["rate"] is None else f" ({100 * metric['rate']:.3g} %)"
    return f"{metric['hits']:,} of {metric['n']:,}{rate}"


def _sentence(document: Document) -> str:
    return str(document.get("read_out", {}).get("sentence", ""))
