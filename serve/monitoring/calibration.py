"""Scores as probabilities: isotonic regression by pooling adjacent violators (Ayer et al. 1955; Zadrozny & Elkan 2002 for classifiers)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve.monitoring.bins import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Isotonic:
    """A rising function: values at thresholds, straight lines between them, constant outside. Both float64 of shape (t,)."""

    thresholds: Floats
    values: Floats

    def __call__(self, scores: npt.ArrayLike) -> Floats:
        """Probabilities of the shape of the scores; NaN stays NaN."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.thresholds, self.values))


def fit_isotonic(scores: Floats, is_positive: npt.ArrayLike) -> Isotonic:
    """The rising function with the least squared error. scores: finite, shape (n,), not empty; equal ones share their mean first."""
    distinct, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=np.asarray(is_positive, np.float64)) / weights
    fitted = pooled(means, weights)
    # Inside a run of one value only its ends say anything.
    is_end = np.ones(len(distinct), bool)
    is_end[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return Isotonic(distinct[is_end], fitted[is_end])


def pooled(means: Floats, weights: Floats) -> Floats:
    """The rising sequence nearest to means, by weighted least squares: neighbours that fall are replaced by their mean. Shape (n,)."""
    value: list[float] = []
    weight: list[float] = []
    length: list[int] = []
    for mean, heavy in zip(means.tolist(), weights.tolist(), strict=True):
        v, w, n = mean, heavy, 1
        while value and value[-1] >= v:
            v = (value[-1] * weight[-1] + v * w) / (weight[-1] + w)
            w += weight.pop()
            n += length.pop()
            value.pop()
        value.append(v)
        weight.append(w)
        length.append(n)
    return np.repeat(value, length)


__all__ = ["Isotonic", "fit_isotonic", "pooled"]
