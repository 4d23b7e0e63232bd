"""From findings to one verdict. The order of precedence is here and nowhere else: rollback, hold, promote, continue.

Rules for editing this file: a new test is one more line in `_findings`; it says rollback or hold by its own action, never by a branch
here. Silence is never consent: what has no data yields a finding that holds.
"""

from collections.abc import Sequence

from serve.routing.judge.errors import find_errors, find_streak
from serve.routing.judge.judgement import Finding, Judgement, Verdict
from serve.routing.judge.latency import find_slow
from serve.routing.judge.observations import Progress
from serve.routing.judge.outcome import find_outcome
from serve.routing.judge.outputs import find_outputs
from serve.routing.judge.promotion import find_agreement, find_promotion
from serve.routing.judge.ratio import find_ratio
from serve.routing.judge.settings import JudgeSettings
from serve.routing.judge.shadow import find_shadow
from serve.routing.judge.slo import find_slo
from serve.routing.judge.state import JudgeState
from serve.routing.judge.strata import total
from serve.routing.judge.wording import count, number


def judge(state: JudgeState, settings: JudgeSettings, progress: Progress) -> Judgement:
    """Pure, and valid however often it is asked. Every finding is in the answer, tripped or not."""
    findings = [*_findings(state, settings, progress)]
    findings += _suspicions(findings, settings)
    findings.append(_find_progress(state, progress))
    if progress.is_shadow_stage:
        # Later steps make no pairs: a guardrail that is left undecided here could never be shown, and the rollout never promoted.
        guardrails = find_agreement(state.shadow, settings)
    else:
        guardrails = find_promotion(state.strata, state.runs, state.shadow, settings, state.outcomes)
    verdict, why = _decide(findings, guardrails, state, progress)
    return Judgement(
        verdict=verdict,
        why=why,
        findings=(*findings, *guardrails),
        generation=state.generation,
        step_done=verdict in (Verdict.PROMOTE, Verdict.CONTINUE) and is_step_reached(state, progress)
        and (not progress.is_shadow_stage or all(finding.is_tripped for finding in guardrails)),
    )


def is_step_reached(state: JudgeState, progress: Progress) -> bool:
    """Whether the step's minimum time and samples are there: candidate answers, or compared pairs while only shadows run."""
    return progress.elapsed_s >= progress.needed_s and _samples(state, progress) >= progress.needed_requests


def _samples(state: JudgeState, progress: Progress) -> int:
    return max(progress.candidate_requests, state.shadow.compared) if progress.is_shadow_stage else progress.candidate_requests


def _findings(state: JudgeState, settings: JudgeSettings, progress: Progress) -> Sequence[Finding]:
    shadow = find_shadow(state.shadow, settings.shadow)
    if progress.is_shadow_stage:
        return shadow
    found: list[Finding | None] = [
        find_streak(state.strata, state.streak, state.own_streak, settings.errors),
        find_errors(state.strata, state.failing_units, settings.errors),
        find_slow(state.runs, "latency", settings.latency),
        find_slow(state.waits, "wait", settings.waits),
        *find_slo(state.total_counts, settings.slo),
        find_outputs(state.groups, state.strata, settings.outputs),
        find_ratio(state.strata, settings.ratio),
        *shadow,
    ]
    found += [find_outcome([t for t in state.outcomes if t.name == o.name], o) for o in settings.outcomes]
    return [finding for finding in found if finding is not None]


def _suspicions(findings: Sequence[Finding], settings: JudgeSettings) -> list[Finding]:
    """Evidence that is not enough to roll back but too much to give the candidate more: hold while it lasts."""
    if settings.suspicion_alpha is None:
        return []
    level = 1 / settings.suspicion_alpha
    return [
        Finding(
            test="progress",
            action="hold",
            is_tripped=True,
            sentence=f"not shown to be worse, but no more traffic while the evidence is over {number(level)}: {finding.sentence}",
            e_value=finding.e_value,
            limit=level,
        )
        for finding in findings
        if finding.action == "rollback" and not finding.is_tripped and finding.e_value is not None and finding.e_value >= level
        and finding.limit is not None and level < finding.limit
    ]


def _find_progress(state: JudgeState, progress: Progress) -> Finding:
    """Holds when the step's time is over and there is nothing to judge by."""
    missing = ""
    n_stable = total([s.requests for s in state.strata])[0]
    if progress.elapsed_s >= progress.needed_s:
        if _samples(state, progress) == 0:
            missing = "no shadow pair was compared" if progress.is_shadow_stage else "no candidate request was judged"
        elif not progress.is_shadow_stage and n_stable == 0:
            missing = "no stable request was judged"
    noun = "shadow pair" if progress.is_shadow_stage else "candidate request"
    counted = (
        f"step {progress.step}: {_samples(state, progress):,} of {count(progress.needed_requests, noun)}, "
        f"{progress.elapsed_s:.0f} of {progress.needed_s:.0f} s"
    )
    sentence = f"{missing} in {progress.elapsed_s:.0f} s, and no data is no pass" if missing else counted
    return Finding(
        test="progress",
        action="hold" if missing else "none",
        is_tripped=bool(missing),
        sentence=sentence,
        counts={
            "step": progress.step, "samples": _samples(state, progress), "needed": progress.needed_requests, "stable_requests": n_stable,
        },
        thresholds={"elapsed_s": progress.elapsed_s, "needed_s": progress.needed_s},
    )


def _decide(findings: Sequence[Finding], guardrails: Sequence[Finding], state: JudgeState, progress: Progress) -> tuple[Verdict, str]:
    for verdict in (Verdict.ROLLBACK, Verdict.HOLD):
        for finding in findings:
            if finding.is_tripped and finding.action == verdict.value:
                return verdict, finding.sentence
    counted = findings[-1].sentence
    waiting = [finding for finding in guardrails if not finding.is_tripped]
    is_awaited = progress.is_last_step or progress.is_shadow_stage
    if not is_awaited or not is_step_reached(state, progress) or (progress.is_shadow_stage and not waiting):
        return Verdict.CONTINUE, counted
    if waiting or not guardrails:
        return Verdict.CONTINUE, waiting[0].sentence if waiting else "no guardrail is left to promote by; promote by hand"
    return Verdict.PROMOTE, "; ".join(finding.sentence for finding in guardrails)


__all__ = ["is_step_reached", "judge"]
