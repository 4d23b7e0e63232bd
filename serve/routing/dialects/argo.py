"""Argo Rollouts' canary `steps`. https://argo-rollouts.readthedocs.io/en/stable/features/canary/, .../features/traffic-management/

Steps are read in order: the pauses after a setWeight belong to it, a mirror at weight 0 is the shadow stage, header routes are overrides.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serve.routing.dialects.reading import (
    ModelContext,
    candidate_of,
    check_fields,
    integer_at,
    list_at,
    mapping_at,
    refuse,
    text_at,
    unwrapped,
)
from serve.routing.documents import validated
from serve.routing.rollout_plan import DEFAULT_STEP_TIMEOUT_SECONDS, RolloutPlan

_STEP_KINDS = ("setWeight", "pause", "setMirrorRoute", "setHeaderRoute")
_STEP_WHY = {
    "analysis": "its templates ask other systems; the judge analyses every step by itself: remove it",
    "experiment": "start an experiment of our own beside: remove it",
    "plugin": "no plugins are run here: remove it",
    "setCanaryScale": "there are no pods to scale; the candidate is loaded and warm before the first step: remove it",
    "replicaProgressThreshold": "there are no pods to wait for: remove it",
}
_PODS = "describes pods, which Headrace does not run: give spec.strategy alone"
_SPEC_WHY = dict.fromkeys((
    "replicas", "selector", "template", "workloadRef", "minReadySeconds", "revisionHistoryLimit", "paused", "progressDeadlineSeconds",
    "progressDeadlineAbort", "restartAt", "rollbackWindow", "analysis",
), _PODS)
_CANARY_WHY = {
    "analysis": _STEP_WHY["analysis"],
    **dict.fromkeys(("canaryService", "stableService", "pingPong"), "requests are routed here, not by services: remove it"),
    **dict.fromkeys((
        "maxSurge", "maxUnavailable", "antiAffinity", "canaryMetadata", "stableMetadata", "scaleDownDelaySeconds", "minPodsPerReplicaSet",
        "scaleDownDelayRevisionLimit", "abortScaleDownDelaySeconds", "dynamicStableScale",
    ), "is about pods, which Headrace does not run: remove it"),
    "to": "is not Argo's: name the candidate beside the document",
}
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")


def is_argo(document: Mapping[str, Any]) -> bool:
    """By the kind, the wrapping, or steps that only Argo has."""
    steps = document.get("steps")
    marked = [step for step in steps if isinstance(step, Mapping) and (set(step) & {*_STEP_KINDS, *_STEP_WHY}) - {"pause"}] \
        if isinstance(steps, list) else []
    return document.get("kind") == "Rollout" or "strategy" in document or isinstance(document.get("canary"), Mapping) or bool(marked)


def parse(document: Mapping[str, Any], context: ModelContext) -> RolloutPlan:
    """The candidate is the context's. Steps keep our minimum of requests, without a pause that of time. Raises Unprocessable."""
    canary, path = _canary(document)
    check_fields(canary, path.rstrip("."), ("steps", "trafficRouting"), _CANARY_WHY)
    course = _Course(_managed_routes(canary, path) if "trafficRouting" in canary else None)
    for at, item in enumerate(list_at(canary.get("steps"), f"{path}steps")):
        where = f"{path}steps.{at}"
        step = mapping_at(item, where)
        check_fields(step, where, _STEP_KINDS, _STEP_WHY)
        if len(step) != 1:
            refuse(where, f"a step does one thing; this one names {', '.join(step) or 'nothing'}")
        course.read(step, where)
    candidate, stable = candidate_of(context)
    longest = max([stage.get("seconds", 0.0) for stage in (*course.steps, course.shadow or {})])
    return validated(RolloutPlan, {
        "to": candidate, "stable": stable, "steps": course.steps, "shadow": course.shadow, "overrides": course.overrides(candidate),
        "step_timeout_seconds": max(DEFAULT_STEP_TIMEOUT_SECONDS, 2.0 * longest),
    })


