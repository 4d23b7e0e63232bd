"""What was measured of a candidate, before anything is concluded from it. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Agreed:
    """Rows on which two answers agree, of those that both answered. differing: output -> rows on which it differs."""

    agree: int
    of: int
    differing: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Consistency:
    """The candidate asked again for the same rows, and in batches of other sizes. differing: rows with a value outside of the tolerance.

    worst: the largest absolute difference of two numbers. where: the first that differs, in words, "" where none does.
    """

    rows: int
    differing: int
    worst: float
    where: str = ""


@dataclass(frozen=True, slots=True)
class LatencySample:
    """Nanoseconds of runs of one batch size (rows), taken in turns. stable_ns None: no stable version. failure: what the candidate said
    instead of running, "" when it ran; then there are no times.
    """

    batch_size: int
    candidate_ns: Floats
    stable_ns: Floats | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of the positive class on rows with a label. stable: empty without a stable version."""

    positive: str
    is_positive: Bools
    candidate: Floats
    stable: Floats


@dataclass(frozen=True, slots=True)
class Classified:
    """Classes as numbers, indices of `classes`, on rows with a label. stable: empty without a stable version. scored: None where there is
    no score of one positive class.
    """

    classes: tuple[str, ...]
    truth: Integers
    candidate: Integers
    stable: Integers
    scored: Scored | None = None


@dataclass(frozen=True, slots=True)
class Estimated:
    """Numbers on rows with a label. stable: empty without a stable version."""

    truth: Floats
    candidate: Floats
    stable: Floats


@dataclass(frozen=True, slots=True)
class Evidence:
    """stable: its version, "" for none. rows: replayed; failed: those that the candidate alone does not answer. self_test: what is wrong,
    "" when it passed. None where something was not looked at.
    """

    candidate: str
    stable: str
    rows: int
    self_test: str = ""
    schema_change: str = ""
    failed: int = 0
    first_failure: str = ""
    not_finite: int = 0
    consistency: Consistency | None = None
    agreement: Agreed | None = None
    recorded: Agreed | None = None
    latency: tuple[LatencySample, ...] = ()
    labelled: Classified | Estimated | None = None


__all__ = ["Agreed", "Classified", "Consistency", "Estimated", "Evidence", "LatencySample", "Scored"]
