"""What is known of each model: the state of its versions, and which of them serve.

    UNKNOWN ──► LOADING ──► READY ──► UNLOADING
       │           │                      │
       └───────────┴──► UNAVAILABLE ◄─────┘
                            │
                            └──► LOADING

Rules for editing: states change only through `ModelRecord.advance`, which refuses what the table lacks. A version that is replaced by
a newer build of itself stays READY throughout: there is always one of the two to answer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve.models.config import ModelConfig
from serve.models.engine_port import LoadedVersion, PublishedModel
from serve.models.policy import ascending, default_version
from serve.models.repository import FileStamp
from serve.traffic import WHOLE_BP, Arm, RoutingSpec
from serve.types import VersionState

TRANSITIONS: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.UNKNOWN: frozenset({VersionState.LOADING, VersionState.UNAVAILABLE}),
    VersionState.LOADING: frozenset({VersionState.READY, VersionState.UNAVAILABLE}),
    VersionState.READY: frozenset({VersionState.UNLOADING}),
    VersionState.UNLOADING: frozenset({VersionState.UNAVAILABLE}),
    VersionState.UNAVAILABLE: frozenset({VersionState.LOADING, VersionState.UNAVAILABLE}),
}


@dataclass(frozen=True, slots=True)
class Build:
    """What a loaded version was made of; equal builds answer alike, so a load keeps what it finds."""

    files: tuple[FileStamp, ...]
    settings: Mapping[str, Any]
    class_labels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Served:
    """A version that requests reach. config: as its model's configuration says now. digest: of its files, sha256:<hex>."""

    loaded: LoadedVersion
    build: Build
    config: ModelConfig
    digest: str


@dataclass(slots=True)
class VersionStatus:
    """state, and the reason when it is not READY."""

    state: VersionState = VersionState.UNKNOWN
    reason: str = ""


@dataclass(slots=True)
class ModelRecord:
    """One model, owned by the event loop.

    served: version -> what answers. configured_labels: as the model's configuration says; operator_labels: set while
    it runs, they win. routing: how requests that name no version are split, None where nothing was set. required: versions that must be
    READY for the model to be ready; None until a load got as far as knowing them. reason: why no version could even be tried.
    """

    name: str
    versions: dict[str, VersionStatus] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)
    configured_labels: Mapping[str, str] = field(default_factory=dict)
    operator_labels: Mapping[str, str] = field(default_factory=dict)
    routing: RoutingSpec | None = None
    required: tuple[str, ...] | None = None
    reason: str = ""

    def advance(self, version: str, state: VersionState, reason: str = "") -> None:
        """Moves a version to `state`. Raises ValueError, and changes nothing, when the table has no such transition."""
        status = self.versions.get(version, VersionStatus())
        if state not in TRANSITIONS[status.state]:
            raise ValueError(f"model '{self.name}' version {version}: no transition from {status.state} to {state}")
        self.versions[version] = VersionStatus(state, reason)

    def forget_others(self, known: Collection[str]) -> None:
        """Drops what is remembered of versions that are neither known nor in use: they were removed from disk long ago."""
        in_use = {version for version, status in self.versions.items() if status.state is not VersionState.UNAVAILABLE}
        self.versions = {version: status for version, status in self.versions.items() if version in in_use or version in known}

    @property
    def labels(self) -> Mapping[str, str]:
        """label -> version, whether that serves or not."""
        return {**self.configured_labels, **self.operator_labels}

    @property
    def is_ready(self) -> bool:
        """Whether everything required serves, and a request that names no version would be answered."""
        return self.required is not None and all(version in self.served for version in self.required) and self.default_version != ""

    @property
    def default_version(self) -> str:
        """The version for requests that name none, under a routing that of its stable arm; "" when there is none."""
        return _default(routable(self.routing, self.served), self.routing, self.served, self.labels)


def publishable(served: Mapping[str, Served], labels: Mapping[str, str], routing: RoutingSpec | None) -> PublishedModel:
    """What requests may address of a model of which `served` serves."""
    possible = routable(routing, served)
    return PublishedModel(
        versions={version: served[version].loaded for version in ascending(served)},
        labels={label: version for label, version in labels.items() if version in served},
        default_version=_default(possible, routing, served, labels),
        routing=possible,
    )


def _default(possible: RoutingSpec | None, routing: RoutingSpec | None, served: Mapping[str, Served], labels: Mapping[str, str]) -> str:
    if possible is not None:
        return next(arm.version for arm in possible.arms if arm.name == possible.stable)
    # Under a routing that cannot be followed the latest version is no stand-in: it may be the candidate, which would get everything.
    return default_version(served, labels) if routing is None else ""


def routable(routing: RoutingSpec | None, served: Collection[str]) -> RoutingSpec | None:
    """What of a routing can be done with the versions that serve: an arm whose version does not serve gives its weight to stable.

    Where stable does not serve, an arm that has most of the requests already gets the rest as well; None where there is no such arm: then
    requests that name no version are refused.
    """
    if routing is None or routing.versions() <= set(served):
        return routing
    kept = [arm for arm in routing.arms if arm.version in served]
    heir = next((arm for arm in kept if arm.name == routing.stable), None)
    heir = heir or next((arm for arm in kept if arm.weight >= WHOLE_BP // 2), None)
    if heir is None:
        return None
    missing = WHOLE_BP - sum(arm.weight for arm in kept)
    arms = [Arm(arm.name, arm.version, arm.weight + (missing if arm is heir else 0)) for arm in kept]
    names = {arm.name for arm in kept}
    counting = routing.counting
    is_judged = counting is not None and counting.stable in names and (not counting.candidate or counting.candidate in names)
    return replace(
        routing,
        arms=tuple(arms),
        stable=heir.name,
        overrides=tuple(o for o in routing.overrides if o.version in served),
        shadows=tuple(s for s in routing.shadows if s.version in served),
        counting=counting if is_judged else None,
    )


__all__ = ["TRANSITIONS", "Build", "ModelRecord", "Served", "VersionStatus", "publishable", "routable"]
