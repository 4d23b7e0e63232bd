import math

import numpy as np
import pytest

from serve.routing.judge.errors import find_errors, find_streak, is_candidates_own, recent_log_e, streak_needed
from serve.routing.judge.settings import ErrorSettings, StreakSettings
from serve.routing.judge.strata import StratumTotals

SETTINGS = ErrorSettings()
RULE = StreakSettings()


def strata(candidate, stable, share=0.5, n=(1000, 1000)):
    return [StratumTotals(share=share, requests=n, errors=(stable, candidate))]


def test_eleven_errors_to_none_roll_back():
    """Kayenta #799 at a share of one half: errors only in the canary. 1/7 sum of (2 r / (r + 1))^11 over the grid is 363."""
    found = find_errors(strata(11, 0), 11, SETTINGS)
    assert found.is_tripped
    assert found.action == "rollback"
    assert found.e_value == pytest.approx(363.157, abs=0.001)
    assert found.limit == pytest.approx(166.67, abs=0.01)


def test_four_errors_to_none_do_not():
    """Kayenta #426: evidence, not proof."""
    found = find_errors(strata(4, 0), 4, SETTINGS)
    assert not found.is_tripped
    assert found.e_value == pytest.approx(6.357, abs=0.001)


def test_evidence_of_fewer_units_than_the_floor_does_not_trip():
    at_one_percent = strata(4, 0, share=0.01)
    assert find_errors(at_one_percent, 3, SETTINGS).is_tripped
    found = find_errors(at_one_percent, 2, SETTINGS)
    assert not found.is_tripped
    assert found.e_value > found.limit
    assert "only 2 units failed" in found.sentence


def test_the_sentence_has_the_numbers():
    found = find_errors([StratumTotals(share=0.01, requests=(50_211, 512), errors=(3, 14))], 14, SETTINGS)
    assert found.sentence.startswith("candidate 14 errors in 512 answers (2.73 %), stable 3 in 50,211")
    assert "against a limit of 167" in found.sentence
    assert found.counts["candidate_errors"] == 14


def test_the_ratio_is_estimated_within_strata():
    """A base rate that rises tenfold while the candidate's share grows looks like a worse candidate in the sums; not here."""
    calm = StratumTotals(share=0.1, requests=(9000, 1000), errors=(90, 10))
    busy = StratumTotals(share=0.5, requests=(5000, 5000), errors=(500, 500))
    found = find_errors([calm, busy], 510, SETTINGS)
    assert found.estimate == pytest.approx(1.0)
    assert not found.is_tripped
    assert found.interval[0] < 1 < found.interval[1]


def test_no_stratum_is_no_evidence():
    found = find_errors([], 0, SETTINGS)
    assert found.e_value == 1
    assert found.estimate is None
    assert found.interval is None


def test_a_margin_forgives():
    many = strata(130, 100)
    assert find_errors(many, 130, ErrorSettings(margin=0.5)).e_value < find_errors(many, 130, SETTINGS).e_value


class TestStreak:
    def recent(self, candidate, stable, share):
        return recent_log_e(0.0, stable, candidate, share)

    def test_five_in_a_row_trip(self):
        assert is_candidates_own(self.recent(5, 0, 0.01))
        found = find_streak([StratumTotals(0.01, requests=(9900, 105), errors=(3, 5))], 5, 5, SETTINGS)
        assert found.is_tripped
        assert "5 times in a row" in found.sentence

    def test_four_do_not(self):
        assert not find_streak([StratumTotals(0.01, requests=(9900, 104), errors=(3, 4))], 4, 4, SETTINGS).is_tripped

    def test_it_is_silent_while_stable_fails_often_itself(self):
        found = find_streak([StratumTotals(0.5, requests=(1000, 1000), errors=(51, 60))], 50, 50, SETTINGS)
        assert not found.is_tripped
        assert "stable itself failed" in found.sentence

    def test_failures_that_both_versions_share_are_no_streak(self):
        """A backend is away: at 1 % five candidate failures come with some 495 of stable's."""
        assert not is_candidates_own(self.recent(5, 495, 0.01))
        found = find_streak([StratumTotals(0.01, requests=(100_000, 1000), errors=(495, 5))], 5, 0, SETTINGS)
        assert not found.is_tripped
        assert "stable failed at the same time" in found.sentence

    def test_an_old_outage_does_not_shield_a_broken_candidate(self):
        after_outage = self.recent(5, 495, 0.01)
        assert after_outage < 0
        assert recent_log_e(after_outage, 0, 5, 0.01) == pytest.approx(self.recent(5, 0, 0.01))

    def test_at_one_half_five_to_none_are_enough_unless_stable_failed_too(self):
        assert is_candidates_own(self.recent(5, 0, 0.5))
        assert not is_candidates_own(self.recent(5, 1, 0.5))

    @pytest.mark.parametrize("theta", [0.002, 0.02, 0.04])
    def test_a_longer_rollout_wants_a_longer_streak(self, theta):
        """Chance of any streak: at most requests x theta^k, kept under alpha for the rate that stable shows."""
        requests = np.array([100, 10_000, 1_000_000])
        needed = streak_needed(requests, (theta * 1e6, 1e6), RULE)
        assert (np.diff(needed) >= 0).all()
        assert (requests * theta**needed <= RULE.alpha * 1.01).all()
        assert needed[0] == 5

    def test_it_can_be_left_out(self):
        assert find_streak([], 50, 50, ErrorSettings(streak=None)) is None

    def test_without_data_of_stable_the_configured_share_counts(self):
        assert streak_needed(10, (0, 0), RULE) == max(5, math.ceil(math.log(10 / RULE.alpha) / -math.log(0.05)))
