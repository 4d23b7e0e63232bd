"""What the commands of the admin API share: where the server is, who asks, how answers are printed."""

import contextlib
import getpass
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from serve.client.admin import AdminClient, Text

DEFAULT_ADMIN = "http://127.0.0.1:8003"

Admin = Annotated[str, typer.Option("--admin", envvar="HEADRACE_ADMIN", metavar="URL", help="The server's admin address.")]
Who = Annotated[str, typer.Option("--as", envvar="HEADRACE_ACTOR", metavar="NAME", help="Who asks, for the audit; default: you.",
                                  show_default=False)]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="The server's document instead of a picture.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.")]

_PIPE_WIDTH = 140       # of a pipe, which has none


def group(name: str, summary: str) -> typer.Typer:
    """A command with commands below it."""
    return typer.Typer(name=name, help=summary, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@contextlib.contextmanager
def connected(url: str, who: str = "") -> "Iterator[AdminClient]":
    """The client, closed afterwards."""
    from serve.client.admin import AdminClient

    with AdminClient(url, who or user()) as client:
        yield client


def show(document: Any, as_json: bool, picture: "RenderableType") -> None:
    """Prints one or the other."""
    if as_json:
        # Half a surrogate pair, of a category that is no UTF-8, stays the \udcxx that JSON has for it.
        print(json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    else:
        console().print(picture)


def console() -> "Console":
    """Standard output; of a pipe wide enough that lines stay whole."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=max(_PIPE_WIDTH, found.width))


def plan_file(path: Path) -> "Text":
    """A plan as it stands in a file: JSON by its ending, else YAML; "-" is standard input. Raises ConfigurationError."""
    from serve.client.admin import JSON, YAML, Text

    try:
        content = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    is_json = path.suffix == ".json" or content.lstrip().startswith("{")
    return Text(content, JSON if is_json else YAML)


def user() -> str:
    """Who runs the command, for the audit; "" where that has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):     # a container's number without a name
        return ""
