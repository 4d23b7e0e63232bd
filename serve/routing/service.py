"""Routing as the rest of the worker sees it: opened before models load, started when they have, closed after the drain.

Implements `serve.api.routing_ports.Routing`.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from serve.errors import HeadraceError
from serve.routing import gates
from serve.routing.board import TrafficBoard
from serve.routing.experiment_driver import ExperimentDriver
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.ports import Counters, Models, Outcomes
from serve.routing.rollout_desk import RolloutDesk
from serve.routing.rollout_ledger import Clock
from serve.routing.rollout_live import Live
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.traffic_document import TrafficDocument
from serve.routing.traffic_service import Actor, TrafficService, TrafficState
from serve.store.hub import EventHub
from serve.store.port import Change, ConfigStore
from serve.traffic import PlanReading

_log = logging.getLogger(__name__)

# Whether the last worker ended by itself; what it finds tells a worker that takes over.
_WORKER = "worker"
_STATE = "state"


class RoutingService:
    """backup: copies the store. on_verdict: told (model, verdict) when a judge changes its mind. outcomes: None: no records."""

    def __init__(
        self, store: ConfigStore, models: Models, counters: Counters, hub: EventHub, clock: Clock,
        backup: Callable[[], Awaitable[object]], on_verdict: Callable[[str, str], None],
        outcomes: Outcomes | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hub = hub
        self._models = models
        self._board = TrafficBoard(store, models)
        self._traffic = TrafficService(self._board, models, counters)
        self._rollouts = RolloutDesk(self._board, models, counters, clock, backup, on_verdict, outcomes)
        self._experiments = ExperimentDriver(self._board, models, counters, clock.monotonic_ns, clock.wall_ns, outcomes)

    async def open(self) -> None:
        """Reads the store; what it says is in force as soon as versions serve. A candidate whose worker died gets nothing."""
        former = await self._store.get(_WORKER, _STATE)
        died = former is not None and not former.content["has_ended"]
        await self._board.open()
        await self._rollouts.open(died)
        await self._experiments.open()
        for model in self._board.models():
            self._board.apply(model)
        try:
            await self._store.commit([Change(_WORKER, _STATE, {"has_ended": False}, None)])
        except HeadraceError as error:
            # What was read is served all the same; whoever wants to change something is told.
            _log.error("the store cannot be written: %s", error)

    async def start(self) -> None:
        """With the models loaded: rollouts, experiments and plans under way go on."""
        self._rollouts.start()
        self._experiments.resume()
        await self._traffic.resume()

    async def close(self) -> None:
        """Saves what was counted. A worker that gets this far has not died."""
        await self._rollouts.close()
        await self._experiments.close()
        await self._traffic.close()
        await self._store.commit([Change(_WORKER, _STATE, {"has_ended": True}, None)])
        self._hub.close()

    def wake(self) -> None:
        """An error of a candidate was counted: the judges look now."""
        self._rollouts.wake()

    def pinned(self, model: str) -> frozenset[str]:
        """Versions of a model that must stay loaded."""
        return self._board.pinned(model) | self._rollouts.pinned(model) | self._experiments.pinned(model)

    def readings(self, model: str) -> Sequence[PlanReading]:
        """What was counted under each generation that is still known, the newest last."""
        return self._models.plan_readings(model)

    def documents(self) -> list[TrafficDocument]:
        """Every model's traffic, for the metrics."""
        return [self._board.document(model) for model in self._board.models()]

    def stable_version(self, model: str) -> str:
        """What the stable traffic of a model goes to. Raises NotFound."""
        spec = self._board.document(model).spec()
        if spec is None:
            return self._models.natural_default(model)
        return next(arm.version for arm in spec.arms if arm.name == spec.stable)

    def live(self) -> list[Live]:
        """Every rollout, for the metrics."""
        return self._rollouts.live()

    # What the admin API asks

    def traffic(self, model: str) -> TrafficState:
        return self._traffic.traffic(model)

    async def set_traffic(self, model: str, plan: RoutingPlan, expected: int, by: Actor, wait: bool = True) -> TrafficState:
        return await self._traffic.set_traffic(model, plan, expected, by, wait)

    async def clear_traffic(self, model: str, expected: int, by: Actor) -> TrafficState:
        return await self._traffic.clear_traffic(model, expected, by)

    async def set_labels(self, model: str, labels: Mapping[str, str], expected: int, by: Actor) -> TrafficState:
        return await self._traffic.set_labels(model, labels, expected, by)

    def assignment(self, model: str, key: str) -> Mapping[str, Any]:
        return self._traffic.assignment(model, key)

    async def create_rollout(self, model: str, plan: RolloutPlan, by: Actor) -> Mapping[str, Any]:
        return await self._rollouts.create(model, plan, by)

    def rollouts(self, model: str = "") -> Sequence[Mapping[str, Any]]:
        return self._rollouts.documents(model)

    def rollout(self, rollout_id: str) -> Mapping[str, Any]:
        return self._rollouts.document(rollout_id)

    async def command(self, rollout_id: str, verb: str, by: Actor) -> Mapping[str, Any]:
        return await self._rollouts.command(rollout_id, verb, by)

    async def evidence(self, rollout_id: str) -> Sequence[Mapping[str, Any]]:
        return self._rollouts.evidence(rollout_id)

    async def create_experiment(self, model: str, plan: ExperimentPlan, by: Actor) -> Mapping[str, Any]:
        return await self._experiments.create(model, plan, by)

    def experiments(self, model: str = "") -> Sequence[Mapping[str, Any]]:
        return self._experiments.documents(model)

    async def experiment(self, experiment_id: str) -> Mapping[str, Any]:
        return self._experiments.document(experiment_id)

    async def stop_experiment(self, experiment_id: str, by: Actor, keep: str = "") -> Mapping[str, Any]:
        return await self._experiments.stop(experiment_id, by, keep)

    async def put_gate(self, model: str, report: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        self._models.default_version(model)
        return await gates.put_gate(self._store, model, report, by, self._clock.wall_ns())

    async def gates(self, model: str, version: str = "") -> Sequence[Mapping[str, Any]]:
        self._models.default_version(model)
        return await gates.gates(self._store, model, version)

    async def audit(self, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        return await self._store.audit(after, limit)

    def events(self, after: int | None = None) -> AsyncIterator[Mapping[str, Any]]:
        return self._hub.subscribe(after)


__all__ = ["RoutingService"]
