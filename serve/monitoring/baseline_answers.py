"""A classifier's answers in a baseline: its classes, how its scores are calibrated, and how well it does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serve.monitoring.answer_reader import AnswerColumnsRead, AnswerReader, Codes, ReadAnswers
from serve.monitoring.arrow_values import matrix_of, numbers_of, present
from serve.monitoring.baseline import AnswerBaseline, MetricBaseline, ScoreMap
from serve.monitoring.baseline_features import value_counts
from serve.monitoring.bins import SCORE_CAPACITY, Floats, frozen_edges
from serve.monitoring.calibration import fit_isotonic
from serve.monitoring.performance import (
    LIMITS,
    brier_losses,
    class_metrics,
    confusion_of,
    log_losses,
    mean_auc,
    number_metrics,
    roc_auc,
)
from serve.monitoring.watched import Plan
from serve.monitors import MonitoringSpec
from serve.recording.answers import class_name, name_at

MAX_CLASSES = 1024
# Classes whose scores are watched one by one; of more, only that of the class which is predicted.
MAX_SCORED = 32
# Labelled rows, of either kind, before a score is calibrated by them.
MIN_OF_A_KIND = 10
_SCORE_BINS = SCORE_CAPACITY - 2
_MIN_CHUNKS, _MAX_CHUNKS = 5, 20

# Rows by their indices -> metric -> value.
Metrics: TypeAlias = Callable[[npt.NDArray[np.intp]], dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class LabelledAnswers:
    """answers: counts and maps. performance: where there were labels."""

    answers: AnswerBaseline
    performance: Mapping[str, MetricBaseline]


def answer_baseline(
    rows: pa.Table, plan: Plan, spec: MonitoringSpec, labels: Sequence[object] | None, chunk_rows: int,
) -> LabelledAnswers:
    """rows: with the plan's columns of answers. labels: classes by name, number or index, None where unknown; None: there are none.

    Raises InvalidArgument for columns of other types than a tensor's.
    """
    named = np.array([class_name(one, spec.classes) for one in labels], object) if labels is not None else None
    columns = _columns(rows, plan, spec, named)
    reader = AnswerReader(columns)
    read = reader.read(rows)
    counts = np.bincount(read.codes, minlength=reader.n_classes + 2).tolist()
    truth = reader.encode_names(named) if named is not None else np.full(len(read.codes), reader.missing, np.int32)
    is_known = (truth != reader.missing) & (read.codes != reader.missing)
    confusion = confusion_of(truth[is_known], read.codes[is_known], reader.n_classes)
    first, maps, confidence = _maps(reader, columns, read, truth)
    answers = AnswerBaseline(
        classes=columns.classes, indices=columns.indices, prediction=columns.prediction, scores=columns.scores, is_score=columns.is_score,
        positive=columns.positive, counts=tuple(counts[:-2]), others=counts[-2], nulls=counts[-1], first_scored=first, maps=maps,
        confidence=confidence,
        confusion=tuple(map(tuple, confusion[:-1, :-1].tolist())) if is_known.any() else None,
    )
    return LabelledAnswers(answers, _performance(answers, read, truth, np.flatnonzero(is_known), chunk_rows))


# --- classes ------------------------------------------------------------------------------------------------------------

def _columns(rows: pa.Table, plan: Plan, spec: MonitoringSpec, labels: npt.NDArray[np.object_] | None) -> AnswerColumnsRead:
    prediction = plan.prediction.column if plan.prediction is not None else ""
    scores = plan.scores.column if plan.scores is not None else ""
    if plan.is_score:
        negative, positive = binary_names(spec)
        return AnswerColumnsRead((negative, positive), (-1, -1), prediction, "", True, positive)
    width = numbers_of(rows.column(scores)).stride if scores else 0
    by_index = [name_at(index, spec.classes) for index in range(max(width, len(spec.classes)))]
    seen = [*_predicted(rows, prediction, spec), *(labels[labels != None].tolist() if labels is not None else [])]     # noqa: E711
    others = sorted(set(seen) - set(by_index), key=_order)
    classes = tuple([*dict.fromkeys(by_index), *others][:MAX_CLASSES])
    indices = tuple(by_index.index(name) if name in by_index else _whole(name, spec) for name in classes)
    positive = spec.positive or (classes[1] if len(classes) == 2 else "")
    return AnswerColumnsRead(classes, indices, prediction, scores, False, positive if len(classes) == 2 and positive in classes else "")


def binary_names(spec: MonitoringSpec) -> tuple[str, str]:
    """(negative, positive) of a model whose prediction is one score, as `serve.recording.answers` names them."""
    positive = spec.positive or (spec.classes[1] if len(spec.classes) == 2 else "1")
    negative = next((name for name in spec.classes if name != positive), "0" if positive == "1" else f"not {positive}")
    return negative, positive


def _predicted(rows: pa.Table, prediction: str, spec: MonitoringSpec) -> list[str]:
    """Names of the predicted classes, the most frequent first."""
    if not prediction:
        return []
    kind = rows.column(prediction).type
    if pa.types.is_floating(kind) or pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType):
        names = [class_name(value[0] if isinstance(value, list) and value else value, spec.classes)
                 for value in rows.column(prediction).to_pylist()]
        return [name for name in dict.fromkeys(names) if name is not None][:MAX_CLASSES]
    is_text = pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_dictionary(kind)
    found = value_counts(rows.column(prediction))
    named = [value if is_text else class_name(int(value), spec.classes) for value, _ in found.most_common() if value is not None]
    return [name for name in dict.fromkeys(named) if name is not None][:MAX_CLASSES]


def _whole(name: str, spec: MonitoringSpec) -> int:
    """The number that a class's name is, -1 where it is none."""
    if not name.isdecimal() or str(int(name)) != name or int(name) >= 1 << 20 or class_name(int(name), spec.classes) != name:
        return -1
    return int(name)


