"""What an answer predicts: a class or a number, and the score of a class. Follows `monitoring:` of model.yaml. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.errors import ConfigurationError
from serve.monitoring.gate_evidence import Floats
from serve.monitoring.replay_rows import Array
from serve.monitors import MonitoringSpec
from serve.types import TensorSpec

_FLOATS = ("FP16", "BF16", "FP32", "FP64")
_WHOLE = re.compile(r"-?[0-9]{1,18}(\.0)?")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a version's answers are read. prediction: output of one value a row, "" for the largest of `scores`. scores: "" for none.

    classes: names by index of the scores, () when they have none. positive: of two classes, "" for the second. A prediction that is a
    float is the score of `positive`, as `serve.recording.answers` reads it.
    """

    prediction: str
    scores: str
    classes: tuple[str, ...]
    is_classification: bool
    positive: str = ""

    def classes_of(self, outputs: Mapping[str, Array]) -> list[str]:
        """The predicted class of each row. outputs: [rows, ...] each."""
        if not self.prediction:
            best = outputs[self.scores].reshape(len(outputs[self.scores]), -1).argmax(axis=1)
            return [self.classes[index] if index < len(self.classes) else str(index) for index in best.tolist()]
        values = _first(outputs[self.prediction])
        if values.dtype.kind == "f" and self.is_classification:
            negative, positive = self._binary
            return [positive if value >= 0.5 else negative for value in values]
        return [self.name_of(value) for value in values.tolist()]

    def numbers_of(self, outputs: Mapping[str, Array]) -> Floats:
        """The predicted number of each row."""
        return _first(outputs[self.prediction]).astype(np.float64)

    def name_of(self, value: object) -> str:
        """A class by one name, whether a label or an answer says it as a number, as text or as an index of `classes`."""
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, bool):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = str(value)
        if text in self.classes or not _WHOLE.fullmatch(text):
            return text
        index = int(text.removesuffix(".0"))
        return self.classes[index] if 0 <= index < len(self.classes) else str(index)

    @property
    def _binary(self) -> tuple[str, str]:
        """(negative, positive) where one score says both."""
        positive = self.positive or (self.classes[1] if len(self.classes) == 2 else "1")
        return next((name for name in self.classes if name != positive), "0" if positive == "1" else f"not {positive}"), positive

    def positive_of(self, wanted: str, n_scores: int) -> tuple[str, int] | None:
        """The class whose score tells a positive from a negative, and its place among the scores; None where nobody says which."""
        if n_scores == 1:
            positive = self._binary[1]
            return (positive, 0) if not wanted or self.name_of(wanted) == positive else None
        names = self.classes or tuple(str(index) for index in range(n_scores))
        wanted = wanted or self.positive
        name = self.name_of(wanted) if wanted else names[1] if len(names) == 2 else ""
        return (name, names.index(name)) if name in names[:n_scores] else None

    def scores_of(self, outputs: Mapping[str, Array], index: int) -> Floats:
        """Of one class, on each row."""
        scores = outputs[self.scores or self.prediction]
        return scores.reshape(len(scores), -1)[:, index].astype(np.float64)


def reading_of(
    outputs: Sequence[TensorSpec], is_batched: bool, spec: MonitoringSpec, class_labels: Mapping[str, Sequence[str]]
) -> Reading:
    """How to read answers with these outputs. Raises ConfigurationError when it is not plain which of them is the prediction."""
    of = {one.name: one for one in outputs}
    single = [one for one in outputs if _width(one, is_batched) == 1]
    scores = spec.scores or next((one.name for one in outputs if one.datatype in _FLOATS and _width(one, is_batched) != 1), "")
    prediction = spec.prediction or _only(single)
    if not prediction and not scores:
        names = ", ".join(of) or "none"
        raise ConfigurationError(f"which output is the prediction? name it in model.yaml: monitoring.prediction; there are {names}")
    is_number = bool(prediction) and of[prediction].datatype in _FLOATS
    task = spec.task or ("regression" if is_number and not scores and not spec.positive else "classification")
    if task == "regression" and (not prediction or of[prediction].datatype == "BYTES"):
        raise ConfigurationError("monitoring.task is regression: name an output of one number a row as monitoring.prediction")
    classes = tuple(spec.classes) or tuple(class_labels.get(scores, ())) or tuple(class_labels.get(prediction, ()))
    return Reading(prediction, scores, classes, task == "classification", spec.positive)


def _only(single: Sequence[TensorSpec]) -> str:
    """The name of the only one; of several, of the only one that is no float."""
    for found in (single, [one for one in single if one.datatype not in _FLOATS]):
        if len(found) == 1:
            return found[0].name
    return ""


def _width(spec: TensorSpec, is_batched: bool) -> int:
    """Elements of a row; -1 where that is not known."""
    shape = spec.shape[1:] if is_batched else spec.shape
    return -1 if any(size < 0 for size in shape) else math.prod(shape)


def _first(values: Array) -> Array:
    return values.reshape(len(values), -1)[:, 0]


__all__ = ["Reading", "reading_of"]
