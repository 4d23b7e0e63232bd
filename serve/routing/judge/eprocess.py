r"""The error-only e-process: of two arms' events, whose are they?

Setting. Each unit is given to the candidate with probability rho, by a draw that nothing else knows of; an event (an error, a slow answer,
an output in some bin) befalls it with probability theta_1 there and theta_0 on the stable version. Given that an event occurred at all, it
is the candidate's with probability

    p(r) = rho r / (rho r + 1 - rho),      r = theta_1 / theta_0,

whatever the base rate theta_0 (t) is at that moment (Lindon & Malek, Anytime-Valid Inference for Multinomial Count Data, NeurIPS 2022,
arXiv 2011.03567). So every event is one Bernoulli trial, successes need not be counted, and a daily swing of the base rate
changes nothing.

Against H0: r <= c each event multiplies the wealth of the bet on r_j > c by p(r_j) / p(c) if it is the candidate's, else by
(1 - p(r_j)) / (1 - p(c)). Its expectation under a true ratio r is affine in p(r), rises with it, and is 1 at p(c): at most 1 for every
r <= c, even one that changes with time or depends on the past. rho enters at its value when the unit was assigned, which is fixed before
the event, so a change of weight changes nothing either. The product over events is a nonnegative supermartingale for each j, and so is
their average over a grid of r_j with fixed weights (a mixture of bets). By Ville's inequality it ever reaches 1 / alpha with probability at
most alpha, however often one looks (Ramdas, Gruenwald, Vovk & Shafer, Game-Theoretic Statistics, 2023, arXiv 2210.01948).

With d_j(rho) = ln((rho r_j + 1 - rho) / (rho c + 1 - rho)) the log of bet j is, over strata s of constant rho,

    l_j = ln(r_j / c) sum_s E1_s - sum_s (E1_s + E0_s) d_j(rho_s):

a function of the counts per stratum alone. Replicas add integers, and the order of events, deltas and strata does not matter.

Under a sticky key the unit is the key's owner: count each unit's first event only, or clustered events make the test wrong (section 2.1 of
the design's `rollout.md`).

Everything here takes arrays of whole simulations: counts of shape (..., n_strata), share of shape (n_strata,) or (..., n_strata).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ONE_SIDED: tuple[float, ...] = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)  # multiples of the null's ratio, equal weights
TWO_SIDED: tuple[float, ...] = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)


def log_mean_exp(logs: Floats) -> Floats:
    """ln of the mean of exp(logs) over the last axis. Shape (..., n) -> (...)."""
    top = logs.max(axis=-1)
    shifted = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        mean: Floats = shifted + np.log(np.exp(logs - shifted[..., None]).mean(axis=-1))
    return mean


def log_bets(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, *, ratio: float, bets: Sequence[float]) -> Floats:
    """l_j of each bet, shape (..., n_bets).

    candidate, stable: events, shape (..., n_strata). share: rho in (0, 1), shape (n_strata,) or (..., n_strata). ratio: c of the null.
    bets: r_j / c. Raises ValueError for a share outside (0, 1): an arm without weight has nothing to compare.
    """
    rho = np.asarray(share, dtype=np.float64)
    if not ((rho > 0) & (rho < 1)).all():
        raise ValueError(f"the candidate's share is {rho.tolist()}; want every one between 0 and 1, neither included")
    multiples = np.asarray(bets, dtype=np.float64)
    ones, zeros = np.asarray(candidate, dtype=np.float64), np.asarray(stable, dtype=np.float64)
    rest = (1 - rho)[..., None]
    d = np.log((rho[..., None] * (ratio * multiples) + rest) / (rho[..., None] * ratio + rest))
    events = ones + zeros
    lost = events @ d if d.ndim == 2 else (events[..., None] * d).sum(axis=-2)
    gained: Floats = ones.sum(axis=-1)[..., None] * np.log(multiples)
    return np.asarray(gained - lost, dtype=np.float64)


def log_greater(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, *, margin: float = 0.0) -> Floats:
    """ln of the e-value against H0: theta_1 <= (1 + margin) theta_0. Shape (...); see `log_bets` for the arguments."""
    return log_mean_exp(log_bets(candidate, stable, share, ratio=1 + margin, bets=ONE_SIDED))


def log_less(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, *, ratio: float) -> Floats:
    """ln of the e-value against H0: theta_1 >= ratio theta_0: non-inferiority, with the same grid mirrored under the margin.

    Each bet's expectation now falls with p(r), and is 1 at p(ratio). Shape (...).
    """
    return log_mean_exp(log_bets(candidate, stable, share, ratio=ratio, bets=[1 / r for r in ONE_SIDED]))


def log_different(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike) -> Floats:
    """ln of the e-value against H0: theta_1 = theta_0, by bets on both sides. A martingale under it. Shape (...)."""
    return log_mean_exp(log_bets(candidate, stable, share, ratio=1.0, bets=TWO_SIDED))


def information_floor(share: float, ratio: float, alpha: float) -> float:
    """Events of both arms that any test needs on average: ln(1/alpha) / KL(p(ratio) || share)."""
    p = share * ratio / (share * ratio + 1 - share)
    divergence = p * np.log(p / share) + (1 - p) * np.log((1 - p) / (1 - share))
    return float(np.log(1 / alpha) / divergence)


__all__ = ["ONE_SIDED", "TWO_SIDED", "information_floor", "log_bets", "log_different", "log_greater", "log_less", "log_mean_exp"]
