"""The features of a baseline, from columns of its rows."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serve.monitoring import embedding
from serve.monitoring.arrow_values import Numbers, integers_of, matrix_of, numbers_of, present, storage_of, texts_of
from serve.monitoring.baseline import CategoryFeature, EmbeddingFeature, NumericFeature
from serve.monitoring.bins import Bins, Floats, Ints, bins_of, frozen_edges, moment_frame
from serve.monitoring.cells import NumericCell
from serve.monitoring.observer import add_numbers
from serve.monitoring.watched import Watched

# Values of a column of categories that are counted by name; what else there is is "others".
MAX_CATEGORIES = 255
# Rows that quantiles are taken of; all are counted.
MAX_QUANTILE_ROWS = 200_000
# Vectors that the random features of a baseline are taken of, and those that tell how they vary.
MAX_VECTORS = 20_000
_MAX_NULL_VECTORS = 2_000


def numeric_features(column: pa.ChunkedArray, watched: Watched) -> list[NumericFeature]:
    """One for each element. Raises InvalidArgument for a column of another type."""
    numbers = numbers_of(column, watched.width)
    values, is_there = matrix_of(numbers), present(numbers)
    frames = [_frame(values[:, i], is_there) for i in range(watched.size)]
    bins = bins_of([edges for edges, _, _ in frames], [centre for _, centre, _ in frames], [scale for _, _, scale in frames])
    cell = NumericCell.empty(bins)
    add_numbers(numbers, bins, cell)
    return [_numeric(watched, i, values[:, i][is_there], frames[i][0], bins, cell) for i in range(watched.size)]


def _name(watched: Watched, index: int) -> str:
    return watched.name if watched.size == 1 else f"{watched.name}[{index}]"


def _frame(values: npt.NDArray[np.generic], is_there: npt.NDArray[np.bool_]) -> tuple[list[float], float, float]:
    """(edges, centre, scale) of what is finite; no edges where nothing is."""
    finite = values[is_there & np.isfinite(values)]
    if not len(finite):
        return [], 0.0, 1.0
    sample = finite[:: max(1, len(finite) // MAX_QUANTILE_ROWS)]
    # The ends are those of all rows, not of the sample alone.
    sample = np.concatenate([sample, np.array([finite.min(), finite.max()], finite.dtype)])
    return frozen_edges(sample), *moment_frame(sample.astype(np.float64))


def _numeric(
    watched: Watched, index: int, values: npt.NDArray[np.generic], edges: list[float], bins: Bins, cell: NumericCell,
) -> NumericFeature:
    counts = cell.binned(index, len(edges))
    special = cell.special(index)
    n = int(counts.sum())
    total, squares, low, high = cell.moments[index].tolist() if n else (0.0, 0.0, 0.0, 0.0)
    apart = total / max(1, n)
    return NumericFeature(
        name=_name(watched, index), column=watched.column, index=index, datatype=watched.datatype,
        rows=n + sum(special.values()), nulls=special["missing"], nans=special["nan"], infinites=special["infinite"],
        minimum=low, maximum=high, mean=float(bins.centre[index] + apart), std=_deviation(squares / max(1, n), apart),
        edges=tuple(edges), counts=tuple(counts.tolist()), means=tuple(slot_means(values, edges).tolist()),
        centre=float(bins.centre[index]), scale=float(bins.scale[index]),
    )


def _deviation(square: float, apart: float) -> float:
    """Of a mean square and a mean. Squares of numbers beyond 1e154 are infinite, and JSON has only what is finite."""
    variance = square - apart * apart
    return math.sqrt(max(0.0, variance)) if math.isfinite(variance) else float(np.finfo(np.float64).max)


def slot_means(values: npt.NDArray[np.generic], edges: list[float]) -> Floats:
    """The mean of each slot; of an empty one its middle, and of the two outermost their edge. Ascending."""
    if not edges:
        return np.zeros(1)
    finite = values[np.isfinite(values)].astype(np.float64)
    slots = np.searchsorted(edges, finite, side="right")
    sums = np.bincount(slots, weights=finite, minlength=len(edges) + 1)
    middles = np.concatenate([[edges[0]], np.array(edges[1:]) / 2 + np.array(edges[:-1]) / 2, [edges[-1]]])
    found = np.bincount(slots, minlength=len(edges) + 1)
    means = np.divide(sums, found, out=middles.copy(), where=found > 0)
    # A mean is inside its slot, but for the last digit.
    return np.asarray(np.clip(means, np.concatenate([[-np.inf], edges]), np.concatenate([edges, [np.inf]])))


def category_feature(column: pa.ChunkedArray, watched: Watched) -> CategoryFeature:
    """Raises InvalidArgument for a column of another type."""
    counted = value_counts(column)
    nulls = counted.pop(None, 0)
    kept = sorted(counted.items(), key=lambda item: (-item[1], item[0] or ""))[:MAX_CATEGORIES]
    return CategoryFeature(
        name=watched.name, column=watched.column, datatype=watched.datatype, rows=nulls + sum(counted.values()), nulls=nulls,
        values=tuple(str(value) for value, _ in kept), counts=tuple(count for _, count in kept),
        others=sum(counted.values()) - sum(count for _, count in kept),
    )


def value_counts(column: pa.ChunkedArray) -> Counter[str | None]:
    """Text, bytes as UTF-8 with surrogateescape, whole numbers and booleans (0 and 1) by their decimal text; None: nulls."""
    array = storage_of(column)
    if pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        values, _, _ = integers_of(array)
        array = pa.array(values, mask=array.is_null().to_numpy(zero_copy_only=False))
    else:
        texts_of(array)
        array = array.cast(pa.binary())
    found: Counter[str | None] = Counter()
    for value, count in zip(*(array.value_counts().field(name).to_pylist() for name in ("values", "counts")), strict=True):
        found[value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else None if value is None else str(value)] += count
    return found


def embedding_feature(column: pa.ChunkedArray, watched: Watched, seed: int) -> EmbeddingFeature | str:
    """Or why there is none. Raises InvalidArgument for a column of another type."""
    numbers = numbers_of(column, watched.width)
    values = matrix_of(numbers)
    every = max(1, len(values) // MAX_VECTORS)
    usable = np.flatnonzero(present(numbers) & np.isfinite(values).all(axis=1))[::every]
    if len(usable) < 2:
        return f"{len(usable)} vectors are finite; 2 are needed"
    bandwidth = embedding.median_distance(values[usable], seed)
    features = embedding.random_features(watched.size, bandwidth, seed, embedding.N_FEATURES)
    sums = np.zeros(embedding.N_FEATURES)
    n = features.add(numbers, usable, sums)
    rows = _each(features, numbers, usable[:: max(1, len(usable) // _MAX_NULL_VECTORS)])
    null_mean, null_variance = embedding.null_moments(rows)
    return EmbeddingFeature(
        name=watched.name, column=watched.column, datatype=watched.datatype, size=watched.size, rows=n, seed=seed, bandwidth=bandwidth,
        mean=tuple((sums / n).tolist()), null_mean=null_mean, null_variance=null_variance,
        threshold=embedding.bootstrap_threshold(rows, seed),
    )


def _each(features: embedding.RandomFeatures, numbers: Numbers, chosen: Ints) -> Floats:
    found = np.zeros((len(chosen), embedding.N_FEATURES))
    for row, one in zip(found, chosen, strict=True):
        features.add(numbers, np.array([one]), row)
    return found


__all__ = [
    "MAX_CATEGORIES", "MAX_QUANTILE_ROWS", "MAX_VECTORS", "category_feature", "embedding_feature", "numeric_features", "slot_means",
    "value_counts",
]
