"""Rows that are not what the baseline knows: missing values, NaN and infinities, numbers outside its range, categories that it has none of.

Counts are exact. A share is bad when it is at least one percentage point above what the baseline leads one to expect, and chance alone
would not bring it: of missing values by the chi-squared test of two shares; of values outside the range of m by the law of their number,
which is beta-binomial with (2, m - 1) whatever the law of the values (Wilks 1941, tolerance limits); of unseen categories likewise with
(1, m), as if the next one were the first of its kind. Benjamini-Hochberg over all of them. Pure.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from serve.monitoring.baseline import Baseline
from serve.monitoring.cells import Cells
from serve.monitoring.distances import benjamini_hochberg, chi_squared
from serve.monitors import MonitoringSpec

ViolationKind = Literal["missing", "not_finite", "out_of_range", "unseen_category"]

# A share of bad values below this above the baseline's is nobody's alarm.
MIN_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Violation:
    """count of n values are of the kind. expected: their share by the baseline. unseen_values: how many different ones, of categories."""

    feature: str
    kind: ViolationKind
    count: int
    n: int
    expected: float
    p_value: float
    unseen_values: float = 0.0
    is_bad: bool = False

    @property
    def share(self) -> float:
        return self.count / self.n if self.n else 0.0


def violations(baseline: Baseline, cells: Cells, spec: MonitoringSpec) -> list[Violation]:
    """Those of a window with a count over 0, in the baseline's order; `is_bad` only of at least `min_rows` rows."""
    found = [*_of_numbers(baseline, cells), *_of_categories(baseline, cells)]
    adjusted = benjamini_hochberg(np.array([one.p_value for one in found]))
    is_enough = cells.rows >= spec.min_rows
    return [replace(one, is_bad=bool(is_enough and p <= spec.fdr and one.share - one.expected >= MIN_SHARE))
            for one, p in zip(found, adjusted, strict=True) if one.count]


def _of_numbers(baseline: Baseline, cells: Cells) -> Iterator[Violation]:
    for column, features in baseline.numeric_columns.items():
        cell = cells.numeric[column]
        for place, feature in enumerate(features):
            special = cell.special(place)
            counts = cell.binned(place, len(feature.edges))
            finite, known = int(counts.sum()), sum(feature.counts)
            n = finite + sum(special.values())
            yield _shares(feature.name, "missing", special["missing"], n, feature.nulls, feature.rows)
            not_finite, was = special["nan"] + special["infinite"], feature.nans + feature.infinites
            yield _shares(feature.name, "not_finite", not_finite, n, was, feature.rows)
            if feature.edges:
                outside = int(counts[0] + counts[-1])
                yield Violation(feature.name, "out_of_range", outside, finite, 2 / (known + 1), at_least(outside, finite, 2, known - 1))


def _of_categories(baseline: Baseline, cells: Cells) -> Iterator[Violation]:
    for feature in baseline.categories:
        cell = cells.categories[feature.column]
        n, known = int(cell.counts.sum()), feature.rows - feature.nulls
        yield _shares(feature.name, "missing", int(cell.counts[-1]), n, feature.nulls, feature.rows)
        if feature.is_complete:
            new = int(cell.counts[-2])
            yield Violation(feature.name, "unseen_category", new, n, 1 / (known + 1), at_least(new, n, 1, known), cell.n_unseen_values)


def _shares(feature: str, kind: ViolationKind, count: int, n: int, known: int, of: int) -> Violation:
    expected = known / of if of else 0.0
    test = chi_squared(np.array([of - known, known]), np.array([n - count, count]))
    is_more = n > 0 and count / n > expected
    return Violation(feature, kind, count, n, expected, test.p_value / 2 if is_more else 1.0)


def at_least(k: int, n: int, a: int, b: int) -> float:
    """P(K >= k) of the beta-binomial law of n draws with (a, b), a 1 or 2: of n + m values in order, m = a + b - 1 of them known, the
    outermost k are new (a = 1), or of the outermost k + 1 at most one is known (a = 2).
    """
    if k <= 0 or b <= 0:
        return 1.0
    if k > n:
        return 0.0
    m = a + b - 1
    if a == 1:
        return math.exp(_log_choose(n, k) - _log_choose(n + m, k))
    whole = _log_choose(n + m, k + 1)
    none = math.exp(_log_choose(n, k + 1) - whole) if k < n else 0.0
    return min(1.0, none + math.exp(_log_choose(n, k) + math.log(m) - whole))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


__all__ = ["MIN_SHARE", "Violation", "ViolationKind", "at_least", "violations"]
