"""`headrace gate`: may this version get traffic? Asked before any request reaches it, without a server.

Exit codes: 0 pass, 1 it could not be asked (settings, files, flags), 10 fail, 11 not enough data to say.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.commands.common import Admin, Model, Reason, Who, connected
from serve.commands.records_access import StateDir, home_of, say
from serve.errors import ConfigurationError, Unprocessable

if TYPE_CHECKING:
    from serve.models.offline import OfflineModel, OfflineVersion
    from serve.monitoring.gate_report import GateReport
    from serve.monitoring.gate_settings import GateSettings
    from serve.monitoring.replay_rows import ReplayRows

EXIT_CODES = {"pass": 0, "fail": 10, "not_enough_data": 11}

Limits = list[str] | None
_LIMIT = "METRIC=VALUE"


def gate(
    model: Model,
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="The version that is to get traffic.")],
    repository: Annotated[Path, typer.Option("--repository", metavar="PATH", help="Where the model is: as `headrace serve` takes it.")]
    = Path("models"),
    data: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="Rows to replay: .npz, .csv or .parquet.", show_default=False)]
    = None,
    records: Annotated[str | None, typer.Option("--records", metavar="DIR", help="Recorded predictions to replay: folder or URL.",
                                                show_default=False)] = None,
    state_dir: StateDir = None,
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="With --data the column of labels, default none; with --records "
                                       "the name of a label, default `label`.", show_default=False)] = "",
    column: Annotated[list[str] | None, typer.Option("--column", metavar="INPUT=COLUMN", help="Which column of --data is which input.",
                                                     show_default=False)] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="gate.yaml: everything below, and more.",
                                                show_default=False)] = None,
    stable: Annotated[str | None, typer.Option("--stable", metavar="VERSION", help="Version or label to compare with, or none.",
                                               show_default=False)] = None,
    rows: Annotated[int | None, typer.Option("--rows", help="At most so many.", show_default=False)] = None,
    min_rows: Annotated[int | None, typer.Option("--min-rows", help="Fewer are not enough.", show_default=False)] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Of --records, the last ones only.", show_default=False)] = None,
    minimum: Annotated[Limits, typer.Option("--min", metavar=_LIMIT, show_default=False, help="accuracy=0.95, f1=..., auc=...")] = None,
    maximum: Annotated[Limits, typer.Option("--max", metavar=_LIMIT, show_default=False, help="mae=2.5")] = None,
    max_drop: Annotated[Limits, typer.Option("--max-drop", metavar=_LIMIT, show_default=False,
                                             help="Against the stable version: accuracy=0.01, the default; none: no limit.")] = None,
    max_rise: Annotated[Limits, typer.Option("--max-rise", metavar=_LIMIT, show_default=False,
                                             help="Against the stable version: mae=0.05, a share of its own; none: no limit.")] = None,
    min_agreement: Annotated[float | None, typer.Option("--min-agreement", help="Share of the rows.", show_default=False)] = None,
    max_latency_ratio: Annotated[float | None, typer.Option("--max-latency-ratio", help="Of the medians.", show_default=False)] = None,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Measure no times.")] = False,
    allow_schema_change: Annotated[bool, typer.Option("--allow-schema-change")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "cpu",
    report: Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write the report there as JSON.", show_default=False)]
    = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report on standard output instead of a table.")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Send the report to the server, whose rollouts may ask for it.")] = False,
    admin: Admin = "http://127.0.0.1:8003", who: Who = "", reason: Reason = "",
) -> None:
    """May this version get traffic? Exit codes: 0 pass, 1 could not be asked, 10 fail, 11 not enough data."""
    # Long because each flag is a parameter.
    flags = {"stable": stable, "rows": rows, "min_rows": min_rows, "allow_schema_change": allow_schema_change or None}
    limits = {"min": minimum, "max": maximum, "max_drop": max_drop, "max_rise": max_rise}
    settings = _settings(config, flags, limits, min_agreement, max_latency_ratio, no_latency)
    found = _run(model, candidate, repository, settings, device,
                 lambda offline, version: _rows(offline, version, data, records, label, column or [], settings, state_dir, hours))
    document = found.model_dump_json(indent=2)
    _show(found, document, as_json)     # first: a run takes minutes, and not every path can be written
    if report is not None:
        try:
            report.write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"cannot write {report}: {error.strerror}") from error
    if submit:
        with connected(admin, who) as client:
            client.put_gate(model, candidate, json.loads(document), reason)
        print(f"the report is stored with the server at {admin}", file=sys.stderr)
    raise typer.Exit(EXIT_CODES[found.verdict.value])


def _show(found: "GateReport", document: str, as_json: bool) -> None:
    from serve.commands.common import console
    from serve.commands.gate_view import report_picture

    if as_json:
        print(document)
    else:
        console().print(report_picture(found))


def _settings(
    path: Path | None, flags: dict[str, Any], limits: dict[str, list[str] | None], min_agreement: float | None, ratio: float | None,
    no_latency: bool,
) -> "GateSettings":
    """The file's, with what the flags say over it."""
    from serve.monitoring.gate_settings import GateSettings
    from serve.routing.documents import read_document, validated

    try:
        document = read_document(path.read_text(encoding="utf-8")) if path is not None else {}
        document |= {key: value for key, value in flags.items() if value is not None}
        metrics = dict(document.get("metrics") or {})
        for bound, given in limits.items():
            for name, value in map(_limit, given or []):
                metrics[name] = {**metrics.get(name, {}), bound: value}
        if metrics:
            document["metrics"] = metrics
        if min_agreement is not None:
            document["agreement"] = {**document.get("agreement", {}), "min": min_agreement}
        if ratio is not None:
            document["latency"] = {**(document.get("latency") or {}), "max_median_ratio": ratio}
        if no_latency:
            document["latency"] = None
        return validated(GateSettings, document)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    except Unprocessable as error:
        raise ConfigurationError(f"{path or 'flags'}: {error}") from error


