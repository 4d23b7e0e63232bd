"""Sets of sequence numbers as ranges: which rows of one (replica, epoch) have been dealt with."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class SeqRanges:
    """starts, ends: of shape (n,), ascending, the ends exclusive; no two ranges touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        table = np.array(sorted(ranges), dtype=np.int64).reshape(-1, 2)
        self._starts, self._ends = table[:, 0], table[:, 1]

    def pairs(self) -> list[tuple[int, int]]:
        """As the constructor takes them."""
        return list(zip(self._starts.tolist(), self._ends.tolist(), strict=True))

    def has(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Of each number, shape (m,), whether it is in the set."""
        at = np.searchsorted(self._starts, numbers, side="right") - 1
        found: npt.NDArray[np.bool_] = (at >= 0) & (numbers < self._ends[at]) if len(self._ends) else np.zeros(len(numbers), np.bool_)
        return found

    def covers(self, first: int, last: int) -> bool:
        """Whether it has every number from first to last, both included."""
        at = int(np.searchsorted(self._starts, first, side="right")) - 1
        return at >= 0 and last < int(self._ends[at])

    def plus(self, numbers: Numbers) -> "SeqRanges":
        """With these numbers, in any order."""
        if not len(numbers):
            return self
        new = np.unique(numbers)
        breaks = np.flatnonzero(np.diff(new) > 1)
        starts = np.concatenate([self._starts, new[np.concatenate([[0], breaks + 1])]])
        ends = np.concatenate([self._ends, new[np.concatenate([breaks, [len(new) - 1]])] + 1])
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        is_first = np.concatenate([[True], starts[1:] > reach[:-1]])
        merged = SeqRanges()
        merged._starts = starts[is_first]
        merged._ends = reach[np.concatenate([np.flatnonzero(is_first)[1:] - 1, [len(reach) - 1]])]
        return merged

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqRanges) and self.pairs() == other.pairs()

    def __hash__(self) -> int:
        return hash(tuple(self.pairs()))

    def __repr__(self) -> str:
        return f"SeqRanges({self.pairs()})"


__all__ = ["Numbers", "SeqRanges"]