def _canary(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """What holds the steps, and the path to it."""
    path = ""
    if "kind" in document:
        path, document = "spec.", unwrapped(document, "Rollout", "argoproj.io")
        check_fields(document, "spec", ("strategy",), _SPEC_WHY)
    if "strategy" in document or path:
        check_fields(document, path.rstrip("."), ("strategy",), _SPEC_WHY)
        path, document = f"{path}strategy.", mapping_at(document.get("strategy"), f"{path}strategy")
        check_fields(document, path.rstrip("."), ("canary",), {"blueGreen": "use canary: a step is the least that can be judged"})
    if "canary" in document or path:
        check_fields(document, path.rstrip("."), ("canary",))
        path, document = f"{path}canary.", mapping_at(document.get("canary"), f"{path}canary")
    return document, path


def _managed_routes(canary: Mapping[str, Any], path: str) -> list[str]:
    where = f"{path}trafficRouting"
    routing = mapping_at(canary["trafficRouting"], where)
    check_fields(routing, where, ("managedRoutes",), dict.fromkeys(routing, "Headrace routes by itself: remove it"))
    names = []
    for at, item in enumerate(list_at(routing.get("managedRoutes"), f"{where}.managedRoutes")):
        route = mapping_at(item, f"{where}.managedRoutes.{at}")
        check_fields(route, f"{where}.managedRoutes.{at}", ("name",))
        names.append(text_at(route.get("name"), f"{where}.managedRoutes.{at}.name"))
    return names


@dataclass(slots=True)
class _Course:
    """What the steps read so far amount to. managed: names of routes, first wins; None where the document leaves them out."""

    managed: list[str] | None
    weight: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    shadow: dict[str, Any] | None = None
    mirror: str = ""    # the name of the mirror in force
    headers: dict[str, dict[str, str]] = field(default_factory=dict)

    def read(self, step: Mapping[str, Any], where: str) -> None:
        kind, value = next(iter(step.items()))
        if self.weight == 100:
            refuse(where, "follows setWeight 100, which is the end; to watch after 100 % use holdback in our own plan")
        read = {"setWeight": self._weigh, "pause": self._pause, "setMirrorRoute": self._mirror, "setHeaderRoute": self._route}[kind]
        read(value, f"{where}.{kind}")

    def overrides(self, version: str) -> list[dict[str, str]]:
        names = sorted(self.headers, key=self.managed.index) if self.managed is not None else list(self.headers)
        return [{**self.headers[name], "version": version} for name in names]

    def _weigh(self, value: object, path: str) -> None:
        weight = integer_at(value, path, 0, 100)
        if weight < self.weight or (weight == self.weight and weight > 0):
            refuse(path, f"{weight} does not exceed {self.weight}, the weight before it; weights ascend")
        if weight > 0 and self.mirror:
            refuse(path, f"the mirror {self.mirror!r} is still on; it is a stage of its own here: take it away before, by its name alone")
        self.weight = weight
        if 0 < weight < 100:
            self.steps.append({"weight": weight * 100})

    def _pause(self, value: object, path: str) -> None:
        pause = mapping_at({} if value is None else value, path)
        check_fields(pause, path, ("duration",))
        stage = self.steps[-1] if self.weight else (self.shadow if self.mirror else None)
        if stage is None:
            refuse(path, "a pause at weight 0 without a mirror has nothing to judge; remove it (our own plans have start_at)")
        if stage.get("pause"):
            refuse(path, "follows a pause without duration, which ends the stage")
        if "duration" in pause:
            stage["seconds"] = stage.get("seconds", 0.0) + _seconds(pause["duration"], f"{path}.duration")
        else:
            stage["pause"] = True

    def _mirror(self, value: object, path: str) -> None:
        route = mapping_at(value, path)
        check_fields(route, path, ("name", "percentage", "match"))
        name = self._name(route, path)
        if set(route) == {"name"}:
            if name != self.mirror:
                refuse(f"{path}.name", f"there is no mirror {name!r} to take away")
            self.mirror = ""
            return
        if self.weight or self.shadow is not None:
            refuse(path, "one mirror, before the first weight, is what can be had")
        for at, match in enumerate(list_at(route.get("match", [{}]), f"{path}.match")):
            _check_matches_all(mapping_at(match, f"{path}.match.{at}"), f"{path}.match.{at}")
        self.mirror, self.shadow = name, {"sample": integer_at(route.get("percentage", 100), f"{path}.percentage", 1, 100) * 100}

    def _route(self, value: object, path: str) -> None:
        route = mapping_at(value, path)
        check_fields(route, path, ("name", "match"))
        name = self._name(route, path)
        if "match" not in route:
            refuse(path, "overrides are in force for the whole rollout and end with it; one cannot be taken away between: remove it")
        if self.weight:
            refuse(path, "overrides are in force for the whole rollout: put it before the first weight")
        if name in self.headers:
            refuse(f"{path}.name", f"{name!r} is given twice")
        matches = list_at(route["match"], f"{path}.match")
        if len(matches) > 1:
            refuse(f"{path}.match", "routers differ on whether several mean all or any of them: use one setHeaderRoute for each value")
        match = mapping_at(matches[0], f"{path}.match.0")
        check_fields(match, f"{path}.match.0", ("headerName", "headerValue"))
        wanted = mapping_at(match.get("headerValue"), f"{path}.match.0.headerValue")
        why = "only exact values are matched"
        check_fields(wanted, f"{path}.match.0.headerValue", ("exact",), {"regex": why, "prefix": why})
        self.headers[name] = {
            "header": text_at(match.get("headerName"), f"{path}.match.0.headerName"),
            "value": text_at(wanted.get("exact"), f"{path}.match.0.headerValue.exact"),
        }

    def _name(self, route: Mapping[str, Any], path: str) -> str:
        name = text_at(route.get("name"), f"{path}.name")
        if self.managed is not None and name not in self.managed:
            refuse(f"{path}.name", f"{name!r} is none of trafficRouting.managedRoutes, {', '.join(self.managed)}")
        return name


def _check_matches_all(match: Mapping[str, Any], path: str) -> None:
    """Inference is POST, so a match may say that; and the prefix of every path."""
    check_fields(match, path, ("method", "path"), {"headers": "every request of the model is sampled; there is no mirror by header"})
    for name, everything in (("method", {"exact": "POST"}), ("path", {"prefix": "/"})):
        if name in match and match[name] != everything:
            refuse(f"{path}.{name}", f"{match[name]!r}: every request of the model is sampled; say {everything} or leave it out")


def _seconds(value: object, path: str) -> float:
    """A number of seconds, or Go's durations as in `10`, `30s`, `1h30m`. Raises Unprocessable."""
    seconds = 0.0
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and re.fullmatch(r"\d{1,9}", value)):
        seconds = float(value)
    elif isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(h|ms|m|s)", value))
    if seconds <= 0:
        refuse(path, f"expected seconds or a duration such as 30s, 10m or 1h, found {value!r}")
    return seconds
