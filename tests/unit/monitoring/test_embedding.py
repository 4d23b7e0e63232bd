"""Random Fourier features: they are the kernel's, the same everywhere, and MMD^2 has the law that it is judged by."""

import hashlib
import math

import numpy as np
import pytest

from serve.monitoring import embedding as e
from serve.monitoring.arrow_values import numbers_of
from tests.unit.monitoring.small_model import lists


def features(map_: e.RandomFeatures, x: np.ndarray) -> np.ndarray:
    numbers = numbers_of(lists(x.astype(np.float32)))
    found = np.zeros((len(x), e.N_FEATURES))
    for row, one in zip(found, range(len(x)), strict=True):
        assert map_.add(numbers, np.array([one]), row) == 1
    return found


def test_their_products_are_a_gaussian_kernel() -> None:
    stream = np.random.default_rng(0)
    x = stream.normal(size=(30, 8))
    phi = features(e.RandomFeatures(8, 2.5, 1), x)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    want = np.exp(-distance**2 / (2 * 2.5**2))
    assert np.abs(phi @ phi.T - want).mean() < 3 / math.sqrt(e.N_FEATURES)


def test_the_map_is_the_same_everywhere() -> None:
    """Baselines name it by its seed: another stream of numbers would make all of them void."""
    made = e.RandomFeatures(4, 1.0, 7)
    assert hashlib.sha256(made.weights.astype("<f4").tobytes()).hexdigest()[:16] == "fdc257a3d2e33f23"
    assert hashlib.sha256(made.phases.astype("<f8").tobytes()).hexdigest()[:16] == "7f4ce5532b067e27"


@pytest.mark.parametrize("size", [2, 64])
def test_chance_exceeds_the_p_value_as_often_as_it_says(size: int) -> None:
    stream = np.random.default_rng(size)
    reference = stream.normal(size=(3000, size))
    map_ = e.RandomFeatures(size, e.median_distance(reference, 0), 0)
    phi = features(map_, reference)
    mean, variance = e.null_moments(phi)
    threshold = e.bootstrap_threshold(phi[:800], 0)
    p, over = [], 0
    for _ in range(150):
        numbers = numbers_of(lists(stream.normal(size=(120, size)).astype(np.float32)))
        sums = np.zeros(e.N_FEATURES)
        map_.add(numbers, np.arange(120), sums)
        mmd2 = e.mmd_squared(sums, 120, phi.mean(axis=0), 3000)
        p.append(e.p_value(mmd2, 120, 3000, mean, variance))
        over += mmd2 / (1 / 120 + 1 / 3000) > threshold
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.06)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.15)
    assert over <= 7


def test_vectors_that_are_all_the_same() -> None:
    x = np.ones((50, 3))
    assert e.median_distance(x, 0) == 1.0
    mean, variance = e.null_moments(features(e.RandomFeatures(3, 1.0, 0), x))
    assert (mean, variance) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert e.p_value(0.3, 10, 10, 0.0, 0.0) == 1.0
    assert e.mmd_squared(np.zeros(8), 0, np.zeros(8), 5) == 0.0
