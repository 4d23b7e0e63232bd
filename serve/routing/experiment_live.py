"""One experiment: what the store keeps of it, and what only the worker that carries it out knows."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serve.routing import experiment
from serve.routing.experiment_state import ExperimentState
from serve.routing.plan import RoutingPlan
from serve.routing.traffic_document import plan_versions

KIND = "experiment"


@dataclass(frozen=True, slots=True)
class Record:
    """elapsed_s: of the running phase; since_update_s: since the weights were last reallocated. before: the plan that it replaced.

    why: why it ended; until then what went wrong at the last look, "" when nothing did.
    """

    id: str
    model: str
    state: ExperimentState
    phase: Literal["pending", "running", "ended"] = "pending"
    elapsed_s: float = 0.0
    since_update_s: float = 0.0
    started: str = ""
    ended: str = ""
    why: str = ""
    before: Mapping[str, Any] | None = None

    @property
    def owner(self) -> str:
        """As the traffic document names it while its plan is in force."""
        return f"experiment:{self.id}"

    def before_plan(self) -> RoutingPlan | None:
        """The plan that it replaced; None where there was none."""
        return None if self.before is None else RoutingPlan.model_validate(self.before)

    def versions(self) -> frozenset[str]:
        """Every version that it needs loaded, those that get the traffic back after it too."""
        before = self.before_plan()
        return frozenset(v.version for v in self.state.plan.variants) | (plan_versions(before) if before is not None else frozenset())

    def as_document(self) -> dict[str, Any]:
        """As the store keeps it."""
        return {
            "id": self.id, "model": self.model, "phase": self.phase, "elapsed_s": self.elapsed_s, "since_update_s": self.since_update_s,
            "started": self.started, "ended": self.ended, "why": self.why, "before": self.before, "state": self.state.as_document(),
        }

    def shown(self) -> dict[str, Any]:
        """As the admin API shows it: the plan and the read-out in place of the counts."""
        document = self.as_document()
        document["plan"] = document.pop("state")["plan"]
        return {**document, "read_out": experiment.read_out(self.state)}


def from_document(document: Mapping[str, Any]) -> Record:
    """The inverse of as_document, after a restart of the server: the counters begin at 0. Raises ValueError, KeyError, TypeError."""
    value = dict(document)
    return Record(state=experiment.resume(ExperimentState.from_document(value.pop("state"))), **value)


@dataclass(slots=True)
class Live:
    """record: what is durable, and the counts and times since. revision: of the store. n_failing_saved: of the units in the store.

    lock: held by whoever changes any of it.
    """

    record: Record
    revision: int = 0
    n_failing_saved: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)


__all__ = ["KIND", "Live", "Record", "from_document"]
