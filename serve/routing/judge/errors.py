"""Errors of the candidate against errors of the stable version, and the fast paths around that test.

The test is `eprocess.log_greater`: exact under any weight changes and base rates. Under a sticky key the counts hold each unit's first
error only. It asks for a rollback when the e-value reaches 1 / alpha and enough distinct units have failed.

The streak answers a version that is simply broken within a handful of requests: if each answer fails with probability at most theta,
independently, some k in a row fail among n with probability at most n theta^k. theta is what the stable version shows. Failures that both
versions share, as when a disk or a database is away, are no one's streak: the errors since the evidence was last at its lowest (the CUSUM
of the same bets, at one ratio) must point at the candidate as well.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve.routing.judge.eprocess import log_greater
from serve.routing.judge.judgement import Finding
from serve.routing.judge.quantiles import ratio_interval
from serve.routing.judge.settings import ErrorSettings, StreakSettings
from serve.routing.judge.strata import Pair, StratumTotals, columns, shares, total
from serve.routing.judge.wording import count, exp_capped, number, percent

_RECENT_RATIO = 10.0  # of the CUSUM's one bet
_RECENT_LIMIT = math.log(10.0)


def log_evidence(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, settings: ErrorSettings) -> npt.NDArray[np.float64]:
    """ln of the e-value of errors; counts of shape (..., n_strata). Alone, without floor or fast path."""
    return log_greater(candidate, stable, share, margin=settings.margin)


def recent_log_e(before: float, stable_errors: int, candidate_errors: int, share: float) -> float:
    """The CUSUM after a fold: max(0, what it was) plus the new errors' log bets on ratio 10. 0 at the start."""
    p = share * _RECENT_RATIO / (share * _RECENT_RATIO + 1 - share)
    return max(0.0, before) + candidate_errors * math.log(p / share) + stable_errors * math.log((1 - p) / (1 - share))


def streak_needed(
    candidate_requests: npt.ArrayLike, stable: tuple[npt.ArrayLike, npt.ArrayLike], settings: StreakSettings
) -> npt.NDArray[np.float64]:
    """Failures in a row that trip; inf while the stable version itself fails more often than max_stable_error_share.

    stable: (errors, requests). With theta = (errors + 1) / (requests + 2), at most max_stable_error_share: the smallest k of at least
    `length` with candidate_requests theta^k <= alpha. Arrays broadcast.
    """
    errors, requests = (np.asarray(v, dtype=np.float64) for v in stable)
    theta = np.minimum((errors + 1) / (requests + 2), settings.max_stable_error_share)
    positions = np.maximum(np.asarray(candidate_requests, dtype=np.float64), 1.0)
    k = np.maximum(settings.length, np.ceil(np.log(positions / settings.alpha) / -np.log(theta)))
    return np.asarray(np.where(errors > settings.max_stable_error_share * requests, np.inf, k), dtype=np.float64)


def is_candidates_own(recent: float) -> bool:
    """Whether the newest errors point at the candidate rather than at something that both versions share. recent: the CUSUM."""
    return recent >= _RECENT_LIMIT


def find_streak(strata: Sequence[StratumTotals], streak: int, own_streak: int, settings: ErrorSettings) -> Finding | None:
    """None without a streak rule. own_streak: what of the longest is the candidate's own."""
    rule = settings.streak
    if rule is None:
        return None
    requests, errors = total([s.requests for s in strata]), total([s.errors for s in strata])
    needed = float(streak_needed(requests[1], (errors[0], requests[0]), rule))
    is_long, is_tripped = streak >= needed, own_streak >= needed
    if math.isinf(needed):
        sentence = f"streaks say nothing: stable itself failed {errors[0]:,} of {count(requests[0], 'answer')}"
    elif is_tripped:
        sentence = f"candidate failed {own_streak} times in a row; stable {count(errors[0], 'error')} in {count(requests[0], 'answer')}"
    elif is_long:
        sentence = f"candidate failed {streak} times in a row, but stable failed at the same time"
    else:
        sentence = f"longest streak of candidate failures is {streak}, under {needed:.0f}"
    thresholds = {"max_stable_error_share": rule.max_stable_error_share, "streak": None if math.isinf(needed) else int(needed)}
    counts = {
        "streak": streak, "own_streak": own_streak, "stable_errors": errors[0], "stable_requests": requests[0],
        "candidate_requests": requests[1],
    }
    return Finding(test="streak", action=settings.action, is_tripped=is_tripped, sentence=sentence, counts=counts, thresholds=thresholds)


def find_errors(strata: Sequence[StratumTotals], failing_units: int, settings: ErrorSettings) -> Finding:
    """The e-value of errors with its floor. The estimate is the ratio of error rates, its interval at the test's alpha."""
    requests, errors = total([s.requests for s in strata]), total([s.errors for s in strata])
    stable, candidate = columns([s.errors for s in strata])
    log_e = float(log_evidence(candidate, stable, shares(strata), settings)) if strata else 0.0
    limit = 1 / settings.alpha
    is_evident = log_e >= math.log(limit)
    is_tripped = is_evident and failing_units >= settings.min_failing_units
    sentence = _sentence(requests, errors, exp_capped(log_e), limit)
    if is_evident and not is_tripped:
        sentence += f", but only {count(failing_units, 'unit')} failed; {settings.min_failing_units} are needed"
    interval = ratio_interval(candidate, stable, shares(strata), settings.alpha) if sum(errors) else None
    return Finding(
        test="errors",
        action=settings.action,
        is_tripped=is_tripped,
        sentence=sentence,
        e_value=exp_capped(log_e),
        limit=limit,
        estimate=_rate_ratio(strata),
        interval=interval if interval is not None and math.isfinite(interval[1]) else None,
        counts={
            "candidate_errors": errors[1], "candidate_requests": requests[1], "stable_errors": errors[0], "stable_requests": requests[0],
            "failing_units": failing_units,
        },
        thresholds={
            "margin": settings.margin, "alpha": settings.alpha, "min_failing_units": settings.min_failing_units,
            "ratio_at_least": interval[0] if interval else 0.0,
        },
    )


def _sentence(requests: Pair, errors: Pair, e_value: float, limit: float) -> str:
    rates = [f" ({percent(e / n)})" if n else "" for e, n in zip(errors, requests, strict=True)]
    candidate = f"candidate {count(errors[1], 'error')} in {count(requests[1], 'answer')}{rates[1]}"
    return f"{candidate}, stable {errors[0]:,} in {requests[0]:,}{rates[0]}; evidence {number(e_value)} against a limit of {number(limit)}"


def _rate_ratio(strata: Sequence[StratumTotals]) -> float | None:
    """Mantel-Haenszel ratio of error rates over the strata (Rothman, Greenland & Lash, Modern Epidemiology, chapter 15).

    None without stable errors.
    """
    above = below = 0.0
    for s in strata:
        n = sum(s.requests)
        if n:
            above += s.errors[1] * s.requests[0] / n
            below += s.errors[0] * s.requests[1] / n
    return above / below if below else None


__all__ = ["find_errors", "find_streak", "is_candidates_own", "log_evidence", "recent_log_e", "streak_needed"]
