"""What a window says of drift: how far each feature, the predictions and the embeddings are from a reference. Pure.

Effect size first, p-value second. A feature has drifted when its PSI is at least `min_psi` and at least what chance alone exceeds with
probability `fdr` at this many rows, and its chi-squared test is a discovery at false discovery rate `fdr` over the features of the window.
Nothing is concluded of fewer than `min_rows` values. The reference is the baseline, or the cells of another version in the same window:
a canary is to be compared with stable traffic of the same minutes before either is compared with a training set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from serve.errors import InvalidArgument
from serve.monitoring import distances, embedding
from serve.monitoring.baseline import AnswerBaseline, Baseline, CategoryFeature, EmbeddingFeature, NumericFeature
from serve.monitoring.bins import Floats, Ints
from serve.monitoring.cells import Cells, NumericCell
from serve.monitors import MonitoringSpec

# Vectors of an embedding before anything is concluded from them: few are looked at, so `min_rows` is not asked of them.
MIN_VECTORS: Final = 50
# MMD^2 as a share of the total variance of the random features, from which on a change is one. A shift of every dimension by a third of a
# standard deviation, where PSI is 0.1, is 0.06 to 0.09.
MIN_EMBEDDING_EFFECT: Final = 0.05
# Values of a reference before anything is compared with it.
MIN_REFERENCE: Final = 30
# Categories with less of the reference are put together with those that it does not have.
_RARE_SHARE = 0.01

DriftKind = Literal["numeric", "category", "prediction", "embedding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """n, n_reference: values. psi: of embeddings 0. critical: what PSI exceeds by chance with probability `fdr`, or MMD^2 with 0.01.

    ks: a lower bound of D, ks_p_value an upper bound of its p-value; wasserstein: in the feature's unit, wasserstein_std in standard
    deviations of the baseline; mean, reference_mean: all of numbers, else None. new_share: of values that the baseline has none of, of
    categories. mmd2, effect: of embeddings; effect: mmd2 as a share of the features' variance. p_value: of chi-squared on the groups of
    bins, or of MMD^2; p_adjusted: by Benjamini-Hochberg over the window's features. is_concluded: enough values.
    """

    name: str
    column: str
    kind: DriftKind
    n: int
    n_reference: int
    psi: float = 0.0
    critical: float = 0.0
    js: float = 0.0
    l_infinity: float = 0.0
    chi2: float = 0.0
    freedom: int = 0
    ks: float | None = None
    ks_p_value: float | None = None
    wasserstein: float | None = None
    wasserstein_std: float | None = None
    mean: float | None = None
    reference_mean: float | None = None
    new_share: float | None = None
    mmd2: float | None = None
    effect: float | None = None
    p_value: float = 1.0
    p_adjusted: float = 1.0
    is_concluded: bool = False
    drifted: bool = False

    def as_document(self) -> dict[str, Any]:
        """JSON: what is defined of it."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in {"name", "column", "is_concluded"}}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class WindowDrift:
    """features: of the inputs, numbers, then categories. prediction: None where nothing is predicted.

    concluded: there were `min_rows` rows; reason: why not.
    """

    rows: int
    concluded: bool
    reason: str
    features: tuple[FeatureDrift, ...]
    prediction: FeatureDrift | None
    embeddings: tuple[FeatureDrift, ...]

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """Features that have drifted, the largest PSI first."""
        return tuple(sorted((one for one in self.features if one.drifted), key=lambda one: -one.psi))


