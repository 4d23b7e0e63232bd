"""Seldon Core 2's Experiment: `candidates` with weights, and a `mirror`. https://docs.seldon.ai/seldon-core-2/user-guide/experiment"""

from collections.abc import Mapping
from typing import Any

from serve.routing.dialects.reading import (
    ModelContext,
    check_fields,
    integer_at,
    list_at,
    mapping_at,
    refuse,
    shares,
    text_at,
    unwrapped,
    version_named,
)
from serve.routing.documents import validated
from serve.routing.plan import RoutingPlan

_MAX_WEIGHT = 2**31 - 1     # Seldon's weights are uint32 in the scheduler, int in the resource


def is_seldon(document: Mapping[str, Any]) -> bool:
    """By `candidates`, or by the kind."""
    return document.get("kind") == "Experiment" or "candidates" in document


def parse(document: Mapping[str, Any], context: ModelContext) -> RoutingPlan:
    """Weights count by their sum, as in Seldon. `default` comes first: it answers what is not drawn. Raises Unprocessable."""
    path, spec = "", document
    if "kind" in document:
        path, spec = "spec.", unwrapped(document, "Experiment", "mlops.seldon.io")
    check_fields(spec, path.rstrip("."), ("default", "candidates", "mirror", "resourceType"))
    if spec.get("resourceType", "model") != "model":
        refuse(f"{path}resourceType", f"{spec['resourceType']!r}: only a split between versions of a model can be had here")
    names, weights = [], []
    for at, item in enumerate(list_at(spec.get("candidates"), f"{path}candidates")):
        where = f"{path}candidates.{at}"
        candidate = mapping_at(item, where)
        # Before 2.0 was released the field was called modelName; Seldon's own samples have both.
        key = "modelName" if "modelName" in candidate and "name" not in candidate else "name"
        check_fields(candidate, where, (key, "weight"))
        names.append(text_at(candidate.get(key), f"{where}.{key}"))
        weights.append(integer_at(candidate.get("weight"), f"{where}.weight", 0, _MAX_WEIGHT))
    variants = [
        {"version": version_named(name, f"{path}candidates.{at}", context), "weight": share, "name": name}
        for at, (name, share) in enumerate(zip(names, shares(weights, f"{path}candidates"), strict=True))
    ]
    if "default" in spec:
        default = spec["default"]
        if default not in names:
            refuse(f"{path}default", f"{default!r} is none of the candidates {', '.join(names)}")
        variants.sort(key=lambda variant: variant["name"] != default)
    plan: dict[str, Any] = {"variants": variants}
    if "mirror" in spec:
        plan["shadows"] = _mirror(mapping_at(spec["mirror"], f"{path}mirror"), f"{path}mirror", context)
    return validated(RoutingPlan, plan)


def _mirror(mirror: Mapping[str, Any], path: str, context: ModelContext) -> list[dict[str, Any]]:
    check_fields(mirror, path, ("name", "percent"))
    version = version_named(text_at(mirror.get("name"), f"{path}.name"), f"{path}.name", context)
    percent = integer_at(mirror.get("percent"), f"{path}.percent", 0, 100)
    return [{"version": version, "sample": percent * 100}] if percent else []
