"""Rows into cells: what the recorder's threads do for the rows that are drawn.

All that grows with the rows is native and without the GIL.
"""

from typing import TypeAlias

import numpy as np
import pyarrow as pa

from serve._core.feature_histogram import CategoryTable
from serve.monitoring.answer_reader import AnswerColumnsRead, AnswerReader, Codes, Hashes, ReadAnswers
from serve.monitoring.arrow_values import Numbers, integers_of, numbers_of, storage_of, texts_of
from serve.monitoring.baseline import AnswerBaseline, Baseline, CategoryFeature, EmbeddingFeature
from serve.monitoring.bins import Bins
from serve.monitoring.cells import AnswerCell, Cells, EmbeddingCell, NumericCell
from serve.monitoring.embedding import features_of

Rows: TypeAlias = pa.RecordBatch | pa.Table

# One vector in so many, by the sequence number of its row: a random feature costs as much as a hundred histograms.
EMBEDDING_STRIDE = 10
FP64 = 12       # as the kernels number it


class Observer:
    """Fills cells of one baseline. embedding_stride: one vector in so many is looked at, by `seq`; 1: all, which needs no such column."""

    def __init__(self, baseline: Baseline, embedding_stride: int = EMBEDDING_STRIDE) -> None:
        self._baseline = baseline
        self._stride = embedding_stride
        self._categories = {one.column: category_table(one) for one in baseline.categories}
        self._answers = _Answers(baseline, baseline.answers) if baseline.answers is not None else None

    def observe(self, rows: Rows, cells: Cells) -> None:
        """Adds rows that were answered. rows: with the baseline's columns, of a journal's types or of the table's.

        Raises InvalidArgument for a column of another type, KeyError for one that is not there; nothing is added to the columns after it.
        """
        cells.rows += rows.num_rows
        for column, bins in self._baseline.bins.items():
            add_numbers(_numbers(rows, column), bins, cells.numeric[column])
        for feature in self._baseline.categories:
            cell = cells.categories[feature.column]
            codes = encode(self._categories[feature.column], rows.column(feature.column), cell.unseen)
            cell.counts[...] += np.bincount(codes, minlength=len(cell.counts))
        for embedding in self._baseline.embeddings:
            self._embed(rows, embedding, cells.embeddings[embedding.column])
        if self._answers is not None and cells.answers is not None:
            self._answers.observe(rows, cells.answers)

    def _embed(self, rows: Rows, feature: EmbeddingFeature, cell: EmbeddingCell) -> None:
        chosen = np.arange(rows.num_rows)
        if self._stride > 1:
            chosen = np.flatnonzero(rows.column("seq").to_numpy() % self._stride == 0)
        cell.n[0] += features_of(feature).add(_numbers(rows, feature.column, feature.size), chosen, cell.sums)


class _Answers:
    def __init__(self, baseline: Baseline, answers: AnswerBaseline) -> None:
        self._answers = answers
        self._scores, self._confidence = baseline.score_bins, baseline.confidence_bins
        self._reader = AnswerReader(read_as(answers))
        # Code of a predicted class -> the element of `maps` that is its own.
        self._marks = np.full(len(answers.classes) + 2, -1, np.int32)
        for element, code in enumerate(answers.scored):
            if code >= 0:
                self._marks[code] = element

    def observe(self, rows: Rows, cell: AnswerCell) -> None:
        read = self._reader.read(rows)
        cell.classes[...] += np.bincount(read.codes, minlength=len(cell.classes))
        if read.scores is None:
            return
        if self._scores is not None:
            count_scores(read.scores, self._answers.first_scored, self._scores, self._marks[read.codes], cell)
        if self._confidence is not None:
            count_confidence(self._reader, read, self._confidence, cell)


def read_as(answers: AnswerBaseline) -> AnswerColumnsRead:
    """How a baseline's answers are read."""
    return AnswerColumnsRead(answers.classes, answers.indices, answers.prediction, answers.scores, answers.is_score, answers.positive)


def add_numbers(numbers: Numbers, bins: Bins, cell: NumericCell) -> None:
    """The first elements of each row into their histograms."""
    bins.native.add(numbers.values, numbers.datatype, numbers.offset, numbers.stride, numbers.n_rows, numbers.validity,
                    numbers.validity_offset, cell.counts, cell.moments)


def count_scores(scores: Numbers, first: int, bins: Bins, marks: Codes, cell: AnswerCell) -> None:
    """Each scored element into its two histograms, by whether its class was predicted."""
    if first + bins.n_features > scores.stride:     # a row of fewer scores than the baseline knows
        return
    counts = cell.scores.reshape(2 * bins.n_features, bins.n_slots)
    bins.native.add(scores.values, scores.datatype, scores.offset + first, scores.stride, scores.n_rows, scores.validity,
                    scores.validity_offset, counts, None, marks)


def count_confidence(reader: AnswerReader, read: ReadAnswers, bins: Bins, cell: AnswerCell) -> None:
    """The score of the predicted class into its histogram."""
    own = reader.own_scores(read)
    bins.native.add(own.view(np.uint8), FP64, 0, 1, len(own), None, 0, cell.confidence)


def category_table(feature: CategoryFeature) -> CategoryTable:
    """Codes of the values that a baseline knows."""
    return CategoryTable([value.encode("utf-8", "surrogateescape") for value in feature.values])


def encode(table: CategoryTable, values: pa.Array | pa.ChunkedArray, unseen: Hashes | None = None) -> Codes:
    """Codes of a column of text, bytes, whole numbers or booleans; n_keys for others, n_keys + 1 for nulls."""
    array = storage_of(values)
    codes = np.empty(len(array), np.int32)
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        table.encode_integers(*integers_of(array), codes, unseen)
    else:
        texts = texts_of(array)
        table.encode_bytes(texts.offsets, texts.data, texts.validity, texts.validity_offset, codes, unseen)
    return codes


def _numbers(rows: Rows, column: str, width: int = 0) -> Numbers:
    return numbers_of(rows.column(column), width)


__all__ = ["EMBEDDING_STRIDE", "FP64", "Observer", "add_numbers", "category_table", "count_confidence", "count_scores", "encode", "read_as"]