def judge_window(baseline: Baseline, cells: Cells, spec: MonitoringSpec, reference: Cells | None = None) -> WindowDrift:
    """cells: of the window. reference: what it is compared with, None: the baseline.

    Raises InvalidArgument for cells of another baseline: only what was counted in the same bins can be compared.
    """
    for given in (cells, reference):
        if given is not None and given.baseline != baseline.sha256:
            raise InvalidArgument(f"cells of baseline {given.baseline[:12]} cannot be compared by baseline {baseline.sha256[:12]}")
    reason = _too_few(cells, reference, spec.min_rows)
    features: list[FeatureDrift] = []
    predictions: list[FeatureDrift] = []
    for one in (*_numeric(baseline, cells, reference, spec), *_categories(baseline, cells, reference, spec)):
        (predictions if one.kind == "prediction" else features).append(one)
    if baseline.answers is not None and cells.answers is not None:
        predictions.append(_classes(baseline.answers, cells, reference, spec))
    embeddings = [_embedding(one, cells, reference) for one in baseline.embeddings]
    judged = [tuple(_judged(group, spec, concluded=not reason)) for group in (features, predictions[:1], embeddings)]
    return WindowDrift(cells.rows, not reason, reason, judged[0], judged[1][0] if judged[1] else None, judged[2])


def _too_few(cells: Cells, reference: Cells | None, min_rows: int) -> str:
    if cells.rows < min_rows:
        return f"{cells.rows} rows; {min_rows} are needed"
    if reference is not None and reference.rows < min_rows:
        return f"{reference.rows} rows to compare with; {min_rows} are needed"
    return ""


def _judged(found: Sequence[FeatureDrift], spec: MonitoringSpec, *, concluded: bool) -> list[FeatureDrift]:
    """With what only the whole window tells."""
    adjusted = np.ones(len(found))
    known = [place for place, one in enumerate(found) if one.is_concluded]
    adjusted[known] = distances.benjamini_hochberg(np.array([found[place].p_value for place in known]))
    return [
        replace(one, p_adjusted=float(p), is_concluded=one.is_concluded and concluded,
                drifted=bool(concluded and one.is_concluded and p <= spec.fdr and _is_large(one, spec)))
        for one, p in zip(found, adjusted, strict=True)
    ]


def _is_large(one: FeatureDrift, spec: MonitoringSpec) -> bool:
    if one.effect is not None:
        return one.effect >= MIN_EMBEDDING_EFFECT and one.mmd2 is not None and one.mmd2 >= one.critical
    return one.psi >= max(spec.min_psi, one.critical)


def _numeric(baseline: Baseline, cells: Cells, reference: Cells | None, spec: MonitoringSpec) -> Iterator[FeatureDrift]:
    for column, features in baseline.numeric_columns.items():
        cell = cells.numeric[column]
        other = reference.numeric[column] if reference is not None else None
        for place, feature in enumerate(features):
            yield _of_numbers(feature, place, cell, other, spec, column == baseline.prediction)


def _of_numbers(
    feature: NumericFeature, place: int, cell: NumericCell, other: NumericCell | None, spec: MonitoringSpec, is_prediction: bool,
) -> FeatureDrift:
    known = np.array(feature.counts, np.int64)
    now = cell.binned(place, len(feature.edges))
    before = other.binned(place, len(feature.edges)) if other is not None else known
    n, m = int(now.sum()), int(before.sum())
    kind: DriftKind = "prediction" if is_prediction else "numeric"
    if not n or not m:
        return FeatureDrift(name=feature.name, column=feature.column, kind=kind, n=n, n_reference=m)
    mean = feature.centre + float(cell.moments[place, 0]) / n
    reference_mean = feature.mean if other is None else feature.centre + float(other.moments[place, 0]) / m
    d = distances.kolmogorov_smirnov(before, now)
    # The mean shifts by no more than that, and in a bin without an end there is no saying where its rows are.
    moved = max(distances.wasserstein(before, now, np.array(feature.means)), abs(mean - reference_mean))
    return FeatureDrift(
        name=feature.name, column=feature.column, kind=kind, ks=d, ks_p_value=distances.ks_p_value(d, m, n), wasserstein=moved,
        wasserstein_std=moved / feature.std if feature.std > 0 else None, mean=mean, reference_mean=reference_mean,
        **_compared(before, now, distances.groups_of(known), spec),
    )


