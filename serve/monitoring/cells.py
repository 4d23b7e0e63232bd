"""What was seen of one version and variant in one span of time: counts that add up exactly, over time, variants and replicas alike.

`Cells` of a minute is what a server keeps; a window is the sum of its minutes, and a fleet's window the sum of its replicas'. All of it is
integers, sums that are exact by construction (see bins.py and serve/_core/feature_histogram.pyi), minima and maxima: so eight merged
replicas equal, to the bit, one that saw all the rows. Only cells of one baseline can be added.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from serve.errors import InvalidArgument
from serve.monitoring.bins import NAN, NEGATIVE_INFINITY, NULL, POSITIVE_INFINITY, Bins, Floats, Ints

Unsigned = npt.NDArray[np.uint64]

# Hashes of unseen values that are kept: the least ones, which tell how many different ones there were (Bar-Yossef et al. 2002).
N_UNSEEN = 64
_NO_HASH = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_MAGIC = b"HRC1"


@dataclass(frozen=True, slots=True, eq=False)
class NumericCell:
    """Of the k features of one column.

    counts: int64 of shape (k, bins.n_slots). moments: float64 of shape (k, 4): sum of x - centre, sum of (x - centre)^2, min, max of the
    finite values; min +inf and max -inf where there are none.
    """

    counts: Ints
    moments: Floats

    @classmethod
    def empty(cls, bins: Bins) -> Self:
        moments = np.zeros((bins.n_features, 4))
        moments[:, 2], moments[:, 3] = np.inf, -np.inf
        return cls(np.zeros((bins.n_features, bins.n_slots), np.int64), moments)

    def add(self, other: "NumericCell") -> None:
        self.counts[...] += other.counts
        self.moments[:, :2] += other.moments[:, :2]
        np.minimum(self.moments[:, 2], other.moments[:, 2], out=self.moments[:, 2])
        np.maximum(self.moments[:, 3], other.moments[:, 3], out=self.moments[:, 3])

    def binned(self, feature: int, n_edges: int) -> Ints:
        """Counts of the n_edges + 1 slots of finite values."""
        found: Ints = self.counts[feature, :n_edges + 1]
        return found

    def special(self, feature: int) -> dict[str, int]:
        """Values that no bin counts."""
        nan, high, low, null = (int(self.counts[feature, at - 4]) for at in (NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY, NULL))
        return {"nan": nan, "infinite": high + low, "missing": null}


@dataclass(frozen=True, slots=True, eq=False)
class CategoryCell:
    """Of one column of categories. counts: int64 of shape (n + 2,): the baseline's categories, others, nulls.

    unseen: the 64 least hashes of others, ascending, padded with 2^64 - 1.
    """

    counts: Ints
    unseen: Unsigned

    @classmethod
    def empty(cls, n_categories: int) -> Self:
        return cls(np.zeros(n_categories + 2, np.int64), np.full(N_UNSEEN, _NO_HASH))

    def add(self, other: "CategoryCell") -> None:
        self.counts[...] += other.counts
        least = np.unique(np.concatenate([self.unseen, other.unseen]))[:N_UNSEEN]
        self.unseen[:len(least)] = least
        self.unseen[len(least):] = _NO_HASH

    @property
    def n_unseen_values(self) -> float:
        """How many different values were not among the baseline's; exact below 64, else with a standard error of 13 %."""
        n = int(np.count_nonzero(self.unseen != _NO_HASH))
        return float(n) if n < N_UNSEEN else (N_UNSEEN - 1) / ((float(self.unseen[-1]) + 1) / 2.0**64)


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingCell:
    """Of one column of vectors. sums: float64 of shape (D,), of the random features; n: int64 of shape (1,), vectors in them."""

    sums: Floats
    n: Ints

    @classmethod
    def empty(cls, n_features: int) -> Self:
        return cls(np.zeros(n_features), np.zeros(1, np.int64))

    def add(self, other: "EmbeddingCell") -> None:
        self.sums[...] += other.sums
        self.n[...] += other.n


@dataclass(frozen=True, slots=True, eq=False)
class AnswerCell:
    """Of a classifier's answers. classes: int64 of shape (C + 2,): predicted classes, others, rows without one.

    scores: int64 of shape (s, 2, slots): of each scored class, rows where another class was predicted and rows where this one was, by its
    score. confidence: int64 of shape (1, slots): rows by the score of the class that was predicted. Without scores s is 0.
    """

    classes: Ints
    scores: Ints
    confidence: Ints

    @classmethod
    def empty(cls, n_classes: int, scores: Bins | None, confidence: Bins | None) -> Self:
        shape = (scores.n_features, 2, scores.n_slots) if scores is not None else (0, 2, 0)
        return cls(np.zeros(n_classes + 2, np.int64), np.zeros(shape, np.int64),
                   np.zeros((1, confidence.n_slots) if confidence is not None else (0, 0), np.int64))

    def add(self, other: "AnswerCell") -> None:
        self.classes[...] += other.classes
        self.scores[...] += other.scores
        self.confidence[...] += other.confidence


