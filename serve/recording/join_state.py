"""What a join of labels must not forget: which labels are done, what they added up to, and what was counted. Written whole, then renamed.

    joining.json     {"format", "batches", "horizon_ns", "done", "counts", "scopes", "outcomes", "joined_keys", "unit_keys"}
    joining/         keys of joined labels, and of units whose values were counted

A label is done in the same document that holds what it added: after a crash it is either joined again from the beginning, or not at all.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serve.errors import Unavailable
from serve.recording.join_source import Source
from serve.recording.key_memory import KeyMemory
from serve.recording.local_store import sync_folder
from serve.recording.outcome_sums import MAX_GENERATIONS, OutcomeSums
from serve.recording.seq_ranges import SeqRanges

FORMAT = 1
FILE = "joining.json"
FOLDER = "joining"
# 32 MiB each.
MAX_KEYS = 1 << 22


@dataclass(slots=True)
class LabelCounts:
    """Labels of one model that are done: of this replica's clients each is one of joined, late, duplicate and unknown. foreign: of other
    replicas' clients, joined with rows of this one. without_answer: rows of joined truths that say no prediction to compare.
    """

    joined: int = 0
    late: int = 0
    duplicate: int = 0
    unknown: int = 0
    foreign: int = 0
    without_answer: int = 0


@dataclass(slots=True)
class JoinState:
    """done: labels, by where they came in. horizon_ns: all that was received before is done. scopes: (model, generation) -> whose units
    those are. joined: keys of labels; units: of values that were counted.
    """

    home: Path
    batches: int = 0
    horizon_ns: int = 0
    done: dict[Source, SeqRanges] = field(default_factory=dict)
    counts: dict[str, LabelCounts] = field(default_factory=dict)
    scopes: dict[tuple[str, int], str] = field(default_factory=dict)
    sums: OutcomeSums = field(default_factory=OutcomeSums)
    joined: KeyMemory = field(init=False)
    units: KeyMemory = field(init=False)

    def __post_init__(self) -> None:
        self.joined, self.units = self._memories({}, {})

    def _memories(self, joined: Mapping[str, int], units: Mapping[str, int]) -> tuple[KeyMemory, KeyMemory]:
        folder = self.home / FOLDER
        return KeyMemory(folder, "labels", MAX_KEYS, joined), KeyMemory(folder, "units", MAX_KEYS, units)

    @classmethod
    def load(cls, home: Path) -> "JoinState":
        """What was saved last; the beginning where nothing was. Raises Unavailable for a later release's, OSError."""
        state = cls(home)
        try:
            document = json.loads((home / FILE).read_bytes())
        except FileNotFoundError:
            return state
        if document["format"] != FORMAT:
            raise Unavailable(f"{home / FILE} has format {document['format']}, this release reads {FORMAT}; use the one that wrote it")
        state.batches, state.horizon_ns = document["batches"], document["horizon_ns"]
        state.done = {(replica, epoch): SeqRanges(map(tuple, ranges)) for replica, epoch, ranges in document["done"]}
        known = {one.name for one in fields(LabelCounts)}
        state.counts = {model: LabelCounts(**{name: n for name, n in counts.items() if name in known})
                        for model, counts in document["counts"].items()}
        state.scopes = {(model, generation): scope for model, generation, scope in document["scopes"]}
        state.sums = OutcomeSums(document["outcomes"])
        state.joined, state.units = state._memories(document["joined_keys"], document["unit_keys"])
        return state

    def save(self) -> None:
        """Durable when it returns. Raises OSError; what was saved before is still there then."""
        self.sums.trim()
        document = {
            "format": FORMAT, "batches": self.batches, "horizon_ns": self.horizon_ns,
            "done": [[replica, epoch, ranges.pairs()] for (replica, epoch), ranges in sorted(self.done.items())],
            "counts": {model: {one.name: getattr(counts, one.name) for one in fields(counts)} for model, counts in self.counts.items()},
            "scopes": [[model, generation, scope] for (model, generation), scope in self.scopes.items()],
            "outcomes": self.sums.as_document(), "joined_keys": self.joined.save(), "unit_keys": self.units.save(),
        }
        _write(self.home / FILE, json.dumps(document, separators=(",", ":")).encode())
        self.joined.sweep()
        self.units.sweep()

    def count(self, model: str) -> LabelCounts:
        """Of one model, to be changed."""
        return self.counts.setdefault(model, LabelCounts())

    def scope(self, model: str, generation: int) -> str:
        """Whose units those of a generation are: its own, unless a rollout or an experiment has said."""
        return self.scopes.get((model, generation), f"generation {generation}")

    def learn_scope(self, message: Mapping[str, Any]) -> None:
        """{"type": "scopes", "model", "scope", "generations"}. Of a model the newest MAX_GENERATIONS are remembered."""
        model = str(message["model"])
        for generation in message["generations"]:
            self.scopes[model, int(generation)] = str(message["scope"])
        mine = sorted(generation for name, generation in self.scopes if name == model)
        for generation in mine[:-MAX_GENERATIONS]:
            del self.scopes[model, generation]


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


__all__ = ["JoinState", "LabelCounts"]
