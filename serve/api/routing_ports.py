"""What the admin API needs of the routing service. `serve.routing.service` in production, fakes in tests."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.traffic_service import Actor, TrafficState
from serve.traffic import PlanReading

Verb = Literal["promote", "promote-full", "pause", "resume", "abort", "retry"]


class Routing(Protocol):
    """Raises of every method: NotFound for an unknown model or id; InvalidArgument or Unprocessable for what cannot be; StaleGeneration
    where the caller's generation is not the newest; Conflict for a change that a running rollout or experiment forbids; Unavailable.

    Documents are JSON-ready but for numbers that are not finite. Rollouts and experiments have `id` and `model`, and
    are listed oldest first.
    """

    def traffic(self, model: str) -> TrafficState: ...

    async def set_traffic(self, model: str, plan: RoutingPlan, expected: int, by: Actor, wait: bool = True) -> TrafficState:
        """Loads what the plan names, then puts it in force; returns when it is, or at once with state "loading"."""

    async def clear_traffic(self, model: str, expected: int, by: Actor) -> TrafficState: ...

    async def set_labels(self, model: str, labels: Mapping[str, str], expected: int, by: Actor) -> TrafficState: ...

    def assignment(self, model: str, key: str) -> Mapping[str, Any]:
        """{"unit": key, "variant": ..., "version": ..., "generation": ...}: where a sticky key goes now."""

    def readings(self, model: str) -> Sequence[PlanReading]:
        """What was counted under each generation that is still known, the newest last. Of one look: `Models.plan_readings`."""

    async def create_rollout(self, model: str, plan: RolloutPlan, by: Actor) -> Mapping[str, Any]:
        """The rollout as its document says (rollout.RolloutState.as_document)."""

    def rollouts(self, model: str = "") -> Sequence[Mapping[str, Any]]: ...

    def rollout(self, rollout_id: str) -> Mapping[str, Any]: ...

    async def command(self, rollout_id: str, verb: Verb, by: Actor) -> Mapping[str, Any]: ...

    async def evidence(self, rollout_id: str) -> Sequence[Mapping[str, Any]]:
        """Judgements that changed something, and the newest one, oldest first."""

    async def create_experiment(self, model: str, plan: ExperimentPlan, by: Actor) -> Mapping[str, Any]: ...

    def experiments(self, model: str = "") -> Sequence[Mapping[str, Any]]: ...

    async def experiment(self, experiment_id: str) -> Mapping[str, Any]:
        """Document and read-out."""

    async def stop_experiment(self, experiment_id: str, by: Actor, keep: str = "") -> Mapping[str, Any]:
        """keep: the variant that gets everything afterwards; "" takes the traffic back as it was."""

    async def put_gate(self, model: str, report: Mapping[str, Any], by: Actor) -> Mapping[str, Any]:
        """Stores a gate's report (monitoring.gate_report.GateReport as JSON) for its version and digest; what is stored."""

    async def gates(self, model: str, version: str = "") -> Sequence[Mapping[str, Any]]:
        """Stored reports, the newest first."""

    async def audit(self, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """Audit rows (CloudEvents) with a sequence number over `after`, ascending."""

    def events(self, after: int | None = None) -> AsyncIterator[Mapping[str, Any]]:
        """Changes and verdicts as CloudEvents, live; from audit sequence number `after` on where given."""


__all__ = ["Actor", "Routing", "TrafficState", "Verb"]
