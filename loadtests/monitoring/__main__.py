"""Measure the mathematics of monitoring. usage: python -m loadtests.monitoring [CASE ...] [--quick] [--runs N] [--out FOLDER]."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadtests import sections
from loadtests.bench.report import ROOT
from loadtests.judge.report import table_page
from loadtests.judge.tables import Scale, Table
from loadtests.monitoring import plots
from loadtests.monitoring.annotated import annotated_points
from loadtests.monitoring.clean import clean_windows, covariate_delays, effects
from loadtests.monitoring.concept_drift import concept_delays
from loadtests.monitoring.cost import costs
from loadtests.monitoring.published import car_loans, census

# In the order of the page.
CASES: dict[str, Callable[[Scale], list[Table]]] = {
    "car-loans": car_loans, "census": census, "clean": clean_windows, "inputs": covariate_delays, "effects": effects,
    "concept": concept_delays, "annotated": annotated_points, "cost": costs,
}
PICTURES = {"car-loans": ("monitoring-car-loans", plots.car_loans)}
HEAD = (
    "# Monitoring, on known data",
    "",
    "Written by `make bench-monitoring` (`python -m loadtests.monitoring`), which calls the functions that watch a running server:",
    "baselines, cells, drift, estimates, detectors. Data: NannyML's data sets (`tools/datasets.sh` fetches them), river's generators and",
    "river's copy of the Turing change point data sets. Seeds are fixed.",
    "",
    "![estimated and realised ROC AUC by chunk](monitoring-car-loans.svg)",
)
FULL, QUICK = 10, 2


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.monitoring", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few of everything: does it still run? Written to reports/")
    parser.add_argument("--runs", type=int, help=f"of every cell that is random; default {FULL}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def main(arguments: list[str]) -> int:
    """Run the cases and write the page; return 1 when a bound is missed in a full run."""
    options = parse(arguments)
    out, stem = (ROOT / "reports", "monitoring-quick") if options.quick else (options.out, "monitoring")
    runs = options.runs or (QUICK if options.quick else FULL)
    is_met = True
    for name in options.cases or CASES:
        began = time.monotonic()

        def say(line: str, name: str = name, began: float = began) -> None:
            print(f"{name} {time.monotonic() - began:6.1f} s  {line}", flush=True)

        tables = CASES[name](Scale(runs, runs, say))
        for table in tables:
            print("\n".join(table_page(table)), flush=True)
        is_met &= all(bound.is_met for table in tables for bound in table.bounds)
        section = sections.as_section(sections.circumstances("0", "0", options.quick), tables, time.monotonic() - began)
        path = sections.merge(out, stem, HEAD, name, section, list(CASES))
        if name in PICTURES:
            picture, draw = PICTURES[name]
            (out / f"{picture}.svg").write_text(draw(tables[0].series))
        say(f"written: {path}")
    return 0 if options.quick or is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
