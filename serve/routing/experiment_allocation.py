"""Thompson sampling in batches: the next weights follow each variant's probability of being the best."""

from collections.abc import Sequence

import numpy as np

from serve.routing.experiment_plan import ThompsonAllocation
from serve.routing.experiment_state import ExperimentState
from serve.traffic import WHOLE_BP

DRAWS = 20_000


def next_weights(state: ExperimentState, rng: np.random.Generator) -> tuple[int, ...]:
    """Basis points for the next generation, in the plan's order, summing to 10,000; the plan's own weights under a fixed allocation.

    Each variant's hit rate is drawn from Beta(1 + hits, 1 + misses) (Thompson 1933; Chapelle and Li, NeurIPS 2011), 20,000 times; the share
    of draws in which a variant is best, mixed with the floor, is its weight: floor + (10,000 - k floor) P(best). What is set is the weight
    itself, so that the propensity of every request is known and logged; drawing a variant for each request by its own posterior would leave
    it unknown. rng: the caller's source of randomness.
    """
    allocation = state.plan.allocation
    if not isinstance(allocation, ThompsonAllocation):
        return state.plan.weights()
    metric = state.plan.optimised()
    n, hits = (np.asarray(counts) for counts in state.metrics[metric].totals(len(state.plan.variants)))
    rates = rng.beta(1 + hits, 1 + n - hits, size=(DRAWS, n.size))
    best = rates.argmin(axis=1) if state.plan.is_lower_better(metric) else rates.argmax(axis=1)
    return apportion(np.bincount(best, minlength=n.size) / DRAWS, allocation.floor)


def apportion(shares: "np.typing.NDArray[np.float64] | Sequence[float]", floor: int) -> tuple[int, ...]:
    """Whole basis points, at least `floor` each and 10,000 together, in the shares of what the floors leave (largest remainders)."""
    exact = np.asarray(shares, dtype=np.float64) * (WHOLE_BP - floor * len(shares))
    whole = np.floor(exact).astype(int)
    left = WHOLE_BP - floor * len(shares) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return tuple(int(floor + points) for points in whole)


__all__ = ["apportion", "next_weights"]
