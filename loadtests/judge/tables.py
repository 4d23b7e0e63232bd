"""Results of a case as values: tables, bounds that they are held against, and series to plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure and what it may be at most (or at least): met or missed."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def is_met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True, slots=True)
class Table:
    """A section of the page. rows: cells as text; notes: sentences under it. series: name -> figures for plots and for the JSON file."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    bounds: Sequence[Bound] = ()
    series: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is simulated. runs: of every cell; slow_runs: of cases that go through the whole judge. say: told of progress."""

    runs: int
    slow_runs: int
    say: Callable[[str], None]


def seeded(*key: int) -> np.random.Generator:
    """The generator of one cell: fixed for ever, and no two cells share one."""
    return np.random.default_rng([20261122, *key])


def first_crossing(log_e: Floats, limit: float) -> Ints:
    """Index along the last axis at which log_e first reaches ln(limit), -1 where it never does. Shape (runs, looks) -> (runs,)."""
    crossed = log_e >= np.log(limit)
    return np.where(crossed.any(axis=-1), crossed.argmax(axis=-1), -1).astype(np.int64)


def figure(value: float) -> str:
    """A count with as many digits as it deserves; nan is what never happened."""
    if np.isnan(value):
        return "never"
    if value >= 100_000:
        return f"{value / 1000:,.0f}k"
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share as percent."""
    return f"{100 * value:.3g} %"


def upper_bound(hits: int, runs: int) -> float:
    """One-sided 95 % upper confidence bound of a rate seen as hits of runs (Clopper and Pearson 1934, by bisection on the binomial law)."""
    if hits >= runs:
        return 1.0
    low, high = hits / runs, 1.0
    k = np.arange(hits + 1)
    choose = np.concatenate([[0.0], np.cumsum(np.log((runs - k[:-1]) / (k[:-1] + 1)))])
    for _ in range(60):
        p = (low + high) / 2
        tail = float(np.exp(choose + k * np.log(p) + (runs - k) * np.log1p(-p)).sum())
        low, high = (p, high) if tail > 0.05 else (low, p)
    return high


def at_most(hits: int, runs: int) -> str:
    """A simulated rate and its 95 % upper bound."""
    return f"{percent(hits / runs)} (95 %: at most {percent(upper_bound(hits, runs))})"
