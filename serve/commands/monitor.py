"""`headrace monitor`: what the server sees of drift and performance, and the baselines that it compares with."""

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve import clock
from serve.commands.common import DEFAULT_ADMIN, Admin, Json, Model, Reason, Who, connected, group, show
from serve.errors import ConfigurationError

if TYPE_CHECKING:
    from serve.monitoring.baseline import Baseline
    from serve.monitoring.baseline_source import Target

ALERTS_STAND = 10
MAX_ROWS = 100_000

monitor = group("monitor", "Drift, performance and data validation of what is served.")

Version = Annotated[str, typer.Option("--version", metavar="V", help="Only this one.", show_default=False)]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="Windows from then on: 2026-01-31T12:00:00Z, or seconds since the "
                                    "epoch.", show_default=False)]


@monitor.command("status")
def status(
    model: Model, version: Version = "", since: Since = "",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Leave with 10 while an alert stands.")] = False,
    as_json: Json = False, admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Alerts, and for each version its newest window, performance and worst features."""
    from serve.commands.monitor_view import status_picture

    with connected(admin) as client:
        document = client.monitoring(model, version, since=since)
    show(document, as_json, status_picture(document))
    if exit_code and any(one["state"] == "raised" for one in document["alerts"]):
        raise typer.Exit(ALERTS_STAND)


@monitor.command("report")
def report(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - is standard output.")]
    = Path("report.html"),
    version: Version = "", since: Since = "",
    limit: Annotated[int, typer.Option("--windows", min=1, max=2016, metavar="N", help="At most so many of each version.")] = 288,
    admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Everything in one self-contained HTML page with plots."""
    from serve.monitoring.report.page import report_html
    from serve.store.audit import rfc3339

    with connected(admin) as client:
        document = client.monitoring(model, version, since=since, limit=limit)
    made = rfc3339(clock.wall_ns())[:16].replace("T", " ") + " UTC"
    page = report_html(document, made)
    if str(output) == "-":
        sys.stdout.buffer.write(page.encode())
        return
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {output}: {error.strerror}") from error
    print(output)


@monitor.command("acknowledge")
def acknowledge(
    model: Model, alert: Annotated[str, typer.Argument(metavar="ALERT", help="An alert's id.")],
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Say that you have seen an alert. It stands until its windows are good."""
    with connected(admin, who) as client:
        document = client.acknowledge(model, alert, reason)
    show(document, as_json, f"{document['id']}: seen by {document['acknowledged_by']}")


@monitor.command("baseline")
def baseline(
    model: Model,
    file: Annotated[Path | None, typer.Option("--from", metavar="FILE", show_default=False, help="Training data, .parquet or .csv; the "
                                              "version answers it here.")] = None,
    from_records: Annotated[bool, typer.Option("--from-records", help="The first rows that the version has answered.")] = False,
    from_shadow: Annotated[bool, typer.Option("--from-shadow", help="The first rows that it has answered as a shadow.")] = False,
    version: Annotated[str, typer.Option("--version", metavar="V", help="Default: `stable`, else the latest.", show_default=False)] = "",
    labels: Annotated[str, typer.Option("--labels", metavar="NAME", show_default=False, help="Of --from the column of labels, of records "
                                        "the name of a label. With labels scores are calibrated, and performance can be estimated.")] = "",
    column: Annotated[list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="Which column of --from is which input.",
                                                     show_default=False)] = None,
    rows: Annotated[int, typer.Option("--rows", min=30, metavar="N", help="At most so many.")] = MAX_ROWS,
    chunk_rows: Annotated[int, typer.Option("--chunk-rows", min=0, metavar="N", show_default=False, help="Labelled rows of the chunks by "
                                            "which performance varies; default a twentieth to a fifth of them.")] = 0,
    repository: Annotated[Path, typer.Option("--repository", metavar="PATH", help="Where the model is: as `headrace serve` takes it.")]
    = Path("models"),
    records: Annotated[str, typer.Option("--records", envvar="HEADRACE_RECORDS", metavar="DIR_OR_URL", show_default=False,
                                         help="What the server was given as --records.")] = "",
    state_dir: Annotated[Path | None, typer.Option("--state-dir", envvar="HEADRACE_STATE_DIR", metavar="DIR", show_default=False,
                                                   help="The server's, where it lies elsewhere now.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Default: baseline.json beside "
                                                "the version's model.onnx.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Give it to the server instead of writing a file.")] = False,
    as_json: Json = False, reason: Reason = "", who: Who = "", admin: Admin = DEFAULT_ADMIN,
) -> None:
    """Make what a version is compared with, from training data or recorded rows. Without one of --from...: show what there is."""
    # Long because each flag is a parameter.
    if sum(map(bool, (file, from_records, from_shadow))) > 1:
        raise typer.BadParameter("give one of --from FILE, --from-records and --from-shadow")
    if file is None and not from_records and not from_shadow:
        return _show_server(model, version, as_json, admin)
    if output is not None and not output.parent.is_dir():       # before the work
        raise ConfigurationError(f"cannot write {output}: {os.strerror(errno.ENOENT)}; give --output FILE, or --submit it to the server")
    target = _target(repository, model, version)
    if file is not None:
        found = _of_file(target, file, labels, column or [], rows, chunk_rows)
    else:
        if not records:
            raise typer.BadParameter("--from-records and --from-shadow need --records DIR_OR_URL")
        found = _of_records(target, records, state_dir, labels, rows, chunk_rows, from_shadow)
    if submit:
        with connected(admin, who) as client:
            client.set_baseline(model, found.version, found.as_document(), reason)
        where = f"the server at {admin}"
    else:
        where = str(_written(found, output or _beside(repository, found)))
    return _show(found, where, as_json)


def _target(repository: Path, model: str, version: str) -> "Target":
    try:
        from serve.models.offline import OfflineModel
        from serve.models.runtime import start_runtime
        from serve.monitoring.baseline_source import Target
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'headrace[records]'") from error

    offline = OfflineModel(repository, model)
    number = offline.config.labels.get(version or "stable", version) or offline.versions[-1]
    return Target(offline, offline.load(number, start_runtime("cpu")), clock.wall_ns())


def _of_file(target: "Target", path: Path, label: str, columns: list[str], rows: int, chunk_rows: int) -> "Baseline":
    from serve.commands.progress import bar
    from serve.monitoring.baseline_source import of_file

    if wrong := [text for text in columns if not text.partition("=")[2]]:
        raise ConfigurationError(f"--column {wrong[0]}: want INPUT=COLUMN")
    named = dict(text.split("=", 1) for text in columns)
    with bar() as told:
        return of_file(target, path, label, named, rows, chunk_rows, lambda done, of: told("answering", done, of))


def _of_records(
    target: "Target", place: str, state_dir: Path | None, label: str, rows: int, chunk_rows: int, from_shadow: bool,
) -> "Baseline":
    from serve.commands.records_access import opened
    from serve.monitoring.baseline_source import of_records

    with opened(place, state_dir) as (found, _):
        return of_records(target, found, label, rows, chunk_rows, shadow=from_shadow)


def _beside(repository: Path, baseline: "Baseline") -> Path:
    """Where the server looks for it. Raises ConfigurationError for a .onnx file that is no version's folder."""
    from serve.models.digest import BASELINE_FILE
    from serve.models.disk import DiskRepository
    from serve.models.repository import MODEL_FILE

    file = DiskRepository([repository]).scan().models[baseline.model].versions[baseline.version]
    if file.name != MODEL_FILE or file.parent.name != baseline.version:
        raise ConfigurationError(f"{file} is a file by itself, with no folder for its baseline: give --output FILE, or --submit it")
    return file.parent / BASELINE_FILE


def _written(baseline: "Baseline", path: Path) -> Path:
    from serve.monitoring.baselines import write_whole

    try:
        write_whole(path, baseline.to_json().encode())
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}; give --output FILE, or --submit it to the server") from error
    return path


def _show_server(model: str, version: str, as_json: bool, admin: str) -> None:
    from serve.commands.monitor_view import baseline_picture

    with connected(admin) as client:
        document = client.baseline(model, version)
    show(document, as_json, baseline_picture(document))


def _show(baseline: "Baseline", where: str, as_json: bool) -> None:
    from serve.commands.monitor_view import baseline_picture

    show(baseline.as_document(), as_json, baseline_picture(baseline.as_document()))
    print(f"headrace: written to {where}", file=sys.stderr)
