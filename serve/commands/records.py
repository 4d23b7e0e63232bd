"""`headrace records`: what was recorded, for people and programs. Needs no server."""

import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve import clock
from serve.commands.common import Who, console, group, user
from serve.commands.records_access import (
    As,
    Form,
    Format,
    From,
    Place,
    StateDir,
    Until,
    home_of,
    opened,
    period_of,
    say,
    sink_of,
    store_at,
    time_text,
)
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

    from serve.recording.query import Records

BROKEN = 1

records = group("records", "What was recorded: rows, labels, exports, checks and holds.")


@records.command("tail")
def tail(
    place: Place,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", show_default=False, help="With its inputs and outputs.")] = None,
    n_rows: Annotated[int, typer.Option("-n", min=1, metavar="N", help="So many.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="And those that come, until Ctrl-C.")] = False,
    form: As = Format.TABLE, state_dir: StateDir = None,
) -> None:
    """The newest rows, the newest last."""
    with opened(place, state_dir) as (found, _):
        from serve.commands.records_tail import Follower, newest
        from serve.commands.records_tail import follow as go_on

        view = _rows_view(found, model)
        _print_tail(newest(found, view, n_rows), form, is_first=True)
        follower = Follower(found, view) if follow else None
    if follower is None:
        return

    def look() -> "pa.Table":
        with opened(place, state_dir, tell=False) as (now, _):
            return follower.new(now, _rows_view(now, model))

    with contextlib.suppress(KeyboardInterrupt):
        go_on(look, lambda rows: _print_tail(rows, form, is_first=False), threading.Event().wait)


@records.command("query")
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT over the views that `headrace records schema` lists.")],
    place: Place, form: As = Format.TABLE, begin: From = None, until: Until = None, state_dir: StateDir = None,
) -> None:
    """Ask in SQL (DuckDB's), over sealed and journalled rows alike."""
    with opened(place, state_dir) as (found, report):
        from serve.commands.progress import batches_of
        from serve.commands.records_view import MAX_TABLE_ROWS, print_batches

        with found.query(sql, period_of(begin, until)) as result:
            for told in filter(None, map(found.told, result.views)):
                say(told)
            if not print_batches(result.schema.names, batches_of(result, "querying", report), form.value, console()):
                say(f"these are the first {MAX_TABLE_ROWS:,} rows; --format csv and json print all of them")


@records.command("schema")
def schema(
    place: Place,
    view: Annotated[str | None, typer.Argument(metavar="[VIEW]", show_default=False, help="One of them.")] = None,
    form: As = Format.TABLE, state_dir: StateDir = None,
) -> None:
    """List the views for queries, their columns, and of which model and version they are."""
    with opened(place, state_dir) as (found, _):
        rows = []
        for name in [view] if view else [one.name for one in found.views.values()]:
            columns = found.columns(name)
            one = found.views[name.lower()]
            rows += [{"view": name, "column": column, "type": kind, "model": one.model, "version": one.version} for column, kind in columns]
    _print_rows(rows, form)


@records.command("export")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")],
    place: Place, form: Annotated[Form, typer.Option("--as", help="Whose form.")],
    path: Annotated[str, typer.Option("--to", metavar="PATH", help="A file that is not there yet; - is standard output.")],
    begin: From = None, until: Until = None, state_dir: StateDir = None,
) -> None:
    """Write a model's rows as other tools have them."""
    with opened(place, state_dir) as (found, report):
        from serve.recording import exports

        period = period_of(begin, until)
        with sink_of(path) as sink:
            done = exports.export(found, form.value, model, sink, period, lambda n_done, of: report(f"exporting {model}", n_done, of))
    failed = f"; {done.left_out:,} failed requests have no place in this form" if done.left_out else ""
    say(f"{done.written:,} {'lines' if form in {Form.SAGEMAKER, Form.CLOUDEVENTS} else 'rows'} written{failed}")


