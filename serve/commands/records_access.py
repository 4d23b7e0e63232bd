"""What the commands of `headrace records` share: where records are, which rows are asked for, where output goes."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from serve.config import load_settings
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.commands.progress import Report
    from serve.recording.query import Records
    from serve.recording.relations import Period
    from serve.recording.store_port import RecordsStore


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Form(StrEnum):
    DATABRICKS = "databricks"
    SAGEMAKER = "sagemaker"
    CLOUDEVENTS = "cloudevents"
    PARQUET = "parquet"
    CSV = "csv"


Place = Annotated[str, typer.Option("--records", envvar="HEADRACE_RECORDS", metavar="DIR_OR_URL", show_default=False,
                                    help="What the server was given as --records.")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", envvar="HEADRACE_STATE_DIR", metavar="DIR", show_default=False,
                                               help="The server's, where it lies elsewhere now: a copy, or another mount.")]
As = Annotated[Format, typer.Option("--format", help="table: for people; json: an object a line.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", show_default=False, help="Rows from this time on: ISO 8601, UTC.")]
Until = Annotated[str | None, typer.Option("--to-time", metavar="TIME", show_default=False, help="Rows before this time.")]


@contextlib.contextmanager
def opened(place: str, state_dir: Path | None, *, tell: bool = True) -> "Iterator[tuple[Records, Report]]":
    """A snapshot, and a bar for what is done with it. What the snapshot lacks is told on standard error."""
    store = store_at(place)
    from serve.commands.progress import bar
    from serve.recording.query import Records
    from serve.recording.reading import read

    with read(store, home_of(state_dir)) as reading, bar() as report:
        found = Records(store, reading.snapshot, lambda done, of: report("reading metadata", done, of))
        if tell and not reading.snapshot.manifests:
            say(f"nothing was recorded in {place} yet")
        try:
            yield found, report
        finally:
            for warning in found.warnings if tell else ():
                say(warning)


def store_at(place: str) -> "RecordsStore":
    """Raises ConfigurationError where the extra is not installed, or no records are."""
    try:
        for name in ("duckdb", "fsspec", "pyarrow", "xxhash"):
            importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'headrace[records]'") from error
    from serve.recording.stores import existing_store

    return existing_store(place)


def home_of(state_dir: Path | None) -> Path:
    """Where a server with this state directory has its journals; None: `headrace serve`'s own default."""
    if state_dir is None:
        known = {name: os.environ[name] for name in ("HOME", "XDG_STATE_HOME") if name in os.environ}
        state_dir = load_settings({"paths": "."}, known).state_dir
    return state_dir.absolute() / "records"


def period_of(begin: str | None, until: str | None, until_flag: str = "--to-time") -> "Period":
    """Raises ConfigurationError for what is no time, and for an empty period."""
    from serve.recording.relations import Period

    period = Period(_moment_ns("--from", begin), _moment_ns(until_flag, until))
    if period.from_ns is not None and period.to_ns is not None and period.from_ns >= period.to_ns:
        raise ConfigurationError(f"{until_flag} {until} is not after --from {begin}")
    return period


def _moment_ns(flag: str, text: str | None) -> int | None:
    """Nanoseconds since the epoch; a time without a zone is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{flag} {text!r} is no time; want for instance 2026-01-31 or 2026-01-31T12:00:00Z") from error
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def time_text(at_ns: int | None) -> str | None:
    """To the second."""
    return None if at_ns is None else datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")


@contextlib.contextmanager
def sink_of(path: str) -> Iterator[IO[bytes]]:
    """A file that appears when it is whole."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists():
        raise ConfigurationError(f"{path} is there already; remove it, or give another --to")
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        with unfinished.open("wb") as sink:
            yield sink
        unfinished.replace(target)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def say(text: str) -> None:
    """A line on standard error."""
    print(f"headrace: {text}", file=sys.stderr)
