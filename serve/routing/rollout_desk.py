"""Rollouts as the admin API and the metrics see them: made, commanded, shown."""

import secrets
from dataclasses import replace
from typing import Any

from serve.errors import Conflict, InvalidArgument, NotFound, Unavailable
from serve.routing.board import check_owner
from serve.routing.gates import check_gate
from serve.routing.judge.observations import ShadowCounts
from serve.routing.judge.state import empty
from serve.routing.rollout_driver import RolloutDriver
from serve.routing.rollout_events import VERBS, Abort, Event
from serve.routing.rollout_live import KIND, Live
from serve.routing.rollout_plan import RolloutPlan, ShadowStage
from serve.routing.rollout_records import evidence_of
from serve.routing.rollout_state import Phase, RolloutState, create, stage_of
from serve.routing.rollout_traffic import judged_output
from serve.routing.traffic_document import TrafficDocument
from serve.routing.traffic_service import Actor
from serve.store.audit import AuditEntry, rfc3339
from serve.store.port import Change


class RolloutDesk(RolloutDriver):
    """What is asked of the driver from outside."""

    async def create(self, model: str, plan: RolloutPlan, by: Actor) -> dict[str, Any]:
        """A new rollout, at once pending or warming. Raises NotFound, InvalidArgument, Conflict."""
        self._check_started()
        document = self._board.document(model)
        check_owner(document)
        if any(live.state.model == model and not live.is_over for live in self._live.values()):
            raise Conflict(f"model '{model}' has a rollout that is not over: abort it or wait for its end")
        default = self._models.default_version(model)
        try:
            state = create(self._new_id(model), model, plan, default)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error
        if state.stable not in self._models.served(model):
            raise InvalidArgument(f"the stable version {state.stable} of '{model}' does not serve; versions that do: "
                                  f"{', '.join(self._models.served(model)) or 'none'}")
        if plan.judge.outputs.output and judged_output(self._models.describe(model, state.stable), plan.judge.outputs.output) is None:
            raise InvalidArgument(f"judge.outputs.output: '{model}' has no output {plan.judge.outputs.output!r}")
        if not plan.dry_run:
            _check_no_split(document)
        known = await self._models.on_disk(model)
        if plan.to not in {*self._models.served(model), *known}:
            raise NotFound(f"version {plan.to} of '{model}' is not in the repository; it has {', '.join(known) or 'none'}")
        await check_gate(self._board.store, self._models, state, "", self._clock.wall_ns())
        live = self._new(state)
        entry = AuditEntry("dev.headrace.rollout.created", state.id, by.name, by.reason, None, plan.model_dump(mode="json"))
        audit = self._board.with_digests([entry], model, (state.stable, state.candidate))
        live.revision = await self._board.record([Change(KIND, state.id, live.stored(state), 0)], audit)
        self._live[state.id] = live
        self._drive(live)
        return live.shown()

    async def command(self, name: str, verb: str, by: Actor) -> dict[str, Any]:
        """An operator's verb; what it decides is in force when this returns. Raises NotFound, InvalidArgument."""
        self._check_started()
        live = self._find(name)
        event: Event = Abort(by.name, by.reason) if verb == "abort" else VERBS[verb](by.name)
        if verb == "retry" and any(o is not live and o.state.model == live.state.model and not o.is_over for o in self._live.values()):
            raise Conflict(f"model '{live.state.model}' has another rollout that is not over")
        async with live.lock:
            if verb == "retry" and live.is_over:
                check_owner(self._board.document(live.state.model))
                live.state = self._with_stable(live.state)
            is_overruled = verb == "promote" and isinstance(stage_of(live.state), ShadowStage)
            await self._feed(live, [event], by)
            if is_overruled:
                # Who promotes past what the shadow showed has weighed it: there will be no other pairs that could outweigh these.
                live.judge = replace(live.judge, shadow=ShadowCounts())
        if live.task is None or live.task.done():
            self._drive(live)
        live.woken.set()
        return live.shown()

    def documents(self, model: str = "") -> list[dict[str, Any]]:
        """All rollouts, oldest first, of one model where a name is given."""
        return [live.shown() for live in self._live.values() if model in ("", live.state.model)]

    def document(self, name: str) -> dict[str, Any]:
        """One rollout. Raises NotFound."""
        return self._find(name).shown()

    def evidence(self, name: str) -> list[dict[str, Any]]:
        """Judgements that changed something, and the newest one, oldest first. Raises NotFound."""
        live = self._find(name)
        newest = [evidence_of(live, live.state, self._clock.wall_ns())] if live.judgement is not None else []
        return [*live.evidence, *newest]

    def pinned(self, model: str) -> frozenset[str]:
        """Versions that a rollout needs loaded."""
        states = [live.state for live in self._live.values() if live.state.model == model and not live.is_over]
        return frozenset(version for state in states for version in (state.stable, state.candidate) if state.phase is not Phase.PENDING)

    def wake(self) -> None:
        """An error of a candidate was counted: look now."""
        for live in self._live.values():
            live.woken.set()

    def live(self) -> list[Live]:
        """Everything, for the metrics."""
        return list(self._live.values())

    def _new(self, state: RolloutState) -> Live:
        plan = state.plan
        output = judged_output(self._models.describe(state.model, state.stable), plan.judge.outputs.output)
        watched = plan.judge.outputs.model_copy(update={"output": output.output if output is not None else None})
        settings = plan.judge.model_copy(update={"outputs": watched})
        # The plan in force divides units already: the same key goes on dividing them the same way.
        salt = plan.salt or _salt_of(self._board.document(state.model), plan) or secrets.token_hex(12)
        return Live(state, empty(), settings, salt, rfc3339(self._clock.wall_ns()), output=output,
                    warmup_left=settings.warmup_requests)

    def _check_started(self) -> None:
        if not self._is_started:
            raise Unavailable("the server is starting; try again")

    def _new_id(self, model: str) -> str:
        return f"{model}-r{1 + sum(live.state.model == model for live in self._live.values())}"

    def _find(self, name: str) -> Live:
        live = self._live.get(name)
        if live is None:
            raise NotFound(f"there is no rollout {name!r}; there are {', '.join(self._live) or 'none'}")
        return live


def _check_no_split(document: TrafficDocument) -> None:
    """A rollout is between two versions: it would take a split apart, and nobody could put it together again."""
    if document.plan is None:
        return
    arms = [f"{variant.version}={variant.weight / 100:g}" for variant in document.plan.variants if variant.weight]
    if len(arms) > 1 or document.plan.shadows:
        raise Conflict(
            f"the traffic of '{document.model}' is split ({' '.join(arms)}) or shadowed by hand: give one version everything first, "
            "or make it a dry run")


def _salt_of(document: TrafficDocument, plan: RolloutPlan) -> str | None:
    return document.plan.salt if document.plan is not None and document.plan.sticky == plan.sticky else None


__all__ = ["RolloutDesk"]
