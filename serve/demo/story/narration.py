"""What the story says: acts, commands, numbers, and checks, which decide how it ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from serve import clock

_INDENT = 2


@dataclass(frozen=True, slots=True)
class Check:
    """A claim of the story, and what was found."""

    claim: str
    holds: bool
    found: str


class Narrator:
    """console: where to. checks: so far."""

    def __init__(self, console: Console) -> None:
        self.checks: list[Check] = []
        self._console = console
        self._begun_ns = clock.monotonic_ns()

    @property
    def has_failed(self) -> bool:
        return not self.checks or any(not check.holds for check in self.checks)

    def act(self, title: str) -> None:
        self._console.print()
        self._console.rule(Text.assemble((title, "bold"), (f"  {self._elapsed_s():.0f} s", "dim")), align="left", style="dim")

    def say(self, text: str) -> None:
        self._console.print(Padding(Text(text), (0, 0, 0, _INDENT)))

    def command(self, line: str) -> None:
        """As a person would type it."""
        self._console.print(Text(f"{' ' * _INDENT}$ {line}", "cyan"), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, no_wrap=True)
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, 2 * _INDENT)))

    def check(self, claim: str, holds: bool, found: object = "") -> bool:
        """Notes and tells a check; returns `holds`."""
        check = Check(claim, bool(holds), str(found))
        self.checks.append(check)
        line = Table.grid(padding=(0, 1, 0, 0))
        said = Text.assemble(claim, (f"  {check.found}" if check.found else "", "dim"))
        line.add_row(Text("✓", "bold green") if check.holds else Text("✗", "bold red"), said)
        self._console.print(Padding(line, (0, 0, 0, _INDENT)))
        return check.holds

    def ending(self) -> None:
        """How it went."""
        failed = [check for check in self.checks if not check.holds]
        self._console.print()
        if self.has_failed:
            said = f"{len(failed)} of {len(self.checks)} checks do not hold, after {self._elapsed_s():.0f} s:"
            self._console.print(Text(said, "bold red"))
            for check in failed:
                self._console.print(Text(f"  ✗ {check.claim}  {check.found}", "red"))
        else:
            self._console.print(Text(f"all {len(self.checks)} checks hold, after {self._elapsed_s():.0f} s", "bold green"))

    def _elapsed_s(self) -> float:
        return (clock.monotonic_ns() - self._begun_ns) / 1e9


__all__ = ["Check", "Narrator"]
