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
from dataclasses import dataclass, field
from typing import Any

from serve.models.config import ModelConfig
from serve.models.engine_port import LoadedVersion, PublishedModel
from serve.models.policy import ascending, default_version
from serve.models.repository import FileStamp
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
    """A version that requests reach. config: as its model's configuration says now."""

    loaded: LoadedVersion
    build: Build
    config: ModelConfig


@dataclass(slots=True)
class VersionStatus:
    """state, and the reason when it is not READY."""

    state: VersionState = VersionState.UNKNOWN
    reason: str = ""


@dataclass(slots=True)
class ModelRecord:
    """One model, owned by the event loop.

    served: version -> what answers. labels: as configured, whether their versions serve or not. required: versions that must be READY
    for the model to be ready; None until a load got as far as knowing them. reason: why no version could even be tried.
    """

    name: str
    versions: dict[str, VersionStatus] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
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
    def is_ready(self) -> bool:
        """Whether everything required serves, and a request that names no version would be answered."""
        return self.required is not None and all(version in self.served for version in self.required) and self.default_version != ""

    @property
    def default_version(self) -> str:
        """The version for requests that name none; "" when there is none."""
        return default_version(self.served, self.labels)


def publishable(served: Mapping[str, Served], labels: Mapping[str, str]) -> PublishedModel:
    """What requests may address of a model of which `served` serves."""
    return PublishedModel(
        versions={version: served[version].loaded for version in ascending(served)},
        labels={label: version for label, version in labels.items() if version in served},
        default_version=default_version(served, labels),
    )


__all__ = ["TRANSITIONS", "Build", "ModelRecord", "Served", "VersionStatus", "publishable"]