def _order(name: str) -> tuple[bool, int, str]:
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


# --- scores -------------------------------------------------------------------------------------------------------------

def _maps(
    reader: AnswerReader, columns: AnswerColumnsRead, read: ReadAnswers, truth: Codes,
) -> tuple[int, tuple[ScoreMap, ...], ScoreMap | None]:
    """(first scored element, maps, confidence) as AnswerBaseline has them."""
    if read.scores is None:
        return 0, (), None
    values = matrix_of(read.scores).astype(np.float64)
    values[~present(read.scores)] = np.nan
    width = 1 if columns.is_score else values.shape[1]
    if columns.positive:
        first = 0 if columns.is_score else columns.indices[columns.classes.index(columns.positive)]
        scored = [first] if 0 <= first < width else []
    else:
        first, scored = 0, list(range(width)) if 2 < width <= MAX_SCORED else []
    of_element = {index: code for code, index in enumerate(columns.indices) if index >= 0}
    if columns.is_score:
        of_element = {0: columns.classes.index(columns.positive)}
    is_known = truth != reader.missing
    maps = [_map(values[:, element], read.codes == of_element.get(element, -1), truth == of_element.get(element, -1), is_known)
            for element in scored]
    own = reader.own_scores(read)
    confidence = _map(own, np.ones(len(own), bool), truth == read.codes, is_known) if width > 2 else None
    whole = tuple(one for one in maps if one is not None)
    return first, whole if len(whole) == len(scored) else (), confidence


def _map(
    scores: Floats, is_called: npt.NDArray[np.bool_], is_true: npt.NDArray[np.bool_], is_known: npt.NDArray[np.bool_],
) -> ScoreMap | None:
    """None where the scores say nothing: none is finite, or they are no probabilities and no labels tell what they mean."""
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    usable = finite & is_known
    hits = int(np.count_nonzero(is_true & usable))
    can_fit = min(hits, int(np.count_nonzero(usable)) - hits) >= MIN_OF_A_KIND
    low, high = scores[finite].min(), scores[finite].max()
    if not can_fit and (low < 0 or high > 1):
        return None
    edges = frozen_edges(scores[finite].astype(np.float32), _SCORE_BINS, SCORE_CAPACITY - 1)
    slots = np.searchsorted(edges, scores[finite].astype(np.float32), side="right")
    counts = [np.bincount(slots[is_called[finite] == called], minlength=len(edges) + 1) for called in (False, True)]
    probabilities = fit_isotonic(scores[usable], is_true[usable])(scores[finite]) if can_fit else np.clip(scores[finite], 0, 1)
    total = np.bincount(slots, minlength=len(edges) + 1)
    sums = np.bincount(slots, weights=probabilities, minlength=len(edges) + 1)
    filled = np.flatnonzero(total)
    values = np.interp(np.arange(len(edges) + 1), filled, sums[filled] / total[filled])
    return ScoreMap(tuple(edges), (tuple(counts[0].tolist()), tuple(counts[1].tolist())), tuple(values.tolist()), can_fit)


