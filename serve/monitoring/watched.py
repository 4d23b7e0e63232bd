"""What is watched of a version's recorded columns, and how. Pure.

Inputs of numbers are watched element by element, up to 256 of them (4096 where `features` names the input); text and booleans as
categories; what `embeddings` names, and numbers beyond 256, as vectors. Of outputs, what says the prediction, and what `embeddings` names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from serve.errors import ConfigurationError
from serve.monitors import MonitoringSpec, Task
from serve.recording.answers import AnswerColumns, answer_columns
from serve.recording.views import columns_of
from serve.records import RecordedTensor

MAX_FEATURES: Final = 256
MAX_NAMED_FEATURES: Final = 4096
MAX_EMBEDDING: Final = 65_536

Kind = Literal["numeric", "category", "embedding"]


@dataclass(frozen=True, slots=True)
class Watched:
    """A column. name: of its features. size: features; the first `size` elements of a row of `width`."""

    column: str
    name: str
    kind: Kind
    datatype: str
    size: int
    width: int


@dataclass(frozen=True, slots=True)
class Plan:
    """columns: in the model's order. prediction, scores: columns of the answers, None where there is none. skipped: column -> why."""

    columns: tuple[Watched, ...]
    task: Task
    prediction: RecordedTensor | None
    scores: RecordedTensor | None
    is_score: bool
    skipped: dict[str, str]


def plan_of(tensors: Sequence[RecordedTensor], spec: MonitoringSpec) -> Plan:
    """Raises ConfigurationError for a name in the spec that no recorded tensor has."""
    _check_names(tensors, spec)
    answers = answer_columns(columns_of(tensors), spec)
    columns: list[Watched] = []
    skipped: dict[str, str] = {}
    inputs = {tensor.name for tensor in tensors if tensor.kind == "in"}
    for tensor in tensors:
        name = tensor.column if tensor.kind == "out" and tensor.name in inputs else tensor.name
        found = _watched(tensor, name, spec, answers)
        if isinstance(found, Watched):
            columns.append(found)
        elif found:
            skipped[tensor.column] = found
    prediction = answers.prediction.tensor if answers.prediction is not None else None
    scores = answers.scores.tensor if answers.scores is not None else None
    return Plan(tuple(columns), answers.task, prediction, scores, answers.is_score, skipped)


def _check_names(tensors: Sequence[RecordedTensor], spec: MonitoringSpec) -> None:
    for key, names, known in (
        ("features", spec.features, {tensor.name for tensor in tensors if tensor.kind == "in"}),
        ("embeddings", spec.embeddings, {tensor.name for tensor in tensors}),
    ):
        for name in names:
            if name not in known:
                raise ConfigurationError(f"monitoring.{key}: {name!r} is not recorded; recorded are {', '.join(sorted(known)) or 'none'}")


def _watched(tensor: RecordedTensor, name: str, spec: MonitoringSpec, answers: AnswerColumns) -> Watched | str:
    """The reason why not, "" where nobody expects it."""
    is_vector = tensor.name in spec.embeddings
    if tensor.kind == "out" and not is_vector:
        return _prediction(tensor, name, answers)
    if not is_vector and spec.features and tensor.name not in spec.features:
        return ""
    if any(size < 0 for size in tensor.shape):
        return "its rows differ in shape"
    size = math.prod(tensor.shape)
    if tensor.datatype in {"BYTES", "BOOL"}:
        if size != 1 or is_vector:
            return f"{size} values of {tensor.datatype} a row: one is a category, more are not watched"
        return Watched(tensor.column, name, "category", tensor.datatype, 1, 1)
    if is_vector or size > (MAX_NAMED_FEATURES if tensor.name in spec.features else MAX_FEATURES):
        if not 2 <= size <= MAX_EMBEDDING:
            return f"{size} elements a row: a vector has 2 to {MAX_EMBEDDING}"
        return Watched(tensor.column, name, "embedding", tensor.datatype, size, size)
    if size == 0:
        return "its rows are empty"
    return Watched(tensor.column, name, "numeric", tensor.datatype, size, size)


def _prediction(tensor: RecordedTensor, name: str, answers: AnswerColumns) -> Watched | str:
    """Of a regression the predicted number is a feature; classes are counted by themselves."""
    if answers.prediction is None or answers.prediction.tensor != tensor or answers.task != "regression":
        return ""
    if any(size < 0 for size in tensor.shape) or tensor.datatype in {"BYTES", "BOOL"}:
        return f"{tensor.datatype} of shape {list(tensor.shape)} is no number of a fixed place"
    return Watched(tensor.column, name, "numeric", tensor.datatype, 1, math.prod(tensor.shape))


__all__ = ["MAX_EMBEDDING", "MAX_FEATURES", "MAX_NAMED_FEATURES", "Plan", "Watched", "plan_of"]
