"""Change points that people marked: the Turing change point data sets in river's wheel, scored as van den Burg & Williams (2020) do.

Precision is of the points that any annotator marked, recall the mean over the annotators; the first value counts as a change point of
everybody. The series are river's files, sampled as the data sets' documents say, since that is what people looked at.
"""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from river.drift import datasets

from loadtests.judge.tables import Bound, Scale, Table
from loadtests.monitoring.concept_drift import fired
from loadtests.monitoring.streams import Floats
from serve.monitoring.concept import Adwin, PageHinkley

# Values around a point, as the authors have it for methods that see the whole series, and values after it, for those that see it pass.
MARGIN = 5
LATEST = 30
DETECTORS: Mapping[str, Callable[[], Adwin | PageHinkley]] = {
    "ADWIN": lambda: Adwin(clock=1), "Page-Hinkley": lambda: PageHinkley(min_values=10, threshold=10.0)}


@dataclass(frozen=True, slots=True)
class Marked:
    """A data set of river. column: of its values. every, since: how the series was taken from them before people looked at it."""

    name: str
    column: int = 0
    every: int = 1
    since: str = ""


SETS = (
    Marked("AirlinePassengers"), Marked("Apple", column=3, every=3), Marked("Bitcoin"), Marked("BrentSpotPrice", every=10, since="2000"),
    Marked("Occupancy"), Marked("RunLog"), Marked("UKCoalEmploy"),
)


def series_of(marked: Marked) -> tuple[Floats, Mapping[Any, Collection[int]]]:
    """(values, annotator -> indices), values standardised by the whole series."""
    made = getattr(datasets, marked.name)()
    found = []
    for features, target in made:
        (date,) = features.values()
        if str(date) >= marked.since:
            found.append(float(list(target.values())[marked.column] if isinstance(target, dict) else target))
    values = np.array(found[::marked.every])
    return (values - values.mean()) / values.std(), made.annotations


def score(found: Collection[int], annotations: Mapping[Any, Collection[int]], margin: int, *, is_late: bool) -> float:
    """F1 of found points. is_late: a point is found up to `margin` after it and not before it."""
    def hits(truth: Collection[int]) -> int:
        left = sorted({0, *found})
        n = 0
        for point in sorted({0, *truth}):
            near = [at for at in left if (0 if is_late else -margin) <= at - point <= margin]
            if near:
                left.remove(near[0])
                n += 1
        return n

    everybody = {point for points in annotations.values() for point in points}
    precision = hits(everybody) / len({0, *found})
    recall = float(np.mean([hits(points) / len({0, *points}) for points in annotations.values()]))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def annotated_points(scale: Scale) -> list[Table]:
    """F1 on seven series against what people marked."""
    lines = []
    for marked in SETS:
        values, annotations = series_of(marked)
        n_marked = sorted(map(len, annotations.values()))
        found = [fired(made(), values) for made in DETECTORS.values()]
        cells = [f"{score(points, annotations, MARGIN, is_late=False):.2f} / {score(points, annotations, LATEST, is_late=True):.2f}"
                 for points in (*found, [])]
        counts = [str(len(points)) for points in found]
        marks = f"{n_marked[0]} to {n_marked[-1]}"
        lines.append([marked.name, f"{len(values):,}", marks, cells[0], counts[0], cells[1], counts[1], cells[2]])
        scale.say(" ".join(lines[-1]))
    headers = ["series", "values", "marked by an annotator", *itertools.chain(*((name, "fired") for name in DETECTORS)), "no detector"]
    better = sum(float(line[5].split(" / ")[1]) > float(line[7].split(" / ")[1]) for line in lines)
    note = (
        f"F1 within {MARGIN} values of a point / up to {LATEST} values after it; every series begins with a change point, for which a "
        "method that says nothing is credited. ADWIN looks at every value; Page-Hinkley with lambda 10 after 10 values, as the series are "
        "short; values are standardised by the whole series. The detectors are made for error rates, which stay where they are until "
        "something happens, and see values once, as they pass: they are late by design, and on series that trend they fire again and "
        "again.")
    return [Table("Change points that people marked", headers, lines, [note],
                  (Bound("series on which Page-Hinkley is better than no detector, up to 30 values later", better, least=4),))]


__all__ = ["annotated_points", "score"]
