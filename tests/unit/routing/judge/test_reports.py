"""Ratio, quantiles, SLO, outcomes, promotion."""

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from serve.routing.judge import ratio
from serve.routing.judge.buckets import BOUNDS_NS, BOUNDS_S, N_BUCKETS
from serve.routing.judge.latency import Runs, RunTests, SizeTest
from serve.routing.judge.observations import OutcomeSums, ShadowCounts
from serve.routing.judge.outcome import OutcomeTotals, add_outcome, find_outcome
from serve.routing.judge.promotion import find_promotion, log_errors_not_worse
from serve.routing.judge.quantiles import quantile_interval, quantile_radius, rate_interval, ratio_interval
from serve.routing.judge.settings import ErrorSettings, JudgeSettings, OutcomeSettings, RatioSettings, SloSettings
from serve.routing.judge.slo import find_slo
from serve.routing.judge.strata import StratumTotals


class TestRatio:
    def test_the_bayes_factor_is_the_beta_binomials(self):
        a, b = 1000.0, 9000.0
        expected = scipy.special.betaln(a + 150, b + 850) - scipy.special.betaln(a, b) - 150 * math.log(0.1) - 850 * math.log(0.9)
        assert float(ratio.log_evidence([150], [850], [0.1], 10_000)) == pytest.approx(expected, rel=1e-6)

    def test_one_request_wins_nothing_on_average(self):
        now = math.exp(float(ratio.log_evidence([40], [300], [0.1], 100)))
        won, lost = (math.exp(float(ratio.log_evidence([40 + k], [301 - k], [0.1], 100))) for k in (1, 0))
        assert 0.1 * won + 0.9 * lost == pytest.approx(now)

    def test_shares_multiply(self):
        both = float(ratio.log_evidence([10, 60], [90, 50], [0.1, 0.5], 100))
        apart = float(ratio.log_evidence([10], [90], [0.1], 100)) + float(ratio.log_evidence([60], [50], [0.5], 100))
        assert both == pytest.approx(apart)

    def test_a_lost_tenth_is_found_and_a_fair_draw_is_not(self):
        def stratum(candidate, stable):
            return [StratumTotals(share=0.1, generation=7, assigned=(stable, candidate))]

        fair = ratio.find_ratio(stratum(10_030, 90_000), RatioSettings())
        assert not fair.is_tripped
        lost = ratio.find_ratio(stratum(9000, 90_000), RatioSettings())
        assert lost.is_tripped
        assert lost.action == "hold"
        assert "candidate got 9,000 of 99,000 requests (9.09 %) at a set share of 10 %" in lost.sentence

    def test_without_requests_drawn_one_by_one_there_is_nothing_to_say(self):
        assert ratio.find_ratio([StratumTotals(share=0.1)], RatioSettings()).e_value == 1


class TestIntervals:
    @given(st.integers(1, 5000), st.floats(0, 1))
    def test_a_rate_interval_holds_the_rate_and_narrows_with_alpha(self, n, fraction):
        successes = round(fraction * n)
        low, high = rate_interval(successes, n, 0.01)
        assert 0 <= low <= successes / n <= high <= 1
        narrow = rate_interval(successes, n, 0.1)
        assert low <= narrow[0] <= narrow[1] <= high

    def test_the_ends_of_a_rate_interval_have_evidence_of_one_over_alpha(self):
        low, high = rate_interval(30, 400, 0.05)
        for d in (low, high):
            log_m = scipy.special.betaln(30.5, 370.5) - scipy.special.betaln(0.5, 0.5) - 30 * math.log(d) - 370 * math.log1p(-d)
            assert log_m == pytest.approx(math.log(20), abs=1e-6)

    def test_no_values_say_nothing(self):
        assert rate_interval(0, 0, 0.05) == (0.0, 1.0)
        assert ratio_interval([0], [0], [0.1], 0.01) == (0.0, math.inf)

    def test_rates_are_covered_at_all_times(self):
        rng = np.random.default_rng(10)
        missed = 0
        for _ in range(100):
            total = np.cumsum(rng.random(2000) < 0.03)
            intervals = [rate_interval(int(total[n - 1]), n, 0.05) for n in (10, 30, 100, 300, 1000, 2000)]
            missed += any(not low <= 0.03 <= high for low, high in intervals)
        assert missed <= 5

    def test_a_ratio_of_three_is_in_its_interval_and_one_is_not(self):
        low, high = ratio_interval([250], [750], [0.1], 0.01)
        assert 1 < low < 3 < high < 10

    def test_quantile_radii_are_the_designs_sample_sizes(self):
        """Samples before the upper bound is finite, alpha .01: p50 45, p90 329, p95 698."""
        for quantile, expected in ((0.5, 45), (0.9, 329), (0.95, 698)):
            n = next(n for n in range(1, 2000) if quantile + quantile_radius(n, quantile, 0.01) < 1)
            assert n == pytest.approx(expected, rel=0.03)

    def test_a_quantile_interval_holds_the_quantile_to_its_buckets(self):
        rng = np.random.default_rng(11)
        ns = rng.exponential(5e6, 20_000)
        counts = np.bincount(np.searchsorted(BOUNDS_NS, ns), minlength=N_BUCKETS).tolist()
        for quantile in (0.5, 0.9, 0.99):
            estimate, low, high = quantile_interval(counts, BOUNDS_S, quantile, 0.01)
            true = -5e-3 * math.log(1 - quantile)
            assert low < true < high
            assert estimate / 1.3 < true < estimate * 1.3

    def test_a_quantile_of_too_few_has_no_upper_bound(self):
        counts = [0] * N_BUCKETS
        counts[20] = 100
        assert quantile_interval(counts, BOUNDS_S, 0.99, 0.01)[2] == math.inf
        assert math.isnan(quantile_interval([0] * N_BUCKETS, BOUNDS_S, 0.5, 0.01)[0])


