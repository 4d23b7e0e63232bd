"""What holds of the rollout machine for any sequence of events."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import Conflict
from serve.routing.judge.judgement import Judgement, Verdict
from serve.routing.rollout import TABLE, possible_verbs, repeat, step
from serve.routing.rollout_events import (
    VERBS,
    Abort,
    Applied,
    Due,
    End,
    Judged,
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
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.rollout_state import (
    ENDED,
    LIVE,
    NO_TRAFFIC,
    PauseReason,
    Phase,
    RolloutState,
    Traffic,
    create,
    is_last_stage,
    planned_traffic,
    stage_of,
    wanted_traffic,
)

PAUSES: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"pause": True}, {"pause_seconds": 20}])
SHADOWS: st.SearchStrategy[Any] = st.none() | PAUSES.map(lambda pause: {"sample": 1_500, **pause})


@st.composite
def plans(draw: st.DrawFn) -> RolloutPlan:
    weights = sorted(draw(st.sets(st.integers(1, 5_000), max_size=3)))
    shadow = draw(SHADOWS if weights else SHADOWS.filter(bool))
    return RolloutPlan.model_validate({
        "to": "2", "shadow": shadow, "steps": [{"weight": weight, **draw(PAUSES)} for weight in weights],
        "step_timeout_seconds": 100, "on_timeout": draw(st.sampled_from(["hold", "rollback", "promote"])),
        "holdback": draw(st.none() | st.just({"weight": 100, "seconds": 50})), "dry_run": draw(st.booleans()),
    })


JUDGEMENTS = st.builds(
    lambda verdict, step_done: Judged(Judgement(verdict, f"says {verdict}", (), step_done=step_done)),
    st.sampled_from([*Verdict, Verdict.CONTINUE, Verdict.HOLD, Verdict.PROMOTE]), st.booleans(),
)
# True: what was asked for comes into force; else an answer to something older.
ORDINARY: st.SearchStrategy[Any] = st.one_of(
    st.just(True), JUDGEMENTS, JUDGEMENTS, st.builds(Tick, st.floats(0, 60), st.integers(0, 1_000), st.integers(0, 1_000)),
    st.sampled_from([Promote(), Pause(), Resume(), Resume(), Applied(3, Traffic(11, 0, 0)), Applied(3, NO_TRAFFIC)]),
)
RARE: st.SearchStrategy[Any] = st.sampled_from([Due(), Loaded(), LoadFailed("gone"), WorkerDied(), PromoteFull(), Abort(), Retry()])
# Most of a course is ordinary: what ends one early would keep the others from being seen.
EVENTS = st.integers(0, 11).flatmap(lambda at: RARE if at == 0 else ORDINARY)
COURSES = st.lists(EVENTS, min_size=15, max_size=40)


def sent(state: RolloutState, event: Any) -> tuple[RolloutState, tuple[Any, ...], Any]:
    if event is True:
        event = Applied(state.generation + 1, planned_traffic(state))
    try:
        return (*step(state, event), event)
    except Conflict:
        assert isinstance(event, tuple(VERBS.values()))
        return state, (), event


def check_traffic(before: RolloutState, after: RolloutState, actions: tuple[Any, ...]) -> None:
    asked = [action.traffic for action in actions if isinstance(action, SetTraffic)]
    if after.plan.dry_run:
        assert not asked
        assert wanted_traffic(after) is None
        return
    assert all(traffic == planned_traffic(after) for traffic in asked)
    if planned_traffic(before) != planned_traffic(after):
        assert asked, "new weights that nobody was asked to put in force"
    if after.phase in {Phase.PENDING, Phase.WARMING, Phase.SHADOWING, Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED}:
        assert planned_traffic(after).candidate_bp == 0
    if after.pause_reason is PauseReason.WORKER_DIED:
        assert planned_traffic(after) == NO_TRAFFIC
    assert repeat(after) == () or planned_traffic(after) in [a.traffic for a in repeat(after) if isinstance(a, SetTraffic)] \
        or after.phase is Phase.WARMING


def check_advance(before: RolloutState, after: RolloutState, event: Any) -> None:
    """Nothing moves on by itself: a stage that is done and not held, an operator, or a time-out whose policy says so."""
    if before.phase not in LIVE:
        return
    is_full = after.phase in {Phase.PROMOTING, Phase.SUCCEEDED} and before.phase in {Phase.SHADOWING, Phase.STEPPING}
    if is_full:
        assert isinstance(event, PromoteFull) or (event.judgement.verdict is Verdict.PROMOTE and event.judgement.step_done)
        assert isinstance(event, PromoteFull) or is_last_stage(before)
    elif after.phase is Phase.STEPPING and after.step > before.step:
        assert after.step == before.step + 1
        by_judge = isinstance(event, Judged) and event.judgement.step_done and event.judgement.verdict is not Verdict.HOLD
        assert before.is_applied or isinstance(event, Promote)
        by_policy = isinstance(event, Tick) and before.plan.on_timeout == "promote" and before.is_applied
        assert by_judge or by_policy or isinstance(event, Promote)
        stage = stage_of(before)
        if stage and stage.pause and not isinstance(event, Promote):
            assert before.is_gate_passed


@settings(max_examples=150, deadline=None)
@given(plans(), COURSES)
def test_invariants_of_any_course(plan: RolloutPlan, events: list[Any]) -> None:
    state = create("r", "m", plan, "1")
    for item in [Due(), Loaded(), True, *events]:
        before = state
        state, actions, event = sent(before, item)
        check_traffic(before, state, actions)
        check_advance(before, state, event)
        if isinstance(event, Judged) and event.judgement.verdict is Verdict.ROLLBACK and before.phase in LIVE:
            assert state.phase is (Phase.ROLLED_BACK if plan.dry_run else Phase.ROLLING_BACK)
        if isinstance(event, Abort) and before.phase not in {*ENDED, Phase.ROLLING_BACK}:
            assert state.phase in {Phase.ROLLING_BACK, Phase.ROLLED_BACK}
        assert (state.phase in ENDED and before.phase not in ENDED) == any(isinstance(action, End) for action in actions)
        assert (state.phase is Phase.PAUSED) == (state.pause_reason is not None) == (state.paused_from is not None)
        assert 0 <= state.step <= len(plan.steps)
        if state.phase is Phase.ROLLED_BACK and before.phase is Phase.ROLLING_BACK:
            assert isinstance(event, Applied)
            assert event.traffic == NO_TRAFFIC
        if state.phase is Phase.SUCCEEDED and before.phase is Phase.PROMOTING and not plan.dry_run:
            assert event.traffic.candidate_bp == 10_000
        barred = {"promote", "promote-full"} if state.pause_reason is PauseReason.WORKER_DIED else set()
        assert set(possible_verbs(state)) == {name for name, verb in VERBS.items() if (state.phase, verb) in TABLE} - barred
    assert RolloutState.from_document(state.as_document()) == state


@settings(max_examples=100, deadline=None)
@given(plans(), COURSES)
def test_no_course_is_a_dead_end(plan: RolloutPlan, events: list[Any]) -> None:
    """Wherever it stands, an abort or a rollback under way ends once weight 0 is in force; what has ended can be tried again or is done."""
    state = create("r", "m", plan, "1")
    for event in [Due(), Loaded(), True, *events]:
        state = sent(state, event)[0]
    if state.phase not in ENDED:
        for event in (Abort(), True):
            state = sent(state, event)[0]
        assert state.phase is Phase.ROLLED_BACK
    if state.phase is not Phase.SUCCEEDED:
        assert step(state, Retry())[0].phase is Phase.PENDING
