"""The engine of production: sessions of ONNX Runtime behind native queues, one pool of instance threads for each device."""

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serve._core.batcher import InstancePool
from serve._core.engine import NativeVersion
from serve._core.guard import NativeGuard
from serve._core.model_table import ModelTable
from serve._core.ort import Session
from serve._core.routing_plan import NativePlan
from serve._core.units import UnitMemory
from serve.errors import HeadraceError, InvalidArgument, NotFound
from serve.models.engine_port import LoadedVersion, LoadSpec, PublishedModel, RecordStreams
from serve.models.native_version import NativeLoadedVersion
from serve.models.plan_readings import merged_readings
from serve.models.recorded import recorded_tensors
from serve.models.resolution import resolve
from serve.records import RecordStreamSpec
from serve.traffic import WHOLE_BP, Arm, PlanReading, RoutingSpec
from serve.types import TensorSpec

_log = logging.getLogger(__name__)

# Final readings of a model that are kept for those who look later.
GENERATIONS_KEPT = 32

GuardOf = Callable[[LoadSpec, Sequence[TensorSpec], int], NativeGuard | None]


class NativeEngine:
    """Loads versions and publishes them. instances_on: device -> threads of its pool. records: None: nothing is recorded. guard_of: what a
    version's inputs are held against, of its spec, inputs and max_batch_size; None: nothing.
    """

    def __init__(
        self, table: ModelTable, instances_on: Callable[[str], int], records: RecordStreams | None = None, guard_of: GuardOf | None = None
    ) -> None:
        self._table = table
        self._guard_of = guard_of
        self._records = records
        self._instances_on = instances_on
        self._lock = threading.Lock()
        self._pools: dict[str, InstancePool] = {}
        self._plans: dict[str, _InForce] = {}
        self._replaced: dict[str, list[NativePlan]] = {}
        self._finished: dict[str, list[PlanReading]] = {}
        self._units: dict[str, UnitMemory] = {}
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

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
        self._record(native, spec)
        guard = None if self._guard_of is None else self._guard_of(spec, native.inputs, native.max_batch_size)
        if guard is not None:
            native.guard(guard)
        return NativeLoadedVersion(native, self._table, settings)

    def _record(self, native: NativeVersion, spec: LoadSpec) -> None:
        recording = spec.config.recording.spec()
        if self._records is None or recording is None:
            return
        stream = RecordStreamSpec(
            model=spec.name, version=spec.version, digest=spec.digest,
            tensors=recorded_tensors(recording, native.inputs, native.outputs, native.max_batch_size),
            spec=recording, provenance=spec.config.provenance, monitoring=spec.config.monitoring.spec(),
            is_batched=native.max_batch_size > 0)
        try:
            native.record(self._records.native, self._records.open_stream(stream))
        except ValueError as error:
            if recording.policy == "fail-closed":
                raise InvalidArgument(f"model '{spec.name}' answers nothing that is not recorded: {error}") from error
            _log.error("version %s of model '%s' is not recorded: %s", spec.version, spec.name, error)

    def publish(self, models: Mapping[str, PublishedModel]) -> None:
        """One swap of the whole table."""
        table = {}
        plans: dict[str, _InForce] = {}
        for name, model in models.items():
            by_number = {number: _native(version) for number, version in model.versions.items()}
            by_label = {label: by_number[number] for label, number in model.labels.items()}
            if model.routing is not None:
                plans[name] = self._plan_or_stable(name, model.routing, by_number)
            table[name] = ({**by_number, **by_label}, by_number.get(model.default_version), plans[name].plan if name in plans else None)
        self._table.publish(table)
        for name in [*self._replaced]:
            if len(self._replaced[name]) >= GENERATIONS_KEPT:       # changes that nobody looks at must not pile up
                self._finish(name)
        for name, former in self._plans.items():
            if name not in plans or plans[name] is not former:
                self._replaced.setdefault(name, []).append(former.plan)
        self._plans = plans

    def check(self, model: str, published: PublishedModel) -> None:
        """Builds the routing and throws it away. Raises InvalidArgument with what does not fit."""
        if published.routing is None:
            return
        try:
            self._plan(model, published.routing, {number: _native(version) for number, version in published.versions.items()})
        except ValueError as error:
            raise InvalidArgument(f"the plan of '{model}' does not fit its versions: {error}") from error

    def plan_readings(self, model: str) -> list[PlanReading]:
        """Counters of the last generations, oldest first: final ones, those that requests still count into, and what is in force."""
        self._finish(model)
        counting = [plan.read(False) for plan in self._replaced.get(model, ())]
        in_force = [self._plans[model].plan.read(False)] if model in self._plans else []
        return merged_readings([*self._finished.get(model, ()), *counting, *in_force])

    def _finish(self, model: str) -> None:
        """Reads for the last time what no request counts into any more. Several look at it, each in its own time, so it is kept a while."""
        if not self._replaced.get(model):
            return
        self._table.reclaim()
        counting = []
        for plan in self._replaced[model]:
            if self._table.holds(plan):
                counting.append(plan)
            else:
                # A generation that was built several times is one reading, so that it leaves as a whole.
                finished = merged_readings([*self._finished.get(model, ()), plan.read(True)])
                self._finished[model] = finished[-GENERATIONS_KEPT:]
        self._replaced[model] = counting

    def units(self, rollout: str) -> UnitMemory:
        """What a rollout remembers of its units; made at the first asking."""
        return self._units.setdefault(rollout, UnitMemory())

    def forget_units(self, rollout: str) -> None:
        """The rollout is over. Plans that still count keep what they use."""
        self._units.pop(rollout, None)

    def assignment(self, model: str, key: str) -> str:
        """The arm that a sticky key is drawn to now. Raises NotFound where no routing is in force."""
        if model not in self._plans:
            raise NotFound(f"no routing plan is in force for model '{model}'")
        return self._plans[model].plan.assign(key.encode())

    def _plan_or_stable(self, name: str, spec: RoutingSpec, versions: Mapping[str, NativeVersion]) -> "_InForce":
        try:
            return self._plan(name, spec, versions)
        except (ValueError, HeadraceError) as error:
            _log.error("the plan of '%s' cannot be followed, its stable arm answers everything: %s", name, error)
            stable = next(arm for arm in spec.arms if arm.name == spec.stable)
            alone = Arm(stable.name, stable.version, WHOLE_BP)
            return self._plan(name, RoutingSpec(spec.generation, spec.salt, (alone,), alone.name), versions)

    def _plan(self, name: str, spec: RoutingSpec, versions: Mapping[str, NativeVersion]) -> "_InForce":
        used = {version: versions[version] for version in sorted(spec.versions())}
        former = self._plans.get(name)
        if former is not None and former.spec == spec and former.versions == used:
            return former
        counting = spec.counting
        units = self.units(counting.rollout) if counting is not None and spec.sticky is not None else None
        return _InForce(spec, used, NativePlan(name, spec, used, units, self.wake_fd))

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


@dataclass(frozen=True, slots=True)
class _InForce:
    spec: RoutingSpec
    versions: Mapping[str, NativeVersion]
    plan: NativePlan


def _native(version: LoadedVersion) -> NativeVersion:
    if not isinstance(version, NativeLoadedVersion):
        raise TypeError(f"{version!r} was not loaded by this engine")
    return version.native


__all__ = ["NativeEngine", "NativeLoadedVersion"]
