"""`headrace audit`: what was changed, and whether anybody has tampered with the record of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.commands.common import DEFAULT_ADMIN, Admin, Json, connected, console, group
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.store.audit import AuditReport

BROKEN = 1

audit = group("audit", "What was changed, by whom and why.")


@audit.command("list")
def list_rows(
    after: Annotated[int, typer.Option("--after", min=0, metavar="N", help="Rows behind this sequence number.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="At most so many.")] = 100,
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Audit rows in order; with --json a CloudEvent a line."""
    from serve.commands.audit_view import audit_table

    with connected(admin) as client:
        rows = client.audit(after, limit)
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        console().print(audit_table(rows))


@audit.command("verify")
def verify(
    state_dir: Annotated[Path | None, typer.Option("--state-dir", metavar="DIR", show_default=False, help="Of the server, or a copy of its "
                                                   "headrace.db; without it the server is asked for the rows.")] = None,
    head: Annotated[str | None, typer.Option("--head", metavar="HASH", help="A hash that you kept: it must be in the chain.",
                                             show_default=False)] = None,
    key_file: Annotated[Path | None, typer.Option("--key-file", metavar="FILE", show_default=False, help="The server's audit key: every "
                                                  "row must carry its mac.")] = None,
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Find edited, removed and reordered rows. Leaves with 1, and names the first bad row, when the chain is broken."""
    import asyncio

    from serve.store.audit import verify_rows
    from serve.store.recovery import FILE

    key = _key(key_file)
    if state_dir is not None:
        report = asyncio.run(_verify_file(state_dir / FILE if state_dir.is_dir() else state_dir, head, key))
    else:
        with connected(admin) as client:
            report = verify_rows(client.all_audit(), head, key=key)
    _print(report, as_json)
    raise typer.Exit(0 if report.is_intact else BROKEN)


async def _verify_file(place: Path, head: str | None, key: bytes | None) -> "AuditReport":
    from serve.store.sqlite import SqliteStore

    store = await SqliteStore.open_read_only(place, key=key)
    try:
        return await store.verify_audit(head)
    finally:
        await store.close()


def _key(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


def _print(report: "AuditReport", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"is_intact": report.is_intact, "n_rows": report.n_rows, "head": report.head, "first_bad": report.first_bad,
                          "fault": report.fault}))
    elif report.is_intact:
        print(f"intact: {report.n_rows:,} rows, head {report.head}")
    else:
        print(f"broken at row {report.first_bad}: {report.fault}")
