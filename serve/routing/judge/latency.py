"""Run times and waits: is the candidate slow more often than the stable version?

A small arm runs in smaller batches, and a smaller batch is quicker: comparing end-to-end times, or all runs together, would find identical
versions different. So runs are compared within one size of batch (log2 of its rows). "Slow" is over a threshold that is frozen from the
stable version's first runs of that size: its p50, p90 and p99, each stretched by (1 + slack) and floor_seconds and rounded up to the edge
of a histogram bucket. The stretch is there because a version that runs rarely finds its weights cold in the caches: some tens of
microseconds, a difference that is real and not a reason to roll back. Runs before the freeze, and the candidate's first runs, are not
tested.

Per size and threshold, `blocks` gives an e-process on what each look brings. Looks in which one version made no run are merged into the
next. The e-values of a size's thresholds are averaged (Vovk & Wang, E-values: calibration, combination and applications, Annals of
Statistics 49(3) 2021, arXiv 1912.06116: no symmetric way to merge dependent e-values is essentially better). Sizes are
weighted 1/2, 1/4, 1/8 ... in the order in which they froze, and what is not given to any stays at 1: fixed bets on each, made before its
first tested run.

Waits go through the same machinery as one more histogram, and by default only hold: how long a request waits for its batch follows from
capacity and from the arm's share, so two identical versions with unequal shares may differ.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from serve.routing.judge.blocks import log_not_worse, log_worse
from serve.routing.judge.buckets import BOUNDS_NS, N_BUCKETS, quantile_bucket
from serve.routing.judge.judgement import Finding
from serve.routing.judge.settings import LatencySettings
from serve.routing.judge.wording import count, duration, exp_capped, number, percent

Counts = tuple[int, ...]
Floats = npt.NDArray[np.float64]
_PRIOR_RUNS = 20.0


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of one version, and how many were over each threshold."""

    n: int = 0
    slow: Counts = ()

    def plus(self, other: "Runs") -> "Runs":
        if not self.slow or not other.slow:
            return Runs(self.n + other.n, self.slow or other.slow)
        return Runs(self.n + other.n, tuple(a + b for a, b in zip(self.slow, other.slow, strict=True)))


@dataclass(frozen=True, slots=True)
class SizeTest:
    """One size of batch. calibration: the stable version's runs by bucket, until it freezes.

    edges: per threshold, the last bucket that is not slow; () before. priors: the stable share of slow runs as calibrated. order: 0 for
    the first size that froze. stable, candidate: tested runs; waiting_*: runs of an unfinished block. worse, by_ratio, by_difference: ln of
    the e-values per threshold, against "no worse", and "worse by the margin" in its two forms.
    """

    size: int
    calibration: Counts = ()
    edges: Counts = ()
    priors: tuple[float, ...] = ()
    order: int = 0
    stable: Runs = Runs()
    candidate: Runs = Runs()
    waiting_stable: Runs = Runs()
    waiting_candidate: Runs = Runs()
    worse: tuple[float, ...] = ()
    by_ratio: tuple[float, ...] = ()
    by_difference: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RunTests:
    """All sizes, ascending. n_candidate: the candidate's runs so far, warm-up included."""

    sizes: tuple[SizeTest, ...] = ()
    n_candidate: int = 0


def fold_runs(
    tests: RunTests, stable: Mapping[int, Sequence[int]], candidate: Mapping[int, Sequence[int]], settings: LatencySettings
) -> RunTests:
    """One look: counts by size and bucket. Raises ValueError for a histogram of another length than `buckets.N_BUCKETS`."""
    is_warm = tests.n_candidate >= settings.warmup_runs
    by_size = {test.size: test for test in tests.sizes}
    n_frozen = sum(bool(test.edges) for test in tests.sizes)
    for size in sorted({*stable, *candidate}):
        test = by_size.get(size, SizeTest(size))
        ours, theirs = _checked(stable.get(size, ())), _checked(candidate.get(size, ()))
        if test.edges:
            by_size[size] = _test(test, ours, theirs, settings) if is_warm else test
        else:
            by_size[size] = _calibrate(test, ours, n_frozen, settings)
            n_frozen += bool(by_size[size].edges)
    n_candidate = tests.n_candidate + sum(sum(counts) for counts in candidate.values())
    return RunTests(tuple(by_size[size] for size in sorted(by_size)), n_candidate)


