"""A routing service without models: keeps documents in memory, refuses as the real one does, remembers who asked for what."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve.api.routing_ports import Actor, TrafficState, Verb
from serve.errors import Conflict, InvalidArgument, NotFound, StaleGeneration
from serve.routing.experiment import begin, read_out
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan, VariantDoc
from serve.routing.rollout_plan import RolloutPlan
from serve.store.audit import AuditEntry, Chain
from serve.traffic import ArmReading, PlanReading, ShadowReading
from tests.unit import rollout_documents

IMPLIED = RoutingPlan(variants=(VariantDoc(version="2", weight=10_000),), salt="implied")
NOW_NS = 1_800_000_000_000_000_000


class FakeRouting:
    """Fulfils serve.api.routing_ports.Routing."""

    def __init__(self) -> None:
        self.states = {"digits": TrafficState("digits", 0, None, IMPLIED)}
        self.calls: list[tuple[Any, ...]] = []
        self.rows: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.live: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.listening_after: list[int | None] = []
        self.n_closed = 0
        self._rollouts: dict[str, dict[str, Any]] = {}
        self._experiments: dict[str, dict[str, Any]] = {}
        self._gates: list[dict[str, Any]] = []

    def traffic(self, model: str) -> TrafficState:
        if self.failure is not None:
            raise self.failure
        if model not in self.states:
            raise NotFound(f"Request for unknown model: '{model}' is not found")
        return self.states[model]

    async def set_traffic(self, model: str, plan: RoutingPlan, expected: int, by: Actor, wait: bool = True) -> TrafficState:
        state = self._checked(model, expected)
        self.calls.append(("set", model, plan, by, wait))
        if wait:
            return self._put(replace(state, generation=state.generation + 1, plan=plan, implied=None), "traffic.set", by)
        return self._put(replace(state, pending=plan, state="loading"), "traffic.pending", by)

    async def clear_traffic(self, model: str, expected: int, by: Actor) -> TrafficState:
        state = self._checked(model, expected)
        return self._put(replace(state, generation=state.generation + 1, plan=None, implied=IMPLIED), "traffic.cleared", by)

    async def set_labels(self, model: str, labels: Mapping[str, str], expected: int, by: Actor) -> TrafficState:
        state = self._checked(model, expected)
        return self._put(replace(state, generation=state.generation + 1, labels=dict(labels)), "labels.set", by)

    def assignment(self, model: str, key: str) -> Mapping[str, Any]:
        return {"unit": key, "variant": "2", "version": "2", "generation": self.traffic(model).generation}

    def readings(self, model: str) -> Sequence[PlanReading]:
        arm = ArmReading("2", "2", assigned=4, keyed=3, success=2, errors=1, refused=1, judged=3, judged_errors=1, outputs={7: 2},
                         total_counts=(1, 2))
        return [PlanReading(model, 1, (arm,), (ShadowReading("3", 5, 4, 0.5, 1, {"capacity": 1}),), streak=1)]

    async def create_rollout(self, model: str, plan: RolloutPlan, by: Actor) -> Mapping[str, Any]:
        self.traffic(model)
        self.calls.append(("rollout", model, plan, by))
        found = rollout_documents.rollout(
            "pending", 0, id=f"{model}-r{len(self._rollouts) + 1}", model=model, candidate=plan.to, judgement=None, described="waits")
        self._rollouts[found["id"]] = found
        return found

    def rollouts(self, model: str = "") -> Sequence[Mapping[str, Any]]:
        if model:
            self.traffic(model)
        return [one for one in self._rollouts.values() if model in ("", one["model"])]

    def rollout(self, rollout_id: str) -> Mapping[str, Any]:
        if rollout_id not in self._rollouts:
            raise NotFound(f"there is no rollout {rollout_id!r}")
        return self._rollouts[rollout_id]

    async def command(self, rollout_id: str, verb: Verb, by: Actor) -> Mapping[str, Any]:
        self.rollout(rollout_id)
        self.calls.append((verb, rollout_id, by))
        if verb == "retry":
            raise Conflict(f"rollout {rollout_id} has not ended")
        self._rollouts[rollout_id] = {**self.rollout(rollout_id), "phase": verb}
        return self._rollouts[rollout_id]

    def put_rollout(self, **changed: Any) -> None:
        """Stands where a test wants it."""
        found = rollout_documents.rollout(**changed)
        self._rollouts[found["id"]] = found

    async def evidence(self, rollout_id: str) -> Sequence[Mapping[str, Any]]:
        self.rollout(rollout_id)
        judged = rollout_documents.judgement("hold", "errors on the candidate")
        judged["findings"][0]["e_value"] = float("inf")
        return [{"time": "2026-11-22T00:00:00Z", "phase": "stepping", "step": 2, "candidate_bp": 500, "judgement": judged}]

    async def create_experiment(self, model: str, plan: ExperimentPlan, by: Actor) -> Mapping[str, Any]:
        self.calls.append(("experiment", model, plan, by))
        name = f"{model}-e{len(self._experiments) + 1}"
        found = {"id": name, "model": model, "phase": "running", "elapsed_s": 5.0, "why": "", "read_out": read_out(begin(plan))}
        self._experiments[found["id"]] = found
        return found

    def experiments(self, model: str = "") -> Sequence[Mapping[str, Any]]:
        return [one for one in self._experiments.values() if model in ("", one["model"])]

    async def experiment(self, experiment_id: str) -> Mapping[str, Any]:
        if experiment_id not in self._experiments:
            raise NotFound(f"there is no experiment {experiment_id!r}")
        return self._experiments[experiment_id]

    async def stop_experiment(self, experiment_id: str, by: Actor, keep: str = "") -> Mapping[str, Any]:
        found = await self.experiment(experiment_id)
        if keep not in ("", "1", "2"):
            raise InvalidArgument(f"experiment {experiment_id} has no variant {keep!r}")
        self.calls.append(("stop", experiment_id, keep, by))
        return {**found, "phase": "ended"}

    async def put_gate(self, model: str, report: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        self.traffic(model)
        self.calls.append(("gate", model, by))
        candidate = report["candidate"]
        self._gates.insert(0, {"model": model, "version": candidate["version"], "digest": candidate["digest"], "report": report})
        return self._gates[0]

    async def gates(self, model: str, version: str = "") -> Sequence[Mapping[str, Any]]:
        self.traffic(model)
        return [one for one in self._gates if version in ("", one["version"])]

    async def audit(self, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        return self.rows[after:after + limit]

    async def events(self, after: int | None = None) -> AsyncIterator[Mapping[str, Any]]:
        self.listening_after.append(after)
        try:
            if after is not None:
                for row in self.rows[after:]:
                    yield row
            while (event := await self.live.get()) != {}:
                yield event
        finally:
            self.n_closed += 1

    def _checked(self, model: str, expected: int) -> TrafficState:
        state = self.traffic(model)
        if state.generation != expected:
            raise StaleGeneration(f"the traffic of '{model}' is at generation {state.generation}, not {expected}")
        return state

    def _put(self, state: TrafficState, type_: str, by: Actor) -> TrafficState:
        self.states[state.model] = state
        entry = AuditEntry(f"dev.headrace.{type_}", state.model, by.name, by.reason)
        prevhash = self.rows[-1]["hash"] if self.rows else "0" * 64
        self.rows.append(Chain("headrace/test", "chain").row(entry, len(self.rows) + 1, prevhash, NOW_NS))
        return state
