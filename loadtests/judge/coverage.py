"""Experiments: how often an interval that is looked at all the time misses the truth, with weights that stay and with weights that follow
the outcomes.
"""

import math

import numpy as np

from loadtests.judge.tables import Bound, Scale, Table, at_most, percent, seeded
from serve.routing.experiment import ExperimentPlan, begin, fold, next_weights, put_in_force, read_out
from serve.traffic import ArmReading, PlanReading

ALPHA = 0.05
LOOKS = 30
REQUESTS_A_LOOK = 2_000
# Control, equal, twice as bad.
TRUE = (1.0, 1.0, 2.0)
NAMES = ("1", "2", "3")


def _plan(is_adaptive: bool) -> ExperimentPlan:
    allocation = {"kind": "thompson", "floor": 1000, "update_seconds": 60} if is_adaptive else {"kind": "fixed"}
    variants = [{"version": name, "weight": weight} for name, weight in zip(NAMES, (3334, 3333, 3333), strict=True)]
    return ExperimentPlan.model_validate({"variants": variants, "seconds": 3600.0, "alpha": ALPHA, "allocation": allocation})


def one_experiment(rng: np.random.Generator, is_adaptive: bool) -> dict[str, float]:
    """Whether any interval of any look missed, whether the worse variant was found, and the errors served.

    A look a minute, the error rate swings threefold; under Thompson sampling each minute is a generation with weights of its own.
    """
    state = begin(_plan(is_adaptive))
    missed_ratio = missed_difference = found = errors = 0.0
    weights = state.plan.weights()
    for look in range(LOOKS):
        state = put_in_force(state, look + 1, weights)
        base = 0.01 * (1 + math.sin(look / 5) ** 2 * 2)
        n = rng.multinomial(REQUESTS_A_LOOK, np.asarray(weights) / 10_000)
        bad = rng.binomial(n, base * np.asarray(TRUE))
        arms = tuple(ArmReading(name, name, int(a), success=int(a - b), errors=int(b)) for name, a, b in zip(NAMES, n, bad, strict=True))
        state = fold(state, [PlanReading("model", look + 1, arms, is_final=True)])
        said = read_out(state)
        errors += float(bad.sum())
        for comparison, ratio in zip(said["comparisons"], TRUE[1:], strict=True):
            interval, difference = comparison["ratio"], comparison["difference"]
            if interval is not None and not (interval[1] <= ratio and (interval[2] is None or interval[2] >= ratio)):
                missed_ratio = 1.0
            # Only the equal variant's difference is the same at every hour.
            if ratio == 1 and difference is not None and not difference[1] <= 0 <= difference[2]:
                missed_difference = 1.0
        found = max(found, float(said["comparisons"][1]["verdict"] == "worse"))
        if is_adaptive:
            weights = next_weights(state, rng)
    return {"ratio": missed_ratio, "difference": missed_difference, "found": found, "errors": errors}


def experiments(scale: Scale) -> list[Table]:
    """Experiments: misses of the read-out's intervals over all looks, fixed and adaptive."""
    rows, bounds = [], []
    for i, (name, is_adaptive) in enumerate((("fixed", False), ("Thompson sampling", True))):
        rng = seeded(50, i)
        done = [one_experiment(rng, is_adaptive) for _ in range(scale.slow_runs)]
        mean = {key: sum(run[key] for run in done) / len(done) for key in done[0]}
        missed = [at_most(round(mean[key] * len(done)), len(done)) for key in ("ratio", "difference")]
        rows.append([name, *missed, percent(ALPHA), percent(mean["found"]), f"{mean['errors']:,.0f}"])
        bounds += [Bound(f"experiment, {name}: misses of the {what}", mean[what], most=ALPHA) for what in ("ratio", "difference")]
        scale.say(f"{name}: {mean}")
    return [
        Table(
            "Experiments of three variants",
            ["allocation", "ratio missed at any look", "difference missed at any look", "allowed", "worse variant found", "errors served"],
            rows,
            [
                f"{scale.slow_runs:,} experiments, {LOOKS} looks of {REQUESTS_A_LOOK:,} requests.",
                "A control, an equal variant and one with twice the errors; the base rate swings between 1 and 3 %.",
                "Ratio: exact, both comparisons. Difference: asymptotic, of the equal variant, whose true difference is always 0.",
            ],
            bounds,
        )
    ]


__all__ = ["experiments", "one_experiment"]
