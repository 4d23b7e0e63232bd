"""From counters that only grow to what the judge is told: the difference between two looks. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from serve.routing.judge.observations import ArmCounts, Delta, OutcomeCounts, OutcomeSums, RunCounts, ShadowCounts, Stratum
from serve.traffic import ArmReading, OutcomeReading, OutcomeTally, PlanReading, RunReading, ShadowReading

# "generation/metric" -> what has been taken of it, (stable, candidate).
Taken = Mapping[str, tuple[OutcomeTally, OutcomeTally]]


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that one look saw. plans: by generation; stable_runs, candidate_runs: of the two versions."""

    plans: Mapping[int, PlanReading] = field(default_factory=dict)
    stable_runs: RunReading = field(default_factory=lambda: RunReading("", ""))
    candidate_runs: RunReading = field(default_factory=lambda: RunReading("", ""))


@dataclass(frozen=True, slots=True)
class Arms:
    """Names of the two arms, the candidate's version, and per generation the candidate's share of what both are assigned, as set."""

    stable: str
    candidate: str
    candidate_version: str
    shares: Mapping[int, float]


def look(plans: Sequence[PlanReading], stable_runs: RunReading, candidate_runs: RunReading) -> Look:
    """A look from readings. A generation that was taken apart and built again (a version was reloaded) appears once, with its sums."""
    by_generation: dict[int, PlanReading] = {}
    for reading in plans:
        by_generation[reading.generation] = reading
    return Look(by_generation, stable_runs, candidate_runs)


def difference(before: Look, after: Look, arms: Arms) -> Delta:
    """What happened between two looks."""
    strata = []
    shadow = ShadowCounts()
    for generation, plan in sorted(after.plans.items()):
        former = before.plans.get(generation)
        share = arms.shares.get(generation, 0.0)
        if 0 < share < 1:
            strata.append(_stratum(generation, share, _arm(former, arms.stable), _arm(plan, arms.stable), _arm(former, arms.candidate),
                                   _arm(plan, arms.candidate)))
        shadow = _plus(shadow, _shadow(former, arms.candidate_version), _shadow(plan, arms.candidate_version))
    return Delta(
        strata=tuple(stratum for stratum in strata if _has_news(stratum)),
        stable_runs=_runs(before.stable_runs, after.stable_runs),
        candidate_runs=_runs(before.candidate_runs, after.candidate_runs),
        shadow=shadow,
        streak=max((plan.longest_streak for plan in after.plans.values()), default=0),
        failing_units=sum(stratum.candidate.errors for stratum in strata),
    )


def outcome_news(
    readings: Iterable[OutcomeReading], taken: Taken, arms: Arms, names: Collection[str]
) -> tuple[tuple[OutcomeCounts, ...], Taken]:
    """Values that feedback brought since `taken`, and what is taken with them. names: of the metrics that are judged.

    The answers' generation decides about the share under which a value counts, however late the label came. Sums that count less than was
    taken are of a join that began anew: nothing of them is news until they have caught up.
    """
    held = dict(taken)
    counts = []
    for reading in readings:
        share = arms.shares.get(reading.generation, 0.0)
        if reading.name not in names or not 0 < share < 1:
            continue
        key = f"{reading.generation}/{reading.name}"
        before = held.get(key, (OutcomeTally(), OutcomeTally()))
        after = (reading.arms.get(arms.stable, OutcomeTally()), reading.arms.get(arms.candidate, OutcomeTally()))
        if after == before or any(new.n < old.n for old, new in zip(before, after, strict=True)):
            continue
        held[key] = after
        stable, candidate = (_values(old, new) for old, new in zip(before, after, strict=True))
        counts.append(OutcomeCounts(reading.name, share, stable, candidate))
    return tuple(counts), held


def _values(before: OutcomeTally, after: OutcomeTally) -> OutcomeSums:
    return OutcomeSums(after.n - before.n, after.total - before.total, after.squares - before.squares)


def _arm(plan: PlanReading | None, name: str) -> ArmReading:
    return next((arm for arm in plan.arms if arm.name == name), ArmReading(name, "")) if plan is not None else ArmReading(name, "")


def _shadow(plan: PlanReading | None, version: str) -> ShadowReading:
    found = ShadowReading(version)
    return next((shadow for shadow in plan.shadows if shadow.version == version), found) if plan is not None else found


def _stratum(
    generation: int, share: float, stable0: ArmReading, stable1: ArmReading, candidate0: ArmReading, candidate1: ArmReading
) -> Stratum:
    return Stratum(
        generation=generation, share=share, stable=_counts(stable0, stable1), candidate=_counts(candidate0, candidate1),
        # A sticky unit is assigned once, however often it comes: its requests say nothing about the split.
        assigned=(_drawn(stable0, stable1), _drawn(candidate0, candidate1)),
    )


def _counts(before: ArmReading, after: ArmReading) -> ArmCounts:
    outputs = {number: count - before.outputs.get(number, 0) for number, count in after.outputs.items()}
    return ArmCounts(
        requests=_less(after.judged, before.judged),
        errors=_less(after.judged_errors, before.judged_errors),
        outputs={number: count for number, count in outputs.items() if count > 0},
        total_counts=_buckets(before.total_counts, after.total_counts),
    )


def _drawn(before: ArmReading, after: ArmReading) -> int:
    """Requests that were drawn by themselves."""
    return _less(after.assigned, before.assigned) - _less(after.keyed, before.keyed)


def _less(after: int, before: int) -> int:
    """Counters of a rebuilt plan start again at zero: then all of it is news."""
    return after - before if after >= before else after


def _buckets(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    if len(before) != len(after) or any(b > a for b, a in zip(before, after, strict=True)):
        return after
    return tuple(a - b for b, a in zip(before, after, strict=True))


def _runs(before: RunReading, after: RunReading) -> RunCounts:
    runs = {size: _buckets(before.runs.get(size, ()), counts) for size, counts in after.runs.items()}
    return RunCounts({size: counts for size, counts in runs.items() if any(counts)}, _buckets(before.waits, after.waits))


def _plus(total: ShadowCounts, before: ShadowReading, after: ShadowReading) -> ShadowCounts:
    if after.sampled < before.sampled:
        before = ShadowReading(after.version)
    return ShadowCounts(
        sampled=total.sampled + after.sampled - before.sampled,
        compared=total.compared + after.compared - before.compared,
        disagreement=total.disagreement + after.disagreement - before.disagreement,
        failed=total.failed + after.failed - before.failed,
        primary_failed=total.primary_failed + after.dropped.get("primary", 0) - before.dropped.get("primary", 0),
        dropped=total.dropped + sum(after.dropped.values()) - sum(before.dropped.values()),
    )


def _has_news(stratum: Stratum) -> bool:
    return any((stratum.stable.requests, stratum.candidate.requests, stratum.stable.errors, stratum.candidate.errors, *stratum.assigned))


__all__ = ["Arms", "Look", "Taken", "difference", "look", "outcome_news"]
