"""The seam to whatever runs models: what the lifecycle asks of it, and nothing else."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve._core.recorder import NativeRecorder
from serve.models.config import ModelConfig
from serve.records import RecordStreamSpec
from serve.traffic import PlanReading, RoutingSpec, RunReading
from serve.types import TensorSpec, VersionStatistics


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One version to load. path: the .onnx file. config_origin: names the configuration in errors. class_labels: by output, resolved, read
    from label_files where those are files. digest: what the version is made of, "" until that was read.
    """

    name: str
    version: str
    path: pathlib.Path
    config: ModelConfig
    config_origin: str
    device: str
    class_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_files: tuple[pathlib.Path, ...] = ()
    digest: str = ""


class RecordStreams(Protocol):
    """Where what versions answer is recorded; `serve.recording_setup.Recording` in production."""

    @property
    def native(self) -> NativeRecorder: ...

    def open_stream(self, spec: RecordStreamSpec) -> int:
        """The id of a version's stream. Any thread. Raises ConfigurationError, ValueError."""


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

    def run_reading(self) -> RunReading:
        """Run times and waits so far. Quick: called on the event loop."""

    def self_test(self, folder: pathlib.Path) -> None:
        """Runs the cases in `folder` (the version's `tests`), or one made-up input where it has none. Blocks; called in a thread.

        Raises SelfTestFailed with what differs.
        """

    def close(self) -> None:
        """Frees it. Blocks until no request uses it any more; called once, in a thread, after a table without it was published."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What may be asked for under one model name. Every label, the default and the routing name versions in `versions`.

    default_version: for requests that name none, where there is no routing; "" is none.
    """

    versions: Mapping[str, LoadedVersion]
    labels: Mapping[str, str]
    default_version: str
    routing: RoutingSpec | None = None


class Engine(Protocol):
    def load(self, spec: LoadSpec) -> LoadedVersion:
        """Opens the model and warms it on every batch size that it will see. Blocks; called in a thread, two at a time at most.

        Raises HeadraceError with a text for the operator; any other exception is taken for our own bug. Calls `resolve` on the
        configuration once the graph is known.
        """

    def publish(self, models: Mapping[str, PublishedModel]) -> None:
        """Makes `models` the whole of what is served, in one swap. Does not block; called on the event loop.

        A routing equal to the one in force goes on counting where it is. One that cannot be built gives everything to its stable arm: a
        model must not be lost to its plan.
        """

    def check(self, model: str, published: PublishedModel) -> None:
        """Whether its routing can be built of its versions. Raises InvalidArgument with what does not fit."""

    def plan_readings(self, model: str) -> list[PlanReading]:
        """Counters of the routings of a model, oldest first: the last that were replaced, `is_final` once no request counts into them any
        more, and what is in force. Quick; changes nothing, so anybody may look.
        """


__all__ = ["Engine", "LoadSpec", "LoadedVersion", "PublishedModel", "RecordStreams"]
