"""The routing plan of a rollout at a given weight, and what is counted under it."""

from dataclasses import replace
from typing import Literal

from serve.routing.plan import RoutingPlan, ShadowDoc, VariantDoc, name_of
from serve.routing.rollout_live import Live
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.rollout_state import ALL_TRAFFIC, NO_TRAFFIC, RolloutState, Traffic
from serve.routing.traffic_document import TrafficDocument
from serve.traffic import WHOLE_BP, JudgeCounting, JudgedOutput
from serve.types import ModelDescription, TensorSpec


def routing_plan(plan: RolloutPlan, stable: str, traffic: Traffic, salt: str) -> RoutingPlan:
    """What requests follow while the candidate gets `traffic`. At 100 % and at nothing the other version is not named any more."""
    variants = [VariantDoc(version=stable, weight=WHOLE_BP - traffic.candidate_bp)]
    if traffic != NO_TRAFFIC:
        variants.append(VariantDoc(version=plan.to, weight=traffic.candidate_bp))
    if traffic == ALL_TRAFFIC:
        variants = [VariantDoc(version=plan.to, weight=WHOLE_BP)]
    shadows: tuple[ShadowDoc, ...] = ()
    if traffic.shadow_bp and plan.shadow is not None:
        shadows = (ShadowDoc(version=plan.to, sample=traffic.shadow_bp, compare=plan.shadow.compare),)
    return RoutingPlan(
        variants=tuple(variants), sticky=plan.sticky, segment=plan.segment, shadows=shadows, salt=salt,
        overrides=plan.overrides if traffic != NO_TRAFFIC else (),
    )


def judged_output(model: ModelDescription, name: str | None) -> JudgedOutput | None:
    """The output whose distribution is watched: `name`, else the model's first. None: the model has none of that name."""
    found = next((spec for spec in model.outputs if name in (None, spec.name)), None)
    return None if found is None else JudgedOutput(found.name, _kind(found))


def with_traffic(
    document: TrafficDocument, state: RolloutState, traffic: Traffic, salt: str, counting: JudgeCounting | None
) -> TrafficDocument:
    """The model's traffic as the rollout wants it; once the rollout is over, without an owner and with `stable` naming what it promoted."""
    plan = routing_plan(state.plan, state.stable, traffic, salt)
    is_promoted = traffic == ALL_TRAFFIC
    labels = dict(document.labels)
    # The label goes with what answers: to the candidate, and back when it is taken back after all.
    former, latter = (state.stable, state.candidate) if is_promoted else (state.candidate, state.stable)
    if traffic in (ALL_TRAFFIC, NO_TRAFFIC) and labels.get("stable") == former:
        labels["stable"] = latter
    return replace(
        document, generation=document.generation + 1, plan=plan, pending=None, held="", labels=labels, owner=f"rollout:{state.id}",
        stable=state.candidate if is_promoted else state.stable, counting=counting if len(plan.variants) > 1 else None,
    )


def counting(live: Live, state: RolloutState, plan: RoutingPlan | None = None) -> JudgeCounting:
    """What is counted for the rollout's judge. plan: an operator's, whose variants may have names of their own."""
    names = {variant.version: name_of(variant) for variant in plan.variants} if plan is not None else {}
    live.arms = names
    return JudgeCounting(
        rollout=f"{state.id}.{state.attempt}", stable=names.get(state.stable, state.stable),
        candidate=names.get(state.candidate, state.candidate), warmup=live.warmup_left, output=live.output,
    )


def without_owner(document: TrafficDocument) -> TrafficDocument:
    """After the rollout: what is in force stays in force, and is the operator's to change."""
    return replace(document, owner="")


def share_of(document: TrafficDocument, stable: str, candidate: str) -> float:
    """The candidate's share of what both arms are assigned, as set; 0 where it has none."""
    if document.plan is None:
        return 0.0
    weights = {variant.version: variant.weight for variant in document.plan.variants}
    both = weights.get(stable, 0) + weights.get(candidate, 0)
    return weights.get(candidate, 0) / both if both else 0.0


def _kind(spec: TensorSpec) -> Literal["class", "integer", "float", "text"]:
    if spec.datatype == "BYTES":
        return "text"
    if not spec.datatype.startswith(("FP", "BF")):
        return "integer"
    return "class" if len(spec.shape) > 1 and spec.shape[-1] != 1 else "float"


__all__ = ["counting", "judged_output", "routing_plan", "share_of", "with_traffic", "without_owner"]
