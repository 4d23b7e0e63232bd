"""KServe's InferenceService: `canaryTrafficPercent`, and the list `spec.canary` that 0.20 brought.

https://kserve.github.io/website/docs/model-serving/predictive-inference/rollout-strategies/canary; https://github.com/kserve/kserve/pull/5672
"""

from collections.abc import Mapping
from typing import Any

from serve.routing.dialects.reading import (
    ModelContext,
    check_fields,
    integer_at,
    list_at,
    mapping_at,
    refuse,
    text_at,
    unwrapped,
    version_named,
)
from serve.routing.documents import validated
from serve.routing.plan import RoutingPlan

_PREDICTOR_WHY = dict.fromkeys(
    ("model", "sklearn", "xgboost", "lightgbm", "pytorch", "tensorflow", "onnx", "triton", "containers"),
    "versions come from the model repository: remove it",
) | dict.fromkeys(
    (
        "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "serviceAccountName", "containerConcurrency", "timeout", "batcher",
        "logger",
    ),
    "says how pods are run, which Headrace does not: remove it",
)
_SPEC_WHY = dict.fromkeys(("transformer", "explainer"), "only a model's versions are split: remove it")


def is_kserve(document: Mapping[str, Any]) -> bool:
    """By the kind, or by `canaryTrafficPercent` or the list of canaries, with or without what is around them."""
    is_kind = document.get("kind") == "InferenceService"
    return is_kind or "canaryTrafficPercent" in document or "predictor" in document or isinstance(document.get("canary"), list)


def parse(document: Mapping[str, Any], context: ModelContext) -> RoutingPlan:
    """canaryTrafficPercent is the newest version's share; the rest stays with the one that answers now. Raises Unprocessable."""
    path = ""
    if "kind" in document:
        path, document = "spec.", unwrapped(document, "InferenceService", "serving.kserve.io")
    if "canaryTrafficPercent" not in document:
        check_fields(document, path.rstrip("."), ("predictor", "canary"), _SPEC_WHY)
        if "canary" in document:
            return _listed(document, path, context)
        path, document = f"{path}predictor.", mapping_at(document.get("predictor"), f"{path}predictor")
    check_fields(document, path.rstrip("."), ("canaryTrafficPercent",), _PREDICTOR_WHY)
    where = f"{path}canaryTrafficPercent"
    percent = integer_at(document.get("canaryTrafficPercent"), where, 0, 100)
    previous, latest = _latest_two(where, context)
    return validated(RoutingPlan, {
        "variants": [{"version": previous, "weight": (100 - percent) * 100}, {"version": latest, "weight": percent * 100}],
    })


def _latest_two(path: str, context: ModelContext) -> tuple[str, str]:
    """(the last rolled out, the newest): what answers now where it is older than the newest, else the one before the newest."""
    latest = context.candidate or (context.versions[-1] if context.versions else None)
    earlier = [version for version in context.versions if latest is not None and int(version) < int(latest)]
    previous = context.stable if context.stable not in {None, latest} else (earlier[-1] if earlier else None)
    if latest is None or previous is None:
        refuse(path, f"wants two versions of model {context.model}; it has {', '.join(context.versions) or 'none'}")
    return previous, latest


def _listed(spec: Mapping[str, Any], path: str, context: ModelContext) -> RoutingPlan:
    predictor = mapping_at(spec.get("predictor", {}), f"{path}predictor")
    check_fields(predictor, f"{path}predictor", ("name",), _PREDICTOR_WHY)
    stable = context.stable
    if predictor:
        stable = version_named(text_at(predictor["name"], f"{path}predictor.name"), f"{path}predictor.name", context)
    if stable is None:
        refuse(f"{path}predictor", f"nobody answers for model {context.model} yet: name the stable version")
    canaries: list[dict[str, Any]] = []
    total = 0
    for at, item in enumerate(list_at(spec["canary"], f"{path}canary")):
        where = f"{path}canary.{at}"
        canary = mapping_at(item, where)
        check_fields(canary, where, ("trafficPercent", "predictor"))
        named = mapping_at(canary.get("predictor"), f"{where}.predictor")
        check_fields(named, f"{where}.predictor", ("name",), _PREDICTOR_WHY)
        name = text_at(named.get("name"), f"{where}.predictor.name")
        percent = integer_at(canary.get("trafficPercent"), f"{where}.trafficPercent", 0, 100)
        total += percent * 100
        canaries.append({"version": version_named(name, f"{where}.predictor.name", context), "weight": percent * 100, "name": name})
    left = 10_000 - total
    if left < 0:
        refuse(f"{path}canary", f"the percentages sum to {(10_000 - left) // 100}; want 100 or less")
    return validated(RoutingPlan, {"variants": [{"version": stable, "weight": left}, *canaries]})
