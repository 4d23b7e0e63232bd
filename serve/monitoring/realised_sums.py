"""Realised performance of one window, as counts and sums: what is known of it grows while labels come. Pure.

Of classes: rows by (true class, predicted class), and rows of each kind by the positive class's score in SLOTS slots over [0, 1], from
which the area under the ROC curve follows with pairs within a slot counting half. Of numbers: sums of |e|, e^2 and e, e the prediction
minus the truth. Sums of several parts are those of the whole.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.monitoring.performance import auc_of_counts, class_metrics
from serve.monitors import Task
from serve.recording.joined_rows import JoinedRows

SLOTS = 4096
# Pairs of classes of one window; rows of further ones count as "other", against "other" where they are right.
MAX_PAIRS = 10_000
_OTHER_RIGHT, _OTHER_WRONG = ("other", "other"), ("other", "another")


@dataclass(slots=True)
class RealisedSums:
    """n: labelled rows. pairs: (true, predicted) -> rows. scores: kind (0 negative, 1 positive) -> slot -> rows. positive: its name.

    moments: sums of |e|, e^2, e of a regression.
    """

    task: Task
    n: int = 0
    positive: str = ""
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    scores: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    moments: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add_rows(self, rows: JoinedRows) -> None:
        """Rows of one window."""
        self.n += len(rows)
        if rows.task == "regression":
            errors = rows.prediction.astype(np.float64) - rows.label.astype(np.float64)
            for at, values in enumerate((np.abs(errors), errors * errors, errors)):
                self.moments[at] += float(values.sum())
            return
        for pair, count in Counter(zip(rows.label.tolist(), rows.prediction.tolist(), strict=True)).items():
            self._count(pair, count)
        if rows.score is not None and rows.positive:
            self.positive = rows.positive
            is_known = np.isfinite(rows.score)
            for kind in (0, 1):
                chosen = is_known & ((rows.label == rows.positive) == bool(kind))
                self.scores[kind].update(slots_of(rows.score[chosen]).tolist())

    def add(self, other: "RealisedSums") -> None:
        """Of other rows of the same window."""
        self.n += other.n
        self.positive = other.positive or self.positive
        for pair, count in other.pairs.items():
            self._count(pair, count)
        for mine, more in zip(self.scores, other.scores, strict=True):
            mine.update(more)
        self.moments = [mine + more for mine, more in zip(self.moments, other.moments, strict=True)]

    def _count(self, pair: tuple[str, str], count: int) -> None:
        if pair not in self.pairs and len(self.pairs) >= MAX_PAIRS:
            pair = _OTHER_RIGHT if pair[0] == pair[1] else _OTHER_WRONG
        self.pairs[pair] += count

    def metrics(self) -> dict[str, float]:
        """As serve.monitoring.performance names them; what is not defined is left out."""
        if not self.n:
            return {}
        if self.task == "regression":
            absolute, squares, total = self.moments
            return {"mae": absolute / self.n, "rmse": (squares / self.n) ** 0.5, "bias": total / self.n}
        classes = sorted({name for pair in self.pairs for name in pair})
        code = {name: index for index, name in enumerate(classes)}
        confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
        for (true, predicted), count in self.pairs.items():
            confusion[code[true], code[predicted]] += count
        found = class_metrics(confusion, code.get(self.positive) if self.positive else None)
        if self.positive and self.positive not in code:     # of a class that nothing is of, and nothing was called
            found = {"accuracy": found["accuracy"]}
        area = auc_of_counts(*(self._by_slot(kind) for kind in (1, 0)))
        return found if area is None else {**found, "auc": area}

    def _by_slot(self, kind: int) -> npt.NDArray[np.float64]:
        found = np.zeros(SLOTS)
        for slot, count in self.scores[kind].items():
            found[slot] = count
        return found

    def as_document(self) -> dict[str, Any]:
        """JSON from which `sums_of` makes it again."""
        return {
            "task": self.task, "n": self.n, "positive": self.positive, "moments": self.moments,
            "pairs": [[*pair, count] for pair, count in self.pairs.items()],
            "scores": [sorted(of_kind.items()) for of_kind in self.scores],
        }


def sums_of(document: Mapping[str, Any]) -> RealisedSums:
    """The inverse of `as_document`."""
    negative, positive = (Counter({int(slot): int(count) for slot, count in of_kind}) for of_kind in document["scores"])
    pairs = Counter({(true, predicted): count for true, predicted, count in document["pairs"]})
    return RealisedSums(document["task"], document["n"], document["positive"], pairs, (negative, positive), list(document["moments"]))


def slots_of(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The slot of each score; what lies outside [0, 1] is in the first or the last."""
    return np.clip(np.floor(scores * SLOTS), 0, SLOTS - 1).astype(np.int64)


__all__ = ["MAX_PAIRS", "SLOTS", "RealisedSums", "slots_of", "sums_of"]
