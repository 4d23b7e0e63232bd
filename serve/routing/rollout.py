"""The rollout machine: `step(state, event) -> (state, actions)`, by one table.

Theory. A rollout goes through stages: the shadow stage, then the steps. A stage is left when the judge says that it is done (minimum time
and samples, nothing holds), then its gate or timed pause; from the last one to 100 percent only with the verdict `promote`. A verdict
`rollback` counts in every phase in which the candidate can have traffic: gates, pauses and time-outs never switch it off.

Rules for editing. TABLE has a rule for each pair that means something, and every rule lists where it can lead; docs/rollout-states.md is
made from it. What it lacks is refused (verbs) or ignored (facts). Rules change the state only; the actions follow from the two states, in
one place below, so that no rule can forget one.
"""

from collections.abc import Mapping
from typing import Any

from serve.errors import Conflict, InternalError
from serve.routing import rollout_rules as rules
from serve.routing.rollout_events import (
    FACTS,
    VERBS,
    Abort,
    Action,
    Announce,
    Applied,
    Backup,
    Due,
    End,
    Event,
    Judged,
    Load,
    Loaded,
    LoadFailed,
    Pause,
    Promote,
    PromoteFull,
    Resume,
    Retry,
    SetTraffic,
    Tick,
    WorkerDied,
)
from serve.routing.rollout_rules import Rule
from serve.routing.rollout_state import (
    LIVE,
    NO_TRAFFIC,
    PauseReason,
    Phase,
    RolloutState,
    Traffic,
    create,
    described,
    percent,
    planned_traffic,
    progress,
    wanted_traffic,
)

_P = Phase
_STAGES = (_P.SHADOWING, _P.STEPPING)

TABLE: Mapping[tuple[Phase, type[Any]], Rule] = {
    (_P.PENDING, Due): Rule(rules.due, (_P.WARMING,), "start_at"),
    (_P.PENDING, Abort): Rule(rules.abort, (_P.ROLLING_BACK,), "abort"),
    (_P.WARMING, Loaded): Rule(rules.loaded, _STAGES, "loaded, warm, self-tested", advances=True),
    (_P.WARMING, LoadFailed): Rule(rules.load_failed, (_P.FAILED,), "load failed or schema refused"),
    (_P.WARMING, Tick): Rule(rules.tick_waiting, (_P.WARMING,), ""),
    (_P.WARMING, Abort): Rule(rules.abort, (_P.ROLLING_BACK,), "abort"),
    **{
        (phase, event): rule
        for phase in _STAGES
        for event, rule in {
            Tick: Rule(rules.tick_stage, (phase, _P.PAUSED, _P.STEPPING, _P.ROLLING_BACK), "time-out", advances=True),
            Judged: Rule(
                rules.judged_stage, (phase, _P.PAUSED, _P.STEPPING, _P.PROMOTING, _P.ROLLING_BACK), "verdict", advances=True
            ),
            Applied: Rule(rules.applied_stage, (phase,), ""),
            LoadFailed: Rule(rules.lost, (_P.ROLLING_BACK,), "candidate lost"),
            WorkerDied: Rule(rules.worker_died, (_P.PAUSED, _P.ROLLING_BACK), "worker died"),
            Promote: Rule(rules.promote, (_P.STEPPING,), "promote", advances=True),
            PromoteFull: Rule(rules.promote_full, (_P.PROMOTING,), "promote-full"),
            Pause: Rule(rules.pause, (_P.PAUSED,), "pause"),
            Abort: Rule(rules.abort, (_P.ROLLING_BACK,), "abort"),
        }.items()
    },
    (_P.PAUSED, Tick): Rule(rules.tick_paused, (_P.PAUSED, *_STAGES), "pause_seconds over"),
    (_P.PAUSED, Judged): Rule(rules.judged_watching, (_P.PAUSED, _P.ROLLING_BACK), "verdict"),
    (_P.PAUSED, Applied): Rule(rules.applied_stage, (_P.PAUSED,), ""),
    (_P.PAUSED, LoadFailed): Rule(rules.lost, (_P.ROLLING_BACK,), "candidate lost"),
    (_P.PAUSED, WorkerDied): Rule(rules.worker_died, (_P.PAUSED, _P.ROLLING_BACK), "worker died"),
    (_P.PAUSED, Promote): Rule(rules.promote_paused, _STAGES, "promote", advances=True),
    (_P.PAUSED, PromoteFull): Rule(rules.promote_full, (_P.PROMOTING,), "promote-full"),
    (_P.PAUSED, Resume): Rule(rules.resume, (*_STAGES, _P.PROMOTING), "resume"),
    (_P.PAUSED, Abort): Rule(rules.abort, (_P.ROLLING_BACK,), "abort"),
    (_P.PROMOTING, Tick): Rule(rules.tick_promoting, (_P.PROMOTING,), ""),
    (_P.PROMOTING, Judged): Rule(rules.judged_watching, (_P.PROMOTING, _P.ROLLING_BACK), "verdict"),
    (_P.PROMOTING, Applied): Rule(rules.applied_promoting, (_P.PROMOTING, _P.SUCCEEDED), "100 % in force, holdback over"),
    (_P.PROMOTING, LoadFailed): Rule(rules.lost, (_P.ROLLING_BACK,), "candidate lost"),
    (_P.PROMOTING, WorkerDied): Rule(rules.worker_died, (_P.PAUSED, _P.ROLLING_BACK), "worker died"),
    (_P.PROMOTING, PromoteFull): Rule(rules.end_holdback, (_P.PROMOTING,), "promote-full"),
    (_P.PROMOTING, Abort): Rule(rules.abort, (_P.ROLLING_BACK,), "abort"),
    (_P.ROLLING_BACK, Tick): Rule(rules.tick_waiting, (_P.ROLLING_BACK,), ""),
    (_P.ROLLING_BACK, Applied): Rule(rules.applied_rolling_back, (_P.ROLLING_BACK, _P.ROLLED_BACK), "weight 0 in force"),
    (_P.ROLLED_BACK, Retry): Rule(rules.retry, (_P.PENDING,), "retry", advances=True),
    (_P.FAILED, Retry): Rule(rules.retry, (_P.PENDING,), "retry", advances=True),
}


