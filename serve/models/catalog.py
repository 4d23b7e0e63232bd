"""Answers about models, out of the records in memory. No I/O; on the event loop."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serve.errors import NotFound, Unavailable
from serve.models.engine_port import PublishedModel
from serve.models.policy import ascending
from serve.models.states import ModelRecord, Served, publishable
from serve.models.triton_view import triton_config
from serve.types import IndexEntry, ModelDescription, VersionState, VersionStatistics


class Catalog:
    """Records by model name. start_up: models that the server must have to be ready."""

    def __init__(self) -> None:
        self._records: dict[str, ModelRecord] = {}
        self.start_up: set[str] = set()

    def find(self, name: str) -> ModelRecord:
        """Raises NotFound for a model that was never loaded."""
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        return record

    def find_or_add(self, name: str) -> ModelRecord:
        """The record of a model that is known to exist."""
        return self._records.setdefault(name, ModelRecord(name))

    def served_models(self) -> list[ModelRecord]:
        """Records with at least one version that serves, by name."""
        return [self._records[name] for name in sorted(self._records) if self._records[name].served]

    def served(self, name: str, version: str) -> Served:
        """A version that answers. Raises NotFound, Unavailable."""
        return self._resolve(name, version)[2]

    def served_versions(self, name: str) -> tuple[str, ...]:
        """Versions that serve, ascending; none of a model that is not known."""
        record = self._records.get(name)
        return ascending(record.served) if record is not None else ()

    def table(self) -> Mapping[str, PublishedModel]:
        """All that may be asked for. A model that is known and of which nothing serves is in it: its requests are worth another try."""
        return {name: publishable(record.served, record.labels, record.routing) for name, record in sorted(self._records.items())}

    def server_ready(self, strict: bool) -> bool:
        """Whether something serves and, where strict, every model of the start-up set is ready."""
        if not strict:
            return bool(self.served_models())
        return bool(self.served_models()) and all(name in self._records and self._records[name].is_ready for name in self.start_up)

    def index(self, on_disk: Iterable[str], problems: Mapping[str, str], ready_only: bool) -> list[IndexEntry]:
        """One entry a known version, by model name and version number, and one for a model without known versions.

        on_disk: names in the repository; problems: those that cannot be served, with the reason.
        """
        entries: list[IndexEntry] = []
        for name in sorted({*self._records, *on_disk, *problems}):
            entries += self._model_entries(name, problems.get(name, ""))
        return [entry for entry in entries if entry.state is VersionState.READY or not ready_only]

    def describe(self, name: str, version: str) -> ModelDescription:
        """version: number, label, or "" for the default. Raises NotFound, Unavailable."""
        record, number, served = self._resolve(name, version)
        return _description(record, number, served)

    def descriptions(self) -> list[ModelDescription]:
        """Of every version that serves, by model and number."""
        return [_description(record, number, record.served[number])
                for record in self.served_models() for number in ascending(record.served)]

    def config(self, name: str, version: str) -> dict[str, Any]:
        """Triton's ModelConfig in JSON shape. Raises NotFound, Unavailable."""
        record, number, served = self._resolve(name, version)
        loaded = served.loaded
        return triton_config(_description(record, number, served), served.config, instances=loaded.instances, device=loaded.device)

    def is_ready(self, name: str, version: str) -> bool:
        """Raises NotFound for a model, version or label that is not known."""
        try:
            self._resolve(name, version)
        except Unavailable:
            return False
        return True

    def statistics(self, name: str, version: str) -> list[VersionStatistics]:
        """Of the versions that serve; name "": of all models; version "": all of the model's. Raises NotFound, Unavailable."""
        if name and version:
            return [self._resolve(name, version)[2].loaded.statistics()]
        records = [self.find(name)] if name else self.served_models()
        return [record.served[number].loaded.statistics() for record in records for number in ascending(record.served)]

    def _model_entries(self, name: str, problem: str) -> Iterator[IndexEntry]:
        record = self._records.get(name, ModelRecord(name))
        for version in ascending(record.versions):
            status = record.versions[version]
            yield IndexEntry(name, version, status.state, status.reason)
        reason = record.reason or problem
        if not record.versions:
            yield IndexEntry(name, "", VersionState.UNAVAILABLE if reason else VersionState.UNKNOWN, reason)

    def _resolve(self, name: str, version: str) -> tuple[ModelRecord, str, Served]:
        record = self.find(name)
        number = record.labels.get(version, version) if version else record.default_version
        served = record.served.get(number)
        if served is not None:
            return record, number, served
        if not version and not record.served:
            raise Unavailable(f"Request for unknown model: '{name}' has no available versions")
        if version and number not in record.versions and version not in record.labels:
            raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        raise Unavailable(f"Request for unknown model: '{name}' version {version or record.labels['stable']} is not at ready state")


def _description(record: ModelRecord, version: str, served: Served) -> ModelDescription:
    return ModelDescription(
        name=record.name,
        version=version,
        versions=ascending(record.served),
        labels={label: number for label, number in record.labels.items() if number in record.served},
        inputs=served.loaded.inputs,
        outputs=served.loaded.outputs,
        max_batch_size=served.loaded.max_batch_size,
        digest=served.digest,
        provenance=served.config.provenance,
    )


__all__ = ["Catalog"]
