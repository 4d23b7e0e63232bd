import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.telemetry.buckets import BATCH_TARGETS, DURATION_TARGETS, cumulative_buckets
from serve.types import Histogram


@st.composite
def histograms(draw: st.DrawFn) -> tuple[Histogram, list[float]]:
    """A histogram, and the observations that it was made from."""
    bounds = tuple(sorted(draw(st.sets(st.floats(1e-7, 1e3), max_size=40))))
    observations = draw(st.lists(st.floats(0, 2e3), max_size=60))
    edges = (-math.inf, *bounds, math.inf)
    counts = tuple(sum(low < o <= high for o in observations) for low, high in pairwise(edges))
    return Histogram(bounds, counts, sum(observations)), observations


@given(histograms(), st.sampled_from([DURATION_TARGETS, BATCH_TARGETS]))
def test_every_bucket_counts_exactly_what_is_at_or_below_it(made: tuple[Histogram, list[float]], targets: tuple[float, ...]) -> None:
    histogram, observations = made
    buckets = cumulative_buckets(histogram, targets)
    bounds = [math.inf if bound == "+Inf" else float(bound) for bound, _ in buckets]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == math.inf
    assert len(buckets) <= len(targets) + 1
    assert set(bounds[:-1]) <= set(histogram.bounds)
    for bound, (_, count) in zip(bounds, buckets, strict=True):
        assert count == sum(o <= bound for o in observations)


def test_the_kept_bounds_are_the_first_at_or_above_the_targets() -> None:
    histogram = Histogram((1.0, 1.5, 2.0, 3.0, 5.0, 9.0), (1, 1, 1, 1, 1, 1, 1), 20.0)
    assert cumulative_buckets(histogram, (1.0, 2.0, 4.0, 8.0, 16.0)) == [
        ("1.0", 1.0), ("2.0", 3.0), ("5.0", 5.0), ("9.0", 6.0), ("+Inf", 7.0)]


def test_an_empty_histogram_has_the_open_bucket_only() -> None:
    assert cumulative_buckets(Histogram((), (0,), 0.0), DURATION_TARGETS) == [("+Inf", 0.0)]


@pytest.mark.parametrize("targets", [DURATION_TARGETS, BATCH_TARGETS])
def test_targets_ascend(targets: tuple[float, ...]) -> None:
    assert list(targets) == sorted(set(targets))
