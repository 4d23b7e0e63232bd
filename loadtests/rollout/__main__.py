"""Roll out on running servers. usage: python -m loadtests.rollout [CASE ...] [--quick] [--out FOLDER]."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loadtests.bench.__main__ import default_cores
from loadtests.bench.servers import ROOT, Machine
from loadtests.judge.report import table_page
from loadtests.judge.tables import Table
from loadtests.rollout import report
from loadtests.rollout.bench import Bench
from loadtests.rollout.canaries import canaries_case
from loadtests.rollout.changes import changes_case
from loadtests.rollout.costs import cost_case
from loadtests.rollout.kills import kills_case
from loadtests.rollout.same import same_case
from loadtests.rollout.shadows import shadow_case
from loadtests.rollout.splits import split_case

# In the order of the page.
CASES: dict[str, Callable[[Bench], list[Table]]] = {
    "split": split_case, "canaries": canaries_case, "same": same_case, "kills": kills_case,
    "changes": changes_case, "cost": cost_case, "shadow": shadow_case,
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.rollout", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few of everything: does it still run? Written to reports/")
    parser.add_argument("--server-cores", help="as taskset takes them; default: the first core")
    parser.add_argument("--client-cores", help="default: the second core")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


def main(arguments: list[str]) -> int:
    """Run the cases and write the page; return 1 when a bound is missed in a full run."""
    options = parse(arguments)
    server_cores, client_cores = default_cores("cpu")
    server_cores, client_cores = options.server_cores or server_cores, options.client_cores or client_cores
    out, stem = (ROOT / "reports", "rollout-quick") if options.quick else (options.out, "rollout")
    is_met = True
    for name in options.cases or CASES:
        began = time.monotonic()

        def say(line: str, name: str = name, began: float = began) -> None:
            print(f"{name} {time.monotonic() - began:6.1f} s  {line}", flush=True)

        say(str(CASES[name].__doc__))
        with tempfile.TemporaryDirectory(prefix="headrace-rollout-") as folder:
            machine = Machine(server_cores, client_cores, client_cores.count(",") + 1, Path(folder))
            tables = CASES[name](Bench(machine, options.quick, say))
        for table in tables:
            print("\n".join(table_page(table)), flush=True)
        is_met &= all(bound.is_met for table in tables for bound in table.bounds)
        facts = report.circumstances(server_cores, client_cores, options.quick)
        path = report.merge(out, stem, name, report.as_section(facts, tables, time.monotonic() - began), list(CASES))
        say(f"written: {path}")
    return 0 if options.quick or is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
