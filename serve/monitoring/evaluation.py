"""A window judged: drift, estimated performance, data validation, as one document for the history and one verdict a kind of alert. Pure.

What the history keeps of a feature is its PSI, what chance alone would bring, and the verdict; of the MAX_DETAILED features that differ
most, also the other distances; of MAX_SHAPES of them, the counts of their bins; of the MAX_VIOLATING features with the most invalid values,
how many those were.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.errors import InvalidArgument
from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.cells import Cells
from serve.monitoring.database import Series
from serve.monitoring.distributions import counts_of
from serve.monitoring.drift import FeatureDrift, WindowDrift, judge_window
from serve.monitoring.estimates import Estimates, estimates, is_worse
from serve.monitoring.performance import IS_LESS_BETTER
from serve.monitoring.ports import Evaluation, Judged
from serve.monitoring.prior_shift import prior_shift
from serve.monitoring.validation import Violation, violations
from serve.monitors import MonitoringSpec

MAX_FEATURES = 512
MAX_DETAILED = 30
MAX_SHAPES = 12
MAX_VIOLATING = 100
# Features that an event names.
MAX_NAMED = 20

_ALWAYS = frozenset({"psi", "critical", "drifted", "n"})
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class WindowEvaluator:
    """`serve.monitoring.service.Evaluator`. find: the baseline with this sha256; None: nobody knows it any more."""

    find: Callable[[str], Baseline | None]

    def __call__(self, series: Series, cells: Cells, stable: tuple[Cells, Cells] | None, spec: MonitoringSpec) -> Evaluation:
        baseline = self._baseline(cells)
        drift = judge_window(baseline, cells, spec)
        found = estimates(baseline, cells) if drift.concluded else None
        invalid = violations(baseline, cells, spec)
        judged = {**_drift(drift, baseline), **_invalid(drift, invalid, baseline)}
        if found is not None and (said := performance(found.metrics, found.bands, spec, baseline.id, found.rows)) is not None:
            judged[Kind.ESTIMATED_PERFORMANCE] = said
        document = _document(baseline, cells, drift, found)
        if stable is not None:
            mine, theirs = stable
            against = judge_window(self._baseline(mine), mine, spec, theirs)
            document["against_stable"] = _against(against, theirs)
            judged |= _canary(against)
        counted: dict[str, dict[str, int]] = {}
        for one in invalid:
            counted.setdefault(one.feature, {})[one.kind] = one.count
        most = sorted(counted, key=lambda name: -sum(counted[name].values()))[:MAX_VIOLATING]
        return Evaluation({**document, "violations": {name: counted[name] for name in most}}, judged, counted)

    def _baseline(self, cells: Cells) -> Baseline:
        found = self.find(cells.baseline)
        if found is None:
            raise InvalidArgument(f"the baseline {cells.baseline[:12]} that counted {cells.rows} rows is not known any more")
        return found


def performance(
    metrics: Mapping[str, float], bands: Mapping[str, tuple[float, float]], spec: MonitoringSpec, baseline: str, rows: int,
) -> Judged | None:
    """Whether the metric that counts is worse than the model's `min_metric`, else than the baseline's band; None: nobody can say.

    It is the model's `metric`; without one accuracy, or the mean absolute error.
    """
    if rows < spec.min_rows:
        return None
    metric = spec.metric or next((name for name in ("accuracy", "mae") if name in metrics), "")
    if metric not in metrics:
        return None
    value, is_less_better = metrics[metric], metric in IS_LESS_BETTER
    if spec.min_metric is not None:
        bound = spec.min_metric
        is_bad = value > bound if is_less_better else value < bound
    elif metric in bands:
        bound = bands[metric][1 if is_less_better else 0]
        is_bad = is_worse(metric, value, bands[metric])
    else:
        return None
    wanted = "at most" if is_less_better else "at least"
    said = f"{metric} {value:.4g}, {wanted} {bound:.4g} was expected"
    return Judged(is_bad, {"baseline": baseline, "metric": metric, "value": value, "bound": bound, "rows": rows, "said": said})


def _drift(drift: WindowDrift, baseline: Baseline) -> dict[Kind, Judged]:
    """Nothing is said of a kind that no feature had enough values for."""
    groups = {
        Kind.DRIFT: drift.features, Kind.PREDICTION_DRIFT: (drift.prediction,) if drift.prediction is not None else (),
        Kind.EMBEDDING_DRIFT: drift.embeddings,
    }
    return {kind: _judged(group, {"baseline": baseline.id, "rows": drift.rows}) for kind, group in groups.items()
            if any(one.is_concluded for one in group)}


def _canary(drift: WindowDrift) -> dict[Kind, Judged]:
    group = (*drift.features, *((drift.prediction,) if drift.prediction is not None else ()), *drift.embeddings)
    if not any(one.is_concluded for one in group):
        return {}
    return {Kind.CANARY_DRIFT: _judged(group, {"against": "stable", "rows": drift.rows})}


def _judged(group: Iterable[FeatureDrift], evidence: Mapping[str, Any]) -> Judged:
    drifted = sorted((one for one in group if one.drifted), key=lambda one: (-_size(one), one.name))
    named = [{"feature": one.name, **{key: value for key, value in _short(one.as_document(), detailed=True).items() if key != "drifted"}}
             for one in drifted[:MAX_NAMED]]
    said = f"{_list([f'{one.name} (PSI {one.psi:.3g})' if one.psi else one.name for one in drifted])}"
    return Judged(bool(drifted), {**evidence, "features": named, "n_features": len(drifted), "said": said} if drifted else {})


def _invalid(drift: WindowDrift, found: Sequence[Violation], baseline: Baseline) -> dict[Kind, Judged]:
    if not drift.concluded:
        return {}
    bad = sorted((one for one in found if one.is_bad), key=lambda one: (one.expected - one.share, one.feature))
    if not bad:
        return {Kind.DATA_INVALID: Judged(False)}
    named = [{"feature": one.feature, "kind": one.kind, "count": one.count, "n": one.n, "share": _number(one.share),
              "expected": _number(one.expected)} for one in bad[:MAX_NAMED]]
    said = _list([f"{one.feature} {one.kind.replace('_', ' ')} {one.share:.2%}" for one in bad])
    return {Kind.DATA_INVALID: Judged(True, {"baseline": baseline.id, "rows": drift.rows, "features": named, "n_features": len(bad),
                                             "said": said})}


def _document(baseline: Baseline, cells: Cells, drift: WindowDrift, found: Estimates | None) -> dict[str, Any]:
    ordered = sorted(drift.features, key=lambda one: -one.psi)[:MAX_FEATURES]
    predictions = [drift.prediction] if drift.prediction is not None else []
    shown = {one.name: _short(one.as_document(), detailed=place < MAX_DETAILED) for place, one in enumerate(ordered)}
    document: dict[str, Any] = {
        "baseline": baseline.id, "rows": drift.rows, "concluded": drift.concluded, "reason": drift.reason,
        "n_features": len(drift.features), "n_drifted": len(drift.drifted),
        "n_unsaid": sum(not one.is_concluded for one in drift.features),
        # In the model's order; those that no window can say anything of are as PSI 0.
        "features": {one.name: shown[one.name] for one in drift.features if one.name in shown} if drift.concluded else {},
        "predictions": {one.name: _short(one.as_document(), detailed=True) for one in predictions if drift.concluded},
        "embeddings": {one.name: _short(one.as_document(), detailed=True) for one in drift.embeddings if drift.concluded},
        "counts": {}, "estimated": {}, "bands": {}, "against_stable": None,
    }
    if not drift.concluded:
        return document
    document["counts"] = {one.name: counts for one in [*ordered[:MAX_SHAPES], *predictions] if (counts := counts_of(baseline, cells, one))}
    if found is not None:
        document["estimated"] = {name: _number(value) for name, value in found.metrics.items()}
        document["bands"] = {name: [_number(edge) for edge in band] for name, band in found.bands.items()}
    if baseline.answers is not None and cells.answers is not None:
        shift = prior_shift(baseline.answers, cells.answers)
        if shift is not None:
            document["classes"] = {name: [_number(float(before)), _number(float(now))]
                                   for name, before, now in zip(shift.classes, shift.baseline, shift.shares, strict=True)}
    return document


def _against(drift: WindowDrift, stable: Cells) -> dict[str, Any]:
    """The canary's window beside the stable version's."""
    group = [*drift.features, *([drift.prediction] if drift.prediction is not None else []), *drift.embeddings]
    worst = sorted(group, key=lambda one: -_size(one))[:MAX_SHAPES]
    return {
        "rows": drift.rows, "stable_rows": stable.rows, "concluded": drift.concluded, "reason": drift.reason,
        "n_features": len(group), "n_drifted": sum(one.drifted for one in group),
        "features": {one.name: _short(one.as_document(), detailed=True) for one in worst},
    }


def _size(one: FeatureDrift) -> float:
    return one.effect if one.effect is not None else one.psi


def _short(document: Mapping[str, Any], *, detailed: bool) -> dict[str, Any]:
    """What JSON can say of it: the mean of numbers near the end of FP64 is infinite, and then not there."""
    return {key: _number(value) if isinstance(value, float) else value for key, value in document.items()
            if (detailed or key in _ALWAYS) and not (isinstance(value, float) and not math.isfinite(value))}


def _number(value: float) -> float:
    """With as many digits as mean anything: a history of windows is mostly numbers."""
    return float(f"{value:.{_DIGITS}g}")


def _list(said: Sequence[str], shown: int = 4) -> str:
    more = len(said) - shown
    return f"{', '.join(said[:shown])}{f' and {more} more' if more > 0 else ''}"


__all__ = ["MAX_DETAILED", "MAX_FEATURES", "MAX_NAMED", "MAX_SHAPES", "WindowEvaluator", "performance"]