def _checked(counts: Sequence[int]) -> Counts:
    if counts and len(counts) != N_BUCKETS:
        raise ValueError(f"a histogram of {len(counts)} buckets; want {N_BUCKETS}")
    return tuple(counts)


def _calibrate(test: SizeTest, stable: Counts, n_frozen: int, settings: LatencySettings) -> SizeTest:
    if not stable:
        return test
    counts = tuple(a + b for a, b in zip(test.calibration, stable, strict=True)) if test.calibration else stable
    n = sum(counts)
    if n < settings.calibration_runs:
        return replace(test, calibration=counts)
    edges = tuple(_edge(counts, quantile, settings) for quantile in settings.quantiles)
    zeros = (0.0,) * len(edges)
    return SizeTest(
        size=test.size,
        edges=edges,
        priors=tuple((sum(counts[edge + 1 :]) + 0.5) / (n + 1) for edge in edges),
        order=n_frozen,
        worse=zeros,
        by_ratio=zeros,
        by_difference=zeros,
    )


def _edge(counts: Counts, quantile: float, settings: LatencySettings) -> int:
    bucket = min(quantile_bucket(counts, quantile), len(BOUNDS_NS) - 1)
    threshold = BOUNDS_NS[bucket] * (1 + settings.slack) + settings.floor_seconds * 1e9
    return min(bisect_left(BOUNDS_NS, threshold), len(BOUNDS_NS) - 1)


def _test(test: SizeTest, stable: Counts, candidate: Counts, settings: LatencySettings) -> SizeTest:
    ours, theirs = test.waiting_stable.plus(_runs(stable, test.edges)), test.waiting_candidate.plus(_runs(candidate, test.edges))
    if not ours.n or not theirs.n:
        return replace(test, waiting_stable=ours, waiting_candidate=theirs)
    y, n = (np.array(theirs.slow), np.array(ours.slow)), (theirs.n, ours.n)
    worse = log_worse(y, n, _worse_plug_in(test, settings), 1 + settings.margin)
    by_ratio, by_difference = log_not_worse(
        y, n, _equal_plug_in(test), settings.noninferiority_ratio, settings.noninferiority_absolute
    )
    return replace(
        test,
        stable=test.stable.plus(ours),
        candidate=test.candidate.plus(theirs),
        waiting_stable=Runs(),
        waiting_candidate=Runs(),
        worse=_plus(test.worse, worse),
        by_ratio=_plus(test.by_ratio, by_ratio),
        by_difference=_plus(test.by_difference, by_difference),
    )


def _runs(counts: Counts, edges: Counts) -> Runs:
    return Runs(sum(counts), tuple(sum(counts[edge + 1 :]) for edge in edges))


def _plus(before: tuple[float, ...], block: Floats) -> tuple[float, ...]:
    return tuple(float(a + b) for a, b in zip(before, block, strict=True))


def _past(runs: Runs, n_thresholds: int) -> Floats:
    return np.array(runs.slow or (0,) * n_thresholds, dtype=np.float64)


def _worse_plug_in(test: SizeTest, settings: LatencySettings) -> tuple[Floats, Floats]:
    """Posterior means from past blocks.

    The stable prior is the calibrated share with the weight of 20 runs; the candidate's is twice the null's share with the weight of one
    slow run: optimistic about an effect, and quickly overruled.
    """
    priors = np.array(test.priors)
    doubled = np.minimum(2 * (1 + settings.margin) * priors, (1 + priors) / 2)
    q1 = (_past(test.candidate, len(priors)) + 1) / (test.candidate.n + 1 / doubled)
    q0 = (_past(test.stable, len(priors)) + _PRIOR_RUNS * priors) / (test.stable.n + _PRIOR_RUNS)
    return q1, q0


def _equal_plug_in(test: SizeTest) -> Floats:
    priors = np.array(test.priors)
    slow = _past(test.candidate, len(priors)) + _past(test.stable, len(priors))
    return np.asarray((slow + _PRIOR_RUNS * priors) / (test.candidate.n + test.stable.n + _PRIOR_RUNS), dtype=np.float64)


