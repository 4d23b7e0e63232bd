"""Frozen edges: what is alone in a bin, what is a quantile, and what comes after the greatest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.monitoring.bins import bins_of, frozen_edges, moment_frame, slot_labels


def counts(values: object, edges: list[float]) -> list[int]:
    return np.bincount(np.searchsorted(edges, np.asarray(values, np.float64), side="right"), minlength=len(edges) + 1).tolist()


def test_quantiles_of_continuous_values_hold_equal_shares() -> None:
    values = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    edges = frozen_edges(values)
    found = counts(values, edges)
    assert len(edges) == 31
    assert found[0] == found[-1] == 0
    assert edges[0] == values.min()
    assert edges[-1] == np.nextafter(values.max(), np.float32(np.inf))
    assert np.allclose(found[1:-1], 1000, atol=2)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_a_constant_is_alone(kind: type) -> None:
    values = np.full(100, 5, kind)
    edges = frozen_edges(values)
    assert counts(values, edges) == [0, 100, 0]
    assert counts([6, 4], edges) == [1, 0, 1]


def test_few_values_are_each_alone_and_so_is_what_lies_between() -> None:
    values = np.repeat(np.array([1.0, 2.5, 7.0], np.float32), [10, 20, 30])
    edges = frozen_edges(values)
    assert counts(values, edges) == [0, 10, 0, 20, 0, 30, 0]
    assert counts([1.5, 3.0], edges) == [0, 0, 1, 0, 1, 0, 0]


def test_thirty_whole_numbers_in_a_row_are_each_alone() -> None:
    values = np.arange(30, dtype=np.int32)
    assert counts(values, frozen_edges(values)) == [0, *[1] * 30, 0]


def test_a_value_that_half_the_rows_have_is_alone_among_quantiles() -> None:
    stream = np.random.default_rng(1)
    values = np.concatenate([np.zeros(5000), stream.normal(10, 1, 5000)])
    edges = frozen_edges(values)
    found = counts(values, edges)
    assert 5000 in found
    assert len(edges) <= 31
    rest = [n for n in found if 0 < n < 5000]
    assert len(rest) >= 25
    assert max(rest) < 1.1 * min(rest)


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.one_of(FINITE, st.integers(-3, 3).map(float)), min_size=1, max_size=200))
def test_edges_ascend_are_few_and_nothing_of_the_baseline_lies_outside(given_: list[float]) -> None:
    values = np.array(given_, np.float32)
    edges = frozen_edges(values)
    assert 1 <= len(edges) <= 31
    assert all(np.diff(edges) > 0)
    found = counts(values, edges)
    assert found[0] == 0
    assert found[-1] == 0
    bins_of([edges], [0.0], [1.0])


def test_integers_at_the_ends_of_their_type() -> None:
    for values in (np.array([2**63 - 1, -(2**63), 0], np.int64), np.array([2**64 - 1, 0], np.uint64)):
        found = counts(values, frozen_edges(values))
        assert found[0] == found[-1] == 0


@pytest.mark.parametrize("edges", [[[0.0, 0.0]], [[1.0, 0.5]], [[float("nan")]], [[float("inf")]], [list(range(32))]])
def test_edges_that_are_none_are_refused(edges: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="edges"):
        bins_of(edges, [0.0], [1.0])


def test_the_frame_of_sums_is_a_power_of_two_that_reaches_the_values_but_for_outliers() -> None:
    values = np.random.default_rng(2).normal(100, 3, 5000)
    centre, scale = moment_frame(values)
    assert abs(centre - 100) < 0.2
    assert np.abs(values - centre).max() <= scale < 2 * np.abs(values - centre).max()
    with_outlier = moment_frame(np.append(values, 1e300))
    assert with_outlier[1] <= 64 * 16
    assert moment_frame(np.full(10, 7.0)) == (7.0, 1.0)


def test_labels_say_what_a_slot_holds() -> None:
    assert slot_labels([0.0, 1.0, 2.5], is_integer=False) == ["below 0", "0 to 1", "1 to 2.5", "above 2.5"]
    assert slot_labels([3.0, 4.0, 6.0], is_integer=True) == ["below 3", "3", "4 to 6", "above 6"]
    assert slot_labels(frozen_edges(np.full(3, 0.1, np.float32)))[1] == "0.1"
    assert slot_labels([]) == ["all"]
