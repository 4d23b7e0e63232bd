"""Readings of one generation that was built more than once: a version was reloaded while the plan stayed. Pure."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from serve.traffic import ArmReading, PlanReading, ShadowReading

_Key = TypeVar("_Key")


def merged_readings(readings: Iterable[PlanReading]) -> list[PlanReading]:
    """One reading a generation, with the sums; in the order of first appearance."""
    merged: dict[int, PlanReading] = {}
    for reading in readings:
        former = merged.get(reading.generation)
        merged[reading.generation] = reading if former is None else _sum(former, reading)
    return list(merged.values())


def _sum(a: PlanReading, b: PlanReading) -> PlanReading:
    arms = {arm.name: arm for arm in a.arms}
    shadows = {shadow.version: shadow for shadow in a.shadows}
    new_arms = [_sum_arms(arms.pop(arm.name), arm) if arm.name in arms else arm for arm in b.arms]
    new_shadows = [_sum_shadows(shadows.pop(one.version), one) if one.version in shadows else one for one in b.shadows]
    return PlanReading(
        model=b.model, generation=b.generation, arms=(*new_arms, *arms.values()), shadows=(*new_shadows, *shadows.values()),
        streak=b.streak, longest_streak=max(a.longest_streak, b.longest_streak), warmup_left=b.warmup_left,
        is_final=a.is_final and b.is_final,
    )


def _sum_arms(a: ArmReading, b: ArmReading) -> ArmReading:
    long, short = (a.total_counts, b.total_counts) if len(a.total_counts) > len(b.total_counts) else (b.total_counts, a.total_counts)
    padded = (*short, *(0 for _ in range(len(long) - len(short))))
    return ArmReading(
        name=b.name, version=b.version, assigned=a.assigned + b.assigned, keyed=a.keyed + b.keyed, success=a.success + b.success,
        errors=a.errors + b.errors, refused=a.refused + b.refused, judged=a.judged + b.judged,
        judged_errors=a.judged_errors + b.judged_errors, outputs=_sum_counts(a.outputs, b.outputs),
        total_counts=tuple(x + y for x, y in zip(long, padded, strict=True)),
    )


def _sum_shadows(a: ShadowReading, b: ShadowReading) -> ShadowReading:
    return ShadowReading(
        b.version, a.sampled + b.sampled, a.compared + b.compared, a.disagreement + b.disagreement, a.failed + b.failed,
        _sum_counts(a.dropped, b.dropped),
    )


def _sum_counts(a: Mapping[_Key, int], b: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in (*a, *b)}


__all__ = ["merged_readings"]
