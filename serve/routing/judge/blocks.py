r"""A two-sample e-process on blocks, for events of which we know the arm but did not draw it.

How many runs of some size of batch each version makes is not ours to set, so the argument of `eprocess` does not hold for them; here the
numbers n1, n0 of runs are given and only whether each was slow is random. A block is what one look brings: n1 runs of the candidate of
which y1 were slow, n0 and y0 of the stable version. With plug-in alternatives (q1, q0) that were fixed before the block

    E = q1^y1 (1-q1)^(n1-y1) q0^y0 (1-q0)^(n0-y0) / [t1^y1 (1-t1)^(n1-y1) t0^y0 (1-t0)^(n0-y0)],

(t1, t0) the point of the null nearest to them: the minimum of K(t) = n1 KL(q1||t1) + n0 KL(q0||t0) (Turner, Ly & Gruenwald, Generic
E-variables for exact sequential k-sample tests, arXiv 2106.02693; with an effect size in the null: Turner & Gruenwald, Exact anytime-valid
confidence intervals for contingency tables and beyond, arXiv 2203.09785).

E[E] <= 1 on every convex null. For true shares s = (s1, s0) of the null, E[E] = prod_g f_g^n_g with
f_g = 1 + (s_g - t_g)(q_g - t_g) / (t_g (1 - t_g)). As ln f <= f - 1, ln E[E] <= sum_g n_g (s_g - t_g)(q_g - t_g) / (t_g (1 - t_g)), which
is -(gradient of K at t) . (s - t): not positive, because t minimises K on a convex set that holds s. The same holds when the shares differ
from run to run, with their means over the block for s; the base rate may change from block to block at will.

So the running product over blocks is a supermartingale under the null. Three nulls are used, all convex:
`worse`  H0: t1 <= c t0     `ratio`  H0: t1 >= c t0     `difference`  H0: t1 >= t0 + d.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Arms = tuple[npt.ArrayLike, npt.ArrayLike]  # (candidate, stable)

_LEAST = 1e-6  # shares are kept this far from 0 and 1, so that one surprise never costs everything


def nearest_on_ratio(q1: npt.ArrayLike, q0: npt.ArrayLike, n1: npt.ArrayLike, n0: npt.ArrayLike, ratio: float) -> tuple[Floats, Floats]:
    """(t1, t0) on the line t1 = ratio t0 nearest to (q1, q0): the smaller root of

    ratio (n1 + n0) t^2 - (n1 (ratio + q1) + n0 (1 + ratio q0)) t + n1 q1 + n0 q0 = 0, the stationary point of K. Arrays broadcast.
    """
    q1, q0, n1, n0 = (np.asarray(v, dtype=np.float64) for v in (q1, q0, n1, n0))
    a, b, c = ratio * (n1 + n0), n1 * (ratio + q1) + n0 * (1 + ratio * q0), n1 * q1 + n0 * q0
    t0 = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)))
    return np.asarray(ratio * t0, dtype=np.float64), np.asarray(t0, dtype=np.float64)


def nearest_on_difference(q: npt.ArrayLike, n1: npt.ArrayLike, n0: npt.ArrayLike, difference: float) -> tuple[Floats, Floats]:
    """(t1, t0) on the line t1 = t0 + difference nearest to (q, q), by bisection on the slope of K, which rises. Arrays broadcast."""
    q, n1, n0 = (np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(q, n1, n0))
    each = zip(q.ravel().tolist(), n1.ravel().tolist(), n0.ravel().tolist(), strict=True)
    t0 = np.array([_nearest_of_one(*one, difference) for one in each]).reshape(q.shape)
    return t0 + difference, t0


def _nearest_of_one(q: float, n1: float, n0: float, difference: float) -> float:
    """There are as many as thresholds, a handful: quicker without arrays. 32 halvings are 1e-10 of a difference of a few percent."""
    low, high = max(q - difference, 0.0), min(q, 1 - difference)
    for _ in range(32):
        t0 = (low + high) / 2
        t1 = t0 + difference
        if n1 * (t1 - q) / (t1 * (1 - t1)) + n0 * (t0 - q) / (t0 * (1 - t0)) < 0:
            low = t0
        else:
            high = t0
    return (low + high) / 2


def log_block(y: Arms, n: Arms, q: tuple[Floats, Floats], t: tuple[Floats, Floats]) -> Floats:
    """ln E of a block; each pair is (candidate, stable). Arrays broadcast."""
    total: Floats = np.zeros(())
    for slow, runs, alternative, null in zip(y, n, q, t, strict=True):
        hits, misses = np.asarray(slow, dtype=np.float64), np.asarray(runs, dtype=np.float64) - np.asarray(slow, dtype=np.float64)
        total = total + hits * np.log(alternative / null) + misses * np.log((1 - alternative) / (1 - null))
    return total


def log_worse(y: Arms, n: Arms, q: Arms, ratio: float) -> Floats:
    """ln E of a block against H0: t1 <= ratio t0. 0 where the plug-in (q1, q0) lies in the null itself: then nothing is bet."""
    q1, q0 = (np.clip(v, _LEAST, 1 - _LEAST) for v in q)
    is_in_null = q1 <= ratio * q0
    q1 = np.where(is_in_null, 0.5, q1)
    q0 = np.where(is_in_null, 0.25 / ratio, q0)
    value = log_block(y, n, (q1, q0), nearest_on_ratio(q1, q0, *n, ratio))
    return np.where(is_in_null, 0.0, value)


def log_not_worse(y: Arms, n: Arms, q: npt.ArrayLike, ratio: float, difference: float) -> tuple[Floats, Floats]:
    """ln E of a block against H0: t1 >= ratio t0, and against H0: t1 >= t0 + difference. The alternative: both shares are q."""
    q = np.clip(q, _LEAST, 1 - _LEAST)
    by_ratio = log_block(y, n, (q, q), nearest_on_ratio(q, q, *n, ratio))
    return by_ratio, log_block(y, n, (q, q), nearest_on_difference(q, *n, difference))


__all__ = ["log_block", "log_not_worse", "log_worse", "nearest_on_difference", "nearest_on_ratio"]
