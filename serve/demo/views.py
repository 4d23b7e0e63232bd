"""Answers on a terminal: tables for people, JSON for pipes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve.client import Client, InferResult
from serve.types import IndexEntry, short_digest

if TYPE_CHECKING:
    from serve.demo.heldout import Comparison

SHOWN_DIGITS = 5
_WIDTH = 78         # of a pipe, which has none


def as_json(result: InferResult) -> str:
    """One line; BYTES as text, undecodable bytes escaped."""
    outputs = {name: array.tolist() for name, array in result.outputs.items()}
    return json.dumps({"model_name": result.model_name, "model_version": result.model_version, "outputs": outputs}, default=_text,
                      ensure_ascii=False)


def show_index(entries: Sequence[IndexEntry], digests: Mapping[tuple[str, str], str]) -> None:
    """A line for each model version. digests: (model, version) -> sha256:<hex>, of those that are known."""
    table = Table("model", "version", "state", "digest", "reason", box=None, pad_edge=False)
    for entry in entries:
        digest = short_digest(digests.get((entry.name, entry.version), ""))
        table.add_row(*(Text(cell) for cell in (entry.name, entry.version, entry.state.value, digest, entry.reason)))
    _console().print(table)


def show_file_types(client: Client, repository: Path, model: str, version: str | None, files: list[Path]) -> int:
    """Names the files' types. The exit code: 1 when a file could not be read."""
    from serve.demo.file_types import load_rules, name_types
    from serve.demo.repository import MAGIKA_RULES

    verdicts = name_types(client, model, version, files, load_rules(repository / MAGIKA_RULES))
    table = Table("file", "type", "score", box=None, pad_edge=False)
    n_unread = 0
    for file, verdict in zip(files, verdicts, strict=True):
        if isinstance(verdict, OSError):
            n_unread += 1
            table.add_row(Text(str(file)), Text(verdict.strerror or "cannot be read"), "")
        else:
            table.add_row(Text(str(file)), Text(verdict.label), f"{verdict.score:.3f}")
    _console().print(table)
    return 1 if n_unread else 0


def show_heldout(client: Client, repository: Path, model: str, version: str | None, limit: int | None) -> int:
    """Draws some held-out digits with their answers and compares all with ONNX Runtime. The exit code: 1 when any row differs."""
    from serve.demo.heldout import compare, drawn

    seen = compare(client, repository, model, version, limit)
    table = Table("digit", "is", "served", "probability", "ONNX Runtime", title=f"{model} version {seen.version}", show_lines=True)
    for row in range(min(SHOWN_DIGITS, len(seen.truth))):
        table.add_row(Text(drawn(seen.images[row])), str(seen.truth[row]), str(seen.served[row]),
                      f"{seen.served_probabilities[row].max():.4f}", f"{seen.local[row]}  {seen.local_probabilities[row].max():.4f}")
    console = _console()
    console.print(table)
    console.print(_summary(seen))
    return 0 if seen.n_equal == len(seen.truth) else 1


def _summary(seen: "Comparison") -> Text:
    n = len(seen.truth)
    served, local = (f"{(labels == seen.truth).mean():.4f}" for labels in (seen.served, seen.local))
    return Text(f"accuracy through the server: {served}   with ONNX Runtime: {local}\n"
                f"equal row by row: {'yes' if seen.n_equal == n else 'no'} ({seen.n_equal} of {n}), "
                f"largest difference of a probability {seen.largest_difference:.1e}")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(_WIDTH, console.width))


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} is no JSON")
