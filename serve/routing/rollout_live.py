"""One rollout in memory, and as the store keeps it."""

import asyncio
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.routing.deltas import Look, Taken
from serve.routing.judge.judgement import Judgement
from serve.routing.judge.settings import JudgeSettings
from serve.routing.judge.state import JudgeState
from serve.routing.rollout import possible_verbs
from serve.routing.rollout_events import Event
from serve.routing.rollout_state import ENDED, RolloutState, described
from serve.store.port import Document
from serve.traffic import JudgedOutput, OutcomeTally

KIND = "rollout"
EVIDENCE = "evidence"
MAX_EVIDENCE = 200


@dataclass(slots=True)
class Live:
    """state: where it stands, as committed. judge: everything counted so far. shares: by generation, of the candidate, as set.

    output: what is watched of the answers. arms: version -> name of its arm, where an operator's plan gives it another than the version.
    warmup_left: candidate answers that are still to be left out. taken: what the judge has of fed-back outcomes. salt: of its draws, for
    good. settings: the judge's, with the output that is watched. worker_died: the machine is still to be told. loaded: what came of the
    load, likewise. look: the last one. evidence: judgements that changed something, oldest first. saved_ns: monotonic, of the last commit.
    """

    state: RolloutState
    judge: JudgeState
    settings: JudgeSettings
    salt: str
    created: str
    output: JudgedOutput | None = None
    ended: str = ""
    arms: dict[str, str] = field(default_factory=dict)
    shares: dict[int, float] = field(default_factory=dict)
    warmup_left: int = 0
    taken: Taken = field(default_factory=dict)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    revision: int = 0
    evidence_revision: int = 0
    look: Look = field(default_factory=Look)
    judgement: Judgement | None = None
    looked_ns: int = 0
    saved_ns: int = 0
    n_failing_saved: int = 0
    units_saved_ns: int = 0
    worker_died: bool = False
    loaded: Event | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    loading: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.state.phase in ENDED

    def arm(self, version: str) -> str:
        """Name of a version's arm."""
        return self.arms.get(version, version)

    @property
    def units(self) -> str:
        """Under which name its sticky units are remembered."""
        return f"{self.state.id}.{self.state.attempt}"

    def stored(self, state: RolloutState) -> dict[str, Any]:
        """The document of the store, as of `state`."""
        return {
            "state": state.as_document(), "judge": self.judge.as_document(), "settings": self.settings.model_dump(mode="json"),
            "output": None if self.output is None else dataclasses.asdict(self.output), "arms": self.arms,
            "salt": self.salt, "created": self.created, "ended": self.ended, "warmup_left": self.warmup_left,
            "shares": {str(generation): share for generation, share in self.shares.items()},
            "taken": {key: [dataclasses.astuple(tally) for tally in pair] for key, pair in self.taken.items()},
        }

    def shown(self) -> dict[str, Any]:
        """The document of the admin API."""
        return {
            **self.state.as_document(), "created": self.created, "ended": self.ended, "described": described(self.state),
            "possible": list(possible_verbs(self.state)),
            "judgement": None if self.judgement is None else judgement_document(self.judgement),
        }


def from_stored(stored: Document, evidence: Document | None) -> Live:
    """The inverse of `stored`. Raises InternalError for a document that is not ours."""
    value = stored.content
    return Live(
        state=RolloutState.from_document(value["state"]), judge=JudgeState.from_document(value["judge"]),
        settings=JudgeSettings.model_validate(value["settings"]), salt=value["salt"], created=value["created"], ended=value["ended"],
        output=None if value["output"] is None else JudgedOutput(**value["output"]), arms=dict(value["arms"]),
        shares={int(generation): share for generation, share in value["shares"].items()}, warmup_left=value["warmup_left"],
        taken={key: (OutcomeTally(*stable), OutcomeTally(*candidate)) for key, (stable, candidate) in value.get("taken", {}).items()},
        evidence=list(evidence.content["judgements"]) if evidence is not None else [], revision=stored.revision,
        evidence_revision=evidence.revision if evidence is not None else 0,
    )


def judgement_document(judgement: Judgement) -> dict[str, Any]:
    """As JSON; infinities, which JSON lacks, as text."""
    return {**_plain(dataclasses.asdict(judgement)), "verdict": judgement.verdict.value}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


__all__ = ["EVIDENCE", "KIND", "MAX_EVIDENCE", "Live", "from_stored", "judgement_document"]
