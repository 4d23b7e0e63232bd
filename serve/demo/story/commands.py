"""`headrace`, run as an operator runs it: in a process of its own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serve
from serve.errors import HeadraceError

_TIMEOUT_S = 180.0


class CommandFailed(HeadraceError):
    """A command left with another code than it should have."""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    output: str
    errors: str


@dataclass(frozen=True, slots=True)
class Places:
    """What the story writes, all in one folder."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "models"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def inbox(self) -> Path:
        """Events that the monitoring command was run with."""
        return self.folder / "inbox"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


class Headrace:
    """Runs commands in the folder. say: shows each as it would be typed."""

    def __init__(self, places: Places, say: Callable[[str], None] = lambda line: None) -> None:
        self._places = places
        self._say = say

    def run(self, *arguments: str | Path, codes: Sequence[int] = (0,), is_quiet: bool = False) -> Ended:
        """Raises CommandFailed when it leaves with none of these codes."""
        words = [self._short(argument) for argument in arguments]
        if not is_quiet:
            self._say(shlex.join(["headrace", *words]))
        try:
            done = subprocess.run([sys.executable, "-m", "serve.cli", *words], cwd=self._places.folder, env=environment(), text=True,
                                  capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"headrace {shlex.join(words)}: it does not end; {_TIMEOUT_S:g} s are long enough") from error
        if done.returncode not in codes:
            raise CommandFailed(f"headrace {shlex.join(words)} left with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
        return Ended(done.returncode, done.stdout, done.stderr)

    def query(self, sql: str, *flags: str, is_quiet: bool = True) -> list[dict[str, Any]]:
        """Rows of `headrace records query`."""
        done = self.run("records", "query", sql, "--records", self._places.records, "--state-dir", self._places.state, "--format", "json",
                        *flags, is_quiet=is_quiet)
        return [json.loads(line) for line in done.output.splitlines()]

    def _short(self, argument: str | Path) -> str:
        """Paths as seen from the folder."""
        if isinstance(argument, Path) and argument.is_relative_to(self._places.folder):
            return str(argument.relative_to(self._places.folder))
        return str(argument)


def environment() -> Mapping[str, str]:
    """Of a process that is to find this package, wherever it lies."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**kept, "PYTHONPATH": str(Path(serve.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


__all__ = ["CommandFailed", "Ended", "Headrace", "Places", "environment"]
