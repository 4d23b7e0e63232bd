"""Counts of both arms, kept per share of the candidate: the value that most tests are functions of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]  # (stable, candidate), as in Stratum.assigned
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StratumTotals:
    """All that was counted while the candidate had one share, in (0, 1). generation: the newest of those that set it.

    groups: answers by frozen group of the judged output, () before there are any.
    """

    share: float
    generation: int = 0
    requests: Pair = (0, 0)
    errors: Pair = (0, 0)
    assigned: Pair = (0, 0)
    groups: tuple[Pair, ...] = ()


def add_pairs(a: Pair, b: Pair) -> Pair:
    """Arm by arm."""
    return a[0] + b[0], a[1] + b[1]


def add_groups(a: tuple[Pair, ...], b: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Group by group; () is all zero. Both have the same groups otherwise."""
    if not a or not b:
        return a or b
    return tuple(add_pairs(x, y) for x, y in zip(a, b, strict=True))


def add_stratum(strata: Sequence[StratumTotals], new: StratumTotals) -> tuple[StratumTotals, ...]:
    """Ascending by share, each share once: the tests depend on the share alone, and a rollout of many generations stays small."""
    by_share = {stratum.share: stratum for stratum in strata}
    old = by_share.get(new.share)
    if old is not None:
        new = StratumTotals(
            share=new.share,
            generation=max(old.generation, new.generation),
            requests=add_pairs(old.requests, new.requests),
            errors=add_pairs(old.errors, new.errors),
            assigned=add_pairs(old.assigned, new.assigned),
            groups=add_groups(old.groups, new.groups),
        )
    by_share[new.share] = new
    return tuple(by_share[share] for share in sorted(by_share))


def total(pairs: Sequence[Pair]) -> Pair:
    """(stable, candidate) over all strata."""
    return sum(stable for stable, _ in pairs), sum(candidate for _, candidate in pairs)


def columns(pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """(stable, candidate), each of shape (n_strata,)."""
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def shares(strata: Sequence[StratumTotals]) -> Floats:
    """The candidate's share in each, shape (n_strata,)."""
    return np.array([stratum.share for stratum in strata], dtype=np.float64)
