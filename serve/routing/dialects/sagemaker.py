"""SageMaker's deployment guardrails: TrafficRoutingConfiguration. https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails.html"""

from collections.abc import Mapping
from typing import Any

from serve.routing.dialects.reading import ModelContext, candidate_of, check_fields, integer_at, mapping_at, refuse
from serve.routing.documents import validated
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import DEFAULT_STEP_TIMEOUT_SECONDS, RolloutPlan

_MARKS = ("DeploymentConfig", "BlueGreenUpdatePolicy", "RollingUpdatePolicy", "AutoRollbackConfiguration", "TrafficRoutingConfiguration")
_SHIFT = ("Type", "WaitIntervalInSeconds", "CanarySize", "LinearStepSize")
_WHY = {
    "RollingUpdatePolicy": "replaces machines in batches; weights are shares of requests here: use BlueGreenUpdatePolicy",
    "AutoRollbackConfiguration": "its alarms are in CloudWatch, which is not asked; the judge rolls back by itself: remove it",
    "MaximumExecutionTimeoutInSeconds": "there is no limit on the whole; step_timeout_seconds of our own plan limits each step: remove it",
    "EndpointName": "the model is named by the request: remove it",
    "EndpointConfigName": "the candidate is named by the request: remove it",
}


def is_sagemaker(document: Mapping[str, Any]) -> bool:
    """By the wrapping, or by the fields of the configuration itself."""
    return any(mark in document for mark in _MARKS) or ("Type" in document and "WaitIntervalInSeconds" in document)


def parse(document: Mapping[str, Any], context: ModelContext) -> RoutingPlan | RolloutPlan:
    """CANARY and LINEAR are rollouts; ALL_AT_ONCE is a split, at once and unjudged, with the old version at weight 0.

    Raises Unprocessable.
    """
    shift, path = _shift(document)
    kind = shift.get("Type")
    wait = integer_at(shift.get("WaitIntervalInSeconds"), f"{path}WaitIntervalInSeconds", 0, 3600)
    candidate, stable = candidate_of(context)
    if kind == "ALL_AT_ONCE":
        _check_size(shift, path, None)
        if stable is None:
            refuse(f"{path}Type", f"ALL_AT_ONCE: nobody answers for model {context.model} yet, so there is nothing to shift from")
        variants = [{"version": candidate, "weight": 10_000}, {"version": stable, "weight": 0}]
        return validated(RoutingPlan, {"variants": variants})
    if kind == "CANARY":
        weights = [_check_size(shift, path, "CanarySize", 1)]
    elif kind == "LINEAR":
        size = _check_size(shift, path, "LinearStepSize", 10)
        weights = list(range(size, 100, size))
    else:
        refuse(f"{path}Type", f"expected ALL_AT_ONCE, CANARY or LINEAR, found {kind!r}")
    steps = [{"weight": weight * 100, "seconds": wait or None} for weight in weights]
    return validated(RolloutPlan, {
        "to": candidate, "stable": stable, "shadow": None, "steps": steps,
        "step_timeout_seconds": max(DEFAULT_STEP_TIMEOUT_SECONDS, 2.0 * wait),
    })


def _shift(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The TrafficRoutingConfiguration and the path to it."""
    path = ""
    if "DeploymentConfig" in document:
        check_fields(document, "", ("DeploymentConfig",), _WHY)
        path, document = "DeploymentConfig.", mapping_at(document["DeploymentConfig"], "DeploymentConfig")
    if "BlueGreenUpdatePolicy" in document or "RollingUpdatePolicy" in document or "AutoRollbackConfiguration" in document:
        check_fields(document, path.rstrip("."), ("BlueGreenUpdatePolicy",), _WHY)
        path += "BlueGreenUpdatePolicy."
        document = mapping_at(document["BlueGreenUpdatePolicy"], path.rstrip("."))
    if "TrafficRoutingConfiguration" in document:
        known = ("TrafficRoutingConfiguration", "TerminationWaitInSeconds")
        check_fields(document, path.rstrip("."), known, _WHY)
        if integer_at(document.get("TerminationWaitInSeconds", 0), f"{path}TerminationWaitInSeconds", 0, 3600):
            refuse(f"{path}TerminationWaitInSeconds", "nothing is terminated here: remove it (our own plans have holdback)")
        path += "TrafficRoutingConfiguration."
        document = mapping_at(document["TrafficRoutingConfiguration"], path.rstrip("."))
    check_fields(document, path.rstrip("."), _SHIFT)
    return document, path


def _check_size(shift: Mapping[str, Any], path: str, wanted: str | None, low: int = 0) -> int:
    """The size in percent; 0 for None, which wants no size at all."""
    for name in ("CanarySize", "LinearStepSize"):
        if name != wanted and name in shift:
            refuse(f"{path}{name}", f"does not belong to Type {shift['Type']}")
    if wanted is None:
        return 0
    size = mapping_at(shift.get(wanted), f"{path}{wanted}")
    check_fields(size, f"{path}{wanted}", ("Type", "Value"))
    if size.get("Type") != "CAPACITY_PERCENT":
        refuse(f"{path}{wanted}.Type", f"{size.get('Type')!r}: weights are shares of requests, not of instances: use CAPACITY_PERCENT")
    return integer_at(size.get("Value"), f"{path}{wanted}.Value", low, 50)
