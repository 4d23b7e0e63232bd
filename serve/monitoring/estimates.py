"""The performance of a window without its labels, beside the baseline's band. Pure; serve.monitoring.cbpe has the theory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serve.monitoring.baseline import AnswerBaseline, Baseline, ScoreMap
from serve.monitoring.bins import Ints
from serve.monitoring.cbpe import binary_estimates, confidence_accuracy, multiclass_estimates
from serve.monitoring.cells import AnswerCell, Cells
from serve.monitoring.performance import IS_LESS_BETTER


@dataclass(frozen=True, slots=True)
class Estimates:
    """metrics: name -> value. bands: of those that the baseline knows, what is as good as it. rows: with a score."""

    rows: int
    metrics: Mapping[str, float]
    bands: Mapping[str, tuple[float, float]]

    @property
    def worse(self) -> tuple[str, ...]:
        """Metrics outside their band on the bad side."""
        return tuple(name for name, value in self.metrics.items() if name in self.bands and is_worse(name, value, self.bands[name]))


def is_worse(metric: str, value: float, band: tuple[float, float]) -> bool:
    """Whether a metric is outside a band on its bad side."""
    return value > band[1] if metric in IS_LESS_BETTER else value < band[0]


def estimates(baseline: Baseline, cells: Cells) -> Estimates | None:
    """None where nothing can be estimated: no scores, or scores that no labels of the baseline calibrate."""
    answers, cell = baseline.answers, cells.answers
    if answers is None or cell is None or not _is_calibrated(answers):
        return None
    found = answer_estimates(answers, cell)
    if not found:
        return None
    scored = cell.scores[0] if len(cell.scores) else cell.confidence
    rows = int(scored[..., :-4].sum())
    bands = {name: baseline.performance[name].band(rows) for name in found if name in baseline.performance}
    return Estimates(rows, found, bands)


def _is_calibrated(answers: AnswerBaseline) -> bool:
    maps = [*answers.maps, *([answers.confidence] if answers.confidence is not None else [])]
    return bool(maps) and all(one.is_calibrated for one in maps)


def answer_estimates(answers: AnswerBaseline, cell: AnswerCell) -> dict[str, float]:
    """Expected metrics of what a cell has counted; {} without rows."""
    if answers.positive:
        (one,) = answers.maps or (None,)
        return binary_estimates(_finite(cell.scores[0], one), np.array(one.values)) if one is not None else {}
    found: dict[str, float] = {}
    if answers.confidence is not None:
        found = confidence_accuracy(_finite(cell.confidence[0], answers.confidence), np.array(answers.confidence.values))
    if answers.maps and found:
        longest = max(len(one.values) for one in answers.maps)
        counts = np.zeros((len(answers.maps), 2, longest), np.int64)
        values = np.zeros((len(answers.maps), longest))
        for place, one in enumerate(answers.maps):
            counts[place, :, :len(one.values)] = _finite(cell.scores[place], one)
            values[place, :len(one.values)] = one.values
        found |= multiclass_estimates(counts, values)
    return found


def _finite(counts: Ints, of: ScoreMap) -> Ints:
    found: Ints = counts[..., :len(of.values)]
    return found


__all__ = ["Estimates", "answer_estimates", "estimates", "is_worse"]
