"""Metrics on labelled rows: each against its limit, and against the stable version on the same rows. Pure."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import JsonValue

from serve.monitoring import paired
from serve.monitoring.gate_checks import bounded, check_of, counted, held
from serve.monitoring.gate_evidence import Classified, Estimated, Evidence
from serve.monitoring.gate_report import Check, CheckStatus
from serve.monitoring.gate_settings import GateSettings, MetricLimits, MetricName, default_metrics
from serve.monitoring.paired import Interval

# Fewer of either class say nothing of an order between them.
MIN_OF_A_CLASS = 10


def metric_checks(evidence: Evidence, settings: GateSettings) -> Iterator[Check]:
    """Two for each metric that is asked for: its value, and its difference to the stable version."""
    labelled = evidence.labelled
    if labelled is None:
        for name in settings.metrics or {}:
            yield _undecided(name, "no row has a label")
        return
    metrics = settings.metrics if settings.metrics is not None else default_metrics(isinstance(labelled, Classified))
    for name, limits in metrics.items():
        yield from _metric(name, limits, labelled, evidence.stable, settings)


def _metric(
    name: MetricName, limits: MetricLimits, labelled: Classified | Estimated, stable: str, settings: GateSettings
) -> Iterator[Check]:
    n = len(labelled.truth)
    if n < max(2, settings.min_rows):
        yield _undecided(name, f"{counted(n, 'row')} with a label; at least {max(2, settings.min_rows):,}", n)
        return
    if isinstance(labelled, Estimated) != (name == "mae"):
        kind = "numbers" if isinstance(labelled, Estimated) else "classes"
        yield _undecided(name, f"{name} is not defined for labels that are {kind}", n)
        return
    is_compared = len(labelled.stable) == n
    if not is_compared and (limits.max_drop is not None or limits.max_rise is not None):
        yield _incomparable(name, stable)
    if isinstance(labelled, Estimated):
        yield from _mae(limits, labelled, is_compared, settings)
    elif name == "accuracy":
        yield from _accuracy(limits, labelled, is_compared, settings)
    elif name == "f1":
        yield from _f1(limits, labelled, is_compared, settings)
    else:
        yield from _auc(limits, labelled, is_compared, settings)


def _undecided(name: str, why: str, n: int = 0) -> Check:
    return Check(name=name, status=CheckStatus.NOT_ENOUGH_DATA, text=f"{name}: {why}", n=n)


def _incomparable(name: str, stable: str) -> Check:
    if not stable:
        return Check(name=f"{name}_vs_stable", status=CheckStatus.TOLD, text=f"{name}: there is no stable version to compare with")
    return Check(name=f"{name}_vs_stable", status=CheckStatus.NOT_ENOUGH_DATA,
                 text=f"{name}: version {stable} has other inputs and cannot be asked the same; give an absolute limit, "
                      f"and none against it ({'--max-rise' if name == 'mae' else '--max-drop'} {name}=none)")


def _accuracy(limits: MetricLimits, labelled: Classified, is_compared: bool, settings: GateSettings) -> Iterator[Check]:
    right, n = labelled.candidate == labelled.truth, len(labelled.truth)
    yield _value("accuracy", paired.share(int(right.sum()), n, settings.confidence), limits.min, "least", n, settings)
    if is_compared:
        was_right = labelled.stable == labelled.truth
        gained, lost = int((right & ~was_right).sum()), int((~right & was_right).sum())
        difference = paired.share_difference(gained, lost, n, settings.confidence)
        details: dict[str, JsonValue] = {"only_candidate_right": gained, "only_stable_right": lost, "p_value": paired.mcnemar(gained, lost)}
        yield _difference("accuracy", difference, limits.max_drop, n, settings, details)


def _f1(limits: MetricLimits, labelled: Classified, is_compared: bool, settings: GateSettings) -> Iterator[Check]:
    other = labelled.stable if is_compared else labelled.candidate
    found = paired.f1s(labelled.truth, labelled.candidate, other, len(labelled.classes), settings.confidence)
    n = len(labelled.truth)
    yield _value("f1", found.candidate, limits.min, "least", n, settings)
    if is_compared:
        yield _difference("f1", found.difference, limits.max_drop, n, settings, {"stable": found.stable.estimate})


def _auc(limits: MetricLimits, labelled: Classified, is_compared: bool, settings: GateSettings) -> Iterator[Check]:
    scored = labelled.scored
    if scored is None:
        yield _undecided("auc", "there is no score of one positive class; name it with `positive`, and the output with monitoring.scores")
        return
    n, positive = len(scored.is_positive), int(scored.is_positive.sum())
    if min(positive, n - positive) < MIN_OF_A_CLASS:
        yield _undecided("auc", f"{positive:,} of {n:,} rows are {scored.positive!r}; want {MIN_OF_A_CLASS} of either kind", n)
        return
    found = paired.areas(scored.is_positive, scored.candidate, scored.stable if is_compared else scored.candidate, settings.confidence)
    yield _value("auc", found.candidate, limits.min, "least", n, settings, {"positive": scored.positive})
    if is_compared:
        yield _difference("auc", found.difference, limits.max_drop, n, settings, {"stable": found.stable.estimate})


def _mae(limits: MetricLimits, labelled: Estimated, is_compared: bool, settings: GateSettings) -> Iterator[Check]:
    errors, n = np.abs(labelled.candidate - labelled.truth), len(labelled.truth)
    yield _value("mae", paired.mean(errors, settings.confidence), limits.max, "most", n, settings)
    if not is_compared:
        return
    before = np.abs(labelled.stable - labelled.truth)
    difference, was = paired.mean(errors - before, settings.confidence), float(before.mean())
    most = None if limits.max_rise is None else limits.max_rise * was
    said = "" if most is None else f"; at most {most:.4g} more"
    change = f"{difference.estimate:+.4g} ({difference.low:+.4g} to {difference.high:+.4g})"
    yield check_of("mae_vs_stable", held(difference, most, "most", settings), difference, most, n,
                   f"mae {change} against the stable version's {was:.4g} on {{rows}}{said}", {"stable": was})


def _value(
    name: str, found: Interval, limit: float | None, bound: Literal["least", "most"], n: int, settings: GateSettings,
    details: dict[str, JsonValue] | None = None,
) -> Check:
    said = "" if limit is None else f"; at {bound} {{limit}}"
    return check_of(name, held(found, limit, bound, settings), found, limit, n, f"{name} {bounded(found)} on {{rows}}{said}", details)


def _difference(
    name: str, found: Interval, max_drop: float | None, n: int, settings: GateSettings, details: dict[str, JsonValue]
) -> Check:
    limit = None if max_drop is None else -max_drop
    said = "" if limit is None else f"; at least {limit:+g}"
    return check_of(f"{name}_vs_stable", held(found, limit, "least", settings), found, limit, n,
                    f"{name} {found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f}) against the stable version on {{rows}}{said}",
                    details)


__all__ = ["MIN_OF_A_CLASS", "metric_checks"]
