"""What an experiment has counted, and how readings of the counters become part of it. Values and pure functions.

The counters of a generation are cumulative; the state remembers what it has taken of each, so that the same reading may come twice. It
remembers that of generations whose counting is over, too: their last reading goes on being handed out for a while. Counts are kept by the
weights under which they were drawn: those are the propensities that every comparison rests on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.experiment_statistics import PairSums, Stratum, add_pair, merge
from serve.routing.judge.buckets import bucket_of
from serve.traffic import ArmReading, OutcomeReading, OutcomeTally, PlanReading

Counts = tuple[int, ...]  # by variant, in the plan's order
# (n, hits) of each variant; of an outcome (n, hits, totals, squares).
Parts = tuple[tuple[Any, ...], ...]

# Generations with a final reading whose counts are remembered: twice what the engine hands out (serve.models.native_engine).
FINISHED_KEPT = 64

_ASSIGNED = "assigned"


@dataclass(frozen=True, slots=True)
class MetricState:
    """One metric's counts. strata: by weights in force. pairs: for each variant but the control, the sums that its difference rests on."""

    strata: tuple[Stratum, ...] = ()
    pairs: tuple[PairSums, ...] = ()

    def totals(self, n_variants: int) -> tuple[Counts, Counts]:
        """(n, hits) of each variant over all weights."""
        n = tuple(sum(stratum.n[i] for stratum in self.strata) for i in range(n_variants))
        return n, tuple(sum(stratum.hits[i] for stratum in self.strata) for i in range(n_variants))

    def sums(self, n_variants: int) -> tuple[float, ...]:
        """Of each variant's values over all weights; a hit is a value of 1."""
        return tuple(sum((stratum.totals or stratum.hits)[i] for stratum in self.strata) for i in range(n_variants))

    @property
    def has_values(self) -> bool:
        """Whether it is of values other than 0 and 1."""
        return any(s.totals and (s.totals != s.hits or s.squares != s.hits) for s in self.strata)


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """An experiment's evidence so far. weights: generation -> basis points that were in force in it, in the plan's order (the log of
    propensities).

    assigned: requests sent to each variant, answered or not. taken: "generation/metric" -> the parts that the sums already
    hold. finished: generations that had a final reading, the newest last.
    """

    plan: ExperimentPlan
    weights: Mapping[int, Counts] = field(default_factory=dict)
    assigned: Counts = ()
    metrics: Mapping[str, MetricState] = field(default_factory=dict)
    taken: Mapping[str, Parts] = field(default_factory=dict)
    finished: tuple[int, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """JSON-ready; `from_document` reads it back to an equal state."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "weights": [[generation, list(weights)] for generation, weights in self.weights.items()],
            "assigned": list(self.assigned),
            "metrics": {
                name: {
                    "strata": [[list(part) for part in (s.weights, s.n, s.hits, s.totals, s.squares)] for s in metric.strata],
                    "pairs": [[p.n, p.total, p.squares] for p in metric.pairs],
                }
                for name, metric in self.metrics.items()
            },
            "taken": {key: [list(part) for part in parts] for key, parts in self.taken.items()},
            "finished": list(self.finished),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ExperimentState":
        """Raises ValueError, KeyError or TypeError for what as_document does not write."""
        return cls(
            ExperimentPlan.model_validate(document["plan"]),
            {int(generation): tuple(weights) for generation, weights in document["weights"]},
            tuple(document["assigned"]),
            {
                name: MetricState(
                    tuple(Stratum(*map(tuple, parts)) for parts in metric["strata"]),
                    tuple(PairSums(int(n), float(total), float(squares)) for n, total, squares in metric["pairs"]),
                )
                for name, metric in document["metrics"].items()
            },
            {key: tuple(map(tuple, parts)) for key, parts in document["taken"].items()},
            tuple(document.get("finished", ())),
        )


def begin(plan: ExperimentPlan) -> ExperimentState:
    """The state before the first request."""
    n = len(plan.variants)
    metric = MetricState(pairs=(PairSums(),) * (n - 1))
    return ExperimentState(plan, assigned=(0,) * n, metrics=dict.fromkeys(plan.metrics(), metric))


def put_in_force(state: ExperimentState, generation: int, weights: Sequence[int]) -> ExperimentState:
    """Records the weights of a generation, before its first reading. Raises ValueError: other weights are on record for it, or not one
    each.
    """
    counts = tuple(weights)
    if len(counts) != len(state.plan.variants) or min(counts) <= 0:
        raise ValueError(f"weights {counts}: want one over 0 for each of {len(state.plan.variants)} variants")
    if state.weights.get(generation, counts) != counts:
        raise ValueError(f"generation {generation} has the weights {state.weights[generation]} on record, not {counts}")
    return replace(state, weights={**state.weights, generation: counts})


def resume(state: ExperimentState) -> ExperimentState:
    """The state after a restart of the server: the counters of every generation begin at 0 again. Outcomes do not: their sums are kept."""
    return replace(state, taken={key: parts for key, parts in state.taken.items() if "/outcome:" in key}, finished=())


def fold(state: ExperimentState, readings: Iterable[PlanReading], outcomes: Iterable[OutcomeReading] = ()) -> ExperimentState:
    """The state with everything that the readings count beyond what it holds. A reading may come twice.

    A version that is reloaded may set the counters of the newest generation back: then all that they count is new. Those of an older one
    are not counted anew, so what it has less was only let go, and nothing is new; outcomes are durable, and so likewise. Under a reading
    without one of the variants (its version does not serve) requests were not drawn by the weights on record: they are assigned, and no
    comparison rests on them.

    Raises ValueError for a generation whose weights were never put in force.
    """
    for reading in readings:
        state = _fold_reading(state, reading)
    for outcome in outcomes:
        if (metric := f"outcome:{outcome.name}") in state.metrics:
            arms = [outcome.arms.get(name, OutcomeTally()) for name in state.plan.names()]
            parts: Parts = (tuple(arm.n for arm in arms), tuple(arm.hits for arm in arms),
                            tuple(arm.total for arm in arms), tuple(arm.squares for arm in arms))
            state = _take(state, outcome.generation, {metric: parts}, is_drawn=True)
    return state


def _fold_reading(state: ExperimentState, reading: PlanReading) -> ExperimentState:
    arms = {arm.name: arm for arm in reading.arms}
    ordered = [arms.get(name, ArmReading(name, "")) for name in state.plan.names()]
    assigned = tuple(arm.assigned for arm in ordered)
    counts: dict[str, Parts] = {_ASSIGNED: (assigned, (0,) * len(assigned))}
    for metric in state.plan.metrics():
        if not metric.startswith("outcome:"):
            counted = [_count(state.plan, metric, arm) for arm in ordered]
            counts[metric] = (tuple(n for n, _ in counted), tuple(hits for _, hits in counted))
    state = _take(state, reading.generation, counts, is_drawn=arms.keys() >= set(state.plan.names()))
    if not reading.is_final or reading.generation in state.finished:
        return state
    finished = (*state.finished, reading.generation)
    forgotten = tuple(f"{generation}/" for generation in finished[:-FINISHED_KEPT])
    taken = {key: counts for key, counts in state.taken.items() if not key.startswith(forgotten) or "/outcome:" in key}
    return replace(state, taken=taken, finished=finished[-FINISHED_KEPT:])


def _count(plan: ExperimentPlan, metric: str, arm: ArmReading) -> tuple[int, int]:
    # Failures are slow: a version must not look fast by failing at once. Under a sticky key only a unit's first error counts, and requests
    # are not units, so there is no n that belongs to it.
    if metric == "latency_slo":
        edge = slo_bucket(plan)
        return arm.success + arm.errors, arm.errors + sum(arm.total_counts[edge:])
    if plan.sticky is not None:
        return arm.judged, arm.judged_errors
    return arm.success + arm.errors, arm.errors


def slo_bucket(plan: ExperimentPlan) -> int:
    """First bucket of the histogram whose times are all over the SLO: it is judged at the first bound that is not below it."""
    assert plan.slo_ms is not None
    return bucket_of(int(plan.slo_ms * 1e6)) + 1


def _take(state: ExperimentState, generation: int, counts: Mapping[str, Parts], *, is_drawn: bool) -> ExperimentState:
    weights = state.weights.get(generation)
    if weights is None:
        raise ValueError(f"generation {generation} is not of this experiment: its weights were never put in force")
    zeros = {name: ((0,) * len(weights),) * len(parts) for name, parts in counts.items()}
    before: dict[str, Parts] = {name: state.taken.get(f"{generation}/{name}", zeros[name]) for name in counts}
    if any(new < old for name in counts for new, old in _both(counts[name], before[name])):
        if any(name.startswith("outcome:") for name in counts):
            return state    # its join began anew: until it has caught up, all of it is known
        before = dict(zeros) if generation == max(state.weights) else dict(counts)
    taken = dict(state.taken)
    for name, parts in counts.items():
        new = Stratum(weights, *map(_minus, parts, before[name]))
        if name == _ASSIGNED:
            state = replace(state, assigned=tuple(total + more for total, more in zip(state.assigned, new.n, strict=True)))
        elif sum(new.n) == 0 and sum(new.hits) > 0:
            continue    # the answer that the hit belongs to is counted a moment later: the next look takes both
        elif is_drawn and sum(new.n) > 0:
            state = _add(state, name, new)
        taken[f"{generation}/{name}"] = parts
    return replace(state, taken=taken)


def _add(state: ExperimentState, metric: str, new: Stratum) -> ExperimentState:
    old = state.metrics[metric]
    control = state.plan.control_index()
    totals = old.totals(len(new.weights))[0], old.sums(len(new.weights))
    others = [i for i in range(len(new.weights)) if i != control]
    pairs = tuple(add_pair(pair, new, i, control, totals) for pair, i in zip(old.pairs, others, strict=True))
    return replace(state, metrics={**state.metrics, metric: MetricState(merge(old.strata, new), pairs)})


def _both(new: Parts, old: Parts) -> Iterator[tuple[int, int]]:
    """Of counts, which only grow; sums of values may fall."""
    return zip((*new[0], *new[1]), (*old[0], *old[1]), strict=True)


def _minus(new: tuple[Any, ...], old: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a - b for a, b in zip(new, old, strict=True))


__all__ = ["ExperimentState", "MetricState", "begin", "fold", "put_in_force", "resume", "slo_bucket"]
