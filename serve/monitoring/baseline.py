"""What a version is compared with: the values, answers and performance of rows that are known to be good. `baseline.json`.

A baseline belongs to one digest of a version and is pinned by its own SHA-256: counts made by one baseline are never added to another's.
Made by `serve.monitoring.baseline_build` from training data, the first recorded rows, or the version's own shadow rows.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from serve.errors import InvalidArgument
from serve.monitoring.baseline_fit import check_fit
from serve.monitoring.bins import SCORE_CAPACITY, Bins, bins_of
from serve.monitoring.cells import AnswerCell, CategoryCell, Cells, EmbeddingCell, NumericCell
from serve.monitors import Task
from serve.store.canonical import canonical

FORMAT: Final = 1

Source = Literal["training", "first_rows", "shadow"]


@dataclass(frozen=True, slots=True)
class NumericFeature:
    """One element of a column. name: of the tensor, with [index] where a row has several; of an output that is called like an input, with
    out_ before it. rows: that were looked at, those without a finite number (nulls, nans, infinites) among them.

    minimum, maximum, mean, std: of the finite values. edges: see bins.py; counts, means: of the len(edges) + 1 slots (a mean is the middle
    of an empty slot). centre, scale: of the sums.
    """

    name: str
    column: str
    index: int
    datatype: str
    rows: int
    nulls: int
    nans: int
    infinites: int
    minimum: float
    maximum: float
    mean: float
    std: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    means: tuple[float, ...]
    centre: float
    scale: float

    @property
    def is_integer(self) -> bool:
        return not self.datatype.startswith(("FP", "BF"))



@dataclass(frozen=True, slots=True)
class CategoryFeature:
    """A column of text, bytes or booleans. values: the most frequent first, BYTES as UTF-8 with surrogateescape, with their counts.

    others: rows of further values. is_complete: there were none, so that any other value is new.
    """

    name: str
    column: str
    datatype: str
    rows: int
    nulls: int
    values: tuple[str, ...]
    counts: tuple[int, ...]
    others: int

    @property
    def is_complete(self) -> bool:
        return self.others == 0


@dataclass(frozen=True, slots=True)
class EmbeddingFeature:
    """A column of vectors of `size` numbers, seen through random Fourier features (serve.monitoring.embedding).

    rows: vectors that were looked at. bandwidth: of the Gaussian kernel. mean: of the random features. null_mean, null_variance: of
    MMD^2 / (1/n + 1/m) where nothing has changed; threshold: its 0.99 quantile, bootstrapped.
    """

    name: str
    column: str
    datatype: str
    size: int
    rows: int
    seed: int
    bandwidth: float
    mean: tuple[float, ...]
    null_mean: float
    null_variance: float
    threshold: float


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Of one scored class, or of the confidence (the score of the predicted class). edges: of its slots, len(edges) + 1 in use.

    counts: rows in each slot where another class was predicted, and where this one was (confidence: all in the second). values: calibrated
    probability in each slot: isotonic in the score where there were labels, else the score itself.
    """

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], tuple[int, ...]]
    values: tuple[float, ...]
    is_calibrated: bool


@dataclass(frozen=True, slots=True)
class AnswerBaseline:
    """Of a classifier. classes: names, the order of all counts. indices: of each class in scores and as a whole number that is predicted,
    -1: it has none. prediction, scores: columns, "" none; is_score: `prediction` is the one score of the positive class. positive: its
    name, "" where there are more than two.

    counts, others, nulls: of predictions. maps: of the scored elements, from element `first_scored` on: the positive one of a binary model,
    each of up to 32 others, else none. confidence: of models with more than two scores. confusion: [true][predicted], with labels.
    """

    classes: tuple[str, ...]
    indices: tuple[int, ...]
    prediction: str
    scores: str
    is_score: bool
    positive: str
    counts: tuple[int, ...]
    others: int
    nulls: int
    first_scored: int = 0
    maps: tuple[ScoreMap, ...] = ()
    confidence: ScoreMap | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None

    @property
    def scored(self) -> tuple[int, ...]:
        """The class of each of `maps`, -1 where an element has none."""
        if self.is_score:
            return (self.classes.index(self.positive),) if self.maps else ()
        wanted = range(self.first_scored, self.first_scored + len(self.maps))
        return tuple(self.indices.index(index) if index in self.indices else -1 for index in wanted)


