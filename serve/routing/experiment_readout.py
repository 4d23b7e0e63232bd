"""What an experiment says so far: a JSON-ready document, with a sentence for people. It may be read at any time, and acted on when it is
decided.
"""

from collections.abc import Callable, Sequence
from typing import Any

from serve.routing.experiment_plan import ExperimentPlan, ThompsonAllocation
from serve.routing.experiment_state import ExperimentState, MetricState, slo_bucket
from serve.routing.experiment_statistics import (
    LEAST_HITS,
    PairSums,
    difference_interval,
    hit_trials,
    json_ready,
    ratio_interval,
    sample_ratio_evidence,
)
from serve.routing.judge.buckets import BOUNDS_NS
from serve.routing.plan import name_of

SAMPLE_RATIO_LIMIT = 100.0  # 1 / .01


def read_out(state: ExperimentState) -> dict[str, Any]:
    """The document: `variants` with their counts, `comparisons` of each with the control by the primary metric, `secondary` ones by the
    others, `sample_ratio`, whether it `is_decided` (a difference is beyond doubt, or all of them are) and `sentence`.

    Intervals hold at 1 - alpha over all looks and all comparisons of the primary metric together (alpha / (k - 1) each); those of a
    secondary metric by themselves. `difference` is of the share of units with a hit, `ratio` of the two shares; of an outcome of any values
    `difference` is of their means, and there is no `ratio`. Either is None where it cannot be said.
    """
    plan = state.plan
    alpha = plan.alpha / (len(plan.variants) - 1)
    mismatch = _sample_ratio(state)
    comparisons = _compare(state, plan.primary, alpha)
    decided = [found for found in comparisons if found["verdict"] != "undecided"]
    is_trusted = not mismatch["is_mismatch"]
    weights = state.weights[max(state.weights)] if state.weights else plan.weights()
    return {
        "primary": plan.primary,
        "control": plan.names()[plan.control_index()],
        "alpha": plan.alpha,
        "alpha_each": alpha,
        "allocation": "thompson" if isinstance(plan.allocation, ThompsonAllocation) else "fixed",
        "slo_ms_effective": _effective_slo_ms(plan),
        "variants": _variants(state, weights),
        "comparisons": comparisons,
        "secondary": {name: _compare(state, name, alpha) for name in plan.metrics() if name != plan.primary},
        "sample_ratio": mismatch,
        "has_units": plan.units is not None and min(_units(state)) >= plan.units,
        "is_decided": is_trusted and bool(decided),
        "sentence": _sentence(comparisons, mismatch),
    }


def has_units(state: ExperimentState) -> bool:
    """Whether every variant has counted the units that the plan wants; False when it wants none."""
    return state.plan.units is not None and min(_units(state)) >= state.plan.units


def _units(state: ExperimentState) -> tuple[int, ...]:
    return state.metrics[state.plan.primary].totals(len(state.plan.variants))[0]


def _effective_slo_ms(plan: ExperimentPlan) -> float | None:
    return None if plan.slo_ms is None else BOUNDS_NS[slo_bucket(plan) - 1] / 1e6


def _metric(metric: MetricState, n: int, hits: int, total: float) -> dict[str, Any]:
    found: dict[str, Any] = {"n": n, "hits": hits, "rate": _rate(n, hits)}
    return {**found, "mean": total / n if n else None} if metric.has_values else found


def _variants(state: ExperimentState, weights: Sequence[int]) -> list[dict[str, Any]]:
    names = state.plan.names()
    totals = {name: (*metric.totals(len(names)), metric.sums(len(names))) for name, metric in state.metrics.items()}
    return [
        {
            "name": names[i],
            "version": variant.version,
            "weight": weights[i],
            "assigned": state.assigned[i],
            "metrics": {name: _metric(state.metrics[name], n[i], hits[i], sums[i]) for name, (n, hits, sums) in totals.items()},
        }
        for i, variant in enumerate(state.plan.variants)
    ]


def _rate(n: int, hits: int) -> float | None:
    return hits / n if n else None