class TestSlo:
    def counts(self, ns, n):
        counts = [0] * N_BUCKETS
        counts[int(np.searchsorted(BOUNDS_NS, ns))] = n
        return tuple(counts)

    def test_a_candidate_over_its_objective_trips(self):
        slo = SloSettings(quantile=0.9, seconds=0.01)
        (found,) = find_slo((self.counts(1e6, 5000), self.counts(3e7, 5000)), slo)
        assert found.is_tripped
        assert found.action == "hold"
        (kept,) = find_slo((self.counts(1e6, 5000), self.counts(5e6, 5000)), slo)
        assert not kept.is_tripped

    def test_values_of_the_objectives_own_bucket_are_given_the_benefit(self):
        slo = SloSettings(quantile=0.9, seconds=0.01)
        (found,) = find_slo(((), self.counts(10_000_000, 5000)), slo)
        assert not found.is_tripped

    def test_a_few_answers_do_not_trip(self):
        (found,) = find_slo(((), self.counts(3e7, 5)), SloSettings(quantile=0.9, seconds=0.01))
        assert not found.is_tripped

    def test_without_an_objective_it_is_reported_only(self):
        (found,) = find_slo((self.counts(1e6, 5000), self.counts(3e7, 5000)), None)
        assert found.action == "none"
        assert not found.is_tripped
        assert found.thresholds["candidate_p50"]["estimate"] > 0.02
        assert find_slo(((), ()), None) == ()


class TestOutcome:
    CLICKS = OutcomeSettings(name="clicks", worse="lower")

    def sums(self, values):
        return OutcomeSums(len(values), float(np.sum(values)), float(np.sum(np.square(values))))

    def totals(self, rng, stable, candidate, n=(4000, 4000), share=0.5):
        return OutcomeTotals("clicks", share, self.sums(rng.random(n[0]) < stable), self.sums(rng.random(n[1]) < candidate))

    def test_a_worse_mean_holds_and_a_better_one_does_not(self):
        rng = np.random.default_rng(12)
        worse = find_outcome([self.totals(rng, 0.3, 0.2)], self.CLICKS)
        assert worse.is_tripped
        assert worse.interval[1] < 0
        better = find_outcome([self.totals(rng, 0.2, 0.3)], self.CLICKS)
        assert not better.is_tripped
        assert better.interval[0] > 0

    def test_equal_means_alarm_under_alpha_at_all_looks(self):
        rng = np.random.default_rng(13)
        settings = OutcomeSettings(name="clicks", worse="lower", alpha=0.05)
        alarms = 0
        for _ in range(150):
            arms = rng.random((2, 4000)) < 0.3
            alarms += any(
                find_outcome([OutcomeTotals("clicks", 0.5, self.sums(arms[0, :n]), self.sums(arms[1, :n]))], settings).is_tripped
                for n in (100, 200, 500, 1000, 2000, 4000)
            )
        assert alarms <= 7

    def test_a_drift_of_the_metric_while_the_share_grows_cancels(self):
        rng = np.random.default_rng(14)
        strata = [self.totals(rng, 0.5, 0.5, (9000, 1000), 0.1), self.totals(rng, 0.1, 0.1, (5000, 5000), 0.5)]
        assert abs(find_outcome(strata, self.CLICKS).estimate) < 0.03

    def test_few_values_say_nothing(self):
        found = find_outcome([self.totals(np.random.default_rng(1), 0.9, 0.0, (99, 99))], self.CLICKS)
        assert not found.is_tripped
        assert "100 of each are needed" in found.sentence
        assert not find_outcome([], self.CLICKS).is_tripped

    def test_a_metric_that_never_varied_is_not_taken_for_certain(self):
        zeros = OutcomeTotals("clicks", 0.5, OutcomeSums(100, 0.0, 0.0), OutcomeSums(100, 0.0, 0.0))
        low, high = find_outcome([zeros], self.CLICKS).interval
        assert low < -0.001
        assert high > 0.001

    def test_counts_of_one_metric_and_share_add_up(self):
        one = OutcomeTotals("clicks", 0.5, OutcomeSums(1, 1.0, 1.0), OutcomeSums(2, 0.0, 0.0))
        other = OutcomeTotals("ratings", 0.5)
        assert add_outcome(add_outcome((one,), other), one) == (
            OutcomeTotals("clicks", 0.5, OutcomeSums(2, 2.0, 2.0), OutcomeSums(4, 0.0, 0.0)), other,
        )


