"""A version from a repository without a server: loaded as the server loads it, asked row by row or in batches.

For commands: nothing here is published, queued or recorded.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from serve import clock
from serve._core.ort import Session
from serve._core.runner import RunnerHarness
from serve.client.tensors import DTYPES, Array, from_bytes, to_bytes
from serve.errors import HeadraceError, InternalError, InvalidArgument, NotFound
from serve.models.config import ModelConfig
from serve.models.digest import VersionDigests
from serve.models.disk import DiskRepository
from serve.models.load_plan import label_files
from serve.models.repository import SELF_TESTS, ModelSource
from serve.models.resolution import resolve
from serve.models.self_test import SelfTestFailed, check_answer, check_cases, made_up, read_cases
from serve.types import TensorSpec

_FORMS = {**DTYPES, "BF16": np.dtype("<u2")}


class OfflineVersion:
    """One version, warm. One thread at a time. digest: of its files as they were loaded."""

    def __init__(self, source: ModelSource, version: str, config: ModelConfig, origin: str, device: str) -> None:
        self.version = version
        self._file = source.versions[version]
        digests = VersionDigests(clock.wall_ns)
        self.digest = digests.digest(self._file, label_files(source, config))
        session = Session(str(self._file), device)
        self._settings = resolve(config, session.inputs, session.outputs, origin)
        self.inputs: tuple[TensorSpec, ...] = self._settings.inputs
        self.outputs: tuple[TensorSpec, ...] = self._settings.outputs
        self.max_batch_size: int = self._settings.max_batch_size
        self._harness = RunnerHarness(session, self.max_batch_size)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs: all of them, rows along the first axis where the model is batched. Raises InvalidArgument, InternalError."""
        answers, _ = self._harness.run([self._request(inputs)])
        return {name: from_bytes(datatype, shape, content) for name, datatype, shape, content in answers[0]}

    def time(self, inputs: Mapping[str, Array]) -> int:
        """Nanoseconds of one run: inputs gathered, the model run, outputs readable."""
        _, (nanoseconds, _) = self._harness.run([self._request(inputs)])
        return nanoseconds

    def self_test(self) -> None:
        """As before a rollout. Raises SelfTestFailed."""
        cases = read_cases(self._file.parent / SELF_TESTS, self.inputs, self.outputs)
        if cases:
            check_cases(cases, self.run)
            return
        try:
            answer = self.run(made_up(self._settings))
        except HeadraceError as error:
            raise SelfTestFailed(f"self-test failed to run: {error}") from error
        check_answer(answer, self.outputs)

    def _request(self, inputs: Mapping[str, Array]) -> list[tuple[Sequence[int], bytes]]:
        missing = [spec.name for spec in self.inputs if spec.name not in inputs]
        if missing:
            raise InvalidArgument(f"input {missing[0]!r} is not given")
        return [(inputs[spec.name].shape, to_bytes(inputs[spec.name])) for spec in self.inputs]


class OfflineModel:
    """A model of a repository. Raises NotFound when it is not there, ConfigurationError for what is wrong with it."""

    def __init__(self, repository: pathlib.Path, name: str) -> None:
        disk = DiskRepository([repository])
        found = disk.scan()
        source = found.models.get(name)
        if source is None:
            problem = found.problems.get(name) or f"it has {', '.join(found.models) or 'no model'}"
            raise NotFound(f"no model '{name}' in {repository}: {problem}")
        self.name = name
        self._source = source
        configured = disk.configuration(source)
        self.config: ModelConfig = configured.config
        self.class_labels: Mapping[str, tuple[str, ...]] = disk.class_labels(source, configured)
        self._origin = configured.origin

    @property
    def versions(self) -> tuple[str, ...]:
        """Ascending."""
        return tuple(self._source.versions)

    def load(self, version: str, device: str) -> OfflineVersion:
        """device: as start_runtime said. Raises NotFound, and HeadraceError for a version that does not load."""
        if version not in self._source.versions:
            raise NotFound(f"version {version} of '{self.name}' is not in {self._source.path}; it has {', '.join(self.versions)}")
        return OfflineVersion(self._source, version, self.config, self._origin, device)


def form_of(spec: TensorSpec) -> np.dtype[np.generic]:
    """The dtype in which an input is given to `run`; BF16 as its 16 bits."""
    if spec.datatype not in _FORMS:
        raise InternalError(f"input {spec.name!r} has datatype {spec.datatype}, which has no array form")
    return _FORMS[spec.datatype]


__all__ = ["OfflineModel", "OfflineVersion", "form_of"]
