"""A version in memory as the engine of production holds it: its native half, its counters, its self-test, its end."""

import pathlib
import time
from collections.abc import Mapping, Sequence

from serve._core.engine import NativeVersion
from serve._core.model_table import ModelTable
from serve._core.runner import RunnerHarness
from serve.client.tensors import Array, from_bytes, to_bytes
from serve.errors import InvalidArgument
from serve.models.resolution import ResolvedConfig
from serve.models.self_test import check_answer, check_cases, made_up, read_cases
from serve.traffic import RunReading
from serve.types import TensorSpec, VersionStatistics

_CLOSE_POLL_S = 0.005


class NativeLoadedVersion:
    """One version in memory. `native` is what the model table points to while the version is published."""

    def __init__(self, native: NativeVersion, table: ModelTable, settings: ResolvedConfig) -> None:
        self._native: NativeVersion | None = native
        self._table = table
        self._made_up = made_up(settings)
        self.inputs: tuple[TensorSpec, ...] = native.inputs
        self.outputs: tuple[TensorSpec, ...] = native.outputs
        self.max_batch_size: int = native.max_batch_size
        self.instances: int = native.instances
        self.device: str = native.device

    @property
    def native(self) -> NativeVersion:
        if self._native is None:
            raise RuntimeError("the version was closed")
        return self._native

    def statistics(self) -> VersionStatistics:
        """Counters since the load."""
        return self.native.statistics()

    def run_reading(self) -> RunReading:
        """Run times and waits since the load."""
        return self.native.run_reading()

    def self_test(self, folder: pathlib.Path) -> None:
        """Beside what serves: on a runner of its own. Raises SelfTestFailed."""
        cases = read_cases(folder, self.inputs, self.outputs)
        if cases:
            check_cases(cases, self._run)
        else:
            check_answer(self._run(self._made_up), self.outputs)

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        harness = RunnerHarness(self.native.session, self.max_batch_size)
        missing = [spec.name for spec in self.inputs if spec.name not in inputs]
        if missing:
            raise InvalidArgument(f"input {missing[0]!r} is not given")
        request: list[tuple[Sequence[int], bytes]] = [(inputs[spec.name].shape, to_bytes(inputs[spec.name])) for spec in self.inputs]
        answers, _ = harness.run([request])
        return {name: from_bytes(datatype, shape, content) for name, datatype, shape, content in answers[0]}

    def close(self) -> None:
        """Blocks until no request and no I/O thread can reach the version, then frees it."""
        native = self.native
        while self._table.reclaim() and self._table.holds(native):
            time.sleep(_CLOSE_POLL_S)
        while not native.is_idle():
            time.sleep(_CLOSE_POLL_S)
        self._native = None


__all__ = ["NativeLoadedVersion"]
