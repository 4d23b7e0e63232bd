"""State, folding and the one order of precedence."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.routing.judge.buckets import BOUNDS_NS, N_BUCKETS
from serve.routing.judge.judgement import Verdict
from serve.routing.judge.observations import ArmCounts, Delta, OutcomeCounts, OutcomeSums, Progress, RunCounts, ShadowCounts, Stratum
from serve.routing.judge.settings import JudgeSettings
from serve.routing.judge.state import JudgeState, empty, fold
from serve.routing.judge.verdict import judge

SETTINGS = JudgeSettings.model_validate({"outputs": {"output": "label", "calibration_answers": 50}})
DONE = Progress(step=3, is_last_step=True, elapsed_s=61.0, candidate_requests=600, needed_s=60.0, needed_requests=500)


def runs(n, ns):
    counts = [0] * N_BUCKETS
    counts[int(np.searchsorted(BOUNDS_NS, ns))] = n
    return tuple(counts)


def delta(candidate_errors=0, stable_errors=0, n=6000, share=0.5, generation=4, **more):
    return Delta(
        strata=(
            Stratum(generation, share, ArmCounts(n, stable_errors), ArmCounts(n, candidate_errors), (n, n) if share == 0.5 else (0, 0)),
        ),
        failing_units=candidate_errors, **more,
    )


def folded(*deltas, state=None, settings=SETTINGS):
    state = state or empty()
    for one in deltas:
        state = fold(state, settings, one)
    return state


def with_equal_runs(state, n=150):
    """Both versions run alike, enough to calibrate and to be shown no worse."""
    for _ in range(n):
        same = RunCounts({3: runs(60, 2e6)}, runs(60, 1e5))
        state = fold(state, SETTINGS, Delta(stable_runs=same, candidate_runs=same))
    return state


HEALTHY = with_equal_runs(folded(delta()))
BAD_SHADOW = ShadowCounts(sampled=2000, compared=2000, disagreement=100.0)


class TestPrecedence:
    def test_a_healthy_candidate_is_promoted_from_the_last_step(self):
        judgement = judge(HEALTHY, SETTINGS, DONE)
        assert judgement.verdict is Verdict.PROMOTE
        assert judgement.step_done
        assert judgement.generation == 4
        assert "shown by" in judgement.why

    def test_rollback_comes_before_hold(self):
        state = folded(delta(40, 0), Delta(shadow=BAD_SHADOW))
        judgement = judge(state, SETTINGS, DONE)
        assert judgement.verdict is Verdict.ROLLBACK
        assert judgement.why.startswith("candidate 40 errors in 6,000 answers")
        assert {f.test for f in judgement.findings if f.is_tripped} >= {"errors", "shadow"}
        assert not judgement.step_done

    def test_hold_comes_before_promote(self):
        judgement = judge(fold(HEALTHY, SETTINGS, Delta(shadow=BAD_SHADOW)), SETTINGS, DONE)
        assert judgement.verdict is Verdict.HOLD
        assert not judgement.step_done

    def test_a_tripped_test_without_action_changes_nothing(self):
        lenient = SETTINGS.model_copy(update={"shadow": SETTINGS.shadow.model_copy(update={"action": "none"})})
        judgement = judge(fold(HEALTHY, SETTINGS, Delta(shadow=BAD_SHADOW)), lenient, DONE)
        assert judgement.verdict is Verdict.PROMOTE
        assert any(f.test == "shadow" and f.is_tripped for f in judgement.findings)

    @pytest.mark.parametrize("change", [{"is_last_step": False}, {"elapsed_s": 59.0}, {"candidate_requests": 499}])
    def test_promotion_waits_for_the_last_step_and_its_minimums(self, change):
        judgement = judge(HEALTHY, SETTINGS, replace(DONE, **change))
        assert judgement.verdict is Verdict.CONTINUE
        assert judgement.step_done == ("is_last_step" in change)

    def test_the_last_step_is_left_only_when_every_guardrail_is_shown(self):
        judgement = judge(folded(delta()), SETTINGS, DONE)
        assert judgement.verdict is Verdict.CONTINUE
        assert "slow runs" in judgement.why

    def test_a_slow_candidate_is_rolled_back_with_the_evidence(self):
        state = HEALTHY
        for _ in range(30):
            now = Delta(stable_runs=RunCounts({3: runs(20, 2e6)}), candidate_runs=RunCounts({3: runs(5, 9e6)}))
            state = fold(state, SETTINGS, now)
        judgement = judge(state, SETTINGS, DONE)
        assert judgement.verdict is Verdict.ROLLBACK
        assert "candidate 150 of" in judgement.why
        assert "runs of up to 8 rows" in judgement.why

    def test_long_waits_only_hold(self):
        state = HEALTHY
        for _ in range(30):
            state = fold(state, SETTINGS, Delta(stable_runs=RunCounts({}, runs(20, 1e5)), candidate_runs=RunCounts({}, runs(20, 9e7))))
        assert judge(state, SETTINGS, DONE).verdict is Verdict.HOLD

    def test_an_outcome_holds_by_its_own_setting(self):
        with_clicks = JudgeSettings.model_validate({"outcomes": [{"name": "clicks", "worse": "lower"}]})
        clicks = OutcomeCounts("clicks", 0.5, OutcomeSums(5000, 1500.0, 1500.0), OutcomeSums(5000, 1000.0, 1000.0))
        judgement = judge(fold(HEALTHY, with_clicks, Delta(outcomes=(clicks,))), with_clicks, DONE)
        assert judgement.verdict is Verdict.HOLD
        assert judgement.why.startswith("clicks: candidate differs by -0.1")

    def test_a_shift_of_outputs_holds(self):
        stable, candidate = ArmCounts(1000, 0, {0: 900, 1: 100}), ArmCounts(1000, 0, {0: 500, 1: 500})
        state = folded(*[Delta(strata=(Stratum(1, 0.5, stable, candidate, (1000, 1000)),))] * 2)
        judgement = judge(state, SETTINGS, DONE)
        assert judgement.verdict is Verdict.HOLD
        assert judgement.why.startswith("label: PSI")


class TestNoDataIsNoPass:
    def test_no_candidate_request_holds_once_the_time_is_over(self):
        idle = replace(DONE, candidate_requests=0, needed_requests=0)
        judgement = judge(HEALTHY, SETTINGS, idle)
        assert judgement.verdict is Verdict.HOLD
        assert "no candidate request was judged" in judgement.why
        assert judge(HEALTHY, SETTINGS, replace(idle, elapsed_s=1.0)).verdict is Verdict.CONTINUE

    def test_no_stable_request_holds(self):
        alone = Delta(strata=(Stratum(1, 0.5, ArmCounts(), ArmCounts(900, 0)),))
        judgement = judge(folded(alone), SETTINGS, DONE)
        assert judgement.verdict is Verdict.HOLD
        assert "no stable request" in judgement.why

    def test_nothing_at_all_holds_and_before_its_time_continues(self):
        assert judge(empty(), SETTINGS, replace(DONE, candidate_requests=0)).verdict is Verdict.HOLD
        judgement = judge(empty(), SETTINGS, replace(DONE, candidate_requests=0, elapsed_s=5.0))
        assert judgement.verdict is Verdict.CONTINUE
        assert not judgement.step_done
        assert judgement.why == "step 3: 0 of 500 candidate requests, 5 of 60 s"

    def test_a_shadow_stage_without_pairs_holds(self):
        stage = Progress(0, False, 61.0, 0, 60.0, 0, is_shadow_stage=True)
        assert judge(HEALTHY, SETTINGS, stage).verdict is Verdict.HOLD
        assert "no shadow pair" in judge(HEALTHY, SETTINGS, stage).why


class TestShadowStage:
    STAGE = Progress(0, False, 61.0, 0, 60.0, 1000, is_shadow_stage=True)

    def test_only_shadows_count(self):
        state = folded(delta(400, 0), Delta(shadow=ShadowCounts(sampled=1200, compared=1100, disagreement=2.0)))
        judgement = judge(state, SETTINGS, self.STAGE)
        assert judgement.verdict is Verdict.CONTINUE
        assert judgement.step_done
        assert {f.test for f in judgement.findings} == {"shadow", "progress", "promotion"}

    def test_it_does_not_end_before_its_guardrail_is_decided(self):
        stage = replace(self.STAGE, needed_requests=100)
        judgement = judge(folded(Delta(shadow=ShadowCounts(sampled=150, compared=150))), SETTINGS, stage)
        assert (judgement.verdict, judgement.step_done) == (Verdict.CONTINUE, False)
        assert judgement.why == ("shadow disagreement under 1 %: not shown yet by 150 shadow pairs, about 330 wanted if no more disagree "
                                 "(evidence 3.8 of 20)")
        shown = judge(folded(Delta(shadow=ShadowCounts(sampled=330, compared=330))), SETTINGS, stage)
        assert (shown.verdict, shown.step_done) == (Verdict.CONTINUE, True)
        assert shown.why == "step 0: 330 of 100 shadow pairs, 61 of 60 s"

    def test_without_the_guardrail_it_ends_by_its_minima(self):
        loose = SETTINGS.model_copy(update={"shadow": SETTINGS.shadow.model_copy(update={"action": "none"})})
        state = folded(Delta(shadow=ShadowCounts(sampled=150, compared=150, disagreement=90.0)))
        assert judge(state, loose, replace(self.STAGE, needed_requests=100)).step_done

    def test_it_waits_for_its_pairs(self):
        state = folded(Delta(shadow=ShadowCounts(sampled=1200, compared=999)))
        assert not judge(state, SETTINGS, self.STAGE).step_done

    def test_disagreement_keeps_the_candidate_there(self):
        assert judge(folded(Delta(shadow=BAD_SHADOW)), SETTINGS, self.STAGE).verdict is Verdict.HOLD


class TestKayenta:
    """Fixtures that a Mann-Whitney judge passes. Share one half, 50 answers an arm, default settings, no warm-up."""

    def judged(self, candidate_errors, stable_errors, n=50, progress=DONE):
        return judge(folded(delta(candidate_errors, stable_errors, n)), SETTINGS, progress)

    def test_426_sparse_errors_hold(self):
        assert self.judged(4, 0).verdict is Verdict.HOLD

    def test_6278_seven_bad_points_of_ten_hold(self):
        assert self.judged(7, 0, 10).verdict is Verdict.HOLD

    def test_799_errors_only_in_the_candidate_roll_back(self):
        assert self.judged(11, 0).verdict is Verdict.ROLLBACK

    def test_suspicion_stops_more_traffic_until_it_goes_away(self):
        state = folded(delta(4, 0, 50))
        judgement = judge(state, SETTINGS, replace(DONE, is_last_step=False))
        assert "no more traffic while the evidence is over 5" in judgement.why
        calmer = fold(state, SETTINGS, delta(0, 3, 3000))
        assert judge(calmer, SETTINGS, replace(DONE, is_last_step=False)).step_done

    def test_suspicion_can_be_turned_off(self):
        blunt = SETTINGS.model_copy(update={"suspicion_alpha": None})
        assert judge(folded(delta(4, 0, 50)), blunt, replace(DONE, is_last_step=False)).verdict is Verdict.CONTINUE


class TestState:
    def test_the_document_round_trips_through_json(self):
        clicks = OutcomeCounts("clicks", 0.25, OutcomeSums(3, 1.5, 1.25), OutcomeSums(1, 0.5, 0.25))
        bins = ArmCounts(60, 1, {3: 40, 65_535: 20}, runs(60, 3e6))
        state = folded(
            Delta(strata=(Stratum(9, 0.25, bins, bins, (60, 20)),), shadow=BAD_SHADOW, streak=2, outcomes=(clicks,)),
            Delta(strata=(Stratum(10, 0.5, bins, bins, (60, 20)),)),
            state=HEALTHY,
        )
        document = json.loads(json.dumps(state.as_document(), allow_nan=False))
        assert JudgeState.from_document(document) == state
        assert JudgeState.from_document(empty().as_document()) == empty()
        again = JudgeState.from_document(document)
        assert judge(again, SETTINGS, DONE) == judge(state, SETTINGS, DONE)

    def test_a_judgement_is_json(self):
        def plain(value):
            return value.__dict__ if hasattr(value, "__dict__") else {k: getattr(value, k) for k in value.__slots__}

        text = json.dumps(judge(HEALTHY, SETTINGS, DONE), default=lambda v: dict(v) if hasattr(v, "keys") else plain(v), allow_nan=False)
        assert "promote" in text

    def test_another_format_is_refused(self):
        with pytest.raises(ValueError, match="format 2; this version reads 1"):
            JudgeState.from_document({**empty().as_document(), "format": 2})
        with pytest.raises(ValueError, match="validation error"):
            JudgeState.from_document({"format": 1, "streak": "many"})

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from([0.01, 0.05, 0.5]), st.integers(0, 30), st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=8
        ),
        st.randoms(use_true_random=False),
    )
    def test_counts_fold_in_any_order(self, parts, random):
        deltas = [delta(c, s, 500, share, generation) for share, c, s, generation in parts]
        state = folded(*deltas)
        random.shuffle(deltas)
        again = folded(*deltas)
        assert replace(again, recent=0.0) == replace(state, recent=0.0)
        one, other = (next(f for f in judge(s, SETTINGS, DONE).findings if f.test == "errors") for s in (state, again))
        assert one == other

    def test_two_generations_of_one_share_are_one_stratum(self):
        state = folded(delta(1, 0, generation=3), delta(2, 1, generation=5))
        (stratum,) = state.strata
        assert (stratum.generation, stratum.errors, stratum.requests) == (5, (1, 3), (12_000, 12_000))
        assert state.generation == 5

    def test_answers_before_the_freeze_are_calibration_only(self):
        bins = ArmCounts(30, 0, {1: 20, 2: 10})
        state = folded(Delta(strata=(Stratum(1, 0.5, bins, bins),)))
        assert state.groups is None
        assert state.calibration == {1: 20, 2: 10}
        state = folded(Delta(strata=(Stratum(1, 0.5, bins, bins),)), state=state)
        assert state.groups.classes == (1, 2)
        assert state.calibration == {}
        assert state.strata[0].groups == ()
        state = folded(Delta(strata=(Stratum(1, 0.5, bins, bins),)), state=state)
        assert state.strata[0].groups == ((20, 20), (10, 10), (0, 0))

    def test_a_stratum_without_a_second_arm_is_left_out(self):
        state = folded(Delta(strata=(Stratum(1, 0.0, ArmCounts(500, 3), ArmCounts()),)))
        assert state.strata == ()
        with pytest.raises(ValueError, match="share of 0 and 5 requests"):
            folded(Delta(strata=(Stratum(1, 0.0, ArmCounts(500, 3), ArmCounts(5)),)))

    def test_streaks_keep_the_longest(self):
        assert folded(Delta(streak=4), Delta(streak=2)).streak == 4

    def test_a_streak_of_a_shared_outage_never_rolls_back_later(self):
        """Errors that later point at the candidate by chance do not make an old streak its own."""
        outage = Delta(strata=(Stratum(1, 0.5, ArmCounts(500, 20), ArmCounts(500, 20)),), streak=20, failing_units=20)
        state = folded(delta(0, 0, 5000), outage)
        assert (state.streak, state.own_streak) == (20, 0)
        state = folded(Delta(strata=(Stratum(1, 0.5, ArmCounts(500, 0), ArmCounts(500, 5)),), streak=20, failing_units=5), state=state)
        assert state.recent > 2.4
        assert judge(state, SETTINGS, DONE).verdict is not Verdict.ROLLBACK
        state = folded(Delta(strata=(Stratum(1, 0.5, ArmCounts(9, 0), ArmCounts(9, 4)),), streak=24, failing_units=4), state=state)
        assert state.own_streak == 4
        assert judge(state, SETTINGS, DONE).verdict is not Verdict.ROLLBACK

    def test_a_streak_rolls_back_at_one_percent(self):
        candidate = ArmCounts(60, 5)
        state = folded(Delta(strata=(Stratum(1, 0.01, ArmCounts(6000, 3), candidate),), streak=5, failing_units=5))
        judgement = judge(state, SETTINGS, replace(DONE, is_last_step=False))
        assert judgement.verdict is Verdict.ROLLBACK
        assert judgement.why == "candidate failed 5 times in a row; stable 3 errors in 6,000 answers"
