"""What a rollout has decided, made durable: state, traffic, evidence, units and audit in one transaction, then in force."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from serve.routing.board import TrafficBoard, check_owner
from serve.routing.judge.state import empty
from serve.routing.ports import Counters
from serve.routing.rollout_events import Announce
from serve.routing.rollout_live import EVIDENCE, KIND, MAX_EVIDENCE, Live
from serve.routing.rollout_records import audit_entries, evidence_of, reach
from serve.routing.rollout_state import ENDED, Phase, RolloutState, Traffic
from serve.routing.rollout_traffic import counting, share_of, with_traffic, without_owner
from serve.routing.traffic_document import TrafficDocument
from serve.routing.traffic_service import Actor
from serve.store.audit import rfc3339
from serve.store.port import BLOB, Change

DRIVER = Actor("headrace")
# Whose first answer was counted matters less than whose first error, and changes with every unit.
UNITS_EVERY_NS = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """serve.clock's functions."""

    monotonic_ns: Callable[[], int]
    wall_ns: Callable[[], int]


class RolloutLedger:
    """Every method is called with the rollout's lock held. on_verdict: told (model, verdict) where it differs from the one before it."""

    def __init__(self, board: TrafficBoard, counters: Counters, clock: Clock, on_verdict: Callable[[str, str], None]) -> None:
        self._board = board
        self._counters = counters
        self._clock = clock
        self._on_verdict = on_verdict

    async def observe(self, live: Live) -> None:
        """A dry run changes no weight; what it needs is that the traffic in force, whoever sets it, is counted for its judge."""
        state = live.state
        async with self._board.lock(state.model):
            document = self._board.document(state.model)
            if document.generation in live.shares or document.plan is None:
                return
            if document.owner or not {state.stable, state.candidate} <= {variant.version for variant in document.plan.variants}:
                live.shares[document.generation] = 0.0      # its shadow may be counted, its answers belong to somebody else or are none
                return
            changed = replace(document, generation=document.generation + 1, counting=counting(live, state, document.plan))
            await self.commit(live, state, (), DRIVER, document, changed)

    async def put(self, live: Live, state: RolloutState, traffic: Traffic, announced: Sequence[Announce], by: Actor) -> int:
        """Puts the traffic in force, with everything else that `state` changes; returns its generation. Raises Conflict: another owner."""
        async with self._board.lock(state.model):
            document = self._board.document(state.model)
            check_owner(document, f"rollout:{state.id}")
            changed = with_traffic(document, state, traffic, live.salt, counting(live, state))
            await self.commit(live, state, announced, by, document, changed)
        return changed.generation

    async def commit(
        self, live: Live, state: RolloutState, announced: Sequence[Announce], by: Actor,
        before: TrafficDocument | None = None, after: TrafficDocument | None = None,
    ) -> None:
        """State, traffic, evidence and audit in one transaction."""
        if state.phase is Phase.PENDING and live.is_over:
            self._begin_again(live, state)
        ends = state.phase in ENDED
        if ends and not live.ended:
            live.ended = rfc3339(self._clock.wall_ns())
        if after is not None:
            live.shares[after.generation] = share_of(after, state.stable, state.candidate)
        evidence = live.evidence
        if live.judgement is not None and (announced or state.verdict is not live.state.verdict):
            evidence = [*evidence, evidence_of(live, state, self._clock.wall_ns())][-MAX_EVIDENCE:]
        changes = [
            Change(KIND, state.id, live.stored(state), live.revision),
            Change(EVIDENCE, state.id, {"judgements": evidence}, live.evidence_revision),
            *(self._unit_ends(live) if ends else self._unit_changes(live)),
        ]
        audit = audit_entries(live, state, announced, by, before, after)
        if after is not None:
            takes_away = before is not None and reach(after, state.candidate) <= reach(before, state.candidate)
            live.revision = (await self._board.change(after, audit, changes, publish_first=takes_away)).revision
        elif ends and self._board.document(state.model).owner == f"rollout:{state.id}":
            async with self._board.lock(state.model):
                freed = without_owner(self._board.document(state.model))
                live.revision = (await self._board.change(freed, audit, changes)).revision
        else:
            audit = self._board.with_digests(audit, state.model, (state.stable, state.candidate))
            live.revision = await self._board.record(changes, audit)
        live.evidence_revision, live.saved_ns = live.revision, self._clock.monotonic_ns()
        if state.verdict is not None and state.verdict is not live.state.verdict:
            self._on_verdict(state.model, state.verdict.value)
        live.state, live.evidence = state, evidence
        if ends:
            self._counters.forget_units(live.units)

    async def save(self, live: Live) -> None:
        """What was counted since the last commit."""
        changes = [Change(KIND, live.state.id, live.stored(live.state), live.revision), *self._unit_changes(live)]
        live.revision = await self._board.record(changes)
        live.saved_ns = self._clock.monotonic_ns()

    def _begin_again(self, live: Live, state: RolloutState) -> None:
        live.judge, live.judgement, live.shares, live.ended = empty(), None, {}, ""
        live.taken = {}
        live.warmup_left = live.settings.warmup_requests
        self._counters.forget_units(live.units)

    def _unit_changes(self, live: Live) -> list[Change]:
        if live.state.plan.sticky is None or live.is_over:
            return []
        units, now = self._counters.units(live.units), self._clock.monotonic_ns()
        if units.n_failing == live.n_failing_saved and now - live.units_saved_ns < UNITS_EVERY_NS:
            return []
        # Before the commit: one that fails is followed by another, which saves all of it, within UNITS_EVERY_NS.
        live.n_failing_saved, live.units_saved_ns = units.n_failing, now
        return [Change(BLOB, f"units/{live.units}/failing", units.failing_bytes(), None),
                Change(BLOB, f"units/{live.units}/seen", units.seen_bytes(), None)]

    def _unit_ends(self, live: Live) -> list[Change]:
        if live.state.plan.sticky is None:
            return []
        return [Change(BLOB, f"units/{live.units}/{kind}", None, None) for kind in ("failing", "seen")]

    async def restore_units(self, live: Live) -> None:
        """After a start: whose errors and answers have been counted."""
        failing = await self._board.store.get_blob(f"units/{live.units}/failing")
        seen = await self._board.store.get_blob(f"units/{live.units}/seen")
        if failing is not None and seen is not None:
            self._counters.units(live.units).restore(failing, seen)


__all__ = ["DRIVER", "Clock", "RolloutLedger"]
