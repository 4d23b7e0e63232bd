"""A worker's models and counters without a worker: what was routed is kept, what was counted is given."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve.errors import HeadraceError, NotFound
from serve.traffic import PlanReading, RoutingSpec, RunReading
from serve.types import ModelDescription, TensorSpec


@dataclass
class FakeModels:
    """One model, `m`. on_disk_versions: can be loaded. broken: version -> why it does not load; bad: why it fails its self-test.

    digests: version -> of its files.
    """

    on_disk_versions: tuple[str, ...] = ("1", "2", "3")
    natural: str = ""
    default: str = "1"
    in_memory: list[str] = field(default_factory=lambda: ["1"])
    broken: dict[str, HeadraceError] = field(default_factory=dict)
    bad: dict[str, HeadraceError] = field(default_factory=dict)
    change: str = ""
    routed: list[tuple[RoutingSpec | None, Mapping[str, str]]] = field(default_factory=list)
    readings: list[PlanReading] = field(default_factory=list)
    runs: dict[str, RunReading] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    unfit: HeadraceError | None = None
    digests: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)

    def served(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(self.in_memory, key=int)) if name == "m" else ()

    def default_version(self, name: str) -> str:
        if name != "m":
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        spec = self.spec
        if spec is not None:
            return next(arm.version for arm in spec.arms if arm.name == spec.stable)
        return self.default

    def natural_default(self, name: str) -> str:
        return self.natural or max(self.in_memory, key=int, default="")

    async def on_disk(self, name: str) -> tuple[str, ...]:
        return self.on_disk_versions

    def describe(self, name: str, version: str = "") -> ModelDescription:
        return ModelDescription("m", version or "1", self.served("m"), {}, (TensorSpec("x", "FP32", (-1, 4)),),
                                (TensorSpec("y", "FP32", (-1, 3)),), 64, digest=self.digests.get(version or "1", ""))

    async def disk_digest(self, name: str, version: str) -> str:
        return self.digests.get(version, "")

    async def load_version(self, name: str, version: str) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if version in self.broken:
            raise self.broken[version]
        if version not in self.on_disk_versions:
            raise NotFound(f"version {version} is not in the repository")
        self.loaded.append(version)
        if version not in self.in_memory:
            self.in_memory.append(version)

    async def prove(self, name: str, version: str) -> None:
        if version in self.bad:
            raise self.bad[version]
        self.proved.append(version)

    def schema_change(self, name: str, before: str, after: str) -> str:
        return self.change

    def check_route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        if self.unfit is not None and routing is not None:
            raise self.unfit

    def route(self, name: str, routing: RoutingSpec | None, labels: Mapping[str, str]) -> None:
        self.routed.append((routing, dict(labels)))

    def plan_readings(self, name: str) -> list[PlanReading]:
        return self.readings

    def run_reading(self, name: str, version: str) -> RunReading:
        return self.runs.get(version, RunReading(name, version))

    @property
    def spec(self) -> RoutingSpec | None:
        """What is in force."""
        return self.routed[-1][0] if self.routed else None

    def weights(self) -> dict[str, int]:
        """Arm -> basis points in force; {} without a plan."""
        return {arm.name: arm.weight for arm in self.spec.arms} if self.spec is not None else {}


@dataclass
class FakeUnits:
    n_failing: int = 0
    content: tuple[bytes, bytes] = (b"", b"")

    def failing_bytes(self) -> bytes:
        return self.content[0]

    def seen_bytes(self) -> bytes:
        return self.content[1]

    def restore(self, failing: bytes, seen: bytes) -> None:
        self.content = (failing, seen)


@dataclass
class FakeCounters:
    memory: dict[str, FakeUnits] = field(default_factory=dict)

    def assignment(self, model: str, key: str) -> str:
        return "1"

    def units(self, rollout: str) -> FakeUnits:
        return self.memory.setdefault(rollout, FakeUnits())

    def forget_units(self, rollout: str) -> None:
        self.memory.pop(rollout, None)
