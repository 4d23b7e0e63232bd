"""Performance without labels: confidence-based performance estimation (CBPE, of NannyML). Pure.

A calibrated score is the probability that a row is positive, so the expected number of true positives among the rows that are called
positive is the sum of their scores, and every other cell of the confusion matrix follows the same way. It holds while P(y | x) is what it
was in the baseline: a change of the inputs shows, a change of the concept does not.

The exact forms take rows. The binned ones take counts by slot of score and the calibrated value of each slot (ScoreMap): as calibration is
a function of the score alone, nothing is lost but what the score varies within a slot; and counts add up over windows and replicas.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.monitoring.bins import Floats, Ints
from serve.monitoring.performance import auc_of_counts, mean_auc


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected confusion matrix of one class against the rest, in rows."""

    tp: float
    fp: float
    fn: float
    tn: float

    @property
    def n(self) -> float:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp + self.fp + self.fn else 0.0


def expected_of_rows(probabilities: Floats, is_called: npt.NDArray[np.bool_]) -> Expected:
    """probabilities: that a row is of the class, calibrated, shape (n,). is_called: whether it was predicted."""
    tp, fn = float(probabilities[is_called].sum()), float(probabilities[~is_called].sum())
    called = float(np.count_nonzero(is_called))
    return Expected(tp, called - tp, fn, len(is_called) - called - fn)


def expected_of_counts(counts: Ints, values: Floats) -> Expected:
    """counts: shape (2, slots), rows where another class was predicted, and where this one was. values: calibrated, shape (slots,)."""
    others, called = counts
    tp, fn = float(called @ values), float(others @ values)
    return Expected(tp, float(called.sum()) - tp, fn, float(others.sum()) - fn)


def auc_of_rows(probabilities: Floats) -> float | None:
    """The expected area under the ROC curve of rows ordered by their calibrated probability; None where one class is not expected."""
    distinct, counts = np.unique(probabilities, return_counts=True)
    return auc_of_slots(counts, distinct)


def auc_of_slots(counts: npt.NDArray[np.integer], values: Floats) -> float | None:
    """The same of rows by slot of rising score; pairs within a slot count half, which is what they are worth when all have one value."""
    positive = counts * values
    return auc_of_counts(positive, counts - positive)


def binary_estimates(counts: Ints, values: Floats) -> dict[str, float]:
    """Metrics of a binary model, by the counts and calibrated values of its positive class; {} without rows."""
    expected = expected_of_counts(counts, values)
    if expected.n <= 0:
        return {}
    accuracy = (expected.tp + expected.tn) / expected.n
    found = {"accuracy": accuracy, "precision": expected.precision, "recall": expected.recall, "f1": expected.f1}
    return {**found, **mean_auc([auc_of_slots(counts.sum(axis=0), values)])}


def multiclass_estimates(counts: Ints, values: Floats) -> dict[str, float]:
    """Means over classes, one against the rest. counts: (k, 2, slots). values: (k, slots). Accuracy is `confidence_accuracy`'s."""
    expected = [expected_of_counts(of_class, of_slot) for of_class, of_slot in zip(counts, values, strict=True)]
    # A class that no row is expected to be, or is called, says nothing.
    known = [one for one in expected if one.tp + one.fp + one.fn > 0.5]
    if not known:
        return {}
    found = {name: float(np.mean([getattr(one, name) for one in known])) for name in ("precision", "recall", "f1")}
    areas = [auc_of_slots(of_class.sum(axis=0), of_slot) for of_class, of_slot in zip(counts, values, strict=True)]
    return {**found, **mean_auc(areas)}


def confidence_accuracy(counts: Ints, values: Floats) -> dict[str, float]:
    """The expected share of right answers: counts by slot of the predicted class's score, calibrated to being right. Both (slots,)."""
    total = int(counts.sum())
    return {"accuracy": float(counts @ values) / total} if total else {}


__all__ = [
    "Expected", "auc_of_rows", "auc_of_slots", "binary_estimates", "confidence_accuracy", "expected_of_counts", "expected_of_rows",
    "multiclass_estimates",
]