def _limit(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    try:
        return name, None if value == "none" else float(value)
    except ValueError as error:
        raise ConfigurationError(f"{text!r}: want METRIC=VALUE, accuracy=0.95 for instance, or METRIC=none") from error


def _run(
    model: str, candidate: str, repository: Path, settings: "GateSettings", device: str,
    rows_for: "Callable[[OfflineModel, OfflineVersion], ReplayRows]",
) -> "GateReport":
    from serve import clock
    from serve.models.offline import OfflineModel
    from serve.models.runtime import start_runtime
    from serve.monitoring.gate_run import Clock, load_versions, run_gate

    offline = OfflineModel(repository, model)
    versions = load_versions(offline, candidate, settings, start_runtime(device))
    rows = rows_for(offline, versions.candidate)
    with _progress() as stages:
        return run_gate(versions, rows, settings, Clock(clock.monotonic_ns, clock.wall_ns), stages)


def _rows(
    model: "OfflineModel", version: "OfflineVersion", data: Path | None, records: str | None, label: str, columns: list[str],
    settings: "GateSettings", state_dir: Path | None, hours: float | None,
) -> "ReplayRows":
    if (data is None) == (records is None):
        raise ConfigurationError("give one of --data and --records: a gate needs rows to replay")
    if data is not None:
        from serve.monitoring.gate_files import read_labelled

        wrong = [text for text in columns if not text.partition("=")[2]]
        if wrong:
            raise ConfigurationError(f"--column {wrong[0]}: want INPUT=COLUMN")
        named = dict(text.split("=", 1) for text in columns)
        found = read_labelled(data, label, version.inputs, version.max_batch_size > 0, named, settings.rows)
    else:
        found = _recorded(model, version, records or "", label or "label", settings, state_dir, hours)
    if label and found.n and not found.labelled:
        # Whoever names labels does not want a verdict without them.
        raise ConfigurationError(f"--label {label}: none of {found.n:,} rows of {found.source} has one")
    return found


def _recorded(
    model: "OfflineModel", version: "OfflineVersion", url: str, label: str, settings: "GateSettings", state_dir: Path | None,
    hours: float | None,
) -> "ReplayRows":
    from serve import clock

    if hours is not None and not 0 < hours < math.inf:
        raise ConfigurationError(f"--hours {hours}: want a number above 0")
    redacted = [spec.name for spec in version.inputs if f"in_{spec.name}" in model.config.recording.redact]
    if redacted:
        raise ConfigurationError(
            f"input {redacted[0]!r} of '{model.name}' is redacted before it is recorded (recording.redact), so there is nothing to replay: "
            "give --data")
    try:
        from serve.monitoring.gate_records import read_recorded
        from serve.recording.relations import ALWAYS, Period
    except ImportError as error:
        raise ConfigurationError(f"--records needs {error.name}: pip install 'headrace[records]'") from error
    # What was recorded of a redacted output is not what was answered.
    outputs = [spec for spec in version.outputs if f"out_{spec.name}" not in model.config.recording.redact]
    period = ALWAYS if hours is None else Period(clock.wall_ns() - int(hours * 3.6e12))
    return read_recorded(url, model.name, label, version.inputs, outputs, version.max_batch_size > 0, settings.rows,
                         home=home_of(state_dir), period=period, say=say)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn("{task.description:12}"), BarColumn(), TextColumn("{task.completed:,} of {task.total:,}"),
                   TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with bar:
        tasks: dict[str, Any] = {}

        def stage(name: str, done: int, of: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=of)
            bar.update(tasks[name], completed=done, total=of)

        yield stage


__all__ = ["EXIT_CODES", "gate"]
