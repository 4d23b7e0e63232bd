"""Histograms: each value in its bucket, each add counted once, readable while a thread writes."""

import threading
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve import types
from serve._core import histogram

BOUNDS = histogram.histogram_bounds()
SIZE_BOUNDS = [2**i for i in range(17)]
EDGES = sorted({max(0, bound + d) for bound in BOUNDS[:-1] for d in (-1, 0, 1)} | {0, 2**63, 2**64 - 1})


def u64(values: object) -> npt.NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)


def test_bounds_are_four_an_octave_from_a_microsecond_to_a_minute():
    assert BOUNDS[0] == 1024
    assert BOUNDS[-2:] == (2**36, 2**64 - 1)
    assert BOUNDS[1:5] == (1280, 1536, 1792, 2048)
    assert all(a < b for a, b in pairwise(BOUNDS))
    assert max(b / a for a, b in pairwise(BOUNDS[:-1])) <= 1.25


@pytest.mark.parametrize("ns", EDGES)
def test_edges_fall_into_their_bucket(ns: int):
    assert histogram.bucket(ns) == np.searchsorted(u64(BOUNDS), np.uint64(ns))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1) | st.integers(0, 2**37))
def test_every_value_lies_between_its_bounds(ns: int):
    i = histogram.bucket(ns)
    assert (-1 if i == 0 else BOUNDS[i - 1]) < ns <= BOUNDS[i]


@pytest.mark.parametrize(("size", "bucket"), [
    (0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7), (65535, 16), (65536, 16), (65537, 17), (2**63, 17), (2**64 - 1, 17),
])
def test_sizes(size: int, bucket: int):
    assert histogram.size_bucket(size) == bucket


def test_threads_are_summed_and_nothing_is_dropped():
    rng = np.random.default_rng(5)
    recorder = histogram.Recorder()
    parts = [np.exp2(rng.uniform(0, 40, 2000)).astype(np.uint64) for _ in range(4)]
    for i, values in enumerate(parts):
        recorder.add(i, values, times=i + 1)
    everything = np.concatenate([np.repeat(values, i + 1) for i, values in enumerate(parts)])
    expected = np.bincount(np.searchsorted(u64(BOUNDS), everything), minlength=len(BOUNDS))
    bounds = tuple(bound / 1e9 for bound in BOUNDS[:-1])
    assert recorder.durations() == types.Histogram(bounds, tuple(expected.tolist()), int(everything.sum()) / 1e9)
    expected = np.bincount(np.searchsorted(u64(SIZE_BOUNDS), everything), minlength=18)
    assert recorder.sizes() == types.Histogram(tuple(map(float, SIZE_BOUNDS)), tuple(expected.tolist()), float(everything.sum()))


def test_an_empty_histogram_has_all_its_buckets():
    empty = histogram.Recorder().durations()
    assert empty.counts == (0,) * (len(empty.bounds) + 1)
    assert empty.sum == 0.0


def test_a_reader_sees_counts_grow_and_every_add_once():
    """One writer without the GIL, one reader: no count ever falls, and at rest each add is there exactly once."""
    recorder, values, rounds = histogram.Recorder(), u64(np.exp2(np.linspace(5, 38, 1000))), 3000
    writer = threading.Thread(target=recorder.add, args=(2, values), kwargs={"rounds": rounds})
    writer.start()
    before = recorder.durations()
    while writer.is_alive():
        now = recorder.durations()
        assert all(a <= b for a, b in zip(before.counts, now.counts, strict=True))
        assert before.sum <= now.sum
        before = now
    writer.join()
    expected = rounds * np.bincount(np.searchsorted(u64(BOUNDS), values), minlength=len(BOUNDS))
    assert recorder.durations().counts == tuple(expected.tolist())
    assert sum(recorder.sizes().counts) == rounds * len(values)
