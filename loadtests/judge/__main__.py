"""Simulate the judge. usage: python -m loadtests.judge [--quick] [--cases ramp errors ...] [--runs N] [--processes N] [--out FOLDER]."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from loadtests.judge import coverage, detection, null, report, runtimes, streams, whole
from loadtests.judge.tables import Scale, Table

Case = Callable[[Scale], list[Table]]

# In the order of the page.
CASES: dict[str, Case] = {
    "ramp": null.ramp, "clustered": null.clustered, "whole": whole.same_version, "errors": detection.errors,
    "slow-answers": detection.slow_answers, "run-times": runtimes.run_times, "outputs": streams.outputs, "shadow": streams.shadow,
    "promotion": streams.promotion, "fixtures": whole.fixtures, "peeking": null.peeking, "experiments": coverage.experiments,
}
# Started first: what takes longest.
SLOW_FIRST = ("whole", "run-times", "clustered", "experiments")

FULL, FULL_SLOW = 4_000, 300
QUICK, QUICK_SLOW = 200, 10


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.judge", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} runs a cell: does everything still work? Written to reports/")
    parser.add_argument("--runs", type=int, help=f"of every cell; default {FULL}")
    parser.add_argument("--slow-runs", type=int, help=f"through the whole judge; default {FULL_SLOW}")
    parser.add_argument("--processes", type=int, default=min(len(os.sched_getaffinity(0)), 4))
    parser.add_argument("--out", type=Path, default=report.ROOT / "docs" / "results")
    return parser.parse_args(arguments)


def run_case(name: str, runs: int, slow_runs: int) -> list[Table]:
    """One case, in whatever process."""
    began = time.monotonic()
    return CASES[name](Scale(runs, slow_runs, lambda line: print(f"{name} {time.monotonic() - began:5.1f} s  {line}", flush=True)))


def main(arguments: list[str]) -> int:
    """Run the cases and write the page; return 1 when a bound is missed in a full run."""
    options = parse(arguments)
    runs = options.runs or (QUICK if options.quick else FULL)
    slow_runs = options.slow_runs or (QUICK_SLOW if options.quick else FULL_SLOW)
    ordered = sorted(options.cases, key=lambda name: SLOW_FIRST.index(name) if name in SLOW_FIRST else len(SLOW_FIRST))
    with ProcessPoolExecutor(options.processes) as pool:
        futures: dict[str, Future[list[Table]]] = {name: pool.submit(run_case, name, runs, slow_runs) for name in ordered}
        tables = [table for name in CASES if name in futures for table in futures[name].result()]
    for table in tables:
        print("\n".join(report.table_page(table)), flush=True)
    is_whole = not options.quick and set(options.cases) == set(CASES)
    path = report.write(options.out if is_whole else report.ROOT / "reports", report.circumstances(runs, slow_runs), tables)
    print(f"written: {path}")
    return 0 if options.quick or all(bound.is_met for table in tables for bound in table.bounds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