# --- performance --------------------------------------------------------------------------------------------------------

def _performance(
    answers: AnswerBaseline, read: ReadAnswers, truth: Codes, known: npt.NDArray[np.intp], chunk_rows: int,
) -> dict[str, MetricBaseline]:
    def metrics(chosen: npt.NDArray[np.intp]) -> dict[str, float]:
        return answer_metrics(answers, read, truth, chosen)

    return chunked(metrics, known, chunk_rows)


def answer_metrics(answers: AnswerBaseline, read: ReadAnswers, truth: Codes, chosen: npt.NDArray[np.intp]) -> dict[str, float]:
    """Realised metrics of the chosen rows, exactly. truth: codes; every chosen row has a prediction and a true class."""
    n = len(answers.classes)
    positive = answers.classes.index(answers.positive) if answers.positive else None
    found = class_metrics(confusion_of(truth[chosen], read.codes[chosen], n), positive)
    if read.scores is None or not len(chosen):
        return found
    values = matrix_of(read.scores).astype(np.float64)[chosen]
    is_scored = np.isfinite(values).all(axis=1) & present(read.scores)[chosen]
    values, true = values[is_scored], truth[chosen][is_scored]
    areas = [roc_auc(true == code, values[:, 0 if answers.is_score else answers.first_scored + at])
             for at, code in enumerate(answers.scored) if code >= 0]
    return {**found, **mean_auc(areas), **_losses(answers, values, true)}


def _losses(answers: AnswerBaseline, values: Floats, true: Codes) -> dict[str, float]:
    """Of scores that are probabilities."""
    if answers.is_score:
        positive = answers.classes.index(answers.positive)
        values, element = np.stack([1 - values[:, 0], values[:, 0]], axis=1), (true == positive).astype(np.int64)
    else:
        table = np.full(len(answers.classes) + 2, -1)
        table[:len(answers.classes)] = answers.indices
        element = table[true]
    usable = (element >= 0) & (element < values.shape[1])
    values, element = values[usable], element[usable]
    if not len(values) or values.min() < 0 or values.max() > 1 or np.abs(values.sum(axis=1) - 1).max() > 1e-3:
        return {}
    return {"log_loss": float(log_losses(element, values).mean()), "brier": float(brier_losses(element, values).mean())}


def number_performance(errors: Floats, chunk_rows: int) -> dict[str, MetricBaseline]:
    """Of a regression: prediction - truth of the labelled rows, in their order."""
    return chunked(lambda chosen: number_metrics(errors[chosen]), np.arange(len(errors)), chunk_rows)


def chunked(metrics: Metrics, rows: npt.NDArray[np.intp], chunk_rows: int) -> dict[str, MetricBaseline]:
    """Metrics of all rows and of chunks of so many, in their order; 0: between 5 and 20 chunks. A rest that is no chunk is left out."""
    width = chunk_rows or max(1, len(rows) // min(_MAX_CHUNKS, max(_MIN_CHUNKS, len(rows) // 500)))
    chunks = [metrics(rows[at:at + width]) for at in range(0, len(rows) - width + 1, width)]
    found = {}
    for name, value in (metrics(rows) if len(rows) else {}).items():
        values = [chunk[name] for chunk in chunks if name in chunk]
        if len(values) >= 2:
            found[name] = MetricBaseline(value, float(np.mean(values)), float(np.std(values)), width, len(values), *LIMITS[name])
    return found


__all__ = ["LabelledAnswers", "answer_baseline", "answer_metrics", "binary_names", "chunked", "number_performance"]
