"""What a model's recorded outputs say: which class or number was predicted, and with which score. Pure.

Classes are compared by name: a whole number is written without a point, true and false are 1 and 0, BYTES are UTF-8, and an index into
scores (or an integer output) is the name that MonitoringSpec.classes gives it, where it gives any.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serve.monitors import MonitoringSpec, Task
from serve.recording.joined_rows import Floats, Objects
from serve.recording.views import Column

_FLOATS = ("FP16", "BF16", "FP32", "FP64")
_MIN_SCORE = 0.5        # of the one score of a binary model, to be positive


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """Where a version's recorded rows say what was predicted; None where they do not. task: of the spec, else by the columns."""

    task: Task
    prediction: Column | None = None
    scores: Column | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, each once."""
        return tuple(dict.fromkeys(column.name for column in (self.prediction, self.scores) if column is not None))

    @property
    def is_score(self) -> bool:
        """Whether the prediction is the one score of a binary model."""
        return self.task == "classification" and self.scores is None and self.prediction is not None and _is_float(self.prediction)


@dataclass(frozen=True, slots=True)
class Answers:
    """Of n rows. prediction: names of classes as str, or float64; None or NaN where the row does not say. scores, score, positive: as
    JoinedRows has them, NaN where the row does not say.
    """

    prediction: npt.NDArray[np.object_] | Floats
    scores: npt.NDArray[np.float32] | None
    score: Floats | None
    positive: str


def answer_columns(columns: Sequence[Column], spec: MonitoringSpec) -> AnswerColumns:
    """By the spec's names, else as MonitoringSpec says that they are found."""
    outputs = [column for column in columns if column.tensor.kind == "out"]
    by_name = {column.tensor.name: column for column in outputs}
    several = [column for column in outputs if _is_float(column) and column.form.shape == "list"]
    scores = by_name.get(spec.scores) if spec.scores else several[0] if len(several) == 1 else None
    scalars = [column for column in outputs if column.form.shape == "scalar" and column != scores]
    prediction = by_name.get(spec.prediction) if spec.prediction else _only(scalars)
    if spec.task == "regression":
        return AnswerColumns("regression", prediction)
    is_class = prediction is not None and not _is_float(prediction)
    task: Task = spec.task or ("classification" if scores is not None or is_class or spec.positive else "regression")
    return AnswerColumns(task, prediction, scores if task == "classification" else None)


def _only(scalars: Sequence[Column]) -> Column | None:
    """The only one; of several, the only one that is no float."""
    for found in (scalars, [column for column in scalars if not _is_float(column)]):
        if len(found) == 1:
            return found[0]
    return None


def _is_float(column: Column) -> bool:
    return column.tensor.datatype in _FLOATS


def answers(rows: pa.Table, columns: AnswerColumns, spec: MonitoringSpec) -> Answers:
    """rows: with `columns.names`, of the table's types or what DuckDB makes of them."""
    if columns.task == "regression":
        return Answers(_numbers(rows, columns.prediction), None, None, "")
    if columns.is_score:
        score = _numbers(rows, columns.prediction)
        positive = spec.positive or (spec.classes[1] if len(spec.classes) == 2 else "1")
        negative = next((name for name in spec.classes if name != positive), "0" if positive == "1" else f"not {positive}")
        named = np.where(score >= _MIN_SCORE, positive, negative).astype(object)
        named[np.isnan(score)] = None
        return Answers(named, None, score, positive)
    scores = _matrix(rows, columns.scores)
    if columns.prediction is not None:
        prediction = class_names(rows.column(columns.prediction.name), spec.classes)
    else:
        prediction = _argmax(scores, spec.classes, rows.num_rows)
    return Answers(prediction, scores, *_positive(scores, spec))


def _numbers(rows: pa.Table, column: Column | None) -> Floats:
    if column is None:
        return np.full(rows.num_rows, np.nan)
    values = rows.column(column.name)
    if column.form.shape != "scalar":       # "the output whose first value of a row"
        firsts = [value[0] if value else None for value in _lists(values)]
        values = pa.chunked_array([pa.array(firsts, pa.float64())])
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        return np.full(rows.num_rows, np.nan)
    found = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.float64)


def _lists(values: pa.ChunkedArray) -> list[list[object] | None]:
    return [value["data"] if isinstance(value, dict) else value for value in values.to_pylist()]


def class_names(values: pa.ChunkedArray, classes: Sequence[str] = ()) -> Objects:
    """Names of classes, None where there is none: of numbers, text or BYTES; of lists, of their first elements."""
    firsts = [value[0] if isinstance(value, list) and value else value for value in _lists(values)]
    return as_objects([class_name(value, classes) for value in firsts])


def class_name(value: object, classes: Sequence[str] = ()) -> str | None:
    """One name. classes: by index; a name that is among them, and what is no index, stays."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, int | float) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    index = int(value)
    return str(index) if str(index) in classes else name_at(index, classes)


def name_at(index: int, classes: Sequence[str]) -> str:
    """Of the class with that index among the scores; its number where it has no name."""
    return classes[index] if 0 <= index < len(classes) else str(index)


def _matrix(rows: pa.Table, column: Column | None) -> npt.NDArray[np.float32] | None:
    """Shape (n, k), NaN of rows without scores; None where rows differ in k, and where none has any."""
    if column is None:
        return None
    lists = _lists(rows.column(column.name))
    lengths = {len(value) for value in lists if value is not None}
    if len(lengths) != 1:
        return None
    k = lengths.pop()
    empty = [np.nan] * k
    return np.array([empty if value is None else value for value in lists], dtype=np.float32).reshape(len(lists), k)


def _argmax(scores: npt.NDArray[np.float32] | None, classes: Sequence[str], n: int) -> Objects:
    if scores is None or not scores.shape[1]:
        return np.full(n, None, dtype=object)
    names = as_objects([name_at(index, classes) for index in range(scores.shape[1])])
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    found: Objects = names[best]
    found[np.isnan(scores).any(axis=1)] = None
    return found


def _positive(scores: npt.NDArray[np.float32] | None, spec: MonitoringSpec) -> tuple[Floats | None, str]:
    """The positive class's score and its name, of a binary model. Of scores of two classes it is the second, unless the spec says."""
    if scores is None or scores.shape[1] != 2:
        return None, spec.positive
    names = [name_at(index, spec.classes) for index in range(2)]
    positive = spec.positive or names[1]
    if positive not in names:
        return None, positive
    return scores[:, names.index(positive)].astype(np.float64), positive


def as_objects(values: Sequence[object]) -> Objects:
    """An array of objects, whatever they are."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


__all__ = ["AnswerColumns", "Answers", "answer_columns", "answers", "as_objects", "class_name", "class_names", "name_at"]
