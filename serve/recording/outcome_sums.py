"""What joined labels add up to: by model, generation, variant and metric, as routing's judges take them. Pure, but for its own state.

Every value is one of an independent unit: the first label of a sticky unit, else of a request. `auc` takes two units a value: a positive
and a negative of the same generation and variant, each used once, so that the values are independent too; 1 where the positive scored
higher, 0.5 for equal scores. `f1` has a value for each answer that is positive by prediction, by label or both: 1 where both (Jaccard's J,
with which F1 = 2 J / (1 + J) rises).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.recording.joined_rows import Floats, JoinedRows
from serve.traffic import OutcomeTally

# Answers of one class that wait for one of the other; the oldest are left out.
MAX_UNPAIRED = 256
# Of a model. Labels of older ones have long been late.
MAX_GENERATIONS = 4096

# In one message: longer lists are cut on their way to the worker.
MAX_READINGS = 100

Arm = tuple[str, int, str]  # model, generation, variant


@dataclass(slots=True)
class _Unpaired:
    positive: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_UNPAIRED))
    negative: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_UNPAIRED))


class OutcomeSums:
    """Cumulative. document: what `as_document` gave."""

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        self._sums: dict[Arm, dict[str, OutcomeTally]] = {}
        self._unpaired: dict[Arm, _Unpaired] = {}
        self._changed: set[Arm] = set()
        for model, generation, variant, name, *tally in (document or {}).get("sums", ()):
            self._sums.setdefault((model, generation, variant), {})[name] = OutcomeTally(*tally)
        for model, generation, variant, positive, negative in (document or {}).get("unpaired", ()):
            self._unpaired[model, generation, variant] = _Unpaired(deque(positive, MAX_UNPAIRED), deque(negative, MAX_UNPAIRED))
        self._changed.update(self._sums)        # whoever listens has heard nothing of them

    def as_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sums": [[*arm, name, t.n, t.total, t.squares, t.hits] for arm, found in self._sums.items() for name, t in found.items()],
            "unpaired": [[*arm, list(held.positive), list(held.negative)] for arm, held in self._unpaired.items()],
        }

    def add(self, model: str, generations: npt.NDArray[np.int64], variants: npt.NDArray[np.object_], name: str, values: Floats) -> None:
        """values: shape (n,), finite, with the generation and the variant of each."""
        for arm, chosen in _arms(model, generations, variants):
            self._add(arm, name, values[chosen])

    def add_truth(self, rows: JoinedRows) -> None:
        """The built-in metrics of rows that count, of one value a unit."""
        for name, values in truth_values(rows).items():
            known = ~np.isnan(values)
            self.add(rows.model, rows.generation[known], rows.variant[known], name, values[known])
        if rows.task != "classification" or rows.score is None:
            return
        is_known, is_positive = ~np.isnan(rows.score), rows.label == rows.positive
        for arm, chosen in _arms(rows.model, rows.generation, rows.variant):
            use = chosen & is_known
            self._pair(arm, rows.score[use].tolist(), is_positive[use].tolist())

    def _add(self, arm: Arm, name: str, values: Floats) -> None:
        if not len(values):
            return
        held = self._sums.setdefault(arm, {})
        old = held.get(name, OutcomeTally())
        held[name] = OutcomeTally(
            old.n + len(values), old.total + float(values.sum()), old.squares + float(values @ values),
            old.hits + int(np.count_nonzero(values)))
        self._changed.add(arm)

    def _pair(self, arm: Arm, scores: list[float], is_positive: list[bool]) -> None:
        held = self._unpaired.setdefault(arm, _Unpaired())
        won = []
        for score, positive in zip(scores, is_positive, strict=True):
            own, other = (held.positive, held.negative) if positive else (held.negative, held.positive)
            if not other:
                own.append(score)
                continue
            rival = other.popleft()
            above = score > rival if positive else rival > score
            won.append(0.5 if score == rival else float(above))
        self._add(arm, "auc", np.array(won, dtype=np.float64))

    def trim(self) -> None:
        """Forgets generations beyond MAX_GENERATIONS of a model, the oldest first."""
        generations: dict[str, set[int]] = {}
        for model, generation, _ in [*self._sums, *self._unpaired]:
            generations.setdefault(model, set()).add(generation)
        kept = {model: set(sorted(found)[-MAX_GENERATIONS:]) for model, found in generations.items()}
        for held in (self._sums, self._unpaired):
            for arm in [arm for arm in held if arm[1] not in kept[arm[0]]]:
                del held[arm]
        self._changed &= self._sums.keys()

    def messages(self, most: int = MAX_READINGS) -> list[dict[str, Any]]:
        """What changed since the last call, as {"type": "outcomes", ...} of at most so many readings each; at first all there is."""
        by_model: dict[str, list[dict[str, Any]]] = {}
        for arm in sorted(self._changed):
            model, generation, variant = arm
            by_model.setdefault(model, []).extend(
                {"generation": generation, "name": name, "variant": variant, **asdict(tally)}
                for name, tally in sorted(self._sums[arm].items()))
        self._changed.clear()
        return [{"type": "outcomes", "model": model, "readings": found[at:at + most]}
                for model, found in by_model.items() for at in range(0, len(found), most)]


def truth_values(rows: JoinedRows) -> dict[str, Floats]:
    """Metric -> a value for each row, NaN where the row has none."""
    if rows.task == "regression":
        errors = np.abs(rows.prediction - rows.label)
        return {"mae": errors, "mse": errors * errors}
    found = {"accuracy": (rows.prediction == rows.label).astype(np.float64)}
    if rows.positive:
        is_called, is_positive = rows.prediction == rows.positive, rows.label == rows.positive
        found["f1"] = np.where(is_called | is_positive, (is_called & is_positive).astype(np.float64), np.nan)
        if rows.score is not None:
            found["brier"] = (rows.score - is_positive) ** 2
    return found


def _arms(model: str, generations: npt.NDArray[np.int64], variants: npt.NDArray[np.object_]) -> Iterable[tuple[Arm, npt.NDArray[np.bool_]]]:
    for generation, variant in sorted(set(zip(generations.tolist(), variants.tolist(), strict=True))):
        yield (model, generation, variant), (generations == generation) & (variants == variant)


__all__ = ["MAX_GENERATIONS", "MAX_UNPAIRED", "OutcomeSums", "truth_values"]
