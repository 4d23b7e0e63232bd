"""A shift of the classes, from predictions alone: black-box shift estimation (Lipton, Wang & Smola 2018, arXiv 1802.03916). Pure.

If only the shares of the classes change and P(x | y) does not, the predictions change by the baseline's confusion: mu_q = C w, where
C[i, j] = P(predicted i, true j) in the baseline, mu_q[i] = P(predicted i) now, and w[j] = q(y = j) / p(y = j).
"""

from dataclasses import dataclass

import numpy as np

from serve.monitoring.baseline import AnswerBaseline
from serve.monitoring.bins import Floats
from serve.monitoring.cells import AnswerCell

# Beyond it the confusion tells so little that the weights are noise.
MAX_CONDITION = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class PriorShift:
    """By class, those that the baseline's labels have. weights: how much more frequent, 0 and up. shares: estimated now; baseline: then."""

    classes: tuple[str, ...]
    weights: Floats
    shares: Floats
    baseline: Floats


def prior_shift(answers: AnswerBaseline, cell: AnswerCell) -> PriorShift | None:
    """None where it cannot be told: no labels, no predictions, or a model that confuses its classes too much."""
    if answers.confusion is None:
        return None
    joint = np.array(answers.confusion, np.float64).T       # [predicted][true]
    known = np.flatnonzero((joint.sum(axis=0) > 0) & (joint.sum(axis=1) > 0))
    joint = joint[np.ix_(known, known)]
    now = cell.classes[known].astype(np.float64)
    if len(known) < 2 or not now.sum() or np.linalg.cond(joint / joint.sum()) > MAX_CONDITION:
        return None
    joint /= joint.sum()
    weights = np.maximum(np.linalg.solve(joint, now / now.sum()), 0.0)
    before = joint.sum(axis=0)
    shares = weights * before
    shares /= shares.sum()
    return PriorShift(tuple(answers.classes[code] for code in known), shares / before, shares, before)


__all__ = ["MAX_CONDITION", "PriorShift", "prior_shift"]
