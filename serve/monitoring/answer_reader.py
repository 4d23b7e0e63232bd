"""Recorded answers as numbers: the code of the class that each row predicts, and the scores that it gave.

Codes are indices into the baseline's classes; behind them stand one for any other class and one for a row that predicts nothing. Which
column says what is settled by `serve.recording.answers`, whose rules for the names of classes hold here too.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serve._core.feature_histogram import CategoryTable
from serve.monitoring.arrow_values import Numbers, integers_of, matrix_of, numbers_of, present, storage_of, texts_of
from serve.monitoring.bins import Floats
from serve.recording.answers import class_names

Codes = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

POSITIVE_FROM = 0.5     # the one score of a binary model says positive from here on


@dataclass(frozen=True, slots=True)
class AnswerColumnsRead:
    """How answers are read: AnswerBaseline has the same fields."""

    classes: tuple[str, ...]
    indices: tuple[int, ...]
    prediction: str
    scores: str
    is_score: bool
    positive: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadAnswers:
    """codes: int32 of shape (n,). scores: None where the model gives none."""

    codes: Codes
    scores: Numbers | None


class AnswerReader:
    """Of one version's rows."""

    def __init__(self, columns: AnswerColumnsRead) -> None:
        self._columns = columns
        self.n_classes = len(columns.classes)
        named = {name: code for code, name in enumerate(columns.classes)}
        for code, index in enumerate(columns.indices):
            if index >= 0:
                named.setdefault(str(index), code)
        self._table = CategoryTable([name.encode("utf-8", "surrogateescape") for name in named])
        self._codes = np.array([*named.values(), self.n_classes, self.n_classes + 1], np.int32)
        self._of_index = np.full(max([*columns.indices, -1]) + 1, self.n_classes, np.int32)
        for code, index in enumerate(columns.indices):
            if index >= 0:
                self._of_index[index] = code

    @property
    def unknown(self) -> int:
        """The code of a class that is none of the baseline's."""
        return self.n_classes

    @property
    def missing(self) -> int:
        """The code of a row that predicts nothing."""
        return self.n_classes + 1

    def read(self, rows: pa.RecordBatch | pa.Table, unseen: Hashes | None = None) -> ReadAnswers:
        """unseen: the least hashes of unknown classes, updated. Raises InvalidArgument for columns of other types than a tensor's."""
        columns = self._columns
        if columns.is_score:
            score = numbers_of(rows.column(columns.prediction))
            return ReadAnswers(self._by_score(score), score)
        scores = numbers_of(rows.column(columns.scores)) if columns.scores else None
        if columns.prediction:
            return ReadAnswers(self.encode(rows.column(columns.prediction), unseen), scores)
        assert scores is not None
        return ReadAnswers(self._by_largest(scores), scores)

    def encode(self, values: pa.Array | pa.ChunkedArray, unseen: Hashes | None = None) -> Codes:
        """Codes of classes as the model gives them: text, bytes, whole numbers, booleans; of lists, by their first elements."""
        array = storage_of(values)
        kind = array.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            return self._encode_texts(array, unseen)
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            found = np.empty(len(array), np.int32)
            self._table.encode_integers(*integers_of(array), found, unseen)
            return self._codes[found]
        names = class_names(pa.chunked_array([array]))
        return self._encode_texts(pa.array(names, pa.string()), unseen)

    def encode_names(self, names: npt.NDArray[np.object_]) -> Codes:
        """Codes of names of classes, None: of nothing."""
        return self._encode_texts(pa.array(names, pa.string()), None)

    def _encode_texts(self, array: pa.Array, unseen: Hashes | None) -> Codes:
        texts = texts_of(array)
        found = np.empty(len(array), np.int32)
        self._table.encode_bytes(texts.offsets, texts.data, texts.validity, texts.validity_offset, found, unseen)
        return self._codes[found]

    def _by_score(self, score: Numbers) -> Codes:
        values = matrix_of(score)[:, 0]
        positive = self._columns.classes.index(self._columns.positive)
        found = np.where(values >= POSITIVE_FROM, positive, 1 - positive).astype(np.int32)
        found[np.isnan(values.astype(np.float64)) | ~present(score)] = self.missing
        return found

    def _by_largest(self, scores: Numbers) -> Codes:
        values = matrix_of(scores)
        best = values.argmax(axis=1)
        found = np.full(scores.n_rows, self.unknown, np.int32)
        is_known = best < len(self._of_index)
        found[is_known] = self._of_index[best[is_known]]
        # NaN is the largest to argmax.
        at_best = values[np.arange(scores.n_rows), best].astype(np.float64) if scores.stride else np.full(scores.n_rows, np.nan)
        found[np.isnan(at_best) | ~present(scores)] = self.missing
        return found

    def own_scores(self, answers: ReadAnswers) -> Floats:
        """Of the predicted class, NaN where it has none; shape (n,)."""
        found = np.full(len(answers.codes), np.nan)
        if answers.scores is None or self._columns.is_score:
            return found
        values = matrix_of(answers.scores)
        elements = np.full(self.n_classes + 2, -1)
        elements[:self.n_classes] = self._columns.indices
        at = elements[answers.codes]
        is_there = (at >= 0) & (at < values.shape[1]) & present(answers.scores)
        rows = np.flatnonzero(is_there)
        found[rows] = values[rows, at[rows]]
        return found


__all__ = ["AnswerColumnsRead", "AnswerReader", "Codes", "Hashes", "ReadAnswers"]
