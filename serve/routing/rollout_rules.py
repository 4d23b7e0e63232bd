"""The rules of the rollout machine: state and event in, state out. `rollout.TABLE` says which rule goes with which phase and event."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from serve.errors import Conflict
from serve.routing.judge.judgement import Verdict
from serve.routing.rollout_events import Abort, Applied, Judged, LoadFailed, Pause, PromoteFull, Tick
from serve.routing.rollout_state import (
    NO_TRAFFIC,
    PauseReason,
    Phase,
    RolloutState,
    create,
    is_holdback_over,
    is_last_stage,
    planned_traffic,
    stage_of,
)

# A second death so soon after a resume is the candidate's doing.
SECOND_DEATH_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """targets: every phase that it can lead to, its own if it can stay. text: on the diagram's arrows. advances: it can change the step."""

    apply: Callable[[RolloutState, Any], RolloutState]
    targets: tuple[Phase, ...]
    text: str
    advances: bool = False


def due(state: RolloutState, _: object) -> RolloutState:
    """The start."""
    return replace(state, phase=Phase.WARMING, why="")


def loaded(state: RolloutState, _: object) -> RolloutState:
    """Into the first stage."""
    if state.plan.shadow:
        return _entered(state, Phase.SHADOWING, 0)
    return _entered(state, Phase.STEPPING, 1)


def load_failed(state: RolloutState, event: LoadFailed) -> RolloutState:
    """The end, before the candidate had any traffic."""
    return replace(state, phase=Phase.FAILED, why=event.reason)


def lost(state: RolloutState, event: LoadFailed) -> RolloutState:
    """A candidate that cannot serve is taken back."""
    return _rolling_back(state, f"the candidate can no longer serve: {event.reason}")


def applied_stage(state: RolloutState, event: Applied) -> RolloutState:
    """An answer to an older SetTraffic counts for the generation only."""
    return replace(
        state, generation=max(state.generation, event.generation), is_applied=state.is_applied or event.traffic == planned_traffic(state)
    )


def applied_promoting(state: RolloutState, event: Applied) -> RolloutState:
    """Succeeds once 100 percent is in force and nothing is held back any more."""
    state = applied_stage(state, event)
    if state.is_applied and is_holdback_over(state):
        return replace(state, phase=Phase.SUCCEEDED)
    return state


def applied_rolling_back(state: RolloutState, event: Applied) -> RolloutState:
    """Rolled back is what is in force, not what was asked for."""
    state = applied_stage(state, event)
    return replace(state, phase=Phase.ROLLED_BACK) if state.is_applied else state


def tick_waiting(state: RolloutState, event: Tick) -> RolloutState:
    """Time that no stage counts."""
    since = state.seconds_since_resume
    return replace(
        state,
        total_elapsed_s=state.total_elapsed_s + event.elapsed_s,
        seconds_since_resume=None if since is None else since + event.elapsed_s,
    )


def tick_stage(state: RolloutState, event: Tick) -> RolloutState:
    """Counts, and ends the stage by its time-out."""
    state = tick_waiting(state, event)
    if state.is_applied:
        counted = event.compared if state.phase is Phase.SHADOWING else event.candidate_requests
        state = replace(state, elapsed_s=state.elapsed_s + event.elapsed_s, step_requests=state.step_requests + counted)
    else:
        state = replace(state, waited_s=state.waited_s + event.elapsed_s)
    # Waiting for traffic that never comes into force counts: a rollout must not hang.
    if state.elapsed_s + state.waited_s < state.plan.step_timeout_seconds:
        return state
    return _timed_out(state)


def tick_paused(state: RolloutState, event: Tick) -> RolloutState:
    """Only the time of a timed pause runs."""
    state = tick_waiting(state, event)
    if state.pause_reason is not PauseReason.TIMER:
        return state
    state = replace(state, paused_s=state.paused_s + event.elapsed_s)
    stage = stage_of(state)
    if stage and stage.pause_seconds is not None and state.paused_s >= stage.pause_seconds:
        return _unpaused(replace(state, is_gate_passed=True))
    return state


def tick_promoting(state: RolloutState, event: Tick) -> RolloutState:
    """The holdback; its end wants new traffic."""
    state = tick_waiting(state, event)
    if not state.is_applied or is_holdback_over(state):
        return state
    state = replace(state, elapsed_s=state.elapsed_s + event.elapsed_s)
    return replace(state, is_applied=not is_holdback_over(state))


def judged_stage(state: RolloutState, event: Judged) -> RolloutState:
    """Rolls back, leaves the stage, or stays."""
    state = judged_watching(state, event)
    is_done = event.judgement.step_done and event.judgement.verdict is not Verdict.HOLD
    if state.phase is Phase.ROLLING_BACK or not is_done or not state.is_applied:
        return state
    if is_last_stage(state) and event.judgement.verdict is not Verdict.PROMOTE:
        return state
    return _left(state)


def judged_watching(state: RolloutState, event: Judged) -> RolloutState:
    """For phases that no verdict but a rollback ends."""
    state = replace(state, verdict=event.judgement.verdict, verdict_why=event.judgement.why)
    if event.judgement.verdict is Verdict.ROLLBACK:
        return _rolling_back(state, event.judgement.why)
    return state


