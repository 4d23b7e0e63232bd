"""What a load has to do: which versions to build, which to keep as they are, which are not there. Blocking: reads the disk."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.errors import ConfigurationError, NotFound
from serve.models.config import ModelConfig
from serve.models.disk import Configured
from serve.models.engine_port import LoadSpec
from serve.models.policy import ascending, select_versions
from serve.models.repository import FileStamp, ModelSource, Scan
from serve.models.states import Build, Served
from serve.models.triton_config import from_override


class ModelRepository(Protocol):
    """Where models come from; `disk.DiskRepository` is the one on disk. Every method may block and raise OSError."""

    def scan(self) -> Scan: ...

    def scan_strictly(self) -> Scan: ...

    def stamp(self, model_file: pathlib.Path) -> tuple[FileStamp, ...]: ...

    def digest(self, model_file: pathlib.Path, label_files: Sequence[pathlib.Path]) -> str: ...

    def configuration(self, source: ModelSource) -> Configured: ...

    def class_labels(self, source: ModelSource, configured: Configured) -> Mapping[str, tuple[str, ...]]: ...


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """builds: version -> what it is to be made of, ascending. kept: versions that go on serving as they are.

    required, labels: what the model is held to afterwards. unavailable: versions that somebody wants but nobody can load, with the reason.
    missing: those among them that the policy or a label wants and that are not on disk.
    """

    source: ModelSource
    configured: Configured
    builds: Mapping[str, Build]
    kept: Mapping[str, Served]
    required: tuple[str, ...]
    labels: Mapping[str, str]
    unavailable: Mapping[str, str]
    missing: tuple[str, ...] = ()

    def spec(self, version: str, default_device: str) -> LoadSpec:
        """What the engine is asked to load."""
        config = self.configured.config
        return LoadSpec(
            name=self.source.name,
            version=version,
            path=self.source.versions[version],
            config=config,
            config_origin=self.configured.origin,
            device=config.device or default_device,
            class_labels=self.builds[version].class_labels,
            label_files=label_files(self.source, config),
        )


def plan_model(
    repository: ModelRepository,
    source: ModelSource,
    override_json: str | None,
    pinned: Collection[str],
    set_aside: Mapping[str, str],
    served: Mapping[str, Served],
) -> LoadPlan:
    """The plan for a model as its configuration says, or as `override_json` (Triton's JSON) says in its stead.

    set_aside: versions not to be tried, with the reason. Raises ConfigurationError, OSError.
    """
    configured = _configured(repository, source, override_json)
    config = configured.config
    available = source.versions.keys() - set_aside.keys()
    selection = select_versions(available, config.version_policy, config.labels, pinned, served)
    if not selection.versions and not selection.missing and not set_aside:
        raise ConfigurationError(_no_version(source))
    builds, kept = _divide(repository, source, configured, selection.versions, served)
    absent = {**dict.fromkeys(selection.missing_pinned, "a routing plan"), **selection.missing}
    reasons = {version: f"{asker} names it, but it is not in {source.path}" for version, asker in absent.items()}
    unavailable = {**reasons, **set_aside}
    missing = tuple(version for version in selection.missing if version not in set_aside)
    return LoadPlan(source, configured, builds, kept, (*selection.required, *missing), config.labels, unavailable, missing)


def plan_version(
    repository: ModelRepository,
    source: ModelSource,
    version: str,
    required: tuple[str, ...] | None,
    labels: Mapping[str, str] | None,
    served: Mapping[str, Served],
) -> LoadPlan:
    """The plan for one version beside whatever serves. required, labels: the model's, None when it was never loaded.

    Raises NotFound, ConfigurationError, OSError.
    """
    if version not in source.versions:
        raise NotFound(f"version {version} is not in {source.path}")
    configured = _configured(repository, source, None)
    builds, kept = _divide(repository, source, configured, (version,), served)
    others = {other: one for other, one in served.items() if other != version}
    return LoadPlan(
        source=source,
        configured=configured,
        builds=builds,
        kept={**others, **kept},
        required=(version,) if required is None else required,
        labels=configured.config.labels if labels is None else labels,
        unavailable={},
    )


def _configured(repository: ModelRepository, source: ModelSource, override_json: str | None) -> Configured:
    on_disk = repository.configuration(source)
    if override_json is None:
        return on_disk
    return Configured(from_override(override_json, source.name, on_disk.config), "parameter 'config'")


def _divide(
    repository: ModelRepository, source: ModelSource, configured: Configured, versions: Collection[str], served: Mapping[str, Served]
) -> tuple[dict[str, Build], dict[str, Served]]:
    class_labels = repository.class_labels(source, configured)
    settings = _settings(configured.config)
    builds: dict[str, Build] = {}
    kept: dict[str, Served] = {}
    for version in ascending(versions):
        current = served.get(version)
        if current is not None and version not in source.versions:
            kept[version] = current
            continue
        build = Build(repository.stamp(source.versions[version]), settings, class_labels)
        if current is not None and current.build == build:
            kept[version] = Served(current.loaded, build, configured.config, current.digest)
        else:
            builds[version] = build
    return builds, kept


def label_files(source: ModelSource, config: ModelConfig) -> tuple[pathlib.Path, ...]:
    """The files of class names that a configuration asks for."""
    return tuple(source.path / labels for labels in config.class_labels.values() if isinstance(labels, str))


def _settings(config: ModelConfig) -> Mapping[str, object]:
    """What of a configuration a loaded version depends on: a new label or policy alone rebuilds nothing."""
    return config.model_dump(exclude={"description", "labels", "parameters", "version_policy"})


def _no_version(source: ModelSource) -> str:
    ignored = "".join(f"; {reason}" for reason in source.ignored)
    return f"no version in {source.path}: expected {source.path}/<version>/model.onnx{ignored}"


__all__ = ["LoadPlan", "ModelRepository", "label_files", "plan_model", "plan_version"]
