"""A routing service with one model whose traffic the tests make up."""


import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve._core.histogram import histogram_bounds
from serve.routing.rollout_ledger import Clock
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.service import RoutingService
from serve.routing.traffic_service import Actor
from serve.store.hub import EventHub
from serve.store.sqlite import SqliteStore
from serve.traffic import ArmReading, PlanReading, RunReading
from tests.unit.routing.fakes import FakeCounters, FakeModels

N_BUCKETS = len(histogram_bounds())
BY = Actor("ada", "a new version")
QUICK = {"to": "2", "shadow": None, "steps": [{"weight": weight, "seconds": 0.5, "requests": 100} for weight in (1000, 5000)]}


@dataclass
class Bench:
    """A routing service with one model, and traffic that `serve` makes up: per generation, (stable, candidate) -> (answers, errors)."""

    folder: Path
    models: FakeModels = field(default_factory=FakeModels)
    counters: FakeCounters = field(default_factory=FakeCounters)
    now_ns: int = 1_000_000_000
    wall_ns: int = 1_700_000_000_000_000_000
    counts: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)
    store: SqliteStore | None = None
    service: RoutingService | None = None
    outcomes: Any = None

    async def open(self, is_started: bool = True) -> RoutingService:
        self.store = await SqliteStore.open(self.folder)
        hub = EventHub(self.store.audit)
        clock = Clock(lambda: self.now_ns, lambda: self.wall_ns)
        self.service = RoutingService(
            self.store, self.models, self.counters, hub, clock, self.store.back_up, lambda _, verdict: self.verdicts.append(verdict),
            self.outcomes)
        await self.service.open()
        if is_started:
            await self.service.start()
        return self.service

    async def kill(self) -> None:
        """What a SIGKILL leaves: nothing is saved any more."""
        assert self.service is not None
        assert self.store is not None
        for live in self.service.live():
            if live.task is not None:
                live.task.cancel()
                await asyncio.gather(live.task, return_exceptions=True)
        for task in tuple(self.service._rollouts._background):
            task.cancel()
        await self.store.close()
        self.counts.clear()
        self.models.readings = []

    def serve(self, n: int, stable_errors: int = 0, candidate_errors: int = 0, seconds: float = 1.0) -> None:
        """n requests more by the weights in force, and the time that they took."""
        spec = self.models.spec
        assert spec is not None
        arms = self.counts.setdefault(spec.generation, {})
        for arm in spec.arms:
            counted = arms.setdefault(arm.name, [0, 0])
            counted[0] += n * arm.weight // 10_000
            counted[1] += stable_errors if arm.name == "1" else candidate_errors
        self.models.readings = [
            PlanReading("m", generation, tuple(
                ArmReading(name, name, assigned=n, success=n - errors, errors=errors, judged=n, judged_errors=errors)
                for name, (n, errors) in arms.items()), longest_streak=0)
            for generation, arms in sorted(self.counts.items())
        ]
        for version in ("1", "2"):
            n_runs = sum(arms.get(version, [0])[0] for arms in self.counts.values())
            took = tuple(n_runs if bucket == 20 else 0 for bucket in range(N_BUCKETS))
            self.models.runs[version] = RunReading("m", version, {0: took}, took)
        self.now_ns += int(seconds * 1e9)

    def phase(self, name: str = "m-r1") -> str:
        assert self.service is not None
        return str(self.service.rollout(name)["phase"])

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(500):
            if condition():
                return
            await asyncio.sleep(0.01)
        assert self.service is not None
        raise AssertionError(f"waited for {what}: {self.service.rollouts()}")


async def start(bench: Bench, **changes: Any) -> None:
    assert bench.service is not None
    await bench.service.create_rollout("m", RolloutPlan.model_validate({**QUICK, **changes}), BY)
