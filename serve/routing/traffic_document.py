"""One model's traffic as the store keeps it: the plan in force, what is being prepared, labels, and who owns the plan. Pure."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.routing.plan import RoutingPlan, VariantDoc, compile_plan
from serve.traffic import WHOLE_BP, JudgeCounting, JudgedOutput, RoutingSpec

KIND = "traffic"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrafficDocument:
    """generation: grows by 1 with every change of what is in force. plan: None where nothing was set.

    pending: a plan whose versions are being loaded. held: the version that goes on answering everything meanwhile where there is no plan,
    so that a version loaded for a share of the traffic does not get all of it as the latest one. owner: "rollout:<id>", "experiment:<id>"
    or "". stable: name of the arm for what is not drawn. counting: what is counted for a judge. revision: of the store, 0 before the first
    write; not part of the document.
    """

    model: str
    generation: int = 0
    plan: RoutingPlan | None = None
    pending: RoutingPlan | None = None
    held: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    stable: str = ""
    counting: JudgeCounting | None = None
    revision: int = 0

    def spec(self) -> RoutingSpec | None:
        """What the native threads are to follow; None: the default version answers."""
        if self.plan is not None:
            return compile_plan(self.plan, self.generation, stable=self.stable or None, counting=self.counting)
        if self.held:
            return compile_plan(implied_plan(self.held), self.generation)
        return None

    def versions(self) -> frozenset[str]:
        """Every version that must stay loaded because of it."""
        named = set(self.labels.values()) | ({self.held} if self.held else set())
        for plan in (self.plan, self.pending):
            if plan is not None:
                named |= plan_versions(plan)
        return frozenset(named)

    def as_document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT, "model": self.model, "generation": self.generation,
            "plan": plan_document(self.plan), "pending": plan_document(self.pending), "held": self.held,
            "labels": dict(self.labels), "owner": self.owner, "stable": self.stable,
            "counting": None if self.counting is None else dataclasses.asdict(self.counting),
        }


def from_document(value: Mapping[str, Any], revision: int) -> TrafficDocument:
    """The inverse of as_document. Raises ValueError for a format that is not ours."""
    if value.get("format") != FORMAT:
        raise ValueError(f"traffic document of format {value.get('format')!r}; this server knows {FORMAT}")
    counting = value["counting"]
    if counting is not None:
        output = counting["output"]
        counting = JudgeCounting(**{**counting, "output": None if output is None else JudgedOutput(**output)})
    plans = {key: None if value[key] is None else RoutingPlan.model_validate(value[key]) for key in ("plan", "pending")}
    return TrafficDocument(
        model=value["model"], generation=value["generation"], plan=plans["plan"], pending=plans["pending"], held=value["held"],
        labels=dict(value["labels"]), owner=value["owner"], stable=value["stable"], counting=counting, revision=revision,
    )


def implied_plan(version: str) -> RoutingPlan:
    """What happens without a plan: one version answers everything."""
    return RoutingPlan(variants=(VariantDoc(version=version, weight=WHOLE_BP),), salt="implied")


def plan_versions(plan: RoutingPlan) -> frozenset[str]:
    """Every version that a plan names."""
    named = [variant.version for variant in plan.variants]
    named += [override.version for override in plan.overrides]
    return frozenset(named + [shadow.version for shadow in plan.shadows])


def plan_document(plan: RoutingPlan | None) -> dict[str, Any] | None:
    """A plan as JSON, without what was not given."""
    return None if plan is None else plan.model_dump(mode="json", exclude_none=True)


__all__ = ["FORMAT", "KIND", "TrafficDocument", "from_document", "implied_plan", "plan_document", "plan_versions"]
