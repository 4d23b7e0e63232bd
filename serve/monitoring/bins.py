"""Frozen bins: where the histogram of a feature has its edges, settled once from the baseline and never moved.

Histograms over the same edges add up exactly, over minutes, variants and replicas. A feature of n edges e_0 < ... < e_n-1 has the slots

    0: x < e_0        i: e_i-1 <= x < e_i        n: x >= e_n-1

where e_0 is the least value of the baseline and e_n-1 the next number after its greatest: slots 0 and n count what lies outside its range.
Behind `capacity` slots stand four more, for NaN, +inf, -inf and null.

Sums are exact too. x - centre is rounded to a multiple of scale * 2^-24 before it is added, and its square to one of scale^2 * 2^-24
(Demmel & Nguyen 2013, Fast reproducible floating-point summation: rounding ahead). Sums of such multiples carry no rounding error below
2^53 of them, whatever their order: some 500 million rows of values as far from the centre as those of the baseline. What lies farther out
brings that nearer; beyond it sums are rounded as any sum of doubles is.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from serve._core.feature_histogram import FrozenBins

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Slots of a feature, without the four. One edge fewer.
CAPACITY: Final = 32
SCORE_CAPACITY: Final = 64
N_SPECIAL: Final = 4
# Behind `capacity`.
NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY, NULL = range(N_SPECIAL)

# Of continuous values: ten deciles of three bins each.
N_BINS: Final = 30
# Up to so many distinct values each get a bin of their own, and so does what lies between them.
_MAX_APART = 15
_MAX_ATOMS = 5
_OUTLIER = 64.0
_GREATEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Bins:
    """Of the k features of one column.

    edges: float64 of shape (k, capacity - 1), ascending, padded with +inf. centre, scale: shape (k,), scales powers of two.
    """

    edges: Floats
    centre: Floats
    scale: Floats

    @property
    def n_features(self) -> int:
        return len(self.edges)

    @property
    def capacity(self) -> int:
        return int(self.edges.shape[1]) + 1

    @property
    def n_slots(self) -> int:
        """Of a feature, with the four."""
        return self.capacity + N_SPECIAL

    @functools.cached_property
    def native(self) -> FrozenBins:
        """The same for the kernel."""
        return FrozenBins(self.edges, self.centre, self.scale)


def bins_of(edges: Sequence[Sequence[float]], centre: Sequence[float], scale: Sequence[float], capacity: int = CAPACITY) -> Bins:
    """Of features with so many edges each. Raises ValueError for more than capacity - 1 edges, or edges that do not ascend."""
    padded = np.full((len(edges), capacity - 1), np.inf)
    for row, given in zip(padded, edges, strict=True):
        if len(given) > capacity - 1 or not all(map(math.isfinite, given)) or not all(np.diff(given) > 0):
            raise ValueError(f"{len(given)} edges {list(given)[:4]}...: want at most {capacity - 1}, finite and ascending")
        row[:len(given)] = given
    return Bins(padded, np.asarray(centre, np.float64), np.asarray(scale, np.float64))


def moment_frame(values: Floats) -> tuple[float, float]:
    """(centre, scale) for a feature with these values: their median, and the least power of two that reaches them all from there, or 64
    times as far as the middle 98 % of them, so that one outlier does not make the sums of all others coarse.
    """
    low, middle, high = np.quantile(values, (0.01, 0.5, 0.99), method="inverted_cdf").tolist()
    reach = max(float(values.max()) - middle, middle - float(values.min()))
    if high > low:
        reach = min(reach, _OUTLIER * (high - low))
    exponent = math.frexp(reach)[1] if reach > 0 else 0
    return middle, math.ldexp(1.0, min(max(exponent, -500), 500))


def frozen_edges(values: npt.NDArray[np.generic], n_bins: int = N_BINS, max_edges: int = CAPACITY - 1) -> list[float]:
    """Edges for values of a baseline: finite numbers, not empty; their dtype says which number comes after another.

    At most 15 distinct values (30 that follow each other): each is alone in its bin. Else values that hold a share of 1 / n_bins or more,
    five at most, are alone in theirs, and the quantiles of the others are edges. A constant c: [c, the next number after c].
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= max_edges:
        apart = _apart(distinct)
        if len(distinct) <= _MAX_APART or len(apart) <= max_edges:
            return apart
    heavy = np.argsort(-counts, kind="stable")[:_MAX_ATOMS]
    atoms = np.sort(heavy[counts[heavy] * n_bins >= counts.sum()])
    is_light = np.ones(len(distinct), dtype=bool)
    is_light[atoms] = False
    around = _apart(distinct[atoms])
    ends = [float(distinct[0]), _next(distinct[-1])]
    room = min(n_bins - 1, max_edges - len({*around, *ends}))
    inner = _quantiles(distinct[is_light], counts[is_light], room)
    return sorted({*around, *ends, *inner})


def _apart(distinct: npt.NDArray[np.generic]) -> list[float]:
    return sorted({edge for value in distinct for edge in (float(value), _next(value))})


def _next(value: np.generic) -> float:
    """The next number of the same type; of integers beyond 2^53, the next that a double can hold."""
    number = float(value)
    if value.dtype.kind != "f":
        return max(number + 1, math.nextafter(number, math.inf))
    with np.errstate(over="ignore"):        # behind the greatest float32 stands a double
        after = float(np.nextafter(np.float32(value), np.float32(np.inf))) if value.dtype.itemsize <= 4 else math.inf
    return after if math.isfinite(after) else min(math.nextafter(number, math.inf), _GREATEST)


def _quantiles(distinct: npt.NDArray[np.generic], counts: Ints, n: int) -> list[float]:
    """n values that part so many into n + 1 shares as equal as may be."""
    if not len(distinct) or n < 1:
        return []
    below = np.cumsum(counts)
    wanted = np.arange(1, n + 1) * (below[-1] / (n + 1))
    places = np.searchsorted(below, wanted, side="right").clip(max=len(distinct) - 1)
    return [float(value) for value in distinct[np.unique(places)]]


def slot_labels(edges: Sequence[float], is_integer: bool = False) -> list[str]:
    """What each slot of a feature holds, for people; one more than there are edges."""
    if not edges:
        return ["all"]
    between = [_said(low, high, is_integer) for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]:.4g}", *between, f"above {edges[-1]:.4g}"]


def _said(low: float, high: float, is_integer: bool) -> str:
    is_one_value = high == low + 1 if is_integer else high - low <= 2e-7 * abs(low)
    return f"{low:.4g}" if is_one_value else f"{low:.4g} to {high:.4g}"


__all__ = [
    "CAPACITY", "NAN", "NEGATIVE_INFINITY", "NULL", "N_BINS", "N_SPECIAL", "POSITIVE_INFINITY", "SCORE_CAPACITY", "Bins", "Floats", "Ints",
    "bins_of", "frozen_edges", "moment_frame", "slot_labels",
]
