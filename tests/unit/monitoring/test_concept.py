"""Detectors of concept drift: step for step what river's do."""

import json

import numpy as np
import pytest
from river import drift

from serve.monitoring.concept import Adwin, PageHinkley, adwin_of, page_hinkley_of

Floats = np.ndarray


def stream_of(seed: int) -> Floats:
    """Segments of one law with different parameters."""
    stream = np.random.default_rng(seed)
    parts = []
    for _ in range(5):
        n, p = int(stream.integers(40, 1500)), stream.random()
        parts.append((
            (stream.random(n) < p).astype(float), stream.normal(p * 5, 1, n), stream.exponential(p + 0.1, n), stream.integers(0, 10, n) * p,
        )[seed % 4])
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("delta", "clock"), [(0.002, 32), (0.3, 1)])
def test_adwin_is_rivers(seed: int, delta: float, clock: int) -> None:
    theirs, ours = drift.ADWIN(delta=delta, clock=clock), Adwin(delta=delta, clock=clock)
    fired = 0
    for step, value in enumerate(stream_of(seed).tolist()):
        theirs.update(value)
        assert ours.update(value) == theirs.drift_detected, step
        assert ours.n == theirs.width
        assert ours.mean == pytest.approx(theirs.estimation, abs=1e-9)
        fired += ours.has_fired
    assert fired


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("threshold", "delta"), [(50.0, 0.005), (5.0, 0.05)])
def test_page_hinkley_is_rivers(seed: int, threshold: float, delta: float) -> None:
    theirs, ours = drift.PageHinkley(threshold=threshold, delta=delta), PageHinkley(threshold=threshold, delta=delta)
    fired = 0
    for step, value in enumerate(stream_of(seed).tolist()):
        theirs.update(value)
        assert ours.update(value) == theirs.drift_detected, step
        fired += ours.has_fired
    assert fired


def test_defaults_are_rivers() -> None:
    theirs, ours = drift.PageHinkley(), PageHinkley()
    assert (theirs.min_instances, theirs.delta, theirs.threshold, theirs.alpha, theirs.mode) == (
        ours.min_values, ours.delta, ours.threshold, ours.alpha, "both")
    adwin = drift.ADWIN()
    assert (adwin.delta, adwin.clock) == (Adwin().delta, Adwin().clock)
    assert (adwin.max_buckets, adwin.min_window_length, adwin.grace_period) == (5, 5, 10)


@pytest.mark.parametrize("seed", range(4))
def test_a_detector_that_was_stored_goes_on_as_if_nothing_had_happened(seed: int) -> None:
    values = stream_of(seed).tolist()
    kept, stored = (Adwin(), PageHinkley()), (Adwin(), PageHinkley())
    for step, value in enumerate(values):
        assert [one.update(value) for one in kept] == [one.update(value) for one in stored]
        if step % 37 == 0:
            adwin, page = (json.loads(json.dumps(one.as_document())) for one in stored)
            stored = adwin_of(adwin), page_hinkley_of(page)
    assert kept == stored


def test_memory_grows_with_the_logarithm_of_the_window() -> None:
    adwin = Adwin()
    for value in np.random.default_rng(0).random(20_000).tolist():
        adwin.update(value)
    assert adwin.n > 10_000
    assert sum(map(len, adwin.rows)) < 80


def test_errors_that_are_all_alike_for_long() -> None:
    for seed in range(60):
        stream = np.random.default_rng(seed)
        ours = Adwin()
        fired = [ours.update(value) for value, n in zip(stream.random(5) * 10, stream.integers(20, 300, 5), strict=True)
                 for _ in range(int(n))]
        assert any(fired)
        assert ours.n <= len(fired)