class TestPromotion:
    SETTINGS = JudgeSettings()

    def stratum(self, candidate_errors, stable_errors, n):
        return [StratumTotals(share=0.5, requests=(n, n), errors=(stable_errors, candidate_errors))]

    def test_without_errors_some_thousand_answers_are_enough(self):
        """Between ln(1 / .05) / .001 = 2,996, the point alternative, and ln(4 / .05) / .001 = 4,382, its share of the mixture alone."""
        n = next(n for n in range(2500, 5000, 10) if log_errors_not_worse(self.stratum(0, 0, n), ErrorSettings()) >= math.log(20))
        assert 2996 < n < 4382

    def test_equal_error_rates_pass_by_the_relative_margin(self):
        shown = log_errors_not_worse(self.stratum(500, 500, 10_000), ErrorSettings())
        assert shown >= math.log(20)
        assert log_errors_not_worse(self.stratum(750, 500, 10_000), ErrorSettings()) < 0

    def test_alarms_at_the_margin_stay_under_alpha(self):
        """A candidate with 1.5 times the stable rate, which is over .1 %: promoted by mistake in under 5 % of 80 rollouts."""
        rng = np.random.default_rng(15)
        mistakes = 0
        for _ in range(80):
            stable, candidate = np.cumsum(rng.binomial(500, 0.02, 20)), np.cumsum(rng.binomial(500, 0.03, 20))
            mistakes += any(
                log_errors_not_worse(self.stratum(int(c), int(s), 500 * (i + 1)), ErrorSettings()) >= math.log(20)
                for i, (s, c) in enumerate(zip(stable, candidate, strict=True))
            )
        assert mistakes / 80 < 0.05

    def test_every_guardrail_is_asked(self):
        size = SizeTest(3, edges=(1, 2, 3), candidate=Runs(9, (1, 1, 1)), by_ratio=(9.0, 9.0, 0.0), by_difference=(0.0, 0.0, 0.0))
        findings = find_promotion(self.stratum(0, 0, 6000), RunTests((size,)), ShadowCounts(compared=500), self.SETTINGS)
        assert [(f.thresholds["guardrail"], f.is_tripped) for f in findings] == [("errors", True), ("latency", False), ("shadow", True)]
        assert all(f.action == "none" for f in findings)

    def test_without_runs_latency_is_not_shown(self):
        findings = find_promotion(self.stratum(0, 0, 6000), RunTests(), ShadowCounts(), self.SETTINGS)
        assert [f.is_tripped for f in findings] == [True, False]

    def test_a_test_without_action_guards_nothing(self):
        off = self.SETTINGS.latency.model_copy(update={"action": "none"})
        findings = find_promotion(self.stratum(0, 0, 9), RunTests(), ShadowCounts(), self.SETTINGS.model_copy(update={"latency": off}))
        assert [f.thresholds["guardrail"] for f in findings] == ["errors"]

    def test_no_data_shows_nothing(self):
        assert log_errors_not_worse([], ErrorSettings()) == 0
        assert not any(f.is_tripped for f in find_promotion([], RunTests(), ShadowCounts(), self.SETTINGS))
