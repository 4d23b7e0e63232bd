"""Concept drift, from a stream of errors: ADWIN and Page-Hinkley, which agree step for step with river 0.26.

Values come one at a time, in the order in which the truth is known: 1 for a wrong class and 0 for a right one, or |error| of a number. A
detector that has fired begins anew with the next value. State is a JSON document, so that it outlives a restart.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Bifet & Gavalda 2007, Learning from time-changing data with adaptive windowing; values of river.
DELTA: Final = 0.002
CLOCK: Final = 32
_MAX_BUCKETS = 5
_MIN_SIDE = 5
_GRACE = 10


@dataclass(slots=True)
class Adwin:
    """A window that drops its oldest values when the means of two of its parts differ.

    rows: rows[i] are buckets (sum, sum of squared deviations) of 2^i values, the oldest first; at most 5 of each size, of six the two
    oldest become one of the next: O(log n) memory. Every `clock` values each cut between buckets is looked at.
    means: before and after the clearest cut at its newest alarm; no part of the state that is stored. What it keeps is no measure of
    after: it stops dropping at the first window without a certain cut, which holds much of the time before the change.
    """

    delta: float = DELTA
    clock: int = CLOCK
    rows: list[list[tuple[float, float]]] = field(default_factory=lambda: [[]])
    n: int = 0
    total: float = 0.0
    deviations: float = 0.0
    ticks: int = 0
    has_fired: bool = False
    means: tuple[float, float] = field(default=(0.0, 0.0), compare=False)

    @property
    def mean(self) -> float:
        """Of the window; 0 of an empty one."""
        return self.total / self.n if self.n else 0.0

    def update(self, value: float) -> bool:
        """Whether this value is the one at which a change is certain enough."""
        if self.has_fired:
            self.rows, self.n, self.total, self.deviations, self.ticks = [[]], 0, 0.0, 0.0, 0
        self._add(value)
        self.ticks += 1
        self.has_fired = False
        if self.ticks % self.clock == 0 and self.n > _GRACE:
            while self._has_cut():
                if not self.has_fired:
                    self.means = self._clearest()
                self.has_fired = True
                self._drop_oldest()
        return self.has_fired

    def _add(self, value: float) -> None:
        self.rows[0].append((value, 0.0))
        self.n += 1
        if self.n > 1:
            before = self.n - 1
            apart = value - self.total / before
            self.deviations += before * apart * apart / self.n
        self.total += value
        for size, row in enumerate(self.rows):
            if len(row) <= _MAX_BUCKETS:
                break
            if size + 1 == len(self.rows):
                self.rows.append([])
            (sum_a, dev_a), (sum_b, dev_b) = row[:2]
            n = float(1 << size)
            apart = sum_a / n - sum_b / n
            self.rows[size + 1].append((sum_a + sum_b, dev_a + dev_b + n * n * apart * apart / (n + n)))
            del row[:2]

    def _cuts(self) -> Iterator[tuple[float, float, float, float]]:
        """(values before, after, mean before, after), the oldest first."""
        n0, n1, sum0, sum1 = 0.0, float(self.n), 0.0, self.total
        for size in range(len(self.rows) - 1, -1, -1):
            for total, _ in self.rows[size]:
                n0, n1, sum0, sum1 = n0 + (1 << size), n1 - (1 << size), sum0 + total, sum1 - total
                if n0 >= _MIN_SIDE <= n1:
                    yield n0, n1, sum0 / n0, sum1 / n1

    def _has_cut(self) -> bool:
        return any(self._differ(n0, n1, before - after) for n0, n1, before, after in self._cuts())

    def _clearest(self) -> tuple[float, float]:
        """Means before and after the cut between whose parts most of the variance lies."""
        _, _, before, after = max(self._cuts(), key=lambda cut: cut[0] * cut[1] * (cut[2] - cut[3]) ** 2)
        return before, after

    def _differ(self, n0: float, n1: float, apart: float) -> bool:
        """The bound of ADWIN2: normal, with a correction for small windows."""
        level = math.log(2 * math.log(self.n) / self.delta)
        inverse = 1 / (n0 - _MIN_SIDE + 1) + 1 / (n1 - _MIN_SIDE + 1)
        variance = max(0.0, self.deviations / self.n)       # of errors that are all alike, rounding may bring it below 0
        return abs(apart) > math.sqrt(2 * inverse * variance * level) + 2 / 3 * level * inverse

    def _drop_oldest(self) -> None:
        row = self.rows[-1]
        total, deviations = row.pop(0)
        n = float(1 << (len(self.rows) - 1))
        self.n -= int(n)
        self.total -= total
        apart = total / n - self.total / self.n
        self.deviations -= deviations + n * self.n * apart * apart / (n + self.n)
        if not row:
            self.rows.pop()

    def as_document(self) -> dict[str, Any]:
        """JSON from which `adwin_of` makes it again."""
        return {"delta": self.delta, "clock": self.clock, "rows": [[list(bucket) for bucket in row] for row in self.rows], "n": self.n,
                "total": self.total, "deviations": self.deviations, "ticks": self.ticks, "has_fired": self.has_fired}


def adwin_of(document: Mapping[str, Any]) -> Adwin:
    """The detector of a stored document."""
    rows = [[(float(total), float(deviations)) for total, deviations in row] for row in document["rows"]]
    return Adwin(**{**document, "rows": rows})


@dataclass(slots=True)
class PageHinkley:
    """Page 1954, two-sided, with forgetting (Sebastiao & Fernandes 2017): fires when the sum of deviations from the running mean, less
    `delta` a step, has risen by `threshold` from its least, or fallen by it from its greatest. Nothing before `min_values`.
    """

    min_values: int = 30
    delta: float = 0.005
    threshold: float = 50.0
    alpha: float = 1 - 0.0001
    n: int = 0
    mean: float = 0.0
    up: float = 0.0
    down: float = 0.0
    least: float | None = None
    greatest: float = -1.0      # as river begins
    has_fired: bool = False

    def update(self, value: float) -> bool:
        """Whether this value is the one at which a change is certain enough."""
        if self.has_fired:
            self.n, self.mean, self.up, self.down, self.least, self.greatest = 0, 0.0, 0.0, 0.0, None, -1.0
        self.n += 1
        self.mean += (value - self.mean) / self.n
        apart = value - self.mean
        self.up = self.alpha * self.up + apart - self.delta
        self.down = self.alpha * self.down + apart + self.delta
        self.least = self.up if self.least is None else min(self.least, self.up)
        self.greatest = max(self.greatest, self.down)
        moved = max(self.up - self.least, self.greatest - self.down)
        self.has_fired = self.n >= self.min_values and moved > self.threshold
        return self.has_fired

    def as_document(self) -> dict[str, Any]:
        """JSON from which `page_hinkley_of` makes it again."""
        return {name: getattr(self, name) for name in self.__slots__}


def page_hinkley_of(document: Mapping[str, Any]) -> PageHinkley:
    """The detector of a stored document."""
    return PageHinkley(**document)


__all__ = ["CLOCK", "DELTA", "Adwin", "PageHinkley", "adwin_of", "page_hinkley_of"]
