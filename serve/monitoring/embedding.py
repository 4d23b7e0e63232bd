"""Embeddings, by the mean of their random Fourier features (Rahimi & Recht 2007, Random features for large-scale kernel machines).

phi(x) = sqrt(2 / D) cos(W x + b), W normal with standard deviation 1 / bandwidth, b uniform on [0, 2 pi): phi(x) . phi(y) is about
exp(-|x - y|^2 / (2 bandwidth^2)), and |mean phi(X) - mean phi(Y)|^2 about the squared maximum mean discrepancy of that kernel (Gretton
et al. 2012, A kernel two-sample test). Means are sums, so windows and replicas add up.

Where nothing has changed, MMD^2 / (1/n + 1/m) has the mean tr(C) and the variance 2 tr(C^2), C the covariance of phi; its tail is taken
from the chi-squared law that has the same two, scaled (Satterthwaite).
"""

import functools

import numpy as np
import numpy.typing as npt

from serve._core.feature_histogram import fourier_add
from serve.monitoring.arrow_values import Numbers
from serve.monitoring.baseline import EmbeddingFeature
from serve.monitoring.bins import Floats, Ints
from serve.monitoring.special import chi2_sf

N_FEATURES = 256
# Pairs of rows whose distances are looked at for the bandwidth.
_N_PAIRS = 2000
_N_BOOTSTRAP = 400
_QUANTILE = 0.99

Weights = npt.NDArray[np.float32]


class RandomFeatures:
    """The map phi of vectors of `size` numbers. The same seed gives the same map on every machine (NumPy's frozen RandomState)."""

    def __init__(self, size: int, bandwidth: float, seed: int, n_features: int = N_FEATURES) -> None:
        stream = np.random.RandomState(seed)    # the one generator whose stream never changes
        self.weights: Weights = (stream.standard_normal((size, n_features)) / bandwidth).astype(np.float32)
        self.phases: Floats = stream.uniform(0, 2 * np.pi, n_features)

    def add(self, numbers: Numbers, chosen: Ints, sums: Floats) -> int:
        """Adds phi of the chosen rows to sums, of those that are there and finite; how many they were."""
        return fourier_add(numbers.values, numbers.datatype, numbers.offset, numbers.stride, numbers.n_rows, numbers.validity,
                           numbers.validity_offset, np.ascontiguousarray(chosen), self.weights, self.phases, sums)


@functools.lru_cache(maxsize=64)
def random_features(size: int, bandwidth: float, seed: int, n_features: int) -> RandomFeatures:
    """Kept: they are megabytes of a large embedding."""
    return RandomFeatures(size, bandwidth, seed, n_features)


def features_of(feature: EmbeddingFeature) -> RandomFeatures:
    """The map that a baseline names."""
    return random_features(feature.size, feature.bandwidth, feature.seed, len(feature.mean))


def median_distance(vectors: npt.NDArray[np.generic], seed: int) -> float:
    """The median distance between pairs of vectors, the usual bandwidth; 1 where they are all the same. vectors: finite, (n, size)."""
    stream = np.random.default_rng(seed)
    a, b = (stream.integers(len(vectors), size=_N_PAIRS) for _ in range(2))
    apart = np.linalg.norm(vectors[a].astype(np.float64) - vectors[b].astype(np.float64), axis=1)[a != b]
    apart = apart[apart > 0]
    return float(np.median(apart)) if len(apart) else 1.0


def null_moments(features: Floats) -> tuple[float, float]:
    """(mean, variance) of MMD^2 / (1/n + 1/m) where nothing has changed. features: phi of the baseline's rows, (n, D)."""
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return float(np.trace(covariance)), float(2 * np.sum(covariance * covariance))


def bootstrap_threshold(features: Floats, seed: int) -> float:
    """The 0.99 quantile of MMD^2 / (1/n + 1/m) between windows drawn from the baseline's rows with replacement."""
    stream = np.random.default_rng(seed)
    n = len(features)
    size = max(2, n // 2)
    found = []
    for _ in range(_N_BOOTSTRAP):
        a, b = (features[stream.integers(n, size=size)].mean(axis=0) for _ in range(2))
        found.append(float(np.sum((a - b) ** 2)) / (2 / size))
    return float(np.quantile(found, _QUANTILE))


def mmd_squared(sums: Floats, n: int, mean: Floats, m: int) -> float:
    """|sums / n - mean|^2, less what chance alone adds with n and m vectors is the caller's to take off."""
    return float(np.sum((sums / n - mean) ** 2)) if n and m else 0.0


def p_value(mmd2: float, n: int, m: int, null_mean: float, null_variance: float) -> float:
    """That chance alone brings such an MMD^2 between windows of n and m vectors."""
    if not n or not m or null_mean <= 0 or null_variance <= 0:
        return 1.0
    statistic = mmd2 / (1 / n + 1 / m)
    freedom = 2 * null_mean**2 / null_variance
    return chi2_sf(statistic * freedom / null_mean, freedom)


__all__ = [
    "N_FEATURES", "RandomFeatures", "bootstrap_threshold", "features_of", "median_distance", "mmd_squared", "null_moments", "p_value",
    "random_features",
]
