"""Run the benches. usage: python -m loadtests.bench [--cases floor json compute images memory] [--quick] [--floor FLOOR.c] ..."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from loadtests.bench import report
from loadtests.bench.cases import CASES, Plan, Table
from loadtests.bench.servers import ROOT, Machine

FLOOR_SOURCE = ROOT.parent / "shared" / "prototype" / "floor.c"


def default_cores(device: str) -> tuple[str, str]:
    """Return the cores of server and client: one each for the CPU benches, half of the machine each beside a GPU."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("a bench needs two cores: one for the server, one for the client")
    if device == "cpu":
        return str(available[0]), str(available[1])
    half = len(available) // 2
    return ",".join(map(str, available[:half])), ",".join(map(str, available[half:]))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the settings of a run."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="one run of half a second each: does everything still start?")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--floor", type=Path, default=FLOOR_SOURCE, help="floor.c; without it the floor is left out")
    parser.add_argument("--device", default="cpu", help="execution device of our server and of ONNX Runtime alone: cpu or cuda:N")
    parser.add_argument("--server-cores", help="as taskset takes them; default: the first core")
    parser.add_argument("--client-cores", help="default: the second core")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the cases and write the page; return 1 when a ratio is missed in a full run."""
    options = parse(arguments)
    server_cores, client_cores = default_cores(options.device)
    server_cores, client_cores = options.server_cores or server_cores, options.client_cores or client_cores
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)
    tables: list[Table] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        machine = Machine(server_cores, client_cores, client_cores.count(",") + 1, Path(folder), options.device)
        source = options.floor if options.floor.exists() else None
        memory_requests = (2_000, 20_000) if options.quick else (100_000, 1_000_000)
        plan = Plan(machine, rounds, seconds, source, memory_requests, lambda line: print(line, flush=True))
        for name in options.cases:
            print(f"{name}: {CASES[name].__doc__}", flush=True)
            for table in CASES[name](plan):
                tables.append(table)
                print("\n".join(report.table_page(table)), flush=True)
    facts = report.circumstances(rounds, seconds, server_cores, client_cores)
    stem = "bench-quick" if options.quick else "bench" if options.device == "cpu" else "bench-gpu"
    path = report.write(ROOT / "reports" if options.quick else options.out, stem, facts, tables)
    print(f"written: {path}")
    return 0 if options.quick or all(found.is_met for table in tables for found in table.ratios) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