def worker_died(state: RolloutState, _: object) -> RolloutState:
    """Nothing is in force after a death; where the candidate had traffic it may have been the cause."""
    if planned_traffic(state) == NO_TRAFFIC:
        return replace(state, is_applied=False)
    is_second = state.deaths > 0 and state.seconds_since_resume is not None and state.seconds_since_resume < SECOND_DEATH_SECONDS
    state = replace(state, deaths=state.deaths + 1)
    if is_second:
        since = f"{state.seconds_since_resume:.0f} s after the resume"
        return _rolling_back(state, f"the worker died twice while the candidate had traffic, {since}")
    if state.phase is Phase.PAUSED and state.paused_from:
        state = replace(state, phase=state.paused_from)
    return _paused(replace(state, is_applied=False), PauseReason.WORKER_DIED, "the worker died while the candidate had traffic")


def promote(state: RolloutState, _: object) -> RolloutState:
    """From one stage to the next. Raises Conflict in the last one."""
    if is_last_stage(state):
        raise Conflict(
            f"promote: this is the last stage; 100 % waits for the judge, who says {state.verdict or 'nothing yet'}: use promote-full"
        )
    return _entered(state, Phase.STEPPING, state.step + 1)


def promote_paused(state: RolloutState, event: object) -> RolloutState:
    """Passes the last stage's gate, or leaves the stage. Raises Conflict after a death, and without a gate in the last stage."""
    _check_alive(state, "promote")
    if is_last_stage(state) and state.pause_reason in {PauseReason.GATE, PauseReason.TIMER}:
        return resume(state, event)
    return promote(state, event)


def promote_full(state: RolloutState, event: PromoteFull) -> RolloutState:
    """Raises Conflict after a death."""
    _check_alive(state, "promote-full")
    return _promoting(state, f"promoted by {event.by}")


def end_holdback(state: RolloutState, _: object) -> RolloutState:
    """As if its time were over."""
    if is_holdback_over(state) or state.plan.holdback is None:
        return state
    return replace(state, elapsed_s=state.plan.holdback.seconds, is_applied=False)


def pause(state: RolloutState, event: Pause) -> RolloutState:
    """The traffic stays."""
    return _paused(state, PauseReason.OPERATOR, f"paused by {event.by}")


def resume(state: RolloutState, _: object) -> RolloutState:
    """Back into the stage. After a time-out its time begins anew; after a death all that it wants does."""
    reason = state.pause_reason
    if reason in {PauseReason.GATE, PauseReason.TIMER}:
        state = replace(state, is_gate_passed=True)
    elif reason is PauseReason.TIMEOUT:
        state = replace(state, elapsed_s=0.0, waited_s=0.0)
    elif reason is PauseReason.WORKER_DIED:
        state = replace(state, elapsed_s=0.0, waited_s=0.0, step_requests=0, is_applied=False, seconds_since_resume=0.0)
    return _unpaused(state)


def abort(state: RolloutState, event: Abort) -> RolloutState:
    """Whatever the judge says."""
    return _rolling_back(state, f"aborted by {event.by}" + (f": {event.reason}" if event.reason else ""))


def retry(state: RolloutState, _: object) -> RolloutState:
    """The same plan from the start; what the machine counted is forgotten."""
    fresh = create(state.id, state.model, state.plan, state.stable)
    return replace(fresh, attempt=state.attempt + 1, generation=state.generation)


def _entered(state: RolloutState, phase: Phase, at: int) -> RolloutState:
    return replace(
        state, phase=phase, step=at, elapsed_s=0.0, waited_s=0.0, paused_s=0.0, step_requests=0, is_applied=False, is_gate_passed=False,
        paused_from=None, pause_reason=None, why="",
    )


def _left(state: RolloutState) -> RolloutState:
    """The stage is done: its gate or pause, then what comes next."""
    stage = stage_of(state)
    if stage and not state.is_gate_passed:
        if stage.pause:
            return _paused(state, PauseReason.GATE, "the stage is done and waits at its gate")
        if stage.pause_seconds is not None:
            return _paused(replace(state, paused_s=0.0), PauseReason.TIMER, f"the stage is done and waits {stage.pause_seconds:g} s")
    if is_last_stage(state):
        return _promoting(state, state.verdict_why)
    return _entered(state, Phase.STEPPING, state.step + 1)


def _timed_out(state: RolloutState) -> RolloutState:
    limit = f"the stage is not done after {state.plan.step_timeout_seconds:g} s"
    if state.plan.on_timeout == "rollback":
        return _rolling_back(state, limit)
    if state.plan.on_timeout == "promote" and state.is_applied and not is_last_stage(state):
        return _left(state)
    return _paused(state, PauseReason.TIMEOUT, limit + (f": {state.verdict_why}" if state.verdict_why else ""))


def _paused(state: RolloutState, reason: PauseReason, why: str) -> RolloutState:
    return replace(state, phase=Phase.PAUSED, paused_from=state.phase, pause_reason=reason, why=why)


def _unpaused(state: RolloutState) -> RolloutState:
    assert state.paused_from is not None
    return replace(state, phase=state.paused_from, paused_from=None, pause_reason=None, why="")


def _promoting(state: RolloutState, why: str) -> RolloutState:
    return replace(_entered(state, Phase.PROMOTING, state.step), why=why)


def _rolling_back(state: RolloutState, why: str) -> RolloutState:
    return replace(state, phase=Phase.ROLLING_BACK, paused_from=None, pause_reason=None, is_applied=False, why=why)


def _check_alive(state: RolloutState, verb: str) -> None:
    if state.pause_reason is PauseReason.WORKER_DIED:
        raise Conflict(f"{verb}: {state.why}; resume or abort, then {verb}")
