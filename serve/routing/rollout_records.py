"""What is written down of a rollout beside its state: audit entries and evidence. Pure."""

from collections.abc import Sequence
from typing import Any

from serve.routing.rollout_events import Announce
from serve.routing.rollout_live import Live, judgement_document
from serve.routing.rollout_state import RolloutState, wanted_traffic
from serve.routing.traffic_document import TrafficDocument, plan_document
from serve.routing.traffic_service import Actor
from serve.store.audit import AuditEntry, rfc3339


def audit_entries(
    live: Live, state: RolloutState, announced: Sequence[Announce], by: Actor, before: TrafficDocument | None, after: TrafficDocument | None
) -> list[AuditEntry]:
    """One entry for each change that goes from `live.state` to `state`: announced phases and steps, a new verdict, the traffic."""
    evidence = judgement_document(live.judgement) if live.judgement is not None else None
    former = live.state
    entries = [
        AuditEntry(f"dev.headrace.{action.type}", state.id, by.name, by.reason or action.text, standing(former), standing(state), evidence)
        for action in announced
    ]
    if state.verdict is not None and state.verdict is not former.verdict:
        was = former.verdict.value if former.verdict is not None else None
        verdict = state.verdict.value
        entries.append(AuditEntry("dev.headrace.rollout.verdict", state.id, "headrace", state.verdict_why, was, verdict, evidence))
    if before is not None and after is not None:
        plans = plan_document(before.plan), plan_document(after.plan)
        entries.append(AuditEntry("dev.headrace.traffic.set", state.model, by.name, f"rollout {state.id}", *plans))
        if before.labels != after.labels:
            labels = dict(before.labels), dict(after.labels)
            entries.append(AuditEntry("dev.headrace.labels.set", state.model, by.name, f"rollout {state.id}", *labels))
    return entries


def evidence_of(live: Live, state: RolloutState, wall_ns: int) -> dict[str, Any]:
    """The newest judgement with the moment and the phase that it belongs to."""
    judged = judgement_document(live.judgement) if live.judgement is not None else None
    return {"time": rfc3339(wall_ns), **standing(state), "judgement": judged}


def standing(state: RolloutState) -> dict[str, Any]:
    """Where a rollout stands, in a few words."""
    traffic = wanted_traffic(state)
    shares = (None, None) if traffic is None else (traffic.candidate_bp, traffic.shadow_bp)
    return {
        "phase": state.phase.value, "step": state.step, "attempt": state.attempt, "why": state.why,
        "candidate_bp": shares[0], "shadow_bp": shares[1],
    }


def reach(document: TrafficDocument, version: str) -> tuple[int, int]:
    """How much of the requests a version gets, and how much of them is shadowed on it. Basis points."""
    if document.plan is None:
        return (0, 0)
    weight = sum(variant.weight for variant in document.plan.variants if variant.version == version)
    return weight, sum(shadow.sample for shadow in document.plan.shadows if shadow.version == version)


__all__ = ["audit_entries", "evidence_of", "reach", "standing"]
