"""Promotion: the candidate is shown to be no worse than a margin, on every guardrail, over the whole rollout.

Each guardrail rejects "the candidate is worse by the margin" at promote_alpha. All must: promoting a version that is bad on some guardrail
needs that guardrail's own false rejection, so the probability stays under promote_alpha without a correction for their number (an
intersection-union test; Schultzberg, Ankargren & Franberg, Risk-aware product decisions in A/B tests with multiple metrics, arXiv
2402.11609). What more guardrails cost is time.

A rate may pass in either of two forms, relative (the grid of `eprocess` below the ratio) or absolute (its own share is under a small
number: without errors, some ln(4/alpha) / absolute answers). The two e-values are averaged: one rejection at 1 / alpha, of the null that
both forms share.
"""

import math
from collections.abc import Mapping, Sequence

from serve.routing.judge.eprocess import log_less
from serve.routing.judge.judgement import Finding
from serve.routing.judge.latency import RunTests, log_not_worse_by_quantile
from serve.routing.judge.observations import ShadowCounts
from serve.routing.judge.outcome import OutcomeTotals, log_not_worse
from serve.routing.judge.settings import ErrorSettings, JudgeSettings, OutcomeSettings
from serve.routing.judge.shadow import log_below, pairs_wanted
from serve.routing.judge.strata import StratumTotals, columns, shares, total
from serve.routing.judge.wording import count, exp_capped, number

_BASIS = ("candidate_requests", "candidate_runs", "candidate_values")


def log_errors_not_worse(strata: Sequence[StratumTotals], settings: ErrorSettings) -> float:
    """ln of the e-value against H0: the candidate's error rate is too high by both forms.

    It is noninferiority_ratio times the stable one's or more, and noninferiority_absolute or more.
    """
    if not strata:
        return 0.0
    stable, candidate = columns([s.errors for s in strata])
    requests, errors = total([s.requests for s in strata]), total([s.errors for s in strata])
    relative = float(log_less(candidate, stable, shares(strata), ratio=settings.noninferiority_ratio))
    absolute = float(log_below(min(errors[1], requests[1]), requests[1], settings.noninferiority_absolute))
    top = max(relative, absolute)
    return top + math.log((math.exp(relative - top) + math.exp(absolute - top)) / 2)


def find_promotion(
    strata: Sequence[StratumTotals], runs: RunTests, shadow: ShadowCounts, settings: JudgeSettings,
    outcomes: Sequence[OutcomeTotals] = (),
) -> tuple[Finding, ...]:
    """One finding a guardrail, tripped where the candidate is shown to be no worse. A test whose action is none guards nothing."""
    limit = 1 / settings.promote_alpha
    found = []
    if settings.errors.action != "none":
        found.append(_errors(strata, settings.errors, limit))
    if settings.latency.action != "none":
        found.append(_latency(runs, settings, limit))
    found += find_agreement(shadow, settings)
    wanted = [o for o in settings.outcomes if o.promote_margin is not None and o.action != "none"]
    found += [_outcome([t for t in outcomes if t.name == o.name], o, settings.promote_alpha) for o in wanted]
    return tuple(found)


def find_agreement(shadow: ShadowCounts, settings: JudgeSettings) -> tuple[Finding, ...]:
    """The guardrail that shadow pairs alone decide; none where no pair was compared, or the test's action is none."""
    if settings.shadow.action == "none" or not shadow.compared:
        return ()
    return (_shadow(shadow, settings, 1 / settings.promote_alpha),)


def _errors(strata: Sequence[StratumTotals], settings: ErrorSettings, limit: float) -> Finding:
    requests, errors = total([s.requests for s in strata]), total([s.errors for s in strata])
    counts = {
        "candidate_errors": errors[1], "candidate_requests": requests[1], "stable_errors": errors[0], "stable_requests": requests[0],
    }
    wanted = f"error rate under {settings.noninferiority_ratio:g} times stable's or {100 * settings.noninferiority_absolute:g} %"
    thresholds = {"ratio": settings.noninferiority_ratio, "absolute": settings.noninferiority_absolute}
    return _finding("errors", wanted, log_errors_not_worse(strata, settings), limit, counts, thresholds)


def _latency(runs: RunTests, settings: JudgeSettings, limit: float) -> Finding:
    by_quantile = log_not_worse_by_quantile(runs)
    counts = {
        "candidate_runs": sum(test.candidate.n for test in runs.sizes), "stable_runs": sum(test.stable.n for test in runs.sizes),
    }
    rule = settings.latency
    wanted = f"slow runs under {rule.noninferiority_ratio:g} times stable's or {100 * rule.noninferiority_absolute:g} % more of all"
    thresholds = {
        "ratio": rule.noninferiority_ratio, "absolute": rule.noninferiority_absolute,
        "e_values": {f"{q:g}": exp_capped(log_e) for q, log_e in zip(rule.quantiles, by_quantile, strict=False)},
    }
    return _finding("latency", wanted, min(by_quantile, default=0.0), limit, counts, thresholds)


def _shadow(shadow: ShadowCounts, settings: JudgeSettings, limit: float) -> Finding:
    total_disagreement = min(shadow.disagreement, float(shadow.compared))
    log_e = float(log_below(total_disagreement, shadow.compared, settings.shadow.max_disagreement))
    wanted = f"shadow disagreement under {100 * settings.shadow.max_disagreement:g} %"
    basis = f" by {count(shadow.compared, 'shadow pair')}"
    if log_e < math.log(limit):
        pairs = pairs_wanted(total_disagreement, shadow.compared, settings.shadow.max_disagreement, limit)
        basis += f", about {pairs:,} wanted if no more disagree"
    counts = {"compared": shadow.compared}
    thresholds = {"max_disagreement": settings.shadow.max_disagreement, "disagreement": total_disagreement}
    return _finding("shadow", wanted, log_e, limit, counts, thresholds, basis)


def _outcome(totals: Sequence[OutcomeTotals], rule: OutcomeSettings, alpha: float) -> Finding:
    counts = {"candidate_values": sum(t.candidate.n for t in totals), "stable_values": sum(t.stable.n for t in totals)}
    wanted = f"{rule.name} worse by less than {rule.promote_margin:g}"
    thresholds = {"promote_margin": rule.promote_margin, "min_values": rule.min_values}
    return _finding(f"outcome_{rule.name}", wanted, log_not_worse(totals, rule, alpha), 1 / alpha, counts, thresholds)


def _finding(guardrail: str, wanted: str, log_e: float, limit: float, counts: dict[str, int], thresholds: Mapping[str, object],
             basis: str = "") -> Finding:
    is_shown = log_e >= math.log(limit)
    e_value = exp_capped(log_e)
    basis = basis or next((f" by {count(n, key.replace('_', ' ').removesuffix('s'))}" for key, n in counts.items() if key in _BASIS), "")
    return Finding(
        test="promotion",
        action="none",
        is_tripped=is_shown,
        sentence=f"{wanted}: {'shown' if is_shown else 'not shown yet'}{basis} (evidence {number(e_value)} of {number(limit)})",
        e_value=e_value,
        limit=limit,
        counts=counts,
        thresholds={"guardrail": guardrail, **thresholds},
    )


__all__ = ["find_agreement", "find_promotion", "log_errors_not_worse"]
