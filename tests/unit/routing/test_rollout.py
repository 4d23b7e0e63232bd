"""The rollout machine: what each phase does with each event, and the courses that rollouts take."""

from dataclasses import replace
from typing import Any

import pytest

from serve.errors import Conflict, InternalError
from serve.routing.judge.judgement import Judgement, Verdict
from serve.routing.rollout import TABLE, possible_verbs, repeat, step
from serve.routing.rollout_events import (
    FACTS,
    VERBS,
    Abort,
    Announce,
    Applied,
    Backup,
    Due,
    End,
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
from serve.routing.rollout_plan import RolloutPlan
from serve.routing.rollout_state import (
    ALL_TRAFFIC,
    NO_TRAFFIC,
    PauseReason,
    Phase,
    RolloutState,
    Traffic,
    create,
    described,
    planned_traffic,
    progress,
    wanted_traffic,
)

SHADOW_AND_TWO_STEPS: dict[str, Any] = {"to": "2", "shadow": {"sample": 2_000}, "steps": [{"weight": 100}, {"weight": 5_000}]}


def rollout(**changes: Any) -> RolloutState:
    return create("r1", "digits", RolloutPlan.model_validate({**SHADOW_AND_TWO_STEPS, **changes}), "1")


class Run:
    """A rollout and the actions that it has asked for; `apply` does what a driver does with SetTraffic."""

    def __init__(self, state: RolloutState) -> None:
        self.state = state
        self.actions: list[Any] = []
        self.generation = 0

    def send(self, *events: Any) -> "Run":
        for event in events:
            self.state, self.actions = step(self.state, event)[0], list(step(self.state, event)[1])
        return self

    def apply(self) -> "Run":
        self.generation += 1
        return self.send(Applied(self.generation, planned_traffic(self.state)))

    def started(self) -> "Run":
        return self.send(Due(), Loaded()).apply()

    def done(self, verdict: Verdict = Verdict.CONTINUE) -> "Run":
        return self.send(judged(verdict, step_done=True))

    def at(self, at: int) -> "Run":
        self.started()
        while self.state.step < at:
            self.done().apply()
        return self

    def set_traffic(self) -> list[Traffic]:
        return [action.traffic for action in self.actions if isinstance(action, SetTraffic)]


def judged(verdict: Verdict, why: str = "", step_done: bool = False) -> Judged:
    return Judged(Judgement(verdict, why or f"because of {verdict}", (), step_done=step_done))


# One state of every phase, and one event of every kind.
def states() -> dict[Phase, RolloutState]:
    stepping = Run(rollout()).at(1)
    paused = Run(rollout()).at(1).send(Pause())
    promoting = Run(rollout(holdback={"weight": 100, "seconds": 60})).at(2).done(Verdict.PROMOTE)
    rolling_back = Run(rollout()).at(1).send(Abort())
    failed = Run(rollout()).send(Due(), LoadFailed("no file"))
    succeeded = Run(rollout()).at(2).done(Verdict.PROMOTE).apply()
    rolled_back = Run(rollout()).at(1).send(Abort()).apply()
    runs = [
        Run(rollout()), Run(rollout()).send(Due()), Run(rollout()).started(), stepping, paused, promoting, rolling_back, failed, succeeded,
        rolled_back,
    ]
    return {run.state.phase: run.state for run in runs}


STATES = states()
EVENTS: dict[str, Any] = {
    "due": Due(), "loaded": Loaded(), "load_failed": LoadFailed("gone"), "tick": Tick(1.0, 5, 5), "continue": judged(Verdict.CONTINUE),
    "done": judged(Verdict.CONTINUE, step_done=True), "rollback": judged(Verdict.ROLLBACK), "hold": judged(Verdict.HOLD, step_done=True),
    "promotable": judged(Verdict.PROMOTE, step_done=True), "stale": Applied(7, Traffic(1, 2, 3)),
    "died": WorkerDied(), "promote": Promote(),
    "promote-full": PromoteFull(), "pause": Pause(), "resume": Resume(), "abort": Abort("ann", "bad"), "retry": Retry(),
}
# Where each event leads from each phase; what is not listed stays (facts) or is refused (verbs).
EXPECTED: dict[Phase, dict[str, str]] = {
    Phase.PENDING: {"due": "warming", "abort": "rolling_back"},
    Phase.WARMING: {"loaded": "shadowing", "load_failed": "failed", "abort": "rolling_back"},
    Phase.SHADOWING: {
        "load_failed": "rolling_back", "done": "stepping", "promotable": "stepping", "rollback": "rolling_back", "died": "paused",
        "promote": "stepping", "promote-full": "promoting", "pause": "paused", "abort": "rolling_back",
    },
    Phase.STEPPING: {
        "load_failed": "rolling_back", "done": "stepping", "promotable": "stepping", "rollback": "rolling_back", "died": "paused",
        "promote": "stepping", "promote-full": "promoting", "pause": "paused", "abort": "rolling_back",
    },
    Phase.PAUSED: {
        "load_failed": "rolling_back", "rollback": "rolling_back", "died": "paused", "promote": "stepping", "promote-full": "promoting",
        "resume": "stepping", "abort": "rolling_back",
    },
    Phase.PROMOTING: {
        "load_failed": "rolling_back", "rollback": "rolling_back", "died": "paused", "promote-full": "promoting", "abort": "rolling_back",
    },
    Phase.ROLLING_BACK: {},
    Phase.SUCCEEDED: {},
    Phase.ROLLED_BACK: {"retry": "pending"},
    Phase.FAILED: {"retry": "pending"},
}


def test_there_is_a_state_of_every_phase_and_an_event_of_every_kind() -> None:
    assert set(STATES) == set(Phase)
    assert {type(event) for event in EVENTS.values()} == {*FACTS, *VERBS.values()}


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("name", list(EVENTS))
def test_every_pair_of_phase_and_event(phase: Phase, name: str) -> None:
    state, event = STATES[phase], EVENTS[name]
    is_verb = isinstance(event, tuple(VERBS.values()))
    if is_verb and name not in EXPECTED[phase]:
        with pytest.raises(Conflict, match=f"{name}: .*possible now: {', '.join(possible_verbs(state)) or 'nothing'}"):
            step(state, event)
        return
    after, _ = step(state, event)
    assert after.phase == EXPECTED[phase].get(name, phase.value)
    assert (phase, type(event)) in TABLE or after == state


def test_table_lists_every_target_that_the_pairs_reach() -> None:
    for (phase, kind), rule in TABLE.items():
        assert rule.targets, (phase, kind)
    reached = {
        (phase, type(EVENTS[name]), Phase(to)) for phase, leads in EXPECTED.items() for name, to in leads.items()
    }
    for phase, kind, to in reached:
        assert to in TABLE[phase, kind].targets


def test_what_is_no_event_is_our_bug() -> None:
    with pytest.raises(InternalError, match="str is no event"):
        step(rollout(), "promote")  # type: ignore[arg-type]


def test_course_of_a_rollout_that_nothing_stops() -> None:
    run = Run(rollout())
    assert run.send(Due()).actions[0] == Load("2")
    assert run.send(Loaded()).set_traffic() == [Traffic(shadow_bp=2_000)]
    assert run.apply().done().set_traffic() == [Traffic(candidate_bp=100)]
    assert run.apply().done().set_traffic() == [Traffic(candidate_bp=5_000)]
    assert run.apply().done().state.phase is Phase.STEPPING, "done, and not yet promotable"
    run.done(Verdict.PROMOTE)
    assert run.set_traffic() == [ALL_TRAFFIC]
    assert Backup() in run.actions
    run.apply()
    assert run.actions[-1] == End("succeeded", "because of promote")
    assert wanted_traffic(run.state) == ALL_TRAFFIC
    assert run.state.generation == 4


def test_weights_that_are_not_in_force_yet_are_not_left() -> None:
    run = Run(rollout()).send(Due(), Loaded()).done()
    assert run.state.phase is Phase.SHADOWING
    assert run.apply().done().state.step == 1


def test_late_answer_to_an_older_traffic_does_not_end_a_rollback() -> None:
    run = Run(rollout()).at(1).done()  # asks for 50 percent ...
    run.send(judged(Verdict.ROLLBACK), Applied(9, Traffic(candidate_bp=5_000)))  # ... which comes into force after the verdict
    assert run.state.phase is Phase.ROLLING_BACK
    assert run.send(Applied(10, NO_TRAFFIC)).state.phase is Phase.ROLLED_BACK


def test_hold_keeps_the_step_and_its_time_out_runs() -> None:
    run = Run(rollout(step_timeout_seconds=100, steps=[{"weight": 100}], shadow=None)).started().send(judged(Verdict.HOLD, step_done=True))
    assert run.state.phase is Phase.STEPPING
    run.send(Tick(99.0, 10)).send(Tick(1.0))
    assert (run.state.phase, run.state.pause_reason) == (Phase.PAUSED, PauseReason.TIMEOUT)
    assert run.state.why == "the stage is not done after 100 s: because of hold"
    assert run.set_traffic() == [], "a hold keeps the weight"
    run.send(Resume())
    assert (run.state.phase, run.state.elapsed_s) == (Phase.STEPPING, 0.0)


def test_time_out_that_rolls_back() -> None:
    run = Run(rollout(on_timeout="rollback")).at(1).send(Tick(1_800.0))
    assert run.state.phase is Phase.ROLLING_BACK
    assert run.set_traffic() == [NO_TRAFFIC]


def test_time_out_that_promotes_advances_but_never_to_everything() -> None:
    run = Run(rollout(on_timeout="promote")).at(1).send(Tick(1_800.0))
    assert (run.state.phase, run.state.step) == (Phase.STEPPING, 2)
    run.apply().send(Tick(1_800.0))
    assert run.state.pause_reason is PauseReason.TIMEOUT


def test_time_out_that_promotes_stops_at_a_gate() -> None:
    run = Run(rollout(on_timeout="promote", steps=[{"weight": 100, "pause": True}, {"weight": 200}])).at(1).send(Tick(1_800.0))
    assert run.state.pause_reason is PauseReason.GATE


def test_traffic_that_never_comes_into_force_times_out() -> None:
    run = Run(rollout()).send(Due(), Loaded(), Tick(1_800.0))
    assert run.state.pause_reason is PauseReason.TIMEOUT
    assert run.state.elapsed_s == 0.0


def test_steps_count_answers_and_shadow_stages_count_pairs() -> None:
    run = Run(rollout()).started().send(Tick(2.0, 100, 7))
    assert (run.state.step_requests, run.state.elapsed_s) == (7, 2.0)
    run.done().apply().send(Tick(3.0, 100, 7))
    assert (run.state.step_requests, run.state.elapsed_s, run.state.total_elapsed_s) == (100, 3.0, 5.0)


@pytest.mark.parametrize("verb", [Promote(), Resume()])
def test_manual_gate_waits_for_a_verb(verb: Any) -> None:
    run = Run(rollout(steps=[{"weight": 100, "pause": True}, {"weight": 200}])).at(1).done()
    assert (run.state.phase, run.state.pause_reason) == (Phase.PAUSED, PauseReason.GATE)
    assert planned_traffic(run.state) == Traffic(candidate_bp=100)
    run.send(Tick(1e6), judged(Verdict.CONTINUE, step_done=True))
    assert run.state.phase is Phase.PAUSED
    run.send(verb)
    if isinstance(verb, Resume):    # leaves by the judge's next word, which may still be a hold
        assert run.state.step == 1
        assert run.send(judged(Verdict.HOLD, step_done=True)).state.step == 1
        run.done()
    assert run.state.step == 2


@pytest.mark.parametrize("pause", [Pause(), None])
def test_neither_gate_nor_pause_keeps_a_verdict_from_rolling_back(pause: Any) -> None:
    run = Run(rollout(steps=[{"weight": 100, "pause": True}, {"weight": 200}])).at(1)
    run.send(pause) if pause else run.done()
    run.send(judged(Verdict.ROLLBACK, "3 of 4 errors were the candidate's"))
    assert run.state.phase is Phase.ROLLING_BACK
    assert run.set_traffic() == [NO_TRAFFIC]
    assert run.apply().actions[-1] == End("rolled_back", "3 of 4 errors were the candidate's")


def test_timed_pause_goes_on_by_itself() -> None:
    run = Run(rollout(steps=[{"weight": 100, "pause_seconds": 30}, {"weight": 200}])).at(1).done()
    assert run.state.pause_reason is PauseReason.TIMER
    run.send(Tick(29.0))
    assert run.state.phase is Phase.PAUSED
    run.send(Tick(1.0)).done()
    assert run.state.step == 2


def test_last_stage_goes_to_everything_only_by_the_judge_or_promote_full() -> None:
    run = Run(rollout()).at(2)
    with pytest.raises(Conflict, match=r"last stage; 100 % waits for the judge, who says continue: use promote-full"):
        run.send(Promote())
    assert run.send(PromoteFull("ann")).set_traffic() == [ALL_TRAFFIC]
    assert run.apply().state.why == "promoted by ann"


def test_gate_of_the_last_stage_opens_when_the_judge_would_promote() -> None:
    run = Run(rollout(shadow=None, steps=[{"weight": 100, "pause": True}])).started().done()
    assert run.state.phase is Phase.STEPPING
    assert run.done(Verdict.PROMOTE).state.pause_reason is PauseReason.GATE
    assert run.send(Promote()).state.phase is Phase.STEPPING
    assert run.done().state.phase is Phase.STEPPING, "the judge has the last word"
    assert run.done(Verdict.PROMOTE).state.phase is Phase.PROMOTING


def test_shadow_alone_is_the_last_stage() -> None:
    run = Run(rollout(steps=[])).started()
    assert progress(run.state).is_last_step
    assert progress(run.state).is_shadow_stage
    assert run.done().state.phase is Phase.SHADOWING
    assert run.done(Verdict.PROMOTE).set_traffic() == [ALL_TRAFFIC]


def test_holdback_keeps_a_control_and_can_still_roll_back() -> None:
    run = Run(rollout(holdback={"weight": 100, "seconds": 60})).at(2).done(Verdict.PROMOTE)
    assert run.set_traffic() == [Traffic(9_900, 0, 100)]
    run.apply().send(Tick(59.0))
    assert run.state.phase is Phase.PROMOTING
    late = Run(run.state).send(judged(Verdict.ROLLBACK))
    assert late.set_traffic() == [NO_TRAFFIC]
    run.send(judged(Verdict.HOLD), Tick(1.0))
    assert run.set_traffic() == [ALL_TRAFFIC]
    assert run.apply().state.phase is Phase.SUCCEEDED


def test_holdback_does_not_run_before_it_is_in_force_and_can_be_ended() -> None:
    run = Run(rollout(holdback={"weight": 100, "seconds": 60})).at(2).done(Verdict.PROMOTE).send(Tick(1e4))
    assert run.state.elapsed_s == 0.0
    assert run.apply().send(PromoteFull()).set_traffic() == [ALL_TRAFFIC]
    assert run.apply().state.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("run", [Run(rollout()), Run(rollout()).send(Due())], ids=["pending", "warming"])
def test_abort_before_any_traffic_still_ends(run: Run) -> None:
    run = Run(run.state).send(Abort("ann", "wrong file"))
    assert run.set_traffic() == [NO_TRAFFIC], "the answer to it ends the phase"
    assert run.apply().actions[-1] == End("rolled_back", "aborted by ann: wrong file")


def test_load_that_fails_gives_the_candidate_nothing() -> None:
    run = Run(rollout()).send(Due(), LoadFailed("output probabilities is FP64, was FP32"))
    assert run.actions[-1] == End("failed", "output probabilities is FP64, was FP32")
    assert run.set_traffic() == []


def test_death_takes_the_weight_away_and_pauses() -> None:
    run = Run(rollout()).at(2).send(Tick(20.0, 100), WorkerDied())
    assert (run.state.phase, run.state.pause_reason, run.state.deaths) == (Phase.PAUSED, PauseReason.WORKER_DIED, 1)
    assert run.set_traffic() == [NO_TRAFFIC]
    assert wanted_traffic(run.state) == NO_TRAFFIC
    for verb in (Promote(), PromoteFull()):
        with pytest.raises(Conflict, match="resume or abort"):
            step(run.state, verb)
    run.apply().send(Resume())
    assert run.set_traffic() == [Traffic(candidate_bp=5_000)]
    assert (run.state.step, run.state.elapsed_s, run.state.step_requests) == (2, 0.0, 0)


@pytest.mark.parametrize(("seconds", "phase"), [(599.0, Phase.ROLLING_BACK), (600.0, Phase.PAUSED)])
def test_second_death_soon_after_the_resume_rolls_back(seconds: float, phase: Phase) -> None:
    run = Run(rollout()).at(1).send(WorkerDied(), Resume()).apply().send(Tick(seconds), WorkerDied())
    assert run.state.phase is phase
    assert run.set_traffic() == [NO_TRAFFIC]


def test_deaths_count_in_a_pause_that_keeps_the_weight_and_not_in_one_without() -> None:
    run = Run(rollout()).at(1).send(Pause(), WorkerDied())
    assert (run.state.pause_reason, run.state.paused_from, run.state.deaths) == (PauseReason.WORKER_DIED, Phase.STEPPING, 1)
    run.send(WorkerDied())
    assert (run.state.deaths, run.set_traffic()) == (1, [NO_TRAFFIC])
    assert run.send(Resume()).state.phase is Phase.STEPPING


def test_death_in_phases_without_traffic_repeats_what_was_asked_for() -> None:
    assert step(STATES[Phase.WARMING], WorkerDied()) == (STATES[Phase.WARMING], (Load("2"),))
    assert step(STATES[Phase.ROLLING_BACK], WorkerDied())[1] == (SetTraffic(NO_TRAFFIC),)
    assert step(STATES[Phase.SUCCEEDED], WorkerDied()) == (STATES[Phase.SUCCEEDED], ())


@pytest.mark.parametrize("phase", list(Phase))
def test_driver_that_takes_over_asks_for_the_same_again(phase: Phase) -> None:
    expected: dict[Phase, tuple[Any, ...]] = {
        Phase.WARMING: (Load("2"),), Phase.SHADOWING: (SetTraffic(Traffic(0, 2_000, 0)),),
        Phase.STEPPING: (SetTraffic(Traffic(100, 0, 0)),), Phase.PAUSED: (SetTraffic(Traffic(100, 0, 0)),),
        Phase.PROMOTING: (SetTraffic(Traffic(9_900, 0, 100)),),
        Phase.ROLLING_BACK: (SetTraffic(NO_TRAFFIC),),
    }
    assert repeat(STATES[phase]) == expected.get(phase, ())


def test_retry_begins_again_and_counts() -> None:
    run = Run(rollout()).at(2).send(WorkerDied(), Abort()).apply().send(Retry())
    assert run.state == replace(rollout(), attempt=2, generation=run.state.generation)
    assert run.started().state.phase is Phase.SHADOWING


def test_dry_run_goes_its_way_and_touches_no_traffic() -> None:
    run = Run(rollout(dry_run=True, holdback={"weight": 100, "seconds": 60}))
    seen: list[Any] = []
    for event in (Due(), Loaded(), *[judged(Verdict.CONTINUE, step_done=True)] * 2, judged(Verdict.PROMOTE, step_done=True), Tick(60.0)):
        seen += run.send(event).actions
        assert wanted_traffic(run.state) is None
    assert run.state.phase is Phase.SUCCEEDED
    assert not [action for action in seen if isinstance(action, SetTraffic | Backup)]
    would = [action.text for action in seen if isinstance(action, Announce) and action.type == "rollout.would_set_traffic"]
    assert would[1] == "dry run: would now send 1 % to the candidate, shadow 0 %, keep 0 % on stable"
    assert len(would) == 5


def test_dry_run_rolls_back_at_once() -> None:
    run = Run(rollout(dry_run=True)).send(Due(), Loaded(), judged(Verdict.ROLLBACK))
    assert run.actions[-1] == End("rolled_back", "because of rollback")


def test_candidate_that_is_stable_already_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2 is the stable version already"):
        create("r1", "digits", RolloutPlan.model_validate({"to": "2"}), "2")


def test_announcements_say_where_it_stands() -> None:
    run = Run(rollout()).at(1).done()
    assert Announce("rollout.stepping", "step 2 of 2: 50 % to version 2 of digits") in run.actions
    assert run.send(Pause("ann")).actions == [
        Announce("rollout.paused", "the rollout of version 2 of digits is paused at 50 %: paused by ann")
    ]
    assert all(described(state) for state in STATES.values())


@pytest.mark.parametrize("phase", list(Phase))
def test_state_survives_its_document(phase: Phase) -> None:
    assert RolloutState.from_document(STATES[phase].as_document()) == STATES[phase]


@pytest.mark.parametrize("change", [{"document": 2}, {"phase": "sleeping"}, {"colour": "red"}, {"plan": {"to": 0}}, {"plan": None}])
def test_document_of_something_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        RolloutState.from_document({**rollout().as_document(), **change})
