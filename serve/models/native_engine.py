"""The engine of production: sessions of ONNX Runtime behind native queues, one pool of instance threads for each device."""

import threading
import time
from collections.abc import Callable, Mapping

from serve._core.batcher import InstancePool
from serve._core.engine import NativeVersion
from serve._core.model_table import ModelTable
from serve._core.ort import Session
from serve.errors import InvalidArgument
from serve.models.engine_port import LoadedVersion, LoadSpec, PublishedModel
from serve.models.resolution import resolve
from serve.types import TensorSpec, VersionStatistics

_CLOSE_POLL_S = 0.005


class NativeLoadedVersion:
    """One version in memory. `native` is what the model table points to while the version is published."""

    def __init__(self, native: NativeVersion, table: ModelTable) -> None:
        self._native: NativeVersion | None = native
        self._table = table
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

    def close(self) -> None:
        """Blocks until no request and no I/O thread can reach the version, then frees it."""
        native = self.native
        while self._table.reclaim() and self._table.holds(native):
            time.sleep(_CLOSE_POLL_S)
        while not native.is_idle():
            time.sleep(_CLOSE_POLL_S)
        self._native = None


class NativeEngine:
    """Loads versions and publishes them. instances_on: device -> threads of its pool. pools: filled as devices come into use."""

    def __init__(self, table: ModelTable, instances_on: Callable[[str], int]) -> None:
        self._table = table
        self._instances_on = instances_on
        self._lock = threading.Lock()
        self._pools: dict[str, InstancePool] = {}

    def load(self, spec: LoadSpec) -> LoadedVersion:
        """Opens and warms one version. Raises HeadraceError with a text for the operator."""
        session = Session(str(spec.path), spec.device)
        settings = resolve(spec.config, session.inputs, session.outputs, spec.config_origin)
        pool = self._pool(session.device)
        instances = min(spec.config.instances or pool.n_threads, pool.n_threads)
        try:
            native = NativeVersion(
                session,
                pool,
                spec.name,
                spec.version,
                inputs=settings.inputs,
                outputs=settings.outputs,
                max_batch_size=settings.max_batch_size,
                instances=instances,
                preferred_batch_sizes=tuple(spec.config.preferred_batch_sizes),
                max_queue_delay_us=spec.config.max_queue_delay_us,
                max_queue_size=spec.config.max_queue_size,
                default_queue_timeout_us=spec.config.default_queue_timeout_us or 0,
                class_labels=dict(spec.class_labels),
            )
        except ValueError as error:
            raise InvalidArgument(f"{spec.config_origin}: {error}") from error
        native.warm_up(dict(settings.warmup_shapes), tuple(settings.warmup_batch_sizes))
        return NativeLoadedVersion(native, self._table)

    def publish(self, models: Mapping[str, PublishedModel]) -> None:
        """One swap of the whole table."""
        table = {}
        for name, model in models.items():
            by_number = {number: _native(version) for number, version in model.versions.items()}
            by_label = {label: by_number[number] for label, number in model.labels.items()}
            table[name] = ({**by_number, **by_label}, by_number.get(model.default_version))
        self._table.publish(table)

    def _pool(self, device: str) -> InstancePool:
        with self._lock:
            if device not in self._pools:
                pool = InstancePool(self._instances_on(device))
                pool.start()
                self._pools[device] = pool
            return self._pools[device]

    def stop(self) -> None:
        """Runs what is queued, then joins all instance threads. After the I/O threads have stopped."""
        for pool in self._pools.values():
            pool.stop()


def _native(version: LoadedVersion) -> NativeVersion:
    if not isinstance(version, NativeLoadedVersion):
        raise TypeError(f"{version!r} was not loaded by this engine")
    return version.native


__all__ = ["NativeEngine", "NativeLoadedVersion"]