def log_evidence(tests: RunTests) -> float:
    """ln of the weighted average over sizes of the average over thresholds. 0 before anything froze."""
    frozen = [test for test in tests.sizes if test.edges]
    logs = [-(test.order + 1) * math.log(2) + float(_log_mean(test.worse)) for test in frozen]
    logs.append(-len(frozen) * math.log(2))
    return float(np.logaddexp.reduce(logs))


def _log_mean(logs: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def log_not_worse_by_quantile(tests: RunTests) -> tuple[float, ...]:
    """ln of the e-value of non-inferiority, for each of the quantiles; () before any run was tested.

    Sizes multiply: the null of each is that the candidate is worse by the margin in every size of batch. The relative and the absolute form
    are averaged, so that either may carry it.
    """
    tested = [test for test in tests.sizes if test.candidate.n]
    if not tested:
        return ()
    by_ratio = np.sum([test.by_ratio for test in tested], axis=0)
    by_difference = np.sum([test.by_difference for test in tested], axis=0)
    return tuple(float(v) for v in np.logaddexp(by_ratio, by_difference) - math.log(2))


def find_slow(tests: RunTests, test_name: Literal["latency", "wait"], settings: LatencySettings) -> Finding:
    """The finding of run times or of waits; its counts and thresholds are those of the size and threshold with most evidence."""
    limit = 1 / settings.alpha
    what = "runs" if test_name == "latency" else "waits"
    tested = [test for test in tests.sizes if test.candidate.n]
    if not tested:
        n_frozen = sum(bool(test.edges) for test in tests.sizes)
        lacking = "the candidate has made none since" if n_frozen else f"stable has not made {settings.calibration_runs} of one size yet"
        why = f"no {what} to compare: {lacking}"
        return Finding(test=test_name, action=settings.action, is_tripped=False, sentence=why, e_value=1.0, limit=limit)
    log_e = log_evidence(tests)
    lead, i = max(((test, i) for test in tested for i in range(len(test.edges))), key=lambda pair: pair[0].worse[pair[1]])
    seconds = BOUNDS_NS[lead.edges[i]] / 1e9
    ours, theirs = (lead.stable.slow[i], lead.stable.n), (lead.candidate.slow[i], lead.candidate.n)
    # Evidence is not effect: a rarely run version meets colder caches and later wake-ups, and on a busy machine a few more of its runs are
    # slow for certain. What is under the floor does neither roll back nor hold.
    is_small = theirs[0] / theirs[1] - ours[0] / ours[1] < settings.effect_floor if ours[1] else False
    aside = f", but under {percent(settings.effect_floor)} more of all runs" if is_small and log_e >= math.log(limit) else ""
    of = f" of up to {count(1 << lead.size, 'row')}" if test_name == "latency" else ""
    return Finding(
        test=test_name,
        action="none" if is_small else settings.action,
        is_tripped=log_e >= math.log(limit) and not is_small,
        sentence=(
            f"candidate {theirs[0]:,} of {theirs[1]:,} {what}{of} over {duration(seconds)}, stable {ours[0]:,} of {ours[1]:,}; "
            f"evidence {number(exp_capped(log_e))} against a limit of {number(limit)}{aside}"
        ),
        e_value=exp_capped(log_e),
        limit=limit,
        estimate=(theirs[0] / theirs[1]) / (ours[0] / ours[1]) if ours[0] else None,
        counts={"candidate_slow": theirs[0], "candidate_runs": theirs[1], "stable_slow": ours[0], "stable_runs": ours[1]},
        thresholds={
            "quantile": settings.quantiles[i], "seconds": seconds, "max_rows": 1 << lead.size, "margin": settings.margin,
            "effect_floor": settings.effect_floor,
            "all_seconds": {str(1 << test.size): [BOUNDS_NS[edge] / 1e9 for edge in test.edges] for test in tests.sizes if test.edges},
        },
    )


__all__ = ["RunTests", "Runs", "SizeTest", "find_slow", "fold_runs", "log_evidence", "log_not_worse_by_quantile"]
