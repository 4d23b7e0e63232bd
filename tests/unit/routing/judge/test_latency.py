import itertools
import math

import numpy as np
import pytest
import scipy.optimize
from scipy.stats import binom

from serve._core import histogram
from serve.routing.judge.blocks import log_not_worse, log_worse, nearest_on_difference, nearest_on_ratio
from serve.routing.judge.buckets import BOUNDS_NS, N_BUCKETS, bucket_of, quantile_bucket
from serve.routing.judge.latency import RunTests, SizeTest, find_slow, fold_runs, log_evidence, log_not_worse_by_quantile
from serve.routing.judge.settings import LatencySettings

SETTINGS = LatencySettings()
BLOCKS = [(1, 1), (3, 20), (10, 2), (30, 30)]


def counted(ns):
    return tuple(int(n) for n in np.bincount(np.searchsorted(BOUNDS_NS, ns), minlength=N_BUCKETS))


def test_the_buckets_are_the_native_histograms():
    native = histogram.histogram_bounds()
    assert native[:-1] == BOUNDS_NS
    assert len(native) == N_BUCKETS


def test_a_duration_is_in_the_bucket_whose_bounds_hold_it():
    assert bucket_of(0) == bucket_of(1024) == 0
    assert bucket_of(1025) == 1
    assert bucket_of(BOUNDS_NS[-1]) == N_BUCKETS - 2
    assert bucket_of(BOUNDS_NS[-1] + 1) == N_BUCKETS - 1


def test_the_quantile_bucket_skips_empty_ones():
    assert quantile_bucket((0, 5, 0, 5), 0.5) == 1
    assert quantile_bucket((0, 5, 0, 5), 0.51) == 3
    assert quantile_bucket((0, 5, 0, 5), 0.999) == 3


def divergence(q, t):
    return q * math.log(q / t) + (1 - q) * math.log((1 - q) / (1 - t))


@pytest.mark.parametrize(("q1", "q0"), [(0.5, 0.1), (0.02, 0.01), (0.9, 0.3), (0.4, 0.4)])
@pytest.mark.parametrize(("n1", "n0"), BLOCKS)
@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.5])
def test_the_nearest_point_of_the_null_is_the_minimum(q1, q0, n1, n0, ratio):
    found = scipy.optimize.minimize_scalar(
        lambda t: n1 * divergence(q1, ratio * t) + n0 * divergence(q0, t), bounds=(1e-9, 1 / ratio - 1e-9), method="bounded",
        options={"xatol": 1e-10},
    )
    t1, t0 = nearest_on_ratio(q1, q0, n1, n0, ratio)
    assert float(t0) == pytest.approx(found.x, abs=1e-5)
    assert float(t1) == pytest.approx(ratio * float(t0))


@pytest.mark.parametrize("q", [0.001, 0.05, 0.5, 0.95])
@pytest.mark.parametrize(("n1", "n0"), BLOCKS)
@pytest.mark.parametrize("difference", [0.01, 0.1])
def test_the_nearest_point_at_a_difference_is_the_minimum(q, n1, n0, difference):
    found = scipy.optimize.minimize_scalar(
        lambda t: n1 * divergence(q, t + difference) + n0 * divergence(q, t), bounds=(1e-9, 1 - difference - 1e-9), method="bounded",
        options={"xatol": 1e-10},
    )
    t1, t0 = nearest_on_difference(q, n1, n0, difference)
    assert float(t0) == pytest.approx(found.x, abs=1e-5)
    assert float(t1 - t0) == pytest.approx(difference)


def expectations(e_values, n1, n0, pairs):
    """E[E] for true shares (s1, s0), by enumeration."""
    y1, y0 = np.arange(n1 + 1), np.arange(n0 + 1)
    for s1, s0 in pairs:
        yield float(binom.pmf(y1, n1, s1) @ e_values.T @ binom.pmf(y0, n0, s0))


