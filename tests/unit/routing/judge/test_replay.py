import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.judge.judgement import Verdict
from serve.routing.judge.replay import Row, estimated_share, first_action, float_bin, replay
from serve.routing.judge.settings import JudgeSettings

SETTINGS = JudgeSettings(warmup_requests=0)
ARMS = {"stable": "1", "candidate": "2"}


def rows(n, share=0.5, errors=(0.0, 0.0), seed=1, units=False, gap_ns=1_000_000):
    rng = np.random.default_rng(seed)
    for i in range(n):
        is_candidate = rng.random() < share
        status = "error" if rng.random() < errors[is_candidate] else "ok"
        yield Row(i * gap_ns, f"u{i}" if units else "", "2" if is_candidate else "1", status, 1500.0, out_class=int(rng.integers(3)))


def counts(judgement, test):
    return next(f for f in judgement.findings if f.test == test).counts


def test_a_bad_candidate_is_rolled_back_and_it_says_when():
    judgements = replay(rows(20_000, errors=(0.001, 0.05)), SETTINGS, share=0.5, **ARMS)
    ts_ns, judgement = first_action(judgements)
    assert judgement.verdict is Verdict.ROLLBACK
    assert 0 < ts_ns < 5_000_000_000
    assert "errors in" in judgement.why


def test_a_good_one_is_promoted_after_the_minimums():
    ts_ns, judgement = first_action(replay(rows(90_000), SETTINGS, share=0.5, **ARMS))
    assert judgement.verdict is Verdict.PROMOTE
    assert ts_ns >= 60_000_000_000


def test_it_judges_once_a_tick_and_at_the_end():
    ticks = [ts for ts, _ in replay(rows(3500), SETTINGS, share=0.5, tick_s=1.0, **ARMS)]
    assert ticks == [1_000_000_000, 2_000_000_000, 3_000_000_000, 3_499_000_000]


def test_a_file_of_one_moment_is_judged_once():
    assert len(list(replay([Row(5, "", "1", "ok"), Row(5, "", "2", "ok")], SETTINGS, share=0.5, **ARMS))) == 1


def test_a_gap_is_one_tick_not_thousands():
    early, late = Row(0, "", "1", "ok"), Row(10_000_000_000_000, "", "2", "ok")
    assert len(list(replay([early, late], SETTINGS, share=0.5, **ARMS))) <= 3


def test_all_rows_are_counted_once():
    given_rows = list(rows(5000, 0.3, (0.01, 0.02)))
    *_, (_, last) = replay(given_rows, SETTINGS, share=0.3, **ARMS)
    found = counts(last, "errors")
    assert found["candidate_requests"] == sum(row.variant == "2" for row in given_rows)
    assert found["stable_errors"] == sum(row.variant == "1" and row.status == "error" for row in given_rows)


def test_without_a_share_it_is_estimated_and_said():
    given_rows = list(rows(5000, 0.3))
    share = estimated_share(given_rows, **ARMS)
    assert share == pytest.approx(0.3, abs=0.03)
    *_, (_, last) = replay(given_rows, SETTINGS, **ARMS)
    assert f"a share of {share:.3g} was estimated" in last.why
    assert next(f for f in last.findings if f.test == "ratio").action == "none"


def test_warm_up_of_the_candidate_leaves_out_both_arms():
    given_rows = [Row(i, "", "2" if i % 2 else "1", "error") for i in range(100)]
    *_, (_, last) = replay(given_rows, JudgeSettings(warmup_requests=10), share=0.5, **ARMS)
    assert counts(last, "errors")["candidate_requests"] == 40
    assert counts(last, "errors")["stable_requests"] == 40


def test_a_units_errors_count_once():
    given_rows = [Row(i, "busy", "2", "error") for i in range(50)] + [Row(60, "", "1", "ok"), Row(61, "other", "2", "error")]
    *_, (_, last) = replay(given_rows, SETTINGS, share=0.5, **ARMS)
    assert counts(last, "errors")["candidate_errors"] == 2
    assert counts(last, "errors")["failing_units"] == 2
    assert counts(last, "streak")["streak"] == 2


def test_a_success_ends_a_streak():
    statuses = ["error"] * 3 + ["ok"] + ["error"] * 4 + ["refused"] + ["error"]
    given_rows = [Row(0, "", "1", "ok"), *(Row(i + 1, "", "2", status) for i, status in enumerate(statuses))]
    *_, (_, last) = replay(given_rows, SETTINGS, share=0.5, **ARMS)
    assert counts(last, "streak")["streak"] == 5


def test_refusals_are_assigned_but_not_judged():
    given_rows = [Row(i, "", "2" if i % 2 else "1", "429" if i < 20 else "200") for i in range(40)]
    *_, (_, last) = replay(given_rows, SETTINGS, share=0.5, **ARMS)
    assert counts(last, "errors")["candidate_requests"] == 10
    assert counts(last, "ratio") == {"stable": 20, "candidate": 20}


def test_a_shift_of_recorded_outputs_holds():
    rng = np.random.default_rng(3)
    given_rows = [
        Row(i * 1_000_000, "", variant, "ok", out_value=float(rng.standard_normal() + (1.0 if variant == "2" else 0.0)))
        for i, variant in enumerate(np.where(rng.random(8000) < 0.5, "2", "1").tolist())
    ]
    watching = JudgeSettings.model_validate({"warmup_requests": 0, "outputs": {"output": "score"}})
    *_, (_, last) = replay(given_rows, watching, share=0.5, **ARMS)
    assert last.verdict is Verdict.HOLD
    assert last.why.startswith("score: PSI")


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_bins_of_floats_keep_their_order(a, b):
    if a < b:
        assert float_bin(a) <= float_bin(b)
    assert 0 <= float_bin(a) <= 65_535


def test_bins_of_floats_are_bfloat16_prefixes():
    assert float_bin(1.0) == 0x3F80 | 0x8000
    assert float_bin(-1.0) == 0xFFFF ^ 0xBF80
    assert float_bin(1e300) == float_bin(float("inf"))


@pytest.mark.parametrize(("given_rows", "share", "message"), [
    ([Row(5, "", "1", "ok"), Row(4, "", "2", "ok")], 0.5, "sort the rows"),
    ([Row(5, "", "1", "ok")], None, "no row of variant 2"),
    ([Row(5, "", "9", "ok")], 0.5, "no row of variant 1 or 2"),
    ([Row(5, "", "1", "ok")], 1.0, "between 0 and 1"),
])
def test_what_cannot_be_replayed_is_refused(given_rows, share, message):
    with pytest.raises(ValueError, match=message):
        list(replay(given_rows, SETTINGS, share=share, **ARMS))
