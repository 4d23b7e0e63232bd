"""Carries experiments out: puts their weights in force, counts, reallocates, ends them. Everything it knows is in the store each second."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from serve.errors import Conflict, HeadraceError, InvalidArgument, NotFound
from serve.routing import experiment
from serve.routing.board import TrafficBoard, check_owner
from serve.routing.experiment_ledger import ExperimentLedger
from serve.routing.experiment_live import KIND, Live, Record, from_document
from serve.routing.experiment_plan import ExperimentPlan, ThompsonAllocation
from serve.routing.outcome_board import NoOutcomes
from serve.routing.ports import Counters, Models, Outcomes
from serve.routing.traffic_service import Actor

_log = logging.getLogger(__name__)

TICK_S = 1.0
# A start that fails is tried again after 1, 2, 4 ... ticks: loading a version is work.
MAX_TICKS_BETWEEN_STARTS = 64

_DRIVER = Actor("headrace")


class ExperimentDriver:
    """monotonic_ns, wall_ns: the clock's. Lives on one event loop."""

    def __init__(
        self, board: TrafficBoard, models: Models, counters: Counters, monotonic_ns: Callable[[], int], wall_ns: Callable[[], int],
        outcomes: Outcomes | None = None,
    ) -> None:
        self._board = board
        self._models = models
        self._outcomes = outcomes or NoOutcomes()
        self._ledger = ExperimentLedger(board, counters, wall_ns)
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._live: dict[str, Live] = {}
        self._rng = np.random.default_rng()

    async def open(self) -> None:
        """Reads what the store has; nothing runs yet."""
        # Oldest first; by key e10 would come before e2. One that waits for its start is younger than all that have had it.
        for stored in sorted(await self._board.store.list(KIND), key=lambda one: (one.content["started"] or "9", len(one.key))):
            live = self._live[stored.key] = Live(from_document(stored.content), stored.revision)
            if live.record.phase == "running" and live.record.state.plan.sticky is not None:
                await self._ledger.restore_units(live)

    def resume(self) -> None:
        """Goes on with what had not ended."""
        for live in self._live.values():
            if live.record.phase != "ended":
                live.task = asyncio.create_task(self._run(live))

    async def close(self) -> None:
        """Counts and saves once more; a later start resumes."""
        for live in self._live.values():
            async with live.lock:       # not in the middle of a commit
                if live.task is not None:
                    live.task.cancel()
        await asyncio.gather(*(live.task for live in self._live.values() if live.task is not None), return_exceptions=True)
        for live in self._live.values():
            async with live.lock:
                if live.record.phase == "running":
                    self._count(live)
                    try:
                        await self._ledger.save(live)
                    except HeadraceError as error:
                        _log.error("experiment %s: its last counts are not saved: %s", live.record.id, error)

    async def create(self, model: str, plan: ExperimentPlan, by: Actor) -> dict[str, Any]:
        """Loads and proves every version, then starts, at once or at start_at. Raises NotFound, InvalidArgument, Conflict."""
        self._models.default_version(model)
        self._check_free(model)
        await self._load(model, plan, by)
        for variant in plan.variants:
            await self._models.prove(model, variant.version)
        self._check_free(model)     # another may have come while the versions were loaded
        # A salt that no client can guess, the experiment's for good: a unit keeps its arm.
        plan = plan if plan.salt else plan.model_copy(update={"salt": secrets.token_hex(12)})
        number = 1 + sum(live.record.model == model for live in self._live.values())
        live = await self._ledger.create(Record(f"{model}-e{number}", model, experiment.begin(plan)), by)
        self._live[live.record.id] = live
        live.task = asyncio.create_task(self._run(live))
        return live.record.shown()

    def documents(self, model: str = "") -> Sequence[Mapping[str, Any]]:
        """All experiments, oldest first, of one model where a name is given."""
        return [live.record.shown() for live in self._live.values() if model in ("", live.record.model)]

    def document(self, name: str) -> dict[str, Any]:
        """Document and read-out. Raises NotFound."""
        return self._find(name).record.shown()

    def pinned(self, model: str) -> frozenset[str]:
        """Versions that must stay loaded: those of experiments that have not ended, and those that get the traffic back after them."""
        records = [live.record for live in self._live.values() if live.record.model == model and live.record.phase != "ended"]
        return frozenset[str]().union(*(record.versions() for record in records))

    async def stop(self, name: str, by: Actor, keep: str = "") -> dict[str, Any]:
        """Ends it now. keep: the variant that gets everything; "" puts back the plan that was in force before.

        Raises NotFound, InvalidArgument, and what the store raises: then it goes on, and may be stopped again.
        """
        live = self._find(name)
        async with live.lock:
            if live.record.phase == "ended":
                raise InvalidArgument(f"experiment {name} ended at {live.record.ended}")
            if keep and keep not in live.record.state.plan.names():
                raise InvalidArgument(f"experiment {name} has no variant {keep!r}; it has {', '.join(live.record.state.plan.names())}")
            if keep and live.record.phase == "pending":
                raise InvalidArgument(f"experiment {name} has not started, so that there is nothing to keep: stop it without `keep`")
            self._count(live)
            await self._ledger.end(live, f"stopped by {by.name}", by, keep)
        return live.record.shown()

    # The loop

    async def _run(self, live: Live) -> None:
        n_failed = 0
        while live.record.phase == "pending":
            start_at = live.record.state.plan.start_at
            if start_at is not None and self._wall_ns() < start_at.timestamp() * 1e9:
                await asyncio.sleep(TICK_S)
                continue
            try:
                await self._begin(live)
            except Exception as error:  # noqa: BLE001  whatever it is, the next try may find it mended
                self._note(live, error)
                await asyncio.sleep(TICK_S * min(2**n_failed, MAX_TICKS_BETWEEN_STARTS))
                n_failed += 1
        before = self._monotonic_ns()
        while live.record.phase == "running":
            await asyncio.sleep(TICK_S)
            async with live.lock:
                now = self._monotonic_ns()
                elapsed_s, before = (now - before) / 1e9, now
                if live.record.phase == "running":
                    await self._look(live, elapsed_s)

    async def _begin(self, live: Live) -> None:
        # Loaded and proved when it was created; that may have been before a restart.
        missing = await self._load(live.record.model, live.record.state.plan, _DRIVER)
        for version in missing:
            await self._models.prove(live.record.model, version)
        async with live.lock:
            if live.record.phase == "pending":
                await self._ledger.begin(live)

    async def _look(self, live: Live, elapsed_s: float) -> None:
        record = live.record
        live.record = replace(record, elapsed_s=record.elapsed_s + elapsed_s, since_update_s=record.since_update_s + elapsed_s, why="")
        self._count(live)
        try:
            await self._tick(live)
        except Exception as error:  # noqa: BLE001  the store may be unreachable: the weights stay, the next look tries again
            self._note(live, error)

    async def _tick(self, live: Live) -> None:
        record, plan = live.record, live.record.state.plan
        if plan.seconds is not None and record.elapsed_s >= plan.seconds:
            await self._ledger.end(live, f"its {plan.seconds:g} s are over", _DRIVER, "")
        elif experiment.has_units(record.state):
            await self._ledger.end(live, f"every variant has counted {plan.units} units", _DRIVER, "")
        elif isinstance(plan.allocation, ThompsonAllocation) and record.since_update_s >= plan.allocation.update_seconds:
            await self._ledger.reallocate(live, experiment.next_weights(record.state, self._rng))
        else:
            await self._ledger.save(live)

    # Parts

    def _count(self, live: Live) -> None:
        """A counter that is not what it should be must not keep an experiment from its end."""
        try:
            state, document = live.record.state, self._board.document(live.record.model)
            if document.owner == live.record.owner and document.plan is not None and document.generation not in state.weights:
                # A label was set: the same plan goes on under a generation of its own.
                state = experiment.put_in_force(state, document.generation, [variant.weight for variant in document.plan.variants])
            readings = [reading for reading in self._models.plan_readings(live.record.model) if reading.generation in state.weights]
            if state.plan.sticky is not None and any(metric.startswith("outcome:") for metric in state.metrics):
                self._outcomes.share_units(live.record.model, state.weights, live.record.id)
            outcomes = [found for found in self._outcomes.outcome_readings(live.record.model) if found.generation in state.weights]
            live.record = replace(live.record, state=experiment.fold(state, readings, outcomes))
        except Exception as error:  # noqa: BLE001  said above
            self._note(live, error)

    def _note(self, live: Live, error: Exception) -> None:
        _log.error("experiment %s: %s", live.record.id, error, exc_info=None if isinstance(error, HeadraceError) else error)
        live.record = replace(live.record, why=str(error))

    async def _load(self, model: str, plan: ExperimentPlan, by: Actor) -> list[str]:
        """Loads what does not serve; returns it."""
        missing = [variant.version for variant in plan.variants if variant.version not in self._models.served(model)]
        if missing:
            # As the latest version it would get everything where there is no plan.
            await self._board.hold(model, by.name)
        for version in missing:
            await self._models.load_version(model, version)
        return missing

    def _check_free(self, model: str) -> None:
        check_owner(self._board.document(model))
        if any(live.record.model == model and live.record.phase != "ended" for live in self._live.values()):
            raise Conflict(f"model '{model}' has an experiment that has not ended: stop it first")

    def _find(self, name: str) -> Live:
        live = self._live.get(name)
        if live is None:
            raise NotFound(f"there is no experiment {name!r}; there are {', '.join(self._live) or 'none'}")
        return live


__all__ = ["ExperimentDriver"]