@pytest.mark.parametrize(("n1", "n0"), BLOCKS)
@pytest.mark.parametrize(("q1", "q0"), [(0.5, 0.1), (0.02, 0.01), (0.99, 0.2)])
@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.5])
def test_a_block_wins_nothing_on_average_anywhere_on_the_null(n1, n0, q1, q0, ratio):
    y = np.meshgrid(np.arange(n1 + 1), np.arange(n0 + 1))
    e_values = np.exp(log_worse((y[0], y[1]), (n1, n0), (q1, q0), ratio))
    null = [(s1, s0) for s0 in np.linspace(0, 1, 15) for s1 in np.linspace(0, min(1, ratio * s0), 6)]
    assert max(expectations(e_values, n1, n0, null)) <= 1 + 1e-9
    assert max(expectations(e_values, n1, n0, [(q1, q0)])) > 1


@pytest.mark.parametrize(("n1", "n0"), BLOCKS)
@pytest.mark.parametrize("q", [0.001, 0.05, 0.5])
def test_a_block_never_favours_promotion_on_average_where_the_candidate_is_worse(n1, n0, q):
    y = np.meshgrid(np.arange(n1 + 1), np.arange(n0 + 1))
    by_ratio, by_difference = (np.exp(v) for v in log_not_worse((y[0], y[1]), (n1, n0), q, 1.25, 0.02))
    pairs = list(itertools.product(np.linspace(0, 1, 21), repeat=2))
    assert max(expectations(by_ratio, n1, n0, [(a, b) for a, b in pairs if a >= 1.25 * b])) <= 1 + 1e-7
    assert max(expectations(by_difference, n1, n0, [(a, b) for a, b in pairs if a >= b + 0.02])) <= 1 + 1e-7


def test_nothing_is_bet_while_the_candidate_looks_no_worse():
    assert float(log_worse((9, 1), (10, 10), (0.1, 0.1), 1.1)) == 0


class Server:
    """Runs of both versions, look by look."""

    def __init__(self, seed, settings=SETTINGS):
        self.rng, self.settings, self.tests = np.random.default_rng(seed), settings, RunTests()

    def look(self, n_stable, n_candidate, slowdown=1.0, size=3, base_ns=2e6):
        ours = base_ns * np.exp(0.3 * self.rng.standard_normal(n_stable))
        theirs = slowdown * base_ns * np.exp(0.3 * self.rng.standard_normal(n_candidate))
        self.tests = fold_runs(self.tests, {size: counted(ours)}, {size: counted(theirs)}, self.settings)
        return log_evidence(self.tests)


def test_thresholds_freeze_after_enough_stable_runs_and_stay():
    server = Server(1)
    server.look(199, 30)
    assert server.tests.sizes[0].edges == ()
    server.look(1, 30)
    frozen = server.tests.sizes[0]
    assert len(frozen.edges) == 3
    assert frozen.calibration == ()
    assert frozen.candidate.n == 0
    for edge, quantile in zip(frozen.edges, (2e6, 2e6 * math.exp(0.3 * 1.28)), strict=False):
        assert BOUNDS_NS[edge] >= 1.25 * quantile + 2e5 - 0.2 * quantile
    server.look(1000, 10, base_ns=9e6)
    assert server.tests.sizes[0].edges == frozen.edges


def test_the_candidates_first_runs_are_left_out():
    server = Server(2)
    server.look(300, 5)
    server.look(10, 14, slowdown=20)
    assert server.tests.sizes[0].candidate.n == 0
    server.look(10, 5)
    assert server.tests.sizes[0].candidate.n == 0
    server.look(10, 5)
    assert server.tests.sizes[0].candidate.n == 5


def test_looks_without_a_run_of_one_arm_merge_into_the_next():
    server = Server(3)
    server.look(300, 50)
    server.look(40, 0, slowdown=3)
    server.look(2, 0, slowdown=3)
    assert server.tests.sizes[0].worse == (0.0, 0.0, 0.0)
    assert server.tests.sizes[0].waiting_stable.n == 42
    server.look(0, 3, slowdown=3)
    test = server.tests.sizes[0]
    assert (test.stable.n, test.candidate.n, test.waiting_stable.n) == (42, 3, 0)
    assert test.worse != (0.0, 0.0, 0.0)


