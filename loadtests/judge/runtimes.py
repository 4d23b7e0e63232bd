"""Run times through the judge's own latency test: looks of a quarter of a second, histograms of runs, thresholds that it freezes itself."""

import math

import numpy as np

from loadtests.judge.detection import quantiles
from loadtests.judge.tables import Bound, Floats, Ints, Scale, Table, at_most, figure, percent, seeded
from serve.routing.judge.buckets import BOUNDS_NS, N_BUCKETS
from serve.routing.judge.latency import RunTests, fold_runs, log_evidence
from serve.routing.judge.settings import LatencySettings

SHARE = 0.10
RUNS_A_LOOK = 400
SIZE = 0  # batches of one row
# The stable version's run times are log-normal, placed so that TAIL of them are over the edge of the bucket that holds their p99.
SPREAD, TAIL, EDGE_NS = 0.5, 0.0085, 10 << 20
MEDIAN_NS = EDGE_NS / math.exp(2.387 * SPREAD)

# The stream of the table before, through blocks: one threshold, at the quantile itself.
PLAIN = LatencySettings(alpha=0.01, margin=0.0, quantiles=(0.99,), slack=0.0, floor_seconds=0.0)
# What the stream alone takes (172 slow answers, section 2.1 of the design), and how many requests bring as many stable runs.
STREAM = 172 / (TAIL * (1 + SHARE))
CAREFUL_CASE = "twice as many over the p99, frozen from 10,000 runs"
FREEZE = 10_000 / (1 - SHARE)
CAREFUL = PLAIN.model_copy(update={"calibration_runs": 10_000})


def cumulative(times: float = 1.0, doubled_tail: float = 0.0) -> Floats:
    """P(run time within bucket's bound), shape (N_BUCKETS,): the stable version's, each `times` longer.

    doubled_tail: instead, runs above this quantile are twice as frequent, and all others rarer alike.
    """
    z = (np.log(BOUNDS_NS) - math.log(MEDIAN_NS * times)) / SPREAD
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z] + [1.0])
    if doubled_tail:
        edge = int(np.searchsorted(below, doubled_tail))
        tail = 1 - below[edge]
        below = np.where(np.arange(N_BUCKETS) <= edge, below * (1 - 2 * tail) / below[edge], 1 - 2 * (1 - below))
    return below


def flagged_after(settings: LatencySettings, candidate: Floats, looks: int, rng: np.random.Generator) -> int:
    """Runs of both versions until the latency test trips; -1: not within the looks."""
    cells = np.concatenate([SHARE * np.diff(candidate, prepend=0.0), (1 - SHARE) * np.diff(cumulative(), prepend=0.0)])
    counts = rng.multinomial(RUNS_A_LOOK, np.maximum(cells, 0), size=looks)
    tests, limit = RunTests(), math.log(1 / settings.alpha)
    for look in range(looks):
        ours, theirs = counts[look, :N_BUCKETS].tolist(), counts[look, N_BUCKETS:].tolist()
        tests = fold_runs(tests, {SIZE: theirs}, {SIZE: ours}, settings)
        if log_evidence(tests) >= limit:
            return (look + 1) * RUNS_A_LOOK
    return -1


def _many(settings: LatencySettings, candidate: Floats, looks: int, runs: int, key: int) -> Ints:
    rng = seeded(30, key)
    return np.array([flagged_after(settings, candidate, looks, rng) for _ in range(runs)], dtype=np.int64)


def _cases(default: LatencySettings) -> list[tuple[str, LatencySettings, Floats, int, str]]:
    # (name, settings, the candidate's times, looks, reference)
    reference = f"{figure(STREAM)}, and {figure(FREEZE)} to freeze"
    return [
        (CAREFUL_CASE, CAREFUL, cumulative(doubled_tail=0.99), 250, reference),
        ("twice as many over the p99, frozen from 200 runs", PLAIN, cumulative(doubled_tail=0.99), 250, ""),
        ("all runs 1.3 times longer, defaults", default, cumulative(1.3), 100, ""),
        ("all runs 1.5 times longer, defaults", default, cumulative(1.5), 40, ""),
        ("all runs 2 times longer, defaults", default, cumulative(2.0), 20, ""),
    ]


def run_times(scale: Scale) -> list[Table]:
    """Run times: requests until a slower candidate is flagged by the production test, and how often an equal one is."""
    default, runs = LatencySettings(), scale.slow_runs
    rows = []
    series: dict[str, float] = {}
    for i, (name, settings, candidate, looks, reference) in enumerate(_cases(default)):
        at = _many(settings, candidate, looks, max(runs // 2, 1) if settings.margin == 0 else runs, i)
        median, p90 = quantiles(at)
        series[name] = median
        rows.append([name, figure(median), figure(p90), reference, f"{percent(float((at >= 0).mean()))} in {figure(looks * RUNS_A_LOOK)}"])
        scale.say(f"{name}: {figure(median)} runs")
    wrong = int((_many(default, cumulative(), 100, runs, 9) >= 0).sum())
    rows.append(["the same run times, defaults", "", "", "", at_most(wrong, runs)])
    return [
        Table(
            "Requests until a slower candidate is flagged: run times through the production test",
            ["candidate", "median", "p90", "reference", "flagged"],
            rows,
            [
                f"{runs:,} rollouts (half as many in the first two rows) at a share of {percent(SHARE)}.",
                f"{RUNS_A_LOOK} runs of one row between looks.",
                f"Run times are log-normal, median {MEDIAN_NS / 1e6:.3g} ms, sigma {SPREAD:g}.",
                "The stable runs that freeze the thresholds are counted in.",
                f"Defaults: alpha {default.alpha:g}, margin {default.margin:g}, p50, p90 and p99 stretched by {percent(default.slack)}.",
                "The first two rows: alpha .01, without margin or stretch.",
                "How often each version runs is not drawn by us, so this test cannot use the arm of each slow run as the error test does.",
                "It learns both shares as it goes, which costs data beside the stream above.",
                f"Thresholds lie on edges of histogram buckets: {percent(TAIL)} of the stable runs are over the one at p99, not 1 %.",
                "200 runs place a p99 only roughly, and where it lands too high a doubled tail takes much longer to show.",
            ],
            [
                Bound("requests through the production test over the reference", series[CAREFUL_CASE] / (STREAM + FREEZE), most=1.5),
                Bound("false flags of the latency test", wrong / runs, most=default.alpha),
            ],
            series,
        )
    ]


__all__ = ["run_times"]