def step(state: RolloutState, event: Event) -> tuple[RolloutState, tuple[Action, ...]]:
    """The state after the event, and what to do about it, in this order.

    Raises Conflict for a verb that the state does not take, InternalError for what is no event; the state then stands.
    """
    rule = TABLE.get((state.phase, type(event)))
    if rule is None:
        _refuse_verb(state, event)
        # After a death nothing is in force any more, whatever the phase.
        return state, repeat(state) if isinstance(event, WorkerDied) else ()
    after = rule.apply(state, event)
    if after.phase not in rule.targets or (after.step != state.step and not rule.advances):
        raise InternalError(f"no transition from {state.phase} to {after.phase} by {type(event).__name__}")
    actions = _actions(state, after, is_repeated=isinstance(event, WorkerDied))
    if not state.plan.dry_run or not any(isinstance(action, SetTraffic) for action in actions):
        return after, actions
    # A dry run asks for no traffic, so nobody will report it: it goes on as if it were in force.
    last, more = step(after, Applied(after.generation, planned_traffic(after)))
    return last, tuple(_without_effect(action) for action in actions if not isinstance(action, Backup)) + more


def possible_verbs(state: RolloutState) -> tuple[str, ...]:
    """What an operator can ask for now, as the API spells it."""
    barred = {"promote", "promote-full"} if state.pause_reason is PauseReason.WORKER_DIED else set[str]()
    return tuple(name for name, verb in VERBS.items() if (state.phase, verb) in TABLE and name not in barred)


def repeat(state: RolloutState) -> tuple[Action, ...]:
    """What a driver that takes the state over has to do first: it cannot know how far the one before it came."""
    if state.phase is Phase.WARMING:
        return (Load(state.candidate),)
    if (state.phase in LIVE or state.phase is Phase.ROLLING_BACK) and not state.plan.dry_run:
        return (SetTraffic(planned_traffic(state)),)
    return ()


def _refuse_verb(state: RolloutState, event: object) -> None:
    for name, verb in VERBS.items():
        if isinstance(event, verb):
            possible = ", ".join(possible_verbs(state)) or "nothing"
            raise Conflict(f"{name}: {described(state)} ({state.phase}); possible now: {possible}")
    if not isinstance(event, FACTS):
        raise InternalError(f"{type(event).__name__} is no event of a rollout")


def _actions(before: RolloutState, after: RolloutState, is_repeated: bool) -> tuple[Action, ...]:
    is_entered = after.phase is not before.phase
    actions: list[Action] = []
    if is_entered and after.phase is Phase.WARMING:
        actions.append(Load(after.candidate))
    # Entering it always asks, even for the traffic that is in force: only the answer ends the phase.
    if is_repeated or planned_traffic(after) != planned_traffic(before) or (is_entered and after.phase is Phase.ROLLING_BACK):
        actions.append(SetTraffic(planned_traffic(after)))
    if is_entered and after.phase is Phase.PROMOTING:
        actions.append(Backup())
    if is_entered or after.step != before.step or after.pause_reason is not before.pause_reason:
        actions.append(Announce(f"rollout.{after.phase}", described(after)))
    if is_entered and after.phase in {Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED}:
        outcome: Any = after.phase.value
        actions.append(End(outcome, after.why))
    return tuple(actions)


def _without_effect(action: Action) -> Action:
    if not isinstance(action, SetTraffic):
        return action
    candidate, shadow, holdback = action.traffic
    text = f"dry run: would now send {percent(candidate)} to the candidate, shadow {percent(shadow)}, keep {percent(holdback)} on stable"
    return Announce("rollout.would_set_traffic", text)


__all__ = [
    "NO_TRAFFIC", "TABLE", "PauseReason", "Phase", "RolloutState", "Traffic", "create", "described", "possible_verbs", "progress",
    "repeat", "step", "wanted_traffic",
]
