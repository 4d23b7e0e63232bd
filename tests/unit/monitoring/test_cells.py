"""Cells add up exactly, whatever parts the rows came in, and survive being bytes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from serve.errors import InvalidArgument
from serve.monitoring.cells import CategoryCell, Cells, total
from serve.monitoring.observer import Observer
from tests.unit.monitoring.small_model import baseline, rows

BASELINE = baseline()
OBSERVER = Observer(BASELINE, embedding_stride=1)


def seen(table: object) -> Cells:
    cells = BASELINE.cells()
    OBSERVER.observe(table, cells)      # type: ignore[arg-type]
    return cells


def test_eight_merged_replicas_equal_one_to_the_bit() -> None:
    table, _ = rows(4001, seed=5, shift=0.2, colours=("red", "green", "mauve", "teal"))
    whole = seen(table)
    cuts = [0, 1, 700, 701, 1500, 2900, 3333, 4000, 4001]
    parts = [seen(table.slice(a, b - a)) for a, b in pairwise(cuts)]
    assert len(parts) == 8
    assert total(BASELINE.cells(), parts).to_bytes() == whole.to_bytes()
    assert total(BASELINE.cells(), parts[::-1]).to_bytes() == whole.to_bytes()
    shuffled = table.take(np.random.default_rng(0).permutation(4001))
    assert seen(shuffled).to_bytes() == whole.to_bytes()


def test_every_row_is_counted_once_in_everything() -> None:
    cells = seen(rows(1234, seed=6)[0])
    assert cells.rows == 1234
    assert cells.numeric["in_x"].counts.sum(axis=1).tolist() == [1234] * 4
    assert cells.categories["in_colour"].counts.sum() == 1234
    assert cells.embeddings["in_v"].n.tolist() == [1234]
    assert cells.answers is not None
    assert cells.answers.classes.sum() == 1234
    assert cells.answers.scores.sum(axis=(1, 2)).tolist() == [1234] * 3
    assert cells.answers.confidence.sum() == 1234


def test_bytes_are_compact_and_come_back() -> None:
    cells = seen(rows(900, seed=7)[0])
    content = cells.to_bytes()
    back = BASELINE.cells()
    back.load(content)
    assert back.to_bytes() == content
    assert back.rows == 900
    for name, numeric in cells.numeric.items():
        assert np.array_equal(back.numeric[name].moments, numeric.moments)
    assert len(content) < 5000
    assert len(BASELINE.cells().to_bytes()) < 1000


@pytest.mark.parametrize("content", [b"", b"HRC1", b"HRC1\xff\xff\xff\xff", b"nope" + bytes(20)])
def test_what_is_no_cells_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match="are no cells"):
        BASELINE.cells().load(content)


def test_cells_of_another_baseline_are_refused() -> None:
    other = replace(BASELINE, created_ns=2)
    with pytest.raises(InvalidArgument, match="cannot be added"):
        other.cells().add(BASELINE.cells())
    with pytest.raises(InvalidArgument, match="are not cells of"):
        other.cells().load(BASELINE.cells().to_bytes())


def test_torn_bytes_are_refused_and_change_nothing() -> None:
    content = seen(rows(300, seed=8)[0]).to_bytes()
    cells = BASELINE.cells()
    for end in range(4, len(content), 97):
        with pytest.raises(InvalidArgument):
            cells.load(content[:end])
    assert cells.to_bytes() == BASELINE.cells().to_bytes()


def test_one_vector_in_ten_is_looked_at() -> None:
    cells = BASELINE.cells()
    Observer(BASELINE).observe(rows(1000, seed=9)[0], cells)
    assert cells.embeddings["in_v"].n.tolist() == [100]


def test_how_many_different_values_were_unseen() -> None:
    stream = np.random.default_rng(3)
    cell = CategoryCell.empty(3)
    cell.unseen[:5] = np.sort(stream.integers(0, 2**63, 5).astype(np.uint64))
    assert cell.n_unseen_values == 5
    found = []
    for _ in range(20):
        hashes = np.sort(stream.integers(0, 2**64, 10_000, dtype=np.uint64))
        cell.unseen[...] = hashes[:64]
        found.append(cell.n_unseen_values)
    assert np.mean(found) == pytest.approx(10_000, rel=0.1)


def test_the_least_hashes_of_two_are_those_of_both() -> None:
    stream = np.random.default_rng(4)
    values = np.sort(stream.integers(0, 2**64 - 1, 100, dtype=np.uint64))
    a, b = CategoryCell.empty(0), CategoryCell.empty(0)
    a.unseen[...] = values[::2][:64] if len(values[::2]) >= 64 else np.concatenate([values[::2], np.full(14, 2**64 - 1, np.uint64)])
    b.unseen[:30] = values[:30]
    a.add(b)
    assert a.unseen.tolist() == sorted({*values[::2].tolist(), *values[:30].tolist()})[:64]
