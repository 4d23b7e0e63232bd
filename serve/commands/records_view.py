"""Recorded rows, drawn: as tables for people, as CSV and JSON Lines for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from serve.commands.traffic_view import plain_table
from serve.recording.values import cell, csv_writer, plain_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from serve.recording.verify import Verification

MAX_TABLE_ROWS = 1000
_MAX_TEXT = 60
_WIDE = 100_000
_SHOWN_VALUES = 4
_GAPS_SHOWN = 5


def print_batches(
    names: Sequence[str], batches: "Iterable[pa.RecordBatch]", form: str, console: Console, limit: int | None = MAX_TABLE_ROWS,
) -> bool:
    """form: table, csv or json. False: a table leaves out rows after the first `limit`."""
    if form == "table":
        return write_table(names, batches, console, limit)
    (write_csv if form == "csv" else write_json)(names, batches)
    return True


def write_csv(names: Sequence[str], batches: "Iterable[pa.RecordBatch]", *, with_head: bool = True) -> None:
    """RFC 4180 but for its line ends, with the names as first record."""
    writer = csv_writer(sys.stdout)
    if with_head:
        writer.writerow(names)
    for batch in batches:
        writer.writerows([cell(value) for value in row] for row in plain_rows(batch))


def write_json(names: Sequence[str], batches: "Iterable[pa.RecordBatch]") -> None:
    """An object a line."""
    for batch in batches:
        for row in plain_rows(batch):
            print(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False))


def write_table(names: Sequence[str], batches: "Iterable[pa.RecordBatch]", console: Console, limit: int | None) -> bool:
    """A table, or on a terminal that is too narrow for it a line for each value. False: there are more than `limit` rows."""
    rows = list(islice((row for batch in batches for row in plain_rows(batch)), None if limit is None else limit + 1))
    shown = rows[:limit]
    table = rows_table(names, shown)
    needed = Measurement.get(console, console.options.update(max_width=_WIDE), table).maximum
    if console.is_terminal and needed > console.width:
        console.print(_upright(names, shown))
    else:
        console.print(table, width=max(needed, 1))
    return len(rows) == len(shown)


def rows_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Numbers to the right, lists and long texts shortened."""
    table = plain_table(*names)
    for row in rows:
        for column, value in zip(table.columns, row, strict=True):
            if isinstance(value, int | float):
                column.justify = "right"
        table.add_row(*(Text(short(value), no_wrap=True) for value in row))
    return table


def short(value: Any) -> str:
    """A plain value in few letters: [0, 0.1, 0.2, … 64 values]."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if len(value) <= _SHOWN_VALUES:
            return f"[{', '.join(map(short, value))}]"
        return f"[{', '.join(map(short, value[:_SHOWN_VALUES - 1]))}, … {len(value)} values]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {short(one)}' for key, one in value.items())}}}"
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT - 1]}…"


def _tail_line(row: Mapping[str, Any]) -> Text:
    """One row of `records` or `records_<model>` as a line of a log. row: plain values."""
    is_bad = row["status"] >= 400
    line = Text.assemble(
        (f"{row['ts'].replace('T', ' '):<26.26}  ", "dim"), (f"{row['model']}/{row['version']}", "bold"), f"  {row['variant']}  ",
        (str(row["status"]), "red" if is_bad else "green"), f"  {_duration(row['total_us'])}  ", (f"{row['request_id']}", "dim"))
    if row["row"] > 0:
        line.append(f"#{row['row']}", "dim")
    if row["error_codes"]:
        line.append(f"  {' '.join(row['error_codes'])}", "red")
    for name, value in row.items():
        if name.startswith(("in_", "out_")) and value is not None:
            line.append(f"  {name}=", "dim").append(short(value))
    return line


def _duration(us: int) -> str:
    return f"{us / 1000:,.1f} ms" if us >= 1000 else f"{us} us"


def tail_lines(rows: "pa.Table") -> list[Text]:
    """A line for each."""
    return [_tail_line(dict(zip(rows.schema.names, row, strict=True))) for batch in rows.to_batches() for row in plain_rows(batch)]


def accounts_of(found: "Verification") -> list[dict[str, Any]]:
    """A flat row for each epoch."""
    return [{
        "replica": one.replica, "epoch": one.epoch, "state": one.state, "assigned": one.assigned, "found": one.found.rows,
        "dropped": sum(one.dropped.values()), "lost": one.lost, "torn": one.torn, "bad": one.bad, "purged": one.purged,
        "missing": one.missing, "under_way": one.under_way,
        "twice": one.found.twice, "unexplained": one.unexplained, "gaps": one.found.n_gaps,
    } for one in found.accounts]


def verification_json(found: "Verification") -> str:
    """The whole report."""
    return json.dumps({"is_intact": found.is_intact, **asdict(found)}, ensure_ascii=False)


def verification_picture(found: "Verification") -> RenderableType:
    """A line for each epoch, gaps below, then the verdict."""
    table = plain_table("replica", "epoch", "", "numbered", "found", "dropped", "lost", "torn", "bad", "purged", "missing", "under way")
    for column in table.columns[3:]:
        column.justify = "right"
    gaps = []
    for account in found.accounts:
        numbered = "?" if account.assigned is None else f"{account.assigned:,}"
        counts = (account.found.rows, sum(account.dropped.values()), account.lost, account.torn, account.bad, account.purged,
                  account.missing, account.under_way)
        table.add_row(Text(account.replica), str(account.epoch), Text(account.state, "dim"), numbered, *(f"{count:,}" for count in counts))
        if account.found.gaps:
            shown = ", ".join(f"{first}-{last}" if first < last else str(first) for first, last in account.found.gaps[:_GAPS_SHOWN])
            more = f", … {account.found.n_gaps} gaps" if account.found.n_gaps > _GAPS_SHOWN else ""
            gaps.append(Text(f"not found of {account.replica}, epoch {account.epoch}: {shown}{more}", "dim"))
    verdict = Text(f"{found.n_files:,} files, {found.n_bytes:,} bytes, {len(found.journals):,} journals: ")
    unknown = sum(account.state == "unknown" for account in found.accounts)
    if found.faults:
        verdict.append(f"{len(found.faults)} faults", "red")
    elif unknown:
        verdict.append(f"no faults, but the counters of {unknown} epochs are not on this machine", "yellow")
    elif found.is_empty:
        verdict.append("nothing is recorded", "yellow")
    else:
        verdict.append("everything is there", "green")
    return Group(table, *gaps, verdict, *(Text(f"  {fault}", "red") for fault in found.faults))


def _upright(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> RenderableType:
    parts: list[RenderableType] = []
    for number, row in enumerate(rows, 1):
        grid = Table.grid(padding=(0, 2))
        for name, value in zip(names, row, strict=True):
            grid.add_row(Text(name, "dim"), Text(short(value)))
        parts += [Text(f"row {number}", "bold"), grid]
    return Group(*parts)
