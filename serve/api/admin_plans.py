"""Plans that clients send: ours, or another system's document about the model that the path names."""

from collections.abc import Mapping
from typing import Any

from serve.api.ports import Models
from serve.api.routing_ports import Routing, TrafficState
from serve.errors import Unprocessable
from serve.routing.dialects import ModelContext, dialect_of, parse
from serve.routing.documents import validated
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan, rollout_plan

Document = Mapping[str, Any]


class PlanReader:
    """Knows which versions there are and which one answers: other systems' documents leave that to their place."""

    def __init__(self, models: Models, routing: Routing) -> None:
        self._models = models
        self._routing = routing

    async def routing_plan(self, model: str, document: Document) -> RoutingPlan:
        """Raises Unprocessable, and NotFound for an unknown model."""
        state = self._routing.traffic(model)
        if dialect_of(document) == "headrace":
            return validated(RoutingPlan, document)
        plan = parse(document, await self._context(state, None))
        if isinstance(plan, RolloutPlan):
            raise Unprocessable(f"this document states the steps of a rollout: POST it to /admin/v1/models/{model}/rollouts")
        return plan

    async def rollout_plan(self, model: str, document: Document, candidate: str | None) -> RolloutPlan:
        """candidate: named by the caller. Raises as routing_plan does."""
        state = self._routing.traffic(model)
        if not document or dialect_of(document) == "headrace":
            return rollout_plan(document, candidate)
        plan = parse(document, await self._context(state, candidate))
        if isinstance(plan, RoutingPlan):
            raise Unprocessable(f"this document states a split, not the steps to it: PUT it to /admin/v1/models/{model}/traffic")
        return plan

    async def _context(self, state: TrafficState, candidate: str | None) -> ModelContext:
        entries = await self._models.index(ready_only=False)
        versions = sorted((entry.version for entry in entries if entry.name == state.model and entry.version), key=int)
        plan = state.plan or state.implied
        stable = max(plan.variants, key=lambda variant: variant.weight).version if plan else None
        return ModelContext(state.model, tuple(versions), stable, candidate)
