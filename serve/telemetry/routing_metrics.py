"""The metrics of routing as tables: traffic by variant and generation, shadows, rollouts, verdicts, webhooks.

The label `generation` would grow without bound, so only the generation in force, those that still have requests in flight and the one
before are exposed. An ended one disappears rather than being added to another series, which a rate would take for a burst of requests:
rates stay right, and the totals of a version over all generations are those of `headrace_inference_requests`. Shadow counters have no
such label and never go back. Weights and shares are fractions, durations seconds.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily

from serve.telemetry.buckets import DURATION_TARGETS
from serve.telemetry.families import Distribution, Family, HistogramSample, Sample, Scalar
from serve.telemetry.routing_facts import RolloutFacts, RoutingFacts, TrafficFacts
from serve.traffic import SPECIAL_ARMS, WHOLE_BP, ArmReading
from serve.types import Histogram

_ROLLOUT = ("model", "rollout")
_VARIANT = ("model", "variant", "version")

_DROPS = ("capacity", "late", "primary", "gone")


def _by_arm(facts: RoutingFacts) -> Iterable[tuple[tuple[str, str, str, str], ArmReading]]:
    for traffic in facts.traffic:
        for reading in traffic.readings:
            for arm in reading.arms:
                if arm.name in SPECIAL_ARMS and not arm.assigned:
                    continue        # most plans use none of them, and each has a histogram
                yield (traffic.model, arm.name, arm.version, str(reading.generation)), arm


def _requests(facts: RoutingFacts) -> Iterable[Sample]:
    for labels, arm in _by_arm(facts):
        yield (*labels, "success"), arm.success
        yield (*labels, "error"), arm.errors
        yield (*labels, "refused"), arm.refused


def _assigned(facts: RoutingFacts) -> Iterable[Sample]:
    for labels, arm in _by_arm(facts):
        yield (*labels, "key"), arm.keyed
        yield (*labels, "request"), arm.assigned - arm.keyed


def _durations(facts: RoutingFacts) -> Iterable[HistogramSample]:
    for labels, arm in _by_arm(facts):
        if arm.total_counts:
            yield labels, Histogram(facts.bounds, arm.total_counts, estimated_sum(facts.bounds, arm.total_counts))


def estimated_sum(bounds: Sequence[float], counts: Sequence[int]) -> float:
    """What the observations add up to, each taken for the middle of its bucket; those of the open one for its lower bound.

    At most half a bucket's width wrong, in proportion.
    """
    edges = (0.0, *bounds)
    middles = [(lower + upper) / 2 for lower, upper in pairwise(edges)]
    return sum(count * middle for count, middle in zip(counts, [*middles, edges[-1]], strict=True))


def _weights(facts: RoutingFacts) -> Iterable[Sample]:
    return [((traffic.model, arm.name, arm.version), arm.weight / WHOLE_BP) for traffic in facts.traffic for arm in traffic.arms]


def _shares(facts: RoutingFacts) -> Iterable[Sample]:
    for traffic in facts.traffic:
        drawn = [arm for arm in _in_force(traffic) if arm.name not in SPECIAL_ARMS]
        if total := sum(arm.assigned for arm in drawn):
            yield from (((traffic.model, arm.name, arm.version), arm.assigned / total) for arm in drawn)


def _in_force(traffic: TrafficFacts) -> Sequence[ArmReading]:
    return next((reading.arms for reading in traffic.readings if reading.generation == traffic.generation), ())


def _shadow_requests(facts: RoutingFacts) -> Iterable[Sample]:
    for traffic in facts.traffic:
        for shadow in traffic.shadows:
            labels = (traffic.model, shadow.version)
            yield (*labels, "compared"), shadow.compared - shadow.failed
            yield (*labels, "failed"), shadow.failed
            yield from (((*labels, reason), shadow.dropped.get(reason, 0)) for reason in _DROPS)


def _states(facts: RoutingFacts) -> Iterable[Sample]:
    return [((one.model, one.rollout, state), float(state == one.state)) for one in facts.rollouts for state in facts.states]


def _evidence(part: int) -> Callable[[RoutingFacts], Iterable[Sample]]:
    def samples(facts: RoutingFacts) -> Iterable[Sample]:
        return [(_of(one, test), values[part]) for one in facts.rollouts for test, values in one.evidence.items()]

    return samples


def _of(rollout: RolloutFacts, test: str) -> tuple[str, str, str]:
    return rollout.model, rollout.rollout, test


ROUTING_FAMILIES: tuple[Family[RoutingFacts], ...] = (
    Scalar(CounterMetricFamily, "headrace_variant_requests",
           "Requests by variant and how they ended. An error is a failed run, a deadline that passed in it, or an answer that is not "
           "finite; refused never ran.", (*_VARIANT, "generation", "outcome"), _requests),
    Scalar(CounterMetricFamily, "headrace_variant_assignments",
           "Requests by variant and what drew them: their sticky key, or each by itself.", (*_VARIANT, "generation", "by"), _assigned),
    Distribution("headrace_variant_duration_seconds", "Time from first byte to answer by variant; the sum is estimated from fine buckets.",
                 (*_VARIANT, "generation"), DURATION_TARGETS, _durations),
    Scalar(GaugeMetricFamily, "headrace_traffic_generation", "Generation of the routing in force.", ("model",),
           lambda f: [((traffic.model,), traffic.generation) for traffic in f.traffic]),
    Scalar(GaugeMetricFamily, "headrace_traffic_weight", "Share of the drawn requests that a variant is to get, as set.", _VARIANT,
           _weights),
    Scalar(GaugeMetricFamily, "headrace_traffic_share", "Share of the drawn requests that a variant got in the generation in force.",
           _VARIANT, _shares),
    Scalar(CounterMetricFamily, "headrace_shadow_requests",
           "Requests sampled for a shadow, by what became of them; failed: the shadow failed where the primary answered.",
           ("model", "version", "result"), _shadow_requests),
    # A counter would be exposed as ..._sum_total.
    Scalar(UnknownMetricFamily, "headrace_shadow_disagreement_sum",
           "Sum over compared and failed pairs of the share of rows that disagree; divided by their number it is the mean disagreement.",
           ("model", "version"), lambda f: [((t.model, s.version), s.disagreement) for t in f.traffic for s in t.shadows]),
    Scalar(GaugeMetricFamily, "headrace_rollout_state", "1 for the state that a rollout is in, else 0.", (*_ROLLOUT, "state"), _states),
    Scalar(GaugeMetricFamily, "headrace_judge_evidence", "e-value of a test; it trips at headrace_judge_limit.", (*_ROLLOUT, "test"),
           _evidence(0)),
    Scalar(GaugeMetricFamily, "headrace_judge_limit", "Where a test trips: 1 / alpha.", (*_ROLLOUT, "test"), _evidence(1)),
    Scalar(CounterMetricFamily, "headrace_verdicts", "Verdicts of the judge that differed from the one before.", ("model", "verdict"),
           lambda f: list(f.verdicts.items())),
    Scalar(CounterMetricFamily, "headrace_webhook_deliveries", "Webhooks by result.", ("result",),
           lambda f: [((result,), count) for result, count in f.deliveries.items()]),
)


class RoutingCollector:
    """Asks for the facts at each scrape. Register it beside HeadraceCollector."""

    def __init__(self, facts: Callable[[], RoutingFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples, from one look."""
        facts = self._facts()
        return [family.family([facts]) for family in ROUTING_FAMILIES]

    def describe(self) -> Iterable[Metric]:
        """Every family without samples."""
        return [family.family([]) for family in ROUTING_FAMILIES]