def test_a_version_twice_as_slow_is_found_and_the_sentence_says_how():
    server = Server(4)
    server.look(300, 30)
    for _ in range(40):
        server.look(45, 5, slowdown=2)
    found = find_slow(server.tests, "latency", SETTINGS)
    assert found.is_tripped
    assert found.action == "rollback"
    assert "of up to 8 rows over" in found.sentence
    assert found.counts["candidate_runs"] == 200


def test_identical_versions_are_left_alone_in_bursts_and_drifts():
    """Both versions five times slower in one look of twenty, and twice as slow from the middle on: no alarm in 12 rollouts."""
    for seed in range(12):
        server = Server(seed)
        server.look(300, 30)
        most = 0.0
        for i in range(80):
            pace = (5 if server.rng.random() < 0.05 else 1) * (2 if i > 40 else 1)
            most = max(most, server.look(18, 2, base_ns=2e6 * pace))
        assert most < math.log(1 / SETTINGS.alpha)


def test_smaller_batches_of_the_small_arm_do_not_make_it_differ():
    """The candidate runs one row at a time, the stable version eight: nothing to compare, so nothing is said."""
    tests = RunTests()
    fast, slow = counted(np.full(500, 3e5)), counted(np.full(500, 3e6))
    for _ in range(4):
        tests = fold_runs(tests, {3: slow}, {0: fast}, SETTINGS)
    found = find_slow(tests, "latency", SETTINGS)
    assert not found.is_tripped
    assert "none since" in found.sentence


def test_sizes_are_weighted_in_the_order_in_which_they_froze():
    first = SizeTest(size=5, edges=(1, 2), order=0, worse=(math.log(3), math.log(5)))
    second = SizeTest(size=2, edges=(1, 2), order=1, worse=(math.log(10), math.log(30)))
    unfrozen = SizeTest(size=1)
    assert math.exp(log_evidence(RunTests((unfrozen, second, first)))) == pytest.approx(0.5 * 4 + 0.25 * 20 + 0.25)
    assert log_evidence(RunTests()) == 0


def test_equal_versions_are_shown_to_be_no_worse_in_time():
    server = Server(6)
    server.look(300, 30)
    assert log_not_worse_by_quantile(server.tests) == ()
    for _ in range(200):
        server.look(50, 50)
    assert min(log_not_worse_by_quantile(server.tests)) >= math.log(20)
    slower = Server(6)
    slower.look(300, 30)
    for _ in range(200):
        slower.look(50, 50, slowdown=1.5)
    assert min(log_not_worse_by_quantile(slower.tests)) < 0


def test_a_histogram_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 buckets; want 106"):
        fold_runs(RunTests(), {0: (1, 2, 3)}, {}, SETTINGS)


def test_evidence_without_effect_neither_rolls_back_nor_holds():
    """1.3 % of the runs against 0.7 %: beyond doubt, and what a busy machine does to a version that runs rarely."""
    def histogram(quick: int, slow: int) -> tuple[int, ...]:
        return tuple(quick if bucket == 20 else slow if bucket == 60 else 0 for bucket in range(N_BUCKETS))

    def found(settings: LatencySettings):
        tests = fold_runs(RunTests(), {0: histogram(300, 0)}, {0: histogram(50, 0)}, settings)
        for _ in range(10):
            tests = fold_runs(tests, {0: histogram(9927, 73)}, {0: histogram(1480, 20)}, settings)
        return find_slow(tests, "latency", settings)

    finding = found(LatencySettings())
    assert finding.e_value is not None
    assert finding.limit is not None
    assert finding.e_value > finding.limit
    assert (finding.is_tripped, finding.action) == (False, "none")
    assert "under 1 % more of all runs" in finding.sentence
    strict = found(LatencySettings(effect_floor=0.0))
    assert (strict.is_tripped, strict.action) == (True, "rollback")
