"""End-to-end time of answers: reported with intervals that hold at all times, and judged against a service-level objective only.

Between the arms it is not compared: a small arm runs in smaller batches and waits differently for them, so identical versions differ.
"""

import math

from serve.routing.judge.buckets import BOUNDS_S, bucket_of
from serve.routing.judge.judgement import Finding
from serve.routing.judge.quantiles import quantile_interval
from serve.routing.judge.settings import SloSettings
from serve.routing.judge.wording import count, duration

_REPORTED = (0.5, 0.99)
_REPORT_ALPHA = 0.01


def find_slo(total_counts: tuple[tuple[int, ...], tuple[int, ...]], settings: SloSettings | None) -> tuple[Finding, ...]:
    """total_counts: answers by bucket of end-to-end time, (stable, candidate). Nothing without an objective and without counts.

    Trips when the lower confidence bound of the candidate's quantile is over the objective: its true quantile then is, with probability
    1 - alpha at all times at once. Answers of one moment share its load, so the level is exact for a steady server only.
    """
    stable, candidate = total_counts
    reports = {
        f"{name}_p{100 * q:g}": _report(counts, q) for name, counts in (("stable", stable), ("candidate", candidate)) for q in _REPORTED
    }
    counts = {"candidate_answers": sum(candidate), "stable_answers": sum(stable)}
    if settings is None:
        if not sum(candidate):
            return ()
        p50, p99 = reports["candidate_p50"], reports["candidate_p99"]
        sentence = f"end to end, candidate p50 {_text(p50)}, p99 {_text(p99)} over {count(counts['candidate_answers'], 'answer')}"
        return (Finding(test="slo", action="none", is_tripped=False, sentence=sentence, counts=counts, thresholds=reports),)
    estimate, lower, upper = quantile_interval(candidate, BOUNDS_S, settings.quantile, settings.alpha)
    # A value in the objective's own bucket may be within it: the bucket counts as kept.
    is_over = lower > 0 and lower >= BOUNDS_S[bucket_of(round(settings.seconds * 1e9))]
    return (
        Finding(
            test="slo",
            action=settings.action,
            is_tripped=is_over,
            sentence=(
                f"candidate p{100 * settings.quantile:g} is {duration(estimate)}, at least {duration(lower)}, against an objective of "
                f"{duration(settings.seconds)}, over {count(counts['candidate_answers'], 'answer')}"
            ),
            estimate=_finite(estimate),
            interval=(lower, upper) if math.isfinite(upper) else None,
            counts=counts,
            thresholds={"quantile": settings.quantile, "seconds": settings.seconds, **reports},
        ),
    )


def _report(counts: tuple[int, ...], quantile: float) -> dict[str, float | None]:
    estimate, lower, upper = quantile_interval(counts, BOUNDS_S, quantile, _REPORT_ALPHA)
    return {"estimate": _finite(estimate), "lower": lower, "upper": _finite(upper)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(report: dict[str, float | None]) -> str:
    value = report["estimate"]
    return "unknown" if value is None else duration(value)


__all__ = ["find_slo"]
