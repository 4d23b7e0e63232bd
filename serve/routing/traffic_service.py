"""Plans and labels set by operators: checked, their versions loaded and proved, then in force."""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from serve.errors import Conflict, HeadraceError, InternalError, InvalidArgument, NotFound
from serve.routing.board import TrafficBoard, check_generation, check_owner
from serve.routing.plan import RoutingPlan
from serve.routing.ports import Counters, Models
from serve.routing.traffic_document import TrafficDocument, implied_plan, plan_document, plan_versions
from serve.store.audit import AuditEntry

_log = logging.getLogger(__name__)

_SALT_BYTES = 12


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change, and why; both go to the audit."""

    name: str = "anonymous"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrafficState:
    """One model's traffic. plan None: none was set, requests go to `stable` or the latest version; then `implied` says which.

    generation: 0 before the first change. state: "in_force"; "loading" while versions are loaded for `pending`; "failed" with the reason.
    owner: "rollout:<id>" or "experiment:<id>" where one owns the plan.
    """

    model: str
    generation: int
    plan: RoutingPlan | None
    implied: RoutingPlan | None
    labels: Mapping[str, str] = field(default_factory=dict)
    state: Literal["in_force", "loading", "failed"] = "in_force"
    reason: str = ""
    owner: str = ""
    pending: RoutingPlan | None = None


class TrafficService:
    """The part of the routing service that operators write by hand."""

    def __init__(self, board: TrafficBoard, models: Models, counters: Counters) -> None:
        self._board = board
        self._models = models
        self._counters = counters
        self._failures: dict[str, str] = {}
        self._preparing: set[asyncio.Task[None]] = set()

    def traffic(self, model: str) -> TrafficState:
        """Raises NotFound for a model that is not known."""
        document = self._board.document(model)
        default = self._models.default_version(model)
        failure = self._failures.get(model, "")
        return TrafficState(
            model=model, generation=document.generation, plan=document.plan,
            implied=implied_plan(default) if document.plan is None and default else None,
            pending=document.pending, labels=document.labels,
            state="loading" if document.pending else "failed" if failure else "in_force", owner=document.owner,
            reason=failure or (document.held and f"version {document.held} answers until there is a plan, or the traffic is cleared"),
        )

    async def set_traffic(self, model: str, plan: RoutingPlan, expected: int, by: Actor, wait: bool = True) -> TrafficState:
        """Loads and proves what the plan names, then puts it in force. wait False: returns while that goes on.

        Raises NotFound, InvalidArgument, StaleGeneration, Conflict.
        """
        async with self._board.lock(model):
            document = self._board.document(model)
            check_generation(document, expected)
            check_owner(document)
        if plan_versions(plan) - set(self._models.served(model)):
            await self._board.hold(model, by.name)
        async with self._board.lock(model):
            document = self._board.document(model)
            check_generation(document, expected)
            check_owner(document)
            self._check_labels_apart(document, plan)
            plan = plan.model_copy(update={"salt": plan.salt or _kept_salt(document) or secrets.token_hex(_SALT_BYTES)})
            if not plan_versions(plan) - set(self._models.served(model)):
                await self._prove(model, document, plan)
                await self._put(document, plan, by)
                return self.traffic(model)
            pending = replace(document, pending=plan)
            await self._board.change(pending, [_entry("traffic.pending", document, by, plan)])
            self._failures.pop(model, None)
        task = asyncio.create_task(self._prepare(model, plan, by))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        if wait:
            await asyncio.shield(task)
        else:
            task.add_done_callback(_heard)
        return self.traffic(model)

    async def clear_traffic(self, model: str, expected: int, by: Actor) -> TrafficState:
        """Takes the plan away: requests go to `stable` or the latest version. Raises as set_traffic does."""
        async with self._board.lock(model):
            document = self._board.document(model)
            check_generation(document, expected)
            check_owner(document)
            self._models.default_version(model)
            cleared = replace(document, generation=document.generation + 1, plan=None, pending=None, held="", stable="", counting=None)
            await self._board.change(cleared, [_entry("traffic.cleared", document, by, None)])
            self._failures.pop(model, None)
        return self.traffic(model)

    async def set_labels(self, model: str, labels: Mapping[str, str], expected: int, by: Actor) -> TrafficState:
        """Replaces the operator's labels; versions that they name are loaded first. Raises as set_traffic does."""
        self._models.default_version(model)
        for label, version in labels.items():
            if label.isdigit() or not label:
                raise InvalidArgument(f"label {label!r}: a label is never all digits")
            if version not in self._models.served(model):
                await self._board.hold(model, by.name)
                try:
                    await self._models.load_version(model, version)
                    await self._models.prove(model, version)
                except HeadraceError:
                    await self._let_go(model, by)
                    raise
        async with self._board.lock(model):
            document = self._board.document(model)
            check_generation(document, expected)
            # The label `stable` says what answers without a plan, whatever was held.
            held = "" if "stable" in labels else self._still_held(document)
            changed = replace(document, generation=document.generation + 1, labels=dict(labels), held=held)
            entry = AuditEntry("dev.headrace.labels.set", model, by.name, by.reason, dict(document.labels), dict(labels))
            await self._board.change(changed, [entry])
        return self.traffic(model)

    def assignment(self, model: str, key: str) -> Mapping[str, Any]:
        """Where a sticky key goes now. Raises NotFound for a model that is not known; InvalidArgument where no key is looked at."""
        default = self._models.default_version(model)
        document = self._board.document(model)
        spec = document.spec()
        if spec is None:
            return {"unit": key, "variant": default, "version": default, "generation": document.generation}
        if spec.sticky is None and len(spec.arms) > 1:
            raise InvalidArgument(f"the plan of '{model}' has no sticky key: each request is drawn by itself")
        variant = self._counters.assignment(model, key)
        versions = {arm.name: arm.version for arm in spec.arms}
        version = versions.get(variant, versions[spec.stable])
        return {"unit": key, "variant": variant, "version": version, "generation": document.generation}

    async def resume(self) -> None:
        """After a start: goes on preparing what was pending."""
        for model in self._board.models():
            pending = self._board.document(model).pending
            if pending is not None:
                task = asyncio.create_task(self._prepare(model, pending, Actor("headrace", "resumed after a restart")))
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)
                task.add_done_callback(_heard)

    async def close(self) -> None:
        """Gives up what is being prepared; it is pending in the store."""
        for task in tuple(self._preparing):
            task.cancel()
        await asyncio.gather(*self._preparing, return_exceptions=True)

    async def _prepare(self, model: str, plan: RoutingPlan, by: Actor) -> None:
        try:
            for version in sorted(plan_versions(plan) - set(self._models.served(model)), key=int):
                await self._models.load_version(model, version)
            async with self._board.lock(model):
                document = self._board.document(model)
                check_owner(document)
                if document.pending != plan:
                    raise Conflict(f"another change of the traffic of '{model}' came before this plan was ready")
                await self._prove(model, document, plan)
                await self._put(document, plan, by)
        except HeadraceError as error:
            await self._give_up(model, plan, by, error)
            raise
        except Exception as error:
            _log.exception("the traffic of '%s' cannot be prepared", model)
            await self._give_up(model, plan, by, InternalError(f"internal error: {error}"))
            raise

    async def _give_up(self, model: str, plan: RoutingPlan, by: Actor, error: HeadraceError) -> None:
        async with self._board.lock(model):
            document = self._board.document(model)
            if document.pending != plan:
                return
            self._failures[model] = str(error)
            entry = AuditEntry("dev.headrace.traffic.failed", model, by.name, str(error), None, plan_document(plan))
            await self._board.change(replace(document, pending=None, held=self._still_held(document)), [entry])

    async def _let_go(self, model: str, by: Actor) -> None:
        """After a change that failed: what was held for it is held only as long as something else would answer."""
        async with self._board.lock(model):
            document = self._board.document(model)
            if document.held and not self._still_held(document):
                why = "nothing was loaded that would answer instead"
                entry = AuditEntry("dev.headrace.traffic.released", model, by.name, why, document.held)
                await self._board.change(replace(document, held=""), [entry])

    def _still_held(self, document: TrafficDocument) -> str:
        if document.held and self._models.natural_default(document.model) == document.held:
            return ""
        return document.held

    async def _put(self, document: TrafficDocument, plan: RoutingPlan, by: Actor) -> None:
        gone = sorted(plan_versions(plan) - set(self._models.served(document.model)), key=int)
        if gone:
            raise Conflict(f"version {gone[0]} of '{document.model}' was unloaded meanwhile: repeat the change")
        changed = replace(document, generation=document.generation + 1, plan=plan, pending=None, held="", stable="", counting=None)
        await self._board.change(changed, [_entry("traffic.set", document, by, plan)])
        self._failures.pop(document.model, None)

    async def _prove(self, model: str, document: TrafficDocument, plan: RoutingPlan) -> None:
        """Self-tests of versions that get requests for the first time."""
        known = plan_versions(document.plan) if document.plan is not None else {document.held or self._default_or_none(model)}
        for version in sorted(plan_versions(plan) - known, key=int):
            await self._models.prove(model, version)

    def _default_or_none(self, model: str) -> str:
        try:
            return self._models.default_version(model)
        except NotFound:
            return ""

    def _check_labels_apart(self, document: TrafficDocument, plan: RoutingPlan) -> None:
        named = {variant.name for variant in plan.variants if variant.name}
        both = sorted(named & document.labels.keys())
        if both and any(document.labels[name] != v.version for v in plan.variants for name in both if v.name == name):
            raise InvalidArgument(f"variant {both[0]!r} is another version than the label of that name")


def _kept_salt(document: TrafficDocument) -> str | None:
    return document.plan.salt if document.plan is not None else None


def _entry(what: str, document: TrafficDocument, by: Actor, plan: RoutingPlan | None) -> AuditEntry:
    return AuditEntry(f"dev.headrace.{what}", document.model, by.name, by.reason, plan_document(document.plan), plan_document(plan))


def _heard(task: "asyncio.Task[None]") -> None:
    """Nobody waits for it: what went wrong is in the document and the audit."""
    if not task.cancelled():
        task.exception()


__all__ = ["Actor", "TrafficService", "TrafficState"]