@dataclass(slots=True, eq=False)
class Cells:
    """baseline: its sha256; only cells of the same add up. rows: that were observed. By column; `answers` where classes are predicted.

    Made by `Baseline.cells()`, filled by `serve.monitoring.observer.Observer`.
    """

    baseline: str
    rows: int = 0
    numeric: dict[str, NumericCell] = field(default_factory=dict)
    categories: dict[str, CategoryCell] = field(default_factory=dict)
    embeddings: dict[str, EmbeddingCell] = field(default_factory=dict)
    answers: AnswerCell | None = None

    def add(self, other: "Cells") -> None:
        """Adds what another one has seen. Raises InvalidArgument for one of another baseline."""
        if other.baseline != self.baseline:
            raise InvalidArgument(f"cells of baseline {other.baseline[:12]} cannot be added to cells of {self.baseline[:12]}")
        self.rows += other.rows
        for name, numeric in other.numeric.items():
            self.numeric[name].add(numeric)
        for name, category in other.categories.items():
            self.categories[name].add(category)
        for name, embedding in other.embeddings.items():
            self.embeddings[name].add(embedding)
        if self.answers is not None and other.answers is not None:
            self.answers.add(other.answers)

    def to_bytes(self) -> bytes:
        """Compact, for a database or another replica; `load` of empty cells of the same baseline makes them again."""
        arrays = [_packed(array) for _, array in self._arrays()]
        header = json.dumps({"baseline": self.baseline, "rows": self.rows, "types": [kind for kind, _ in arrays]}).encode()
        return _MAGIC + struct.pack("<I", len(header)) + header + zlib.compress(b"".join(content for _, content in arrays), 1)

    def load(self, content: bytes) -> None:
        """Takes over what `to_bytes` gave. self: empty. Raises InvalidArgument for content that is none, or of another baseline."""
        header, body = _parts(content)
        if header["baseline"] != self.baseline:
            raise InvalidArgument(f"cells of baseline {header['baseline'][:12]} are not cells of {self.baseline[:12]}")
        arrays = list(self._arrays())
        if len(header["types"]) != len(arrays) or sum(
                np.dtype(kind).itemsize * array.size for kind, (_, array) in zip(header["types"], arrays, strict=True)) != len(body):
            raise InvalidArgument(f"{len(body)} bytes of cells do not fit their baseline")
        at = 0
        for kind, (_, array) in zip(header["types"], arrays, strict=True):
            found = np.frombuffer(body, kind, array.size, at)
            array[...] = found.reshape(array.shape)
            at += found.nbytes
        self.rows = header["rows"]

    def _arrays(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for name, numeric in sorted(self.numeric.items()):
            yield from ((name, numeric.counts), (name, numeric.moments))
        for name, category in sorted(self.categories.items()):
            yield from ((name, category.counts), (name, category.unseen))
        for name, embedding in sorted(self.embeddings.items()):
            yield from ((name, embedding.sums), (name, embedding.n))
        if self.answers is not None:
            yield from (("", self.answers.classes), ("", self.answers.scores), ("", self.answers.confidence))


def _packed(array: npt.NDArray[Any]) -> tuple[str, bytes]:
    """(type, content): counts in the narrowest type that holds them, everything else as it is."""
    if array.dtype == np.int64 and array.size and array.min() >= 0:
        array = array.astype(np.min_scalar_type(int(array.max())))
    return array.dtype.newbyteorder("<").str, array.astype(array.dtype.newbyteorder("<")).tobytes()


def _parts(content: bytes) -> tuple[Mapping[str, Any], bytes]:
    try:
        if content[:4] != _MAGIC:
            raise ValueError("they do not begin with HRC1")
        (length,) = struct.unpack_from("<I", content, 4)
        return json.loads(content[8:8 + length]), zlib.decompress(content[8 + length:])
    except (ValueError, struct.error, zlib.error) as error:
        raise InvalidArgument(f"{len(content)} bytes are no cells: {error}") from error


def total(empty: Cells, parts: Iterable[Cells]) -> Cells:
    """The sum of parts, in `empty`."""
    for part in parts:
        empty.add(part)
    return empty


__all__ = ["N_UNSEEN", "AnswerCell", "CategoryCell", "Cells", "EmbeddingCell", "NumericCell", "total"]
