"""Drives rollouts: looks at the counters, asks the judge, feeds the machine, carries its actions out. The only part that sleeps.

What the machine decides is committed (state, traffic, evidence and audit in one transaction) and published. A look that decides nothing is
saved at least every second, so that a worker that takes over goes on with the judge's counts.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from serve.errors import Conflict, HeadraceError
from serve.routing import rollout
from serve.routing.board import TrafficBoard, check_owner
from serve.routing.gates import check_gate
from serve.routing.judge.judgement import Verdict
from serve.routing.outcome_board import NoOutcomes
from serve.routing.ports import Counters, Models, Outcomes
from serve.routing.rollout_candidate import load_candidate
from serve.routing.rollout_events import (
    Abort,
    Action,
    Announce,
    Applied,
    Backup,
    Due,
    Event,
    Load,
    Loaded,
    LoadFailed,
    SetTraffic,
    Tick,
    WorkerDied,
)
from serve.routing.rollout_ledger import DRIVER, Clock, RolloutLedger
from serve.routing.rollout_live import EVIDENCE, KIND, Live, from_stored
from serve.routing.rollout_state import LIVE, NO_TRAFFIC, Phase, RolloutState, wanted_traffic
from serve.routing.rollout_traffic import routing_plan, share_of
from serve.routing.rollout_watch import watch
from serve.routing.traffic_service import Actor

_log = logging.getLogger(__name__)

TICK_S = 0.25
FIRST_WAKE_S = 0.005
SAVE_NS = 1_000_000_000

class RolloutDriver:
    """backup: copies the store. on_verdict: told (model, verdict) when it changes. Lives on one event loop."""

    def __init__(
        self, board: TrafficBoard, models: Models, counters: Counters, clock: Clock,
        backup: Callable[[], Awaitable[object]], on_verdict: Callable[[str, str], None],
        outcomes: Outcomes | None = None,
    ) -> None:
        self._board = board
        self._models = models
        self._counters = counters
        self._outcomes = outcomes or NoOutcomes()
        self._clock = clock
        self._ledger = RolloutLedger(board, counters, clock, on_verdict)
        self._backup = backup
        self._live: dict[str, Live] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._is_started = False
        self._is_closing = False

    # Start and end

    async def open(self, worker_died: bool) -> None:
        """Reads what the store has, before any model is loaded. worker_died: the last worker ended without saying so."""
        for stored in sorted(await self._board.store.list(KIND), key=lambda one: (one.content["created"], len(one.key))):    # r9, r10
            live = from_stored(stored, await self._board.store.get(EVIDENCE, stored.key))
            self._live[stored.key] = live
            if live.is_over:
                continue
            await self._ledger.restore_units(live)
            live.worker_died = worker_died
            try:
                await self._tell_death(live)
            except HeadraceError as error:
                # Nothing serves yet; it is told again before anything of it is driven.
                _log.error("rollout %s: %s", live.state.id, error)

    def start(self) -> None:
        """With the models loaded: goes on with every rollout that is not over, and takes what operators ask."""
        self._is_started = True
        for live in self._live.values():
            if not live.is_over:
                self._drive(live)

    async def close(self) -> None:
        """Looks and saves once more; a later start goes on."""
        self._is_closing = True
        for live in self._live.values():
            live.woken.set()
        tasks = [live.task for live in self._live.values() if live.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tuple(self._background):
            task.cancel()
        for live in self._live.values():
            if not live.is_over:
                async with live.lock:
                    try:
                        await self._ledger.save(live)
                    except HeadraceError as error:
                        _log.error("rollout %s: what was counted last is not saved: %s", live.state.id, error)

    # The loop

    def _drive(self, live: Live) -> None:
        live.looked_ns = self._clock.monotonic_ns()
        live.task = asyncio.create_task(self._run(live))

    async def _run(self, live: Live) -> None:
        is_taken = False
        while not live.is_over:
            if is_taken:
                await self._rest(live)
            try:
                async with live.lock:
                    await (self._turn(live) if is_taken else self._take_over(live))
                is_taken = True
            except HeadraceError as error:
                # The store may be unreachable: nothing was decided, the next turn decides again.
                _log.error("rollout %s: %s", live.state.id, error)
                await asyncio.sleep(TICK_S)
            except Exception as error:  # noqa: BLE001  a candidate that cannot be judged must not keep its traffic
                _log.exception("rollout %s cannot be judged", live.state.id)
                await self._give_up(live, f"internal error: {error}")
            if self._is_closing:
                return

    async def _rest(self, live: Live) -> None:
        live.woken.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(live.woken.wait(), TICK_S)
            await asyncio.sleep(FIRST_WAKE_S)

    async def _give_up(self, live: Live, why: str) -> None:
        await asyncio.sleep(TICK_S)
        try:
            async with live.lock:
                if "abort" in rollout.possible_verbs(live.state):
                    await self._feed(live, [Abort(DRIVER.name, why)], DRIVER)
        except HeadraceError as error:
            _log.error("rollout %s: %s", live.state.id, error)

    async def _tell_death(self, live: Live) -> None:
        if live.worker_died:
            await self._feed(live, [WorkerDied()], DRIVER)
            live.worker_died = False

    async def _take_over(self, live: Live) -> None:
        """A driver that takes a state over cannot know how far the one before it came."""
        await self._tell_death(live)
        state = live.state
        if state.phase in LIVE and state.candidate not in self._models.served(state.model):
            await self._feed(live, [LoadFailed(f"version {state.candidate} does not serve after a restart")], DRIVER)
        elif state.phase is not Phase.PENDING:
            await self._act(live, state, rollout.repeat(state), DRIVER)

    async def _turn(self, live: Live) -> None:
        now = self._clock.monotonic_ns()
        elapsed_s, live.looked_ns = (now - live.looked_ns) / 1e9, now
        if live.state.plan.dry_run and live.state.phase in LIVE:
            await self._ledger.observe(live)
        if live.state.phase is Phase.PENDING:
            await self._begin_when_due(live)
            return
        if live.loaded is not None:
            await self._feed(live, [live.loaded], DRIVER)
            live.loaded = None
        events: list[Event] = [Tick(elapsed_s)]
        if live.state.phase in LIVE:
            self._note_share(live)
            events = watch(live, self._models, self._outcomes, elapsed_s)
        await self._feed(live, events, DRIVER)
        await self._settle(live)
        if not live.is_over and now - live.saved_ns >= SAVE_NS:
            await self._ledger.save(live)

    async def _begin_when_due(self, live: Live) -> None:
        start_at = live.state.plan.start_at
        if start_at is not None and self._clock.wall_ns() < start_at.timestamp() * 1e9:
            return
        try:
            check_owner(self._board.document(live.state.model))
            live.state = self._with_stable(live.state)
        except HeadraceError as error:
            await self._feed(live, [Abort(DRIVER.name, str(error))], DRIVER)
            return
        await self._feed(live, [Due()], DRIVER)

    def _with_stable(self, state: RolloutState) -> RolloutState:
        """What answers may have changed since the rollout was made. Raises Conflict where the candidate answers already."""
        stable = state.plan.stable or self._models.default_version(state.model)
        if stable == state.candidate:
            raise Conflict(f"version {state.candidate} of '{state.model}' answers already: there is nothing to roll out")
        return replace(state, stable=stable)

    def _note_share(self, live: Live) -> None:
        """Labels are changed while a rollout goes on: the plan is as it was, under another generation."""
        state, document = live.state, self._board.document(live.state.model)
        if document.owner == f"rollout:{state.id}" and document.generation not in live.shares:
            live.shares[document.generation] = share_of(document, state.stable, state.candidate)

    async def _settle(self, live: Live) -> None:
        """What is in force is what the state wants, also after a commit that failed half-way through a decision."""
        state = live.state
        wanted = wanted_traffic(state)
        if wanted is None or (state.phase not in LIVE and state.phase is not Phase.ROLLING_BACK):
            return
        if live.judgement is not None and live.judgement.verdict is Verdict.ROLLBACK and wanted != NO_TRAFFIC:
            return                      # the next turn rolls back; until then less than wanted is right
        document = self._board.document(state.model)
        is_ours = document.owner == f"rollout:{state.id}"
        if is_ours and document.plan == routing_plan(state.plan, state.stable, wanted, live.salt):
            if not state.is_applied:
                await self._feed(live, [Applied(document.generation, wanted)], DRIVER)
        elif is_ours or wanted != NO_TRAFFIC:
            await self._act(live, state, rollout.repeat(state), DRIVER)

    # Deciding and carrying out

    async def _feed(self, live: Live, events: Sequence[Event], by: Actor) -> None:
        """Events into the machine, actions out of it, until nothing more follows. With the rollout's lock held."""
        state, actions = live.state, list[Action]()
        for event in events:
            state, more = rollout.step(state, event)
            actions += more
        await self._act(live, state, actions, by)

    async def _act(self, live: Live, state: RolloutState, actions: Sequence[Action], by: Actor) -> None:
        wanted = [action.traffic for action in actions if isinstance(action, SetTraffic)]
        announced = [action for action in actions if isinstance(action, Announce)]
        if wanted and wanted[-1] == NO_TRAFFIC and self._board.document(state.model).owner != f"rollout:{state.id}":
            # It never had any traffic: the operator's plan is none of its business.
            await self._ledger.commit(live, state, announced, by)
            await self._feed(live, [Applied(self._board.document(state.model).generation, NO_TRAFFIC)], by)
            return
        is_told = bool(announced) or state.verdict is not live.state.verdict
        if not wanted and not is_told:
            live.state = state
        elif wanted:
            generation = await self._ledger.put(live, state, wanted[-1], announced, by)
            await self._feed(live, [Applied(generation, wanted[-1])], by)
        else:
            await self._ledger.commit(live, state, announced, by)
        for action in actions:
            if isinstance(action, Load) and self._is_started:     # else `_take_over` repeats it, with the models loaded
                self._in_background(self._load(live))
            elif isinstance(action, Backup):
                self._in_background(self._backup())

    async def _load(self, live: Live) -> None:
        try:
            if live.state.plan.dry_run:
                await self._board.hold(live.state.model, DRIVER.name)
            else:
                # Stable answers everything while the candidate is loaded, which would be the latest version otherwise.
                async with live.lock:
                    if live.state.phase is Phase.WARMING:
                        await self._ledger.put(live, live.state, NO_TRAFFIC, (), DRIVER)
            await load_candidate(live, self._models)
            loaded = self._models.describe(live.state.model, live.state.candidate).digest
            await check_gate(self._board.store, self._models, live.state, loaded, self._clock.wall_ns())
            event: Event = Loaded()
        except HeadraceError as error:
            event = LoadFailed(str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, a rollout that cannot go on says so
            _log.exception("rollout %s: loading version %s", live.state.id, live.state.candidate)
            event = LoadFailed(f"internal error: {error}")
        live.loaded = event
        live.woken.set()

    def _in_background(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

__all__ = ["RolloutDriver"]
