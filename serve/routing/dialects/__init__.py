"""Documents of other systems, read as plans of ours. The shape tells the dialect; what we cannot honour is refused by name."""

from collections.abc import Callable, Mapping
from typing import Any

from serve.errors import Unprocessable
from serve.routing.dialects import argo, databricks, kserve, sagemaker, seldon
from serve.routing.dialects.reading import ModelContext
from serve.routing.documents import read_document, validated
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan, rollout_plan

Plan = RoutingPlan | RolloutPlan
_Parse = Callable[[Mapping[str, Any], ModelContext], Plan]


def _is_split(document: Mapping[str, Any]) -> bool:
    return "variants" in document


def _split(document: Mapping[str, Any], _: ModelContext) -> RoutingPlan:
    return validated(RoutingPlan, document)


def _rollout(document: Mapping[str, Any], context: ModelContext) -> RolloutPlan:
    return rollout_plan(document, context.candidate)


# name -> (how to tell it, how to read it)
DIALECTS: Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], _Parse]] = {
    "headrace": (_is_split, _split),
    "argo": (argo.is_argo, argo.parse),
    "seldon": (seldon.is_seldon, seldon.parse),
    "databricks": (databricks.is_databricks, databricks.parse),
    "sagemaker": (sagemaker.is_sagemaker, sagemaker.parse),
    "kserve": (kserve.is_kserve, kserve.parse),
}


def dialect_of(document: Mapping[str, Any]) -> str:
    """A key of DIALECTS. Raises Unprocessable when the shape is nobody's, or that of several."""
    found = [name for name, (is_it, _) in DIALECTS.items() if is_it(document)]
    if not found and set(document) & set(RolloutPlan.model_fields) and "kind" not in document:
        return "headrace"
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else f"has {', '.join(document) or 'nothing'}"
        raise Unprocessable(
            f"no dialect is told by what the document says: it {what}. Known: a traffic split (variants), a rollout (to, steps), Argo "
            "Rollouts (steps with setWeight), Seldon (candidates), Databricks (traffic_config), SageMaker (TrafficRoutingConfiguration), "
            "KServe (canaryTrafficPercent)"
        )
    return found[0]


def parse(document: str | Mapping[str, Any], context: ModelContext) -> Plan:
    """The plan that a document (JSON or YAML text, or what was read from it) states, in whichever dialect.

    A RoutingPlan for documents that state a split, a RolloutPlan for those that state steps. Raises Unprocessable.
    """
    if isinstance(document, str):
        document = read_document(document)
    name = dialect_of(document)
    if name == "headrace" and not _is_split(document):
        return _rollout(document, context)
    return DIALECTS[name][1](document, context)


__all__ = ["DIALECTS", "ModelContext", "Plan", "dialect_of", "parse"]
