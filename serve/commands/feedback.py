"""`headrace feedback`: tells a server what became true of its answers."""

from pathlib import Path
from typing import Annotated

import typer

from serve.commands.common import Model
from serve.commands.feedback_files import chunks_of, value_of
from serve.errors import ConfigurationError

# Items of one request of a file.
CHUNK = 1000

_FORM = "columns or keys request_id, label or reward, and perhaps row, name, time"


def feedback(
    model: Model,
    request_id: Annotated[str | None, typer.Option("--request-id", metavar="ID", show_default=False,
                                                   help="Of the request, or x-request-id of its answer.")] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="VALUE", show_default=False,
                                              help="The truth: a number, true, false, or a text (in \"quotes\" if it looks like one).")]
    = None,
    reward: Annotated[float | None, typer.Option("--reward", metavar="NUMBER", show_default=False, help="What it was worth.")] = None,
    row: Annotated[int, typer.Option("--row", min=0, metavar="N", help="Of the answer.")] = 0,
    name: Annotated[str, typer.Option("--name", metavar="NAME", show_default=False, help="Default: label, or reward.")] = "",
    time: Annotated[str | None, typer.Option("--time", metavar="TIME", show_default=False,
                                             help="When it was known: RFC 3339 with its zone, or nanoseconds since 1970.")] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", show_default=False,
                                              help=f"Many instead: .csv, .jsonl or .parquet with {_FORM}.")] = None,
    skip: Annotated[int, typer.Option("--skip", min=0, metavar="N", help="Of the file: rows that are there already.")] = 0,
    durable: Annotated[bool, typer.Option("--durable", help="Until the server's disk has them.")] = False,
    url: Annotated[str, typer.Option("--url", help="The server's HTTP address.")] = "http://127.0.0.1:8000",
) -> None:
    """Tell a server that records what became true of its answers: `headrace feedback digits --request-id ID --label 7`."""
    from serve.client import Client

    one = {"request_id": request_id, "label": label, "reward": reward}
    if file is not None:
        if given := [key for key, value in {**one, "row": row or None, "name": name or None, "time": time}.items() if value is not None]:
            raise typer.BadParameter(f"--file has rows of its own: leave --{given[0].replace('_', '-')} out")
        _send_file(model, file, skip, durable, url)
        return
    if request_id is None or (label is None) == (reward is None):
        raise typer.BadParameter("give --request-id with --label or --reward, or --file")
    if any(letter < " " or letter == "\x7f" for letter in request_id):
        raise typer.BadParameter(f"--request-id {request_id!r} holds a control character: give the id alone, without the end of its line")
    with Client(url) as client:
        client.feedback(
            model, request_id, None if label is None else value_of(label), reward=reward, row=row, name=name,
            time=int(time) if time is not None and time.isdecimal() else time, durable=durable)
    print("accepted 1")


def _send_file(model: str, file: Path, skip: int, durable: bool, url: str) -> None:
    from serve.client import Client, ClientError
    from serve.commands.progress import bar

    at = accepted = 0
    with Client(url) as client, bar() as report:
        for chunk in chunks_of(file, CHUNK):
            items = chunk.items[max(0, skip - at):]
            at += len(chunk.items)
            if items:
                try:
                    accepted += client.feedback_items(model, items, durable=durable)
                except ClientError as error:
                    done = at - len(items)
                    where = f"{file}, rows {done + 1:,} to {at:,}"
                    raise ConfigurationError(
                        f"{where}: {error}; the {accepted:,} before are kept: go on with --skip {done}") from error
            report(f"{accepted:,} labels", chunk.done, chunk.of)
    print(f"accepted {accepted:,}")


__all__ = ["feedback"]
