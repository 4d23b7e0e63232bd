"""Runs the cases of a bench that has servers of its own, one after the other, and puts each into its page as soon as it is done."""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests import sections
from loadtests.bench.__main__ import default_cores
from loadtests.bench.servers import ROOT, Machine
from loadtests.judge.report import table_page
from loadtests.judge.tables import Table
from loadtests.rollout.bench import Bench


@dataclass(frozen=True)
class Suite:
    """name: of `python -m loadtests.NAME` and of its page in docs/results. head: lines above the results. cases: in their order there."""

    name: str
    about: str
    head: Sequence[str]
    cases: Mapping[str, Callable[[Bench], list[Table]]]

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Return the settings of a run."""
        parser = argparse.ArgumentParser(prog=f"python -m loadtests.{self.name}", description=self.about)
        parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(self.cases)}; default: all")
        parser.add_argument("--quick", action="store_true", help="a few of everything: does it still run? Written to reports/")
        parser.add_argument("--server-cores", help="as taskset takes them; default: the first core")
        parser.add_argument("--client-cores", help="default: the second core")
        parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
        options = parser.parse_args(arguments)
        unknown = sorted(set(options.cases) - set(self.cases))
        if unknown:
            parser.error(f"no case {', '.join(unknown)}; there are {', '.join(self.cases)}")
        return options

    def run(self, arguments: list[str]) -> int:
        """Run the cases and write the page; return 1 when a bound is missed in a full run."""
        options = self.parse(arguments)
        server_cores, client_cores = default_cores("cpu")
        server_cores, client_cores = options.server_cores or server_cores, options.client_cores or client_cores
        out, stem = (ROOT / "reports", f"{self.name}-quick") if options.quick else (options.out, self.name)
        is_met = True
        for name in options.cases or self.cases:
            began = time.monotonic()

            def say(line: str, name: str = name, began: float = began) -> None:
                print(f"{name} {time.monotonic() - began:6.1f} s  {line}", flush=True)

            say(str(self.cases[name].__doc__))
            with tempfile.TemporaryDirectory(prefix=f"headrace-{self.name}-") as folder:
                machine = Machine(server_cores, client_cores, client_cores.count(",") + 1, Path(folder))
                tables = self.cases[name](Bench(machine, options.quick, say))
            for table in tables:
                print("\n".join(table_page(table)), flush=True)
            is_met &= all(bound.is_met for table in tables for bound in table.bounds)
            facts = sections.circumstances(server_cores, client_cores, options.quick)
            section = sections.as_section(facts, tables, time.monotonic() - began)
            path = sections.merge(out, stem, self.head, name, section, list(self.cases))
            say(f"written: {path}")
        return 0 if options.quick or is_met else 1


__all__ = ["Suite"]
