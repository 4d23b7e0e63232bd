"""Results as JSON and as a Markdown page."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from loadtests.bench.cases import Table
from loadtests.bench.measure import Summary

ROOT = Path(__file__).resolve().parents[2]


def first_line(command: Sequence[str]) -> str:
    """Return the first line that a program prints, "?" when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, cwd=ROOT)
    except OSError:
        return "?"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def circumstances(rounds: int, seconds: float, server_cores: str, client_cores: str) -> dict[str, str]:
    """Return what a reader needs to judge the figures."""
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line(["git", "rev-parse", "--short", "HEAD"]) + (" with changes" if changed else ""),
        "processor": processor(),
        "cores": f"server on {server_cores}, client on {client_cores}",
        "runs": f"{rounds} alternating runs of {seconds:g} s",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "onnxruntime": next((f"{d.name} {d.version}" for d in metadata.distributions() if d.name.startswith("onnxruntime")), "?"),
        "clients": f"{first_line(['h2load', '--version'])}; {first_line(['wrk', '-v']).partition('Copyright')[0].strip()}",
    }


def cell(value: float) -> str:
    """Return a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def summary_row(summary: Summary) -> str:
    """Return a line of a table."""
    rate, cpu = summary.rate, summary.cpu_us
    p99 = f"{summary.p99_ms:.2f}" if summary.p99_ms is not None else ""
    void = f"{summary.n_runs} ({summary.n_void} void)" if summary.n_void else str(summary.n_runs)
    return (
        f"| {summary.name} | {cell(rate.median)} | {cell(rate.q1)} to {cell(rate.q3)} ({rate.relative_range:.1%}) "
        f"| {cell(cpu.median)} | {cell(cpu.q1)} to {cell(cpu.q3)} | {p99} | {void} |"
    )


def table_page(table: Table) -> list[str]:
    """Return a section of the page."""
    lines = [f"## {table.title}", ""]
    if table.summaries:
        lines += ["| | a second, median | quartiles (range) | CPU us each, median | quartiles | p99 ms | runs |", "|---" * 7 + "|"]
        lines += [summary_row(summary) for summary in table.summaries.values()] + [""]
    if table.facts:
        lines += ["| | |", "|---|---|"] + [f"| {name} | {value:.3f} |" for name, value in table.facts.items()] + [""]
    for found in table.ratios:
        measure = "" if not table.summaries else " by requests a second" if found.by == "rate" else " by CPU time a request"
        lines.append(f"- {found.name}: **{found.value:.2f}**{measure}, at least {found.least:g}: {'met' if found.is_met else 'MISSED'}")
    lines += [f"- {note}" for note in table.notes]
    return [*lines, ""]


def write(folder: Path, stem: str, facts: Mapping[str, str], tables: Sequence[Table]) -> Path:
    """Write STEM.json with every run and STEM.md; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"circumstances": dict(facts), "tables": [asdict(table) for table in tables]}
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    page = ["# Measured", "", "Written by `make bench`; how to read it: docs/measuring.md.", "", "| | |", "|---|---|"]
    page += [f"| {name} | {value} |" for name, value in facts.items()] + [""]
    for table in tables:
        page += table_page(table)
    path = folder / f"{stem}.md"
    path.write_text("\n".join(page).rstrip() + "\n")
    return path
