"""`headrace rollout`."""

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve import clock
from serve.commands.common import DEFAULT_ADMIN, Admin, Json, Model, Reason, Who, connected, console, group, plan_file, show
from serve.errors import HeadraceError

if TYPE_CHECKING:
    from serve.client.admin import AdminClient, Verb

INTERRUPTED = 130

rollout = group("rollout", "A candidate version gets traffic step by step while the judge looks on.")

Rollout = Annotated[str, typer.Argument(metavar="ROLLOUT", help="A rollout's id, or a model's name for its newest.")]
UntilHeld = Annotated[bool, typer.Option("--until-held", help="Leave with 11 as soon as it waits for a person: paused by its gate, an "
                                         "operator, a time-out or a dead worker. Timed pauses and the verdict `hold` alone do not count.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Leave after so long: 11 where it waits for a "
                                               "person, else 13.", show_default=False)]
Interval = Annotated[float, typer.Option("--interval", min=0.1, metavar="SECONDS", help="Between two looks.")]


@rollout.command("start")
def start(
    model: Model,
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="The candidate.", show_default=False)] = None,
    plan: Annotated[Path | None, typer.Option("--plan", metavar="FILE", show_default=False, help="A plan in JSON or YAML, or Argo's steps; "
                                              "- is standard input. Without it: shadow, then 1, 5, 25, 50 and 100 %.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge what the traffic in force shows, change nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on as `rollout watch`.")] = False,
    until_held: UntilHeld = False, timeout: Timeout = None, interval: Interval = 0.5,
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Start a rollout: `headrace rollout start digits --to 2 --watch`."""
    if to is None and plan is None:
        raise typer.BadParameter("give --to VERSION, --plan FILE or both")
    with connected(admin, who) as client:
        document = client.start_rollout(model, plan_file(plan) if plan else {}, reason, to, True if dry_run else None)
        if not watch:
            show(document, as_json, f"{document['id']}: {document.get('described') or document['phase']}")
            return
        code = _watch(client, document["id"], until_held, timeout, interval, as_json)
    raise typer.Exit(code)


@rollout.command("watch")
def watch_rollout(
    name: Rollout, until_held: UntilHeld = False, timeout: Timeout = None, interval: Interval = 0.5, as_json: Json = False,
    admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Look on until it ends. Leaves with 0 succeeded, 10 rolled back, 11 held, 12 failed, 13 timed out; see --until-held."""
    with connected(admin) as client:
        code = _watch(client, _found(client, name), until_held, timeout, interval, as_json)
    raise typer.Exit(code)


@rollout.command("list")
def list_rollouts(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only of this model.", show_default=False)] = "",
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """All rollouts, oldest first."""
    from serve.commands.rollout_view import rollouts_table

    with connected(admin) as client:
        found = client.rollouts(model)
    show(found, as_json, rollouts_table(found))


@rollout.command("show")
@rollout.command("status", hidden=True)      # what other tools call it
def show_rollout(name: Rollout, as_json: Json = False, admin: Admin = DEFAULT_ADMIN) -> None:
    """One rollout as it stands."""
    from serve.commands.rollout_view import rollout_picture
    from serve.commands.watch import look

    with connected(admin) as client:
        seen = look(client, _found(client, name))
    show(seen.rollout, as_json, rollout_picture(seen))


@rollout.command("evidence")
def show_evidence(name: Rollout, as_json: Json = False, admin: Admin = DEFAULT_ADMIN) -> None:
    """Every judgement that changed something, and the newest."""
    from serve.commands.rollout_view import evidence_picture

    with connected(admin) as client:
        found = client.evidence(_found(client, name))
    show(found, as_json, evidence_picture(found))


def _add_verb(verb: "Verb", summary: str) -> None:
    def command(name: Rollout, as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN) -> None:
        with connected(admin, who) as client:
            document = client.command(_found(client, name), verb, reason)
        show(document, as_json, f"{document['id']}: {document.get('described') or document['phase']}")

    rollout.command(verb, help=summary)(command)


_add_verb("promote", "Leave this stage or gate for the next.")
_add_verb("promote-full", "Give the candidate everything now, whatever the judge says.")
_add_verb("pause", "Keep the traffic as it is; the judge may still roll back.")
_add_verb("resume", "Go on after a pause.")
_add_verb("abort", "Take the candidate back: the next request does not reach it.")
_add_verb("retry", "Begin again with the same plan, after an end.")


def _found(client: "AdminClient", name: str) -> str:
    """The id that is meant: it, or the newest rollout of a model of that name."""
    from serve.client.admin import NotKnown

    try:
        return str(client.rollout(name)["id"])
    except NotKnown as unknown:
        try:
            of_model = client.rollouts(name)
        except NotKnown:
            raise unknown from None
        if not of_model:
            raise HeadraceError(f"model {name!r} has had no rollout") from unknown
        return str(of_model[-1]["id"])


def _watch(client: "AdminClient", rollout_id: str, until_held: bool, timeout: float | None, interval: float, as_json: bool) -> int:
    from rich.live import Live

    from serve.commands.rollout_view import Look, rollout_picture
    from serve.commands.watch import Lines, watch

    options: dict[str, Any] = {"until_held": until_held, "timeout_s": timeout, "interval_s": interval}
    pause = threading.Event().wait
    try:
        if as_json or not sys.stdout.isatty():
            return watch(client, rollout_id, Lines(_print, _now_s, as_json), _now_s, pause, **options)
        with Live(console=console(), auto_refresh=False) as live:

            def report(seen: Look) -> None:
                live.update(rollout_picture(seen), refresh=True)

            return watch(client, rollout_id, report, _now_s, pause, **options)
    except KeyboardInterrupt:
        print(f"the rollout goes on; `headrace rollout abort {rollout_id}` takes the candidate back", file=sys.stderr)
        return INTERRUPTED


def _print(line: str) -> None:
    print(line, flush=True)


def _now_s() -> float:
    return clock.monotonic_ns() / 1e9
