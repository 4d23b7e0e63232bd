"""What may be asked about models without changing anything. Answers from memory, but for `index`."""

import asyncio
import pathlib
from typing import Any

from serve.errors import NotFound
from serve.models.catalog import Catalog
from serve.models.engine_port import Engine
from serve.models.load_plan import ModelRepository, label_files
from serve.models.policy import default_version
from serve.models.self_test import schema_change
from serve.traffic import PlanReading, RunReading
from serve.types import IndexEntry, ModelDescription, VersionStatistics


class ModelQueries:
    """Lives on one event loop."""

    def __init__(self, repository: ModelRepository, engine: Engine, catalog: Catalog) -> None:
        self._repository = repository
        self._engine = engine
        self._catalog = catalog

    async def index(self, ready_only: bool = False) -> list[IndexEntry]:
        """Every known version, and the models on disk that were never loaded."""
        found = await asyncio.to_thread(self._repository.scan)
        return self._catalog.index(found.models, found.problems, ready_only)

    def describe(self, name: str, version: str = "") -> ModelDescription:
        """version: number, label, or "" for the default. Raises NotFound, Unavailable."""
        return self._catalog.describe(name, version)

    def descriptions(self) -> list[ModelDescription]:
        """Of every version that serves, by model and number."""
        return self._catalog.descriptions()

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Triton's ModelConfig in JSON shape. Raises NotFound, Unavailable."""
        return self._catalog.config(name, version)

    def is_ready(self, name: str, version: str = "") -> bool:
        """Raises NotFound for a model, version or label that is not known."""
        return self._catalog.is_ready(name, version)

    def statistics(self, name: str = "", version: str = "") -> list[VersionStatistics]:
        """Of the versions that serve. Raises NotFound, Unavailable."""
        return self._catalog.statistics(name, version)

    def served(self, name: str) -> tuple[str, ...]:
        """Versions that serve, ascending; none of a model that is not known."""
        return self._catalog.served_versions(name)

    def default_version(self, name: str) -> str:
        """What a request that names no version gets; "" when nothing. Raises NotFound."""
        return self._catalog.find(name).default_version

    def natural_default(self, name: str) -> str:
        """What a request that names no version would get without a plan: `stable`, else the latest; "" when nothing. Raises NotFound."""
        record = self._catalog.find(name)
        return default_version(record.served, record.labels)

    async def on_disk(self, name: str) -> tuple[str, ...]:
        """Versions in the repository, ascending; none of a model that is not in it."""
        found = await asyncio.to_thread(self._repository.scan)
        source = found.models.get(name)
        return tuple(source.versions) if source is not None else ()

    async def disk_digest(self, name: str, version: str) -> str:
        """sha256:<hex> of a version's files as they lie in the repository now. Raises NotFound, and as a load does."""
        return await asyncio.to_thread(self._disk_digest, name, version)

    def version_folder(self, name: str, version: str) -> pathlib.Path | None:
        """Where a version's files lie in the repository; None of a model that is one file, and of what is not there. Blocks; any thread."""
        source = self._repository.scan().models.get(name)
        if source is None or version not in source.versions or source.path == source.versions[version]:
            return None
        return source.versions[version].parent

    def _disk_digest(self, name: str, version: str) -> str:
        source = self._repository.scan().models.get(name)
        if source is None or version not in source.versions:
            raise NotFound(f"version {version} of '{name}' is not in the repository")
        config = self._repository.configuration(source).config
        return self._repository.digest(source.versions[version], label_files(source, config))

    def schema_change(self, name: str, before: str, after: str) -> str:
        """What differs in the inputs and outputs of two loaded versions, in one phrase; "" when nothing does."""
        old, new = self.describe(name, before), self.describe(name, after)
        return schema_change((old.inputs, old.outputs), (new.inputs, new.outputs))

    def plan_readings(self, name: str) -> list[PlanReading]:
        """Counters of the model's routings, oldest first; see Engine.plan_readings."""
        return self._engine.plan_readings(name)

    def run_reading(self, name: str, version: str) -> RunReading:
        """Run times of a version; nothing where it does not serve."""
        if version not in self._catalog.served_versions(name):
            return RunReading(name, version)
        return self._catalog.served(name, version).loaded.run_reading()


__all__ = ["ModelQueries"]
