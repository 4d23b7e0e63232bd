"""A baseline of rows: training data, the first recorded rows of a version, or those that it answered as a shadow."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serve.errors import InvalidArgument
from serve.monitoring.arrow_values import matrix_of, numbers_of, present
from serve.monitoring.baseline import (
    AnswerBaseline,
    Baseline,
    CategoryFeature,
    EmbeddingFeature,
    MetricBaseline,
    NumericFeature,
    Source,
)
from serve.monitoring.baseline_answers import answer_baseline, number_performance
from serve.monitoring.baseline_features import category_feature, embedding_feature, numeric_features
from serve.monitoring.watched import Plan, Watched, plan_of
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor

# Fewer tell nothing of quantiles.
MIN_ROWS = 30


def build_baseline(
    rows: pa.Table, tensors: Sequence[RecordedTensor], spec: MonitoringSpec, *, model: str, version: str, digest: str, source: Source,
    created_ns: int, labels: Sequence[object] | None = None, chunk_rows: int = 0, seed: int = 0,
) -> Baseline:
    """rows: columns in_<input> and out_<output> of a journal's types, of the table's or of numpy's; what is not there is not watched. Rows
    of failed requests (`row` = -1) are left out. labels: the truth of each row, None where unknown: classes as the model names them, or
    numbers. chunk_rows: labelled rows of a chunk of the performance's deviation; 0: a twentieth to a fifth of them.

    Raises InvalidArgument for fewer than 30 rows, labels that are not as many as rows, columns that are no tensor's; ConfigurationError for
    names in the spec that are no tensor's.
    """
    if labels is not None and len(labels) != rows.num_rows:
        raise InvalidArgument(f"{len(labels)} labels for {rows.num_rows} rows; give one a row, null where it is unknown")
    if "row" in rows.column_names:
        is_answered = pc.fill_null(pc.greater_equal(rows.column("row"), 0), True)
        labels = [one for one, keep in zip(labels, is_answered.to_pylist(), strict=True) if keep] if labels is not None else None
        rows = rows.filter(is_answered)
    if rows.num_rows < MIN_ROWS:
        raise InvalidArgument(f"{rows.num_rows} rows make no baseline; give at least {MIN_ROWS}")
    plan = plan_of(tensors, spec)
    numeric, categories, embeddings, skipped = _features(rows, plan, seed)
    answers, performance = _answers(rows, plan, spec, labels, chunk_rows)
    return Baseline(
        model=model, version=version, digest=digest, source=source, created_ns=created_ns, rows=rows.num_rows, task=plan.task,
        prediction=plan.prediction.column if plan.prediction is not None else "", numeric=numeric, categories=categories,
        embeddings=embeddings, answers=answers, performance=performance, skipped=skipped,
    )


def _features(
    rows: pa.Table, plan: Plan, seed: int,
) -> tuple[tuple[NumericFeature, ...], tuple[CategoryFeature, ...], tuple[EmbeddingFeature, ...], dict[str, str]]:
    numeric: list[NumericFeature] = []
    categories: list[CategoryFeature] = []
    embeddings: list[EmbeddingFeature] = []
    skipped = dict(plan.skipped)
    for watched in plan.columns:
        found = _of_column(rows, watched, seed)
        for why in found:
            if isinstance(why, str):
                skipped[watched.column] = why
        numeric += [one for one in found if isinstance(one, NumericFeature)]
        categories += [one for one in found if isinstance(one, CategoryFeature)]
        embeddings += [one for one in found if isinstance(one, EmbeddingFeature)]
    return tuple(numeric), tuple(categories), tuple(embeddings), skipped


def _of_column(
    rows: pa.Table, watched: Watched, seed: int,
) -> Sequence[NumericFeature | CategoryFeature | EmbeddingFeature | str]:
    if watched.column not in rows.column_names:
        return ["the baseline's rows do not have it"]
    column = rows.column(watched.column)
    if watched.kind == "numeric":
        return numeric_features(column, watched)
    return [category_feature(column, watched) if watched.kind == "category" else embedding_feature(column, watched, seed)]


def _answers(
    rows: pa.Table, plan: Plan, spec: MonitoringSpec, labels: Sequence[object] | None, chunk_rows: int,
) -> tuple[AnswerBaseline | None, Mapping[str, MetricBaseline]]:
    tensors = [tensor for tensor in (plan.prediction, plan.scores) if tensor is not None]
    if not tensors or any(tensor.column not in rows.column_names for tensor in tensors):
        return None, {}
    if plan.task == "classification":
        found = answer_baseline(rows, plan, spec, labels, chunk_rows)
        return found.answers, found.performance
    if labels is None or plan.prediction is None:
        return None, {}
    numbers = numbers_of(rows.column(plan.prediction.column))
    predicted = matrix_of(numbers)[:, 0].astype(np.float64)
    errors = predicted - np.array([_truth(one) for one in labels])
    return None, number_performance(errors[present(numbers) & np.isfinite(errors)], chunk_rows)


def _truth(label: object) -> float:
    """Of a regression; NaN of what is no number, as labels that clients send may be anything."""
    try:
        return float(str(label)) if not isinstance(label, bool) else float(label)
    except ValueError:
        return math.nan


__all__ = ["MIN_ROWS", "build_baseline"]
