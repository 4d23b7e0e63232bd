"""One look at a rollout's counters, folded into the judge's state, judged."""

from dataclasses import replace

from serve.routing import rollout
from serve.routing.deltas import Arms, difference, look, outcome_news
from serve.routing.judge.observations import OutcomeCounts
from serve.routing.judge.state import fold
from serve.routing.judge.verdict import judge
from serve.routing.ports import Models, Outcomes
from serve.routing.rollout_events import Event, Judged, Tick
from serve.routing.rollout_live import Live
from serve.routing.rollout_state import progress

# Older ones have long been read for the last time.
GENERATIONS_KEPT = 64


def watch(live: Live, models: Models, outcomes: Outcomes, elapsed_s: float) -> list[Event]:
    """What happened since the last look, for the machine: time and requests, and what the judge says of everything so far.

    elapsed_s: since the last look.
    """
    state = live.state
    for generation in sorted(live.shares)[:-GENERATIONS_KEPT]:
        del live.shares[generation]
    readings = [reading for reading in models.plan_readings(state.model) if reading.generation in live.shares]
    now = look(readings, models.run_reading(state.model, state.stable), models.run_reading(state.model, state.candidate))
    arms = Arms(live.arm(state.stable), live.arm(state.candidate), state.candidate, live.shares)
    delta = difference(live.look, now, arms)
    live.look = now
    delta = replace(delta, outcomes=_outcomes(live, outcomes, arms))
    live.judge = fold(live.judge, live.settings, delta)
    # A generation without weight for the candidate has nothing to leave out.
    live.warmup_left = max(0, min([live.warmup_left, *(r.warmup_left for r in readings if live.shares[r.generation] > 0)]))
    requests = sum(stratum.candidate.requests for stratum in delta.strata)
    tick = Tick(elapsed_s, requests, delta.shadow.compared)
    ticked, _ = rollout.step(state, tick)
    live.judgement = judge(live.judge, live.settings, progress(ticked))
    return [tick, Judged(live.judgement)]


def _outcomes(live: Live, outcomes: Outcomes, arms: Arms) -> tuple[OutcomeCounts, ...]:
    names = {outcome.name for outcome in live.settings.outcomes}
    if not names:
        return ()
    if live.state.plan.sticky is not None:
        outcomes.share_units(live.state.model, live.shares, live.units)
    counts, live.taken = outcome_news(outcomes.outcome_readings(live.state.model), live.taken, arms, names)
    return counts


__all__ = ["watch"]