@dataclass(frozen=True, slots=True)
class MetricBaseline:
    """A metric on the labelled rows: value over all, mean and standard deviation over chunks of `chunk_rows` rows.

    lowest, highest: what the metric can be; None without end.
    """

    value: float
    chunk_mean: float
    chunk_std: float
    chunk_rows: int
    n_chunks: int
    lowest: float | None = 0.0
    highest: float | None = 1.0

    def band(self, rows: int) -> tuple[float, float]:
        """As good as the baseline: the chunks' mean and three standard deviations, those of a window of so many labelled rows where it is
        smaller than a chunk. A share that never varied (a perfect baseline) still may be 3 / rows off: what was not seen in n rows can be
        that frequent (the rule of three, at 95 %).
        """
        reach = 3 * self.chunk_std * max(1.0, math.sqrt(self.chunk_rows / max(1, rows)))
        if (self.lowest, self.highest) == (0.0, 1.0):
            reach = max(reach, 3 / max(1, rows))
        low, high = self.chunk_mean - reach, self.chunk_mean + reach
        return (low if self.lowest is None else max(low, self.lowest)), (high if self.highest is None else min(high, self.highest))


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """digest: of the version's files. rows: looked at. skipped: column -> why it is not watched. performance: metric -> on labelled rows.

    Of a regression, the prediction is the first feature of the column `prediction`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    version: str
    digest: str
    source: Source
    created_ns: int
    rows: int
    task: Task
    prediction: str = ""
    numeric: tuple[NumericFeature, ...] = ()
    categories: tuple[CategoryFeature, ...] = ()
    embeddings: tuple[EmbeddingFeature, ...] = ()
    answers: AnswerBaseline | None = None
    performance: Mapping[str, MetricBaseline] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @functools.cached_property
    def sha256(self) -> str:
        """Of its canonical JSON, hex."""
        return hashlib.sha256(canonical(asdict(self)).encode()).hexdigest()

    @property
    def id(self) -> str:
        """For people: the version and the first of the hash."""
        return f"{self.version}-{self.sha256[:6]}"

    @functools.cached_property
    def numeric_columns(self) -> Mapping[str, tuple[NumericFeature, ...]]:
        """Column -> its features by index."""
        found: dict[str, list[NumericFeature]] = {}
        for feature in self.numeric:
            found.setdefault(feature.column, []).append(feature)
        return {column: tuple(sorted(features, key=lambda one: one.index)) for column, features in found.items()}

    @functools.cached_property
    def bins(self) -> Mapping[str, Bins]:
        """Column -> the bins of its features."""
        return {
            column: bins_of([one.edges for one in features], [one.centre for one in features], [one.scale for one in features])
            for column, features in self.numeric_columns.items()
        }

    @functools.cached_property
    def score_bins(self) -> Bins | None:
        """Of the scored elements."""
        return _bins_of_maps(self.answers.maps if self.answers else ())

    @functools.cached_property
    def confidence_bins(self) -> Bins | None:
        """Of the score of the predicted class; one feature."""
        return _bins_of_maps((self.answers.confidence,) if self.answers and self.answers.confidence else ())

    def cells(self) -> Cells:
        """Empty ones."""
        answers = self.answers
        return Cells(
            self.sha256, 0, {column: NumericCell.empty(bins) for column, bins in self.bins.items()},
            {one.column: CategoryCell.empty(len(one.values)) for one in self.categories},
            {one.column: EmbeddingCell.empty(len(one.mean)) for one in self.embeddings},
            None if answers is None else AnswerCell.empty(len(answers.classes), self.score_bins, self.confidence_bins),
        )

    def as_document(self) -> dict[str, Any]:
        """JSON: all of it, with `id` and `sha256`, which is over all the rest."""
        return {**asdict(self), "id": self.id, "sha256": self.sha256}

    def to_json(self) -> str:
        """The content of `baseline.json`."""
        return json.dumps(self.as_document(), sort_keys=True, allow_nan=False) + "\n"


def _bins_of_maps(maps: tuple[ScoreMap, ...]) -> Bins | None:
    return bins_of([one.edges for one in maps], [0.5] * len(maps), [1.0] * len(maps), SCORE_CAPACITY) if maps else None


_ADAPTER = TypeAdapter(Baseline)


def baseline_of(document: Mapping[str, Any]) -> Baseline:
    """The baseline of a document. Raises InvalidArgument for one of another format, one that is not whole, or one that was changed."""
    if document.get("format") != FORMAT:
        raise InvalidArgument(f"format = {document.get('format')!r} of a baseline: this release reads {FORMAT}; build it again")
    try:
        found = _ADAPTER.validate_python({key: value for key, value in document.items() if key not in {"id", "sha256"}})
        pinned = found.sha256
        if document.get("sha256", pinned) != pinned:
            raise InvalidArgument(f"the baseline's sha256 is {document['sha256']!r}, and its content has {pinned}: it was changed")
        found.cells()
        check_fit(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgument(f"baseline: {'.'.join(map(str, first['loc']))}: {first['msg']}; build it again") from error
    except ValueError as error:
        raise InvalidArgument(f"baseline: {error}; build it again") from error
    return found


def baseline_of_json(content: str | bytes) -> Baseline:
    """The baseline of a file's content. Raises InvalidArgument as `baseline_of`, and for what is no JSON object."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the baseline is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"the baseline is a JSON {type(document).__name__}; want an object")
    return baseline_of(document)


__all__ = [
    "FORMAT", "AnswerBaseline", "Baseline", "CategoryFeature", "EmbeddingFeature", "MetricBaseline", "NumericFeature", "ScoreMap", "Source",
    "baseline_of", "baseline_of_json",
]