def _compare(state: ExperimentState, metric: str, alpha: float) -> list[dict[str, Any]]:
    control = state.plan.control_index()
    others = [i for i in range(len(state.plan.variants)) if i != control]
    held = state.metrics[metric]
    return [_comparison(state.plan, metric, held, i, pair, alpha) for i, pair in zip(others, held.pairs, strict=True)]


def _comparison(plan: ExperimentPlan, metric: str, held: MetricState, variant: int, sums: PairSums, alpha: float) -> dict[str, Any]:
    control = plan.control_index()
    n, hits = held.totals(len(plan.variants))
    # Of values other than 0 and 1 it is the mean that is compared: how many are not 0 says little.
    ratio = None if held.has_values else ratio_interval(hit_trials(held.strata, variant, control), alpha)
    # A sticky unit's first error has no number of units beside it, and its requests are not independent: no difference can be said.
    is_countable = plan.sticky is None or metric.startswith("outcome:")
    is_normal = hits[variant] + hits[control] >= LEAST_HITS and min(n[variant], n[control]) >= LEAST_HITS
    difference = difference_interval(sums, alpha) if is_countable and is_normal else None
    if metric.startswith("outcome:"):
        sign = 0 if difference is None else (difference[1] > 0) - (difference[2] < 0)
    else:
        sign = 0 if ratio is None else (ratio[1] > 1) - (ratio[2] is not None and ratio[2] < 1)
    is_better = (sign < 0) == plan.is_lower_better(metric)
    found = {
        "variant": name_of(plan.variants[variant]),
        "metric": metric,
        "verdict": "undecided" if sign == 0 else "better" if is_better else "worse",
        "ratio": json_ready(ratio),
        "difference": json_ready(difference),
    }
    shown = _number if held.has_values else _percent
    return {**found, "sentence": _comparison_sentence(found, plan.names()[control], n[variant] + n[control], shown)}


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _comparison_sentence(found: dict[str, Any], control: str, n: int, shown: Callable[[float], str]) -> str:
    what = f"{found['variant']} against {control}, {found['metric']}"
    said = []
    if found["difference"] is not None:
        estimate, lower, upper = found["difference"]
        said.append(f"difference {shown(estimate)} ({shown(lower)} to {shown(upper)})")
    if found["ratio"] is not None:
        estimate, lower, upper = found["ratio"]
        ratio = "no hit on the control" if estimate is None else f"ratio {estimate:.3g}"
        said.append(f"{ratio} ({lower:.3g} to {'any' if upper is None else f'{upper:.3g}'})")
    if n == 0:
        return f"{what}: no data."
    return f"{what}: {'; '.join(said) or 'no hit yet'}: {found['verdict']}."


def _sample_ratio(state: ExperimentState) -> dict[str, Any]:
    plan = state.plan
    if plan.sticky is not None and not plan.primary.startswith("outcome:"):
        sentence = "Not checked: a sticky unit's requests all go to one variant, so that requests are not drawn one by one."
        return {"e_value": None, "limit": SAMPLE_RATIO_LIMIT, "is_mismatch": False, "sentence": sentence}
    e_value = sample_ratio_evidence(state.metrics[plan.primary].strata)
    is_mismatch = e_value >= SAMPLE_RATIO_LIMIT
    fault = "do not arrive in proportion to the weights: find out what is lost before believing a comparison"
    said = fault if is_mismatch else "agree with the weights"
    sentence = f"The units that answered {said} (evidence {e_value:.3g}, limit {SAMPLE_RATIO_LIMIT:g})."
    return {"e_value": float(f"{e_value:.6g}"), "limit": SAMPLE_RATIO_LIMIT, "is_mismatch": is_mismatch, "sentence": sentence}


def _sentence(comparisons: Sequence[dict[str, Any]], mismatch: dict[str, Any]) -> str:
    if mismatch["is_mismatch"]:
        return str(mismatch["sentence"])
    return " ".join(found["sentence"] for found in comparisons)


__all__ = ["SAMPLE_RATIO_LIMIT", "has_units", "read_out"]
