"""Audit rows, drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from serve.commands.traffic_view import plain_table


def audit_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each: number, time, what, about what, who, why."""
    table = plain_table("row", "time", "what", "about", "who", "why")
    table.columns[0].justify = "right"
    for row in rows:
        data = row.get("data") or {}
        cells = (row["type"].removeprefix("dev.headrace."), row.get("subject", ""), data.get("actor", ""), data.get("reason", ""))
        table.add_row(str(int(row["sequence"])), str(row["time"])[:19].replace("T", " "), *(Text(str(cell)) for cell in cells))
    return table
