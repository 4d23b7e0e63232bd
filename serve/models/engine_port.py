"""The seam to whatever runs models: what the lifecycle asks of it, and nothing else."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve.models.config import ModelConfig
from serve.types import TensorSpec, VersionStatistics


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One version to load. path: the .onnx file. config_origin: names the configuration in errors. class_labels: by output, resolved."""

    name: str
    version: str
    path: pathlib.Path
    config: ModelConfig
    config_origin: str
    device: str
    class_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class LoadedVersion(Protocol):
    """A version in memory, warm. Attributes do not change after the load."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def max_batch_size(self) -> int:
        """Rows; 0: not batched."""

    @property
    def instances(self) -> int:
        """Concurrent executions that it was given."""

    @property
    def device(self) -> str:
        """cpu or cuda:<index>, as it runs."""

    def statistics(self) -> VersionStatistics:
        """A snapshot of the counters. Quick: called on the event loop."""

    def close(self) -> None:
        """Frees it. Blocks until no request uses it any more; called once, in a thread, after a table without it was published."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What may be asked for under one model name. Every label and the default name a version in `versions`; default "" is none."""

    versions: Mapping[str, LoadedVersion]
    labels: Mapping[str, str]
    default_version: str


class Engine(Protocol):
    def load(self, spec: LoadSpec) -> LoadedVersion:
        """Opens the model and warms it on every batch size that it will see. Blocks; called in a thread, two at a time at most.

        Raises HeadraceError with a text for the operator; any other exception is taken for our own bug. Calls `resolve` on the
        configuration once the graph is known.
        """

    def publish(self, models: Mapping[str, PublishedModel]) -> None:
        """Makes `models` the whole of what is served, in one swap. Does not block; called on the event loop."""


__all__ = ["Engine", "LoadSpec", "LoadedVersion", "PublishedModel"]