def _compared(before: Ints, now: Ints, groups: Ints, spec: MonitoringSpec) -> dict[str, Any]:
    """What numbers, categories and classes have in common. groups: of the slots, for PSI and chi-squared."""
    n, m = int(now.sum()), int(before.sum())
    few, few_now = distances.grouped(before, groups), distances.grouped(now, groups)
    test = distances.chi_squared(few, few_now)
    return {
        "n": n, "n_reference": m, "psi": distances.psi(few, few_now), "critical": distances.psi_critical(m, n, len(few), spec.fdr),
        "js": distances.jensen_shannon(before, now), "l_infinity": distances.l_infinity(before, now), "chi2": test.statistic,
        "freedom": test.freedom, "p_value": test.p_value, "is_concluded": n >= spec.min_rows and m >= MIN_REFERENCE,
    }


def _categories(baseline: Baseline, cells: Cells, reference: Cells | None, spec: MonitoringSpec) -> Iterator[FeatureDrift]:
    for feature in baseline.categories:
        now = cells.categories[feature.column].counts[:-1]
        before = reference.categories[feature.column].counts[:-1] if reference is not None else _reference_of(feature)
        yield _of_categories(feature.name, feature.column, "category", _reference_of(feature), before, now, spec)


def _reference_of(feature: CategoryFeature) -> Ints:
    return np.array([*feature.counts, feature.others], np.int64)


def _classes(answers: AnswerBaseline, cells: Cells, reference: Cells | None, spec: MonitoringSpec) -> FeatureDrift:
    assert cells.answers is not None
    known = np.array([*answers.counts, answers.others], np.int64)
    before = reference.answers.classes[:-1] if reference is not None and reference.answers is not None else known
    column = answers.prediction or answers.scores
    return _of_categories(column.removeprefix("out_"), column, "prediction", known, before, cells.answers.classes[:-1], spec)


def _of_categories(
    name: str, column: str, kind: DriftKind, known: Ints, before: Ints, now: Ints, spec: MonitoringSpec,
) -> FeatureDrift:
    """The last of each: values that the baseline does not name."""
    if not now.sum() or not before.sum():
        return FeatureDrift(name=name, column=column, kind=kind, n=int(now.sum()), n_reference=int(before.sum()))
    is_named = known >= max(1.0, _RARE_SHARE * known.sum())
    is_named[-1] = False
    groups = np.where(is_named, np.cumsum(is_named) - 1, np.count_nonzero(is_named))
    return FeatureDrift(name=name, column=column, kind=kind, new_share=float(now[-1] / now.sum()), **_compared(before, now, groups, spec))


def _embedding(feature: EmbeddingFeature, cells: Cells, reference: Cells | None) -> FeatureDrift:
    cell = cells.embeddings[feature.column]
    n = int(cell.n[0])
    mean: Floats = np.array(feature.mean)
    m = feature.rows
    if reference is not None:
        other = reference.embeddings[feature.column]
        m = int(other.n[0])
        mean = other.sums / max(1, m)
    if not n or not m:
        return FeatureDrift(name=feature.name, column=feature.column, kind="embedding", n=n, n_reference=m, mmd2=0.0, effect=0.0)
    mmd2 = embedding.mmd_squared(cell.sums, n, mean, m)
    # What chance alone brings is no effect.
    effect = max(0.0, mmd2 / feature.null_mean - (1 / n + 1 / m)) if feature.null_mean > 0 else 0.0
    p = embedding.p_value(mmd2, n, m, feature.null_mean, feature.null_variance)
    return FeatureDrift(
        name=feature.name, column=feature.column, kind="embedding", n=n, n_reference=m, mmd2=mmd2, effect=effect, p_value=p,
        critical=feature.threshold * (1 / n + 1 / m), is_concluded=n >= MIN_VECTORS and m >= MIN_REFERENCE,
    )


__all__ = ["MIN_EMBEDDING_EFFECT", "MIN_VECTORS", "DriftKind", "FeatureDrift", "WindowDrift", "judge_window"]
