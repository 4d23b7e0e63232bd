from collections.abc import Mapping
from typing import Self

from typing_extensions import disjoint_base

from serve._core.batcher import InstancePool
from serve._core.guard import NativeGuard
from serve._core.ort import Session
from serve._core.recorder import NativeRecorder
from serve.traffic import RunReading
from serve.types import TensorSpec, VersionStatistics

PROTOCOLS: tuple[str, ...]
STAGES: tuple[str, ...]
REASONS: tuple[str, ...]

@disjoint_base
class NativeVersion:
    session: Session
    pool: InstancePool
    model: str
    number: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    def __new__(
        cls,
        session: Session,
        pool: InstancePool,
        model: str,
        number: str,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch_size: int,
        instances: int,
        preferred_batch_sizes: tuple[int, ...] = (),
        max_queue_delay_us: int = 0,
        max_queue_size: int = 4096,
        default_queue_timeout_us: int = 0,
        class_labels: Mapping[str, tuple[str, ...]] = {},
    ) -> Self: ...
    @property
    def instances(self) -> int: ...
    @property
    def device(self) -> str: ...
    def warm_up(self, shapes: dict[str, tuple[int, ...]], batch_sizes: tuple[int, ...]) -> None: ...
    def warm_run(self, slot: int, rows: int, shapes: dict[str, tuple[int, ...]]) -> None: ...
    def guard(self, guard: NativeGuard) -> None: ...
    def record(self, recorder: NativeRecorder, stream: int) -> None: ...
    def run_times(self) -> dict[int, int]: ...
    def copied_bytes(self) -> int: ...
    def run_reading(self) -> RunReading: ...
    def is_idle(self) -> bool: ...
    def statistics(self) -> VersionStatistics: ...

@disjoint_base
class _Reading:
    def __new__(cls, native: NativeVersion) -> Self: ...
    def counts(self) -> tuple[dict[str, int], dict[str, int]]: ...
    def batches(self) -> dict[int, list[int]]: ...
    def runs(self) -> RunReading: ...
    def value(self) -> VersionStatistics: ...