@records.command("verify")
def verify(place: Place, form: As = Format.TABLE, state_dir: StateDir = None) -> None:
    """Count every row and read every byte. Leaves with 1, and says what is wrong, when something is missing or damaged."""
    store = store_at(place)
    from serve.commands.progress import bar
    from serve.commands.records_view import accounts_of, verification_json, verification_picture
    from serve.recording.verify import verify as over

    with bar() as report:
        found = over(store, home_of(state_dir), progress=report)
    if found.is_empty and found.is_intact:
        say(f"nothing was recorded in {place} yet")
    for warning in found.warnings:
        say(warning)
    if form is Format.TABLE:
        console().print(verification_picture(found))
    elif form is Format.JSON:
        print(verification_json(found))
    else:
        _print_rows(accounts_of(found), form)
    raise typer.Exit(0 if found.is_intact else BROKEN)


@records.command("seal")
def seal(
    place: Place, state_dir: StateDir = None,
    replica: Annotated[str | None, typer.Option("--replica-id", metavar="NAME", show_default=False,
                                                help="The server's, where nothing of it was ever sealed; else known.")] = None,
) -> None:
    """Seal what a server that does not run any more left in its state directory. Leaves with 1 when some of it stays there."""
    store = store_at(place)
    from serve.keeper import seal_once
    from serve.recording.keeper_settings import KeeperSettings
    from serve.recording.reading import replica_of
    from serve.recording_setup import host_name

    home = home_of(state_dir)
    if not home.is_dir():
        raise ConfigurationError(f"there are no records in the state directory {home.parent}; give the server's --state-dir")
    said: list[Mapping[str, Any]] = []
    name = replica_of(store, home) or replica or host_name()
    seal_once(KeeperSettings(records=place, home=str(home), replica=name), said.append)
    problems = [message["text"] for message in said if message["type"] == "error"]
    for problem in problems:
        say(problem)
    sealed = [message for message in said if message["type"] == "sealed"]
    say(f"{sum(message['rows'] for message in sealed):,} rows of {len(sealed):,} journals sealed")
    raise typer.Exit(BROKEN if problems else 0)


@records.command("hold")
def hold(
    name: Annotated[str, typer.Argument(metavar="NAME", help="By which it is released.")],
    place: Place, reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever is to release it.")],
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", show_default=False, help="Its rows only.")] = None,
    begin: From = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", show_default=False, help="Rows before this time.")] = None,
    who: Who = "",
) -> None:
    """Keep rows from being purged, by retention and by the disk budget."""
    store = store_at(place)
    from serve.recording.holds import Hold, place_hold

    period = period_of(begin, until, "--to")
    last_ns = None if period.to_ns is None else period.to_ns - 1
    place_hold(store, Hold(name=name, reason=reason, model=model, from_ns=period.from_ns, to_ns=last_ns, by=who or user(),
                           at_ns=clock.wall_ns()))
    say(f"held: {name}")


@records.command("release")
def release(name: Annotated[str, typer.Argument(metavar="NAME", help="Of the hold.")], place: Place) -> None:
    """End a hold: what it kept goes with the next purge that finds it due."""
    store = store_at(place)
    from serve.recording.holds import lift_hold

    lift_hold(store, name)
    say(f"released: {name}")


@records.command("holds")
def holds(place: Place, form: As = Format.TABLE) -> None:
    """List what is held, and why."""
    store = store_at(place)
    from serve.recording.holds import read_holds

    found, faults = read_holds(store)
    for fault in faults:
        say(fault)
    _print_rows([{
        "hold": one.name, "model": one.model, "from": time_text(one.from_ns), "to": time_text(None if one.to_ns is None else one.to_ns + 1),
        "reason": one.reason, "by": one.by, "since": time_text(one.at_ns)} for one in found], form)


def _rows_view(found: "Records", model: str | None) -> str:
    return found.view("records") if model is None else found.view("model", model)


def _print_rows(rows: Sequence[Mapping[str, object]], form: Format) -> None:
    import pyarrow as pa

    from serve.commands.records_view import print_batches

    if rows or form is Format.TABLE:
        print_batches(list(rows[0]) if rows else [], [pa.RecordBatch.from_pylist(rows)] if rows else [], form.value, console(), limit=None)


def _print_tail(rows: "pa.Table", form: Format, *, is_first: bool) -> None:
    from serve.commands.records_view import tail_lines, write_csv, write_json

    if form is Format.TABLE:
        for line in tail_lines(rows):
            console().print(line, soft_wrap=True)
    elif form is Format.CSV:
        write_csv(rows.schema.names, rows.to_batches(), with_head=is_first)
    else:
        write_json(rows.schema.names, rows.to_batches())
    sys.stdout.flush()
