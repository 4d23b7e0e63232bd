"""Realised performance of predictions whose truth is known: exact metrics of rows, and counts from which they follow. Pure.

Metrics of classes: accuracy; precision, recall, f1 and auc of the positive class of a binary model, else the mean over classes (one against
the rest); log_loss and brier of the scores as they are. Of numbers: mae, rmse, bias. What is not defined is left out, never 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from serve.monitoring.bins import Floats, Ints

# Least probability that log loss believes, as scikit-learn has it for float64.
_LEAST = float(np.finfo(np.float64).eps)

CLASS_METRICS = ("accuracy", "precision", "recall", "f1", "auc", "log_loss", "brier")
NUMBER_METRICS = ("mae", "rmse", "bias")
# What a metric can be, and whether more of it is better.
LIMITS: Mapping[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(("accuracy", "precision", "recall", "f1", "auc", "brier"), (0.0, 1.0)),
    "log_loss": (0.0, None), "mae": (0.0, None), "rmse": (0.0, None), "bias": (None, None),
}
IS_LESS_BETTER = frozenset({"log_loss", "brier", "mae", "rmse"})


def roc_auc(is_positive: npt.NDArray[np.bool_], scores: Floats) -> float | None:
    """The share of pairs of a positive and a negative in which the positive scores higher, half of the ties. None without either."""
    distinct, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights=is_positive, minlength=len(distinct))
    negative = np.bincount(place, weights=~is_positive, minlength=len(distinct))
    return auc_of_counts(positive, negative)


def auc_of_counts(positive: npt.NDArray[np.number], negative: npt.NDArray[np.number]) -> float | None:
    """The same of positives and negatives by bins of rising score; pairs within a bin count half."""
    p, n = float(positive.sum()), float(negative.sum())
    if p <= 0 or n <= 0:
        return None
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2.0)) / (p * n))


def class_metrics(confusion: Ints, positive: int | None) -> dict[str, float]:
    """Of counts [true][predicted], the last row and column of classes that are none of the baseline's. positive: of a binary model."""
    total = int(confusion.sum())
    if not total:
        return {}
    hits = np.diagonal(confusion)[:-1]
    predicted, true = confusion.sum(axis=0)[:-1], confusion.sum(axis=1)[:-1]
    found = {"accuracy": float(hits.sum()) / total}
    chosen = np.array([positive]) if positive is not None else np.flatnonzero(predicted + true)
    if not len(chosen):
        return found
    scores = {
        "precision": _ratio(hits[chosen], predicted[chosen]), "recall": _ratio(hits[chosen], true[chosen]),
        "f1": _ratio(2 * hits[chosen], predicted[chosen] + true[chosen]),
    }
    return {**found, **{name: float(values.mean()) for name, values in scores.items()}}


def _ratio(part: Ints, whole: Ints) -> Floats:
    """0 where the whole is 0, as everybody has it."""
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0))


def confusion_of(true: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], n_classes: int) -> Ints:
    """Counts [true][predicted] of codes, shape (n_classes + 1,) * 2: any code of n_classes or more is the last."""
    t, p = np.minimum(true, n_classes).astype(np.int64), np.minimum(predicted, n_classes)
    return np.bincount(t * (n_classes + 1) + p, minlength=(n_classes + 1) ** 2).reshape(n_classes + 1, n_classes + 1)


def log_losses(true: npt.NDArray[np.integer], probabilities: Floats) -> Floats:
    """-ln of the probability of the true class, by row. probabilities: (n, k), rows that sum to 1. true: 0 to k - 1."""
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(true)), true], _LEAST, 1.0)))


def brier_losses(true: npt.NDArray[np.integer], probabilities: Floats) -> Floats:
    """By row: of two classes (p - y)^2 of the second, of more the sum over classes, halved so that it too is at most 1."""
    is_true = np.zeros(probabilities.shape)
    is_true[np.arange(len(true)), true] = 1.0
    return np.asarray(((probabilities - is_true) ** 2).sum(axis=1) / 2)


def number_metrics(errors: Floats) -> dict[str, float]:
    """Of prediction - truth, shape (n,), finite."""
    if not len(errors):
        return {}
    return {
        "mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt(np.mean(errors * errors))), "bias": float(errors.mean()),
    }


def mean_auc(areas: Sequence[float | None]) -> dict[str, float]:
    """The mean of those that are defined, as {"auc": ...}; {} of none."""
    known = [area for area in areas if area is not None]
    return {"auc": float(np.mean(known))} if known else {}


__all__ = [
    "CLASS_METRICS", "IS_LESS_BETTER", "LIMITS", "NUMBER_METRICS", "auc_of_counts", "brier_losses", "class_metrics", "confusion_of",
    "log_losses", "mean_auc", "number_metrics", "roc_auc",
]
