"""How a feature's values lie: bins or categories of a baseline with their shares, and a window's counts of the same. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve.monitoring.baseline import AnswerBaseline, Baseline, NumericFeature
from serve.monitoring.bins import slot_labels
from serve.monitoring.cells import Cells
from serve.monitoring.drift import FeatureDrift

# Categories that are shown by name, the most frequent of the baseline.
MAX_CATEGORIES = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """labels, counts: of the baseline, one a bin. kind: input or prediction."""

    kind: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]

    def document(self, now: Sequence[int]) -> dict[str, Any]:
        """With a window's counts as shares."""
        return {"kind": self.kind, "labels": list(self.labels), "baseline": _shares(self.counts), "current": _shares(now)}


def shape_of(baseline: Baseline, feature: str) -> Shape | None:
    """Of a feature by its name; None of an embedding, and of what the baseline has not."""
    for numeric in baseline.numeric:
        if numeric.name == feature:
            return Shape("prediction" if numeric.column == baseline.prediction else "input", *_bins(numeric))
    for category in baseline.categories:
        if category.name == feature:
            return Shape("input", *_categories(category.values, category.counts, category.others))
    answers = baseline.answers
    if answers is not None and feature == _answers_name(answers):
        return Shape("prediction", *_categories(answers.classes, answers.counts, answers.others))
    return None


def counts_of(baseline: Baseline, cells: Cells, drift: FeatureDrift) -> list[int]:
    """A window's counts of the bins of `shape_of`; [] where it has none."""
    if drift.kind == "embedding":
        return []
    if (features := baseline.numeric_columns.get(drift.column)) is not None:
        for place, one in enumerate(features):
            if one.name == drift.name:
                return [int(count) for count in cells.numeric[drift.column].binned(place, len(one.edges))]
    if drift.kind == "prediction" and cells.answers is not None:
        counts = [int(count) for count in cells.answers.classes[:-1]]
        return _folded(counts[:-1], counts[-1])
    if drift.column in cells.categories:
        counts = [int(count) for count in cells.categories[drift.column].counts[:-1]]
        return _folded(counts[:-1], counts[-1])
    return []


def _bins(feature: NumericFeature) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(slot_labels(feature.edges)), feature.counts


def _categories(values: Sequence[str], counts: Sequence[int], others: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    folded = _folded(counts, others)
    shown = [value.encode("utf-8", "replace").decode() for value in values[:MAX_CATEGORIES]]
    return (*shown, "others"), tuple(folded)


def _folded(counts: Sequence[int], others: int) -> list[int]:
    """The first MAX_CATEGORIES, and everything else together."""
    return [*counts[:MAX_CATEGORIES], sum(counts[MAX_CATEGORIES:]) + others]


def _answers_name(answers: AnswerBaseline) -> str:
    return (answers.prediction or answers.scores).removeprefix("out_")


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


__all__ = ["MAX_CATEGORIES", "Shape", "counts_of", "shape_of"]
