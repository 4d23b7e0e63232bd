"""What an experiment has counted and decided, made durable: record, traffic, units and audit in one transaction, then in force.

Nothing changes in memory before it is durable: what failed is done again, from the same state.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from serve.routing import experiment
from serve.routing.board import TrafficBoard, check_owner
from serve.routing.experiment_live import KIND, Live, Record
from serve.routing.plan import RoutingPlan, VariantDoc, name_of
from serve.routing.ports import Counters
from serve.routing.traffic_document import plan_document
from serve.routing.traffic_service import Actor
from serve.store.audit import AuditEntry, rfc3339
from serve.store.port import ABSENT, BLOB, Change
from serve.traffic import WHOLE_BP, JudgeCounting

_DRIVER = Actor("headrace")


class ExperimentLedger:
    """Every method but `restore_units` is called with the experiment's lock held. Raises what the board and the store raise."""

    def __init__(self, board: TrafficBoard, counters: Counters, wall_ns: Callable[[], int]) -> None:
        self._board = board
        self._counters = counters
        self._wall_ns = wall_ns

    async def create(self, record: Record, by: Actor) -> Live:
        """A new experiment; nothing of it is in force."""
        plan = record.state.plan.model_dump(mode="json")
        entry = AuditEntry("dev.headrace.experiment.created", record.id, by.name, by.reason, None, plan)
        revision = await self._board.record([Change(KIND, record.id, record.as_document(), ABSENT)], [entry])
        return Live(record, revision)

    async def begin(self, live: Live) -> None:
        """Puts its weights in force in place of the plan that there is now."""
        before = plan_document(self._board.document(live.record.model).plan)
        record = replace(live.record, phase="running", started=rfc3339(self._wall_ns()), why="", before=before)
        await self._put(live, record, record.state.plan.weights(), "started")

    async def reallocate(self, live: Live, weights: Sequence[int]) -> None:
        """Puts other weights in force."""
        await self._put(live, replace(live.record, since_update_s=0.0), weights, "reallocated")

    async def end(self, live: Live, why: str, by: Actor, keep: str) -> None:
        """Puts back what was before, or gives everything to the variant `keep`."""
        async with self._board.lock(live.record.model):
            document = self._board.document(live.record.model)
            record = replace(live.record, phase="ended", ended=rfc3339(self._wall_ns()), why=why)
            evidence = experiment.read_out(record.state)
            changes = [Change(KIND, record.id, record.as_document(), live.revision), *self._units_deleted(record)]
            if document.owner != record.owner:
                entry = AuditEntry("dev.headrace.experiment.ended", record.id, by.name, why, None, None, evidence)
                revision = await self._board.record(changes, [entry])
            else:
                routing = _after(record, keep)
                # Without a plan before, the version that answered then answers again, not one that was loaded for the experiment.
                held = "" if routing is not None else document.held
                changed = replace(
                    document, generation=document.generation + 1, plan=routing, held=held, owner="", stable="", counting=None)
                entry = AuditEntry("dev.headrace.experiment.ended", record.id, by.name, why, plan_document(document.plan),
                                   plan_document(routing), evidence)
                revision = (await self._board.change(changed, [entry], changes)).revision
            live.record, live.revision = record, revision
        if record.state.plan.sticky is not None:
            self._counters.forget_units(record.id)

    async def save(self, live: Live) -> None:
        """What was counted since the last commit."""
        changes, n_failing = self._changes(live, live.record)
        live.revision = await self._board.record(changes)
        live.n_failing_saved = n_failing

    async def restore_units(self, live: Live) -> None:
        """After a start, before the plan is in force: whose first errors have been counted."""
        failing, seen = [await self._board.store.get_blob(key) for key in _unit_keys(live.record)]
        if failing is not None and seen is not None:
            units = self._counters.units(live.record.id)
            units.restore(failing, seen)
            live.n_failing_saved = units.n_failing

    async def _put(self, live: Live, record: Record, weights: Sequence[int], what: str) -> None:
        async with self._board.lock(record.model):
            document = self._board.document(record.model)
            check_owner(document, record.owner)
            generation = document.generation + 1
            plan = record.state.plan
            routing = experiment.to_plan(plan, record.id, weights)
            control = plan.names()[plan.control_index()]
            record = replace(record, state=experiment.put_in_force(record.state, generation, weights))
            changes, n_failing = self._changes(live, record)
            # A plan that is still being loaded was asked for before this one. What is held stays for the time after the experiment.
            changed = replace(document, generation=generation, plan=routing, pending=None, owner=record.owner, stable=control,
                              counting=JudgeCounting(rollout=record.id, stable=control, candidate=""))
            entry = AuditEntry(f"dev.headrace.experiment.{what}", record.id, _DRIVER.name, _DRIVER.reason, plan_document(document.plan),
                               plan_document(routing))
            revision = (await self._board.change(changed, [entry], changes)).revision
            live.record, live.revision, live.n_failing_saved = record, revision, n_failing

    def _changes(self, live: Live, record: Record) -> tuple[list[Change], int]:
        """The record, and the units where there are new ones; and how many units those are."""
        changes = [Change(KIND, record.id, record.as_document(), live.revision)]
        if record.state.plan.sticky is None:
            return changes, 0
        units = self._counters.units(record.id)
        n_failing = units.n_failing
        if n_failing != live.n_failing_saved:
            contents = (units.failing_bytes(), units.seen_bytes())
            changes += [Change(BLOB, key, content, None) for key, content in zip(_unit_keys(record), contents, strict=True)]
        return changes, n_failing

    def _units_deleted(self, record: Record) -> list[Change]:
        return [] if record.state.plan.sticky is None else [Change(BLOB, key, None, None) for key in _unit_keys(record)]


def _after(record: Record, keep: str) -> RoutingPlan | None:
    if not keep:
        return record.before_plan()
    version = next(v.version for v in record.state.plan.variants if name_of(v) == keep)
    return RoutingPlan(variants=(VariantDoc(version=version, weight=WHOLE_BP),), salt=secrets.token_hex(12))


def _unit_keys(record: Record) -> tuple[str, str]:
    return f"units/{record.id}/failing", f"units/{record.id}/seen"


__all__ = ["ExperimentLedger"]
