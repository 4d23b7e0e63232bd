"""A gate's report, drawn."""

from rich.console import Group, RenderableType
from rich.text import Text

from serve.commands.traffic_view import plain_table
from serve.monitoring.gate_report import CheckStatus, GatedVersion, GateReport, Verdict
from serve.types import short_digest

_VERDICTS = {Verdict.PASS: ("passes", "bold green"), Verdict.FAIL: ("FAILS", "bold red"),
             Verdict.NOT_ENOUGH_DATA: ("is undecided: not enough data", "bold yellow")}
_STATUSES = {CheckStatus.PASS: ("pass", "green"), CheckStatus.FAIL: ("FAIL", "bold red"),
             CheckStatus.NOT_ENOUGH_DATA: ("too little", "yellow"), CheckStatus.TOLD: ("told", "dim")}


def report_picture(report: GateReport) -> RenderableType:
    """The verdict, what it is about, and a line for each check."""
    word, style = _VERDICTS[report.verdict]
    head = Text(f"{report.model} {_version(report.candidate)} {word}", style)
    against = "by itself" if report.stable is None else f"against {_version(report.stable)}"
    skipped = f", {report.data.skipped:,} left out" if report.data.skipped else ""
    told = Text(f"{against}, {report.data.rows:,} rows of {report.data.source} ({report.data.labelled:,} labelled{skipped})", "dim")
    table = plain_table("check", "", "")
    for check in report.checks:
        status, colour = _STATUSES[check.status]
        table.add_row(Text(check.name), Text(status, colour), Text(check.text))
    return Group(head, told, table)


def _version(version: GatedVersion) -> str:
    return f"version {version.version} ({short_digest(version.digest)})"


__all__ = ["report_picture"]
