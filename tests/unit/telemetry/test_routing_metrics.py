"""The metrics of routing, read back by prometheus_client's own parser; the ledger against a naive sum."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry.routing_facts import MAX_GENERATIONS, RolloutFacts, RoutingFacts, RoutingLedger, TrafficFacts
from serve.telemetry.routing_metrics import ROUTING_FAMILIES, RoutingCollector, estimated_sum
from serve.traffic import Arm, ArmReading, PlanReading, ShadowReading

BOUNDS = (0.00001, 0.00002, 0.0001, 0.001)
READINGS = (
    PlanReading("digits", 3, (ArmReading("1", "1", assigned=9, success=9),), is_final=True),
    PlanReading("digits", 4, (
        ArmReading("1", "1", assigned=75, keyed=70, success=70, errors=2, refused=3, total_counts=(1, 1, 1, 3, 4)),
        ArmReading("new", "2", assigned=25, keyed=25, success=24, errors=1),
        ArmReading("explicit", "", assigned=1000, success=1000), ArmReading("forced", ""))),
)
FACTS = RoutingFacts(
    bounds=BOUNDS,
    traffic=(TrafficFacts(model="digits", generation=4, arms=(Arm("1", "1", 7000), Arm("new", "2", 3000)), readings=READINGS,
                          shadows=(ShadowReading("3", 20, 15, 2.5, 5, {"capacity": 3, "late": 2}),)),),
    states=("stepping", "paused", "rolled_back"),
    rollouts=(RolloutFacts(model="digits", rollout="digits-r1", state="paused",
                           evidence={"errors": (410.5, 166.7), "shadow": (1e300, 100.0)}),),
    verdicts={("digits", "hold"): 2, ("digits", "rollback"): 1}, deliveries={"delivered": 7, "failed": 1, "dropped": 0})

Key = tuple[str, frozenset[tuple[str, str]]]


def registry(facts: RoutingFacts) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(RoutingCollector(lambda: facts))
    return made


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


def read(facts: RoutingFacts) -> dict[Key, float]:
    families = text_string_to_metric_families(generate_latest(registry(facts)).decode())
    found = [sample for family in families for sample in family.samples]
    samples = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(samples) == len(found), "a series was exposed twice"
    return samples


@pytest.fixture
def samples() -> dict[Key, float]:
    return read(FACTS)


def test_requests_by_variant_generation_and_outcome(samples: dict[Key, float]) -> None:
    def requests(variant: str, version: str, generation: str, outcome: str) -> float:
        return samples[key("headrace_variant_requests_total", model="digits", variant=variant, version=version, generation=generation,
                           outcome=outcome)]

    assert [requests("1", "1", "4", outcome) for outcome in ("success", "error", "refused")] == [70, 2, 3]
    assert requests("new", "2", "4", "error") == 1
    assert requests("1", "1", "3", "success") == 9
    assert requests("explicit", "", "4", "success") == 1000
    assert not any(("variant", "forced") in labels for _, labels in samples), "special arms that nobody uses have no series"
    by = {by: samples[key("headrace_variant_assignments_total", model="digits", variant="1", version="1", generation="4", by=by)]
          for by in ("key", "request")}
    assert by == {"key": 70, "request": 5}


def test_durations_are_coarse_and_cumulative(samples: dict[Key, float]) -> None:
    labels = {"model": "digits", "variant": "1", "version": "1", "generation": "4"}
    name = "headrace_variant_duration_seconds"
    found = {bound: samples[key(f"{name}_bucket", **labels, le=bound)] for bound in ("1e-05", "0.0001", "0.001", "+Inf")}
    assert found == {"1e-05": 1, "0.0001": 3, "0.001": 6, "+Inf": 10}
    assert key(f"{name}_bucket", **labels, le="2e-05") not in samples
    assert samples[key(f"{name}_sum", **labels)] == pytest.approx(estimated_sum(BOUNDS, (1, 1, 1, 3, 4)))
    assert key(f"{name}_count", **{**labels, "variant": "new", "version": "2"}) not in samples, "nothing measured, nothing exposed"


@given(st.lists(st.floats(0.000011, 0.000999), min_size=1, max_size=50))
def test_the_estimated_sum_is_half_a_bucket_off_at_most(durations: list[float]) -> None:
    counts = [0] * (len(BOUNDS) + 1)
    error = 0.0
    for duration in durations:
        at = next(index for index, bound in enumerate(BOUNDS) if duration <= bound)
        counts[at] += 1
        error += (BOUNDS[at] - BOUNDS[at - 1]) / 2
    assert abs(estimated_sum(BOUNDS, counts) - sum(durations)) <= error * (1 + 1e-9)


def test_weights_and_shares(samples: dict[Key, float]) -> None:
    new = {"model": "digits", "variant": "new", "version": "2"}
    assert samples[key("headrace_traffic_weight", **new)] == 0.3
    assert samples[key("headrace_traffic_share", **new)] == 0.25, "explicit requests are not drawn"
    assert samples[key("headrace_traffic_generation", model="digits")] == 4
    assert key("headrace_traffic_share", model="digits", variant="explicit", version="") not in samples


def test_a_plan_without_requests_has_no_share() -> None:
    facts = RoutingFacts(traffic=(TrafficFacts(model="m", generation=1, arms=(Arm("1", "1", 10_000),),
                                               readings=(PlanReading("m", 1, (ArmReading("1", "1"),)),)),))
    assert key("headrace_traffic_share", model="m", variant="1", version="1") not in read(facts)


def test_every_sampled_shadow_is_in_one_result(samples: dict[Key, float]) -> None:
    results = {result: samples[key("headrace_shadow_requests_total", model="digits", version="3", result=result)]
               for result in ("compared", "failed", "capacity", "late", "primary", "gone")}
    assert results == {"compared": 10, "failed": 5, "capacity": 3, "late": 2, "primary": 0, "gone": 0}
    assert sum(results.values()) == 20
    assert samples[key("headrace_shadow_disagreement_sum", model="digits", version="3")] == 2.5


def test_rollouts_verdicts_and_webhooks(samples: dict[Key, float]) -> None:
    states = {state: samples[key("headrace_rollout_state", model="digits", rollout="digits-r1", state=state)] for state in FACTS.states}
    assert states == {"stepping": 0, "paused": 1, "rolled_back": 0}
    errors = {"model": "digits", "rollout": "digits-r1", "test": "errors"}
    assert (samples[key("headrace_judge_evidence", **errors)], samples[key("headrace_judge_limit", **errors)]) == (410.5, 166.7)
    assert samples[key("headrace_verdicts_total", model="digits", verdict="hold")] == 2
    assert samples[key("headrace_webhook_deliveries_total", result="delivered")] == 7


def test_every_family_has_help_and_openmetrics_accepts_it() -> None:
    families = {family.name: family for family in parse_openmetrics(openmetrics.generate_latest(registry(FACTS)).decode())}
    assert set(families) == {family.name for family in ROUTING_FAMILIES}
    assert all(family.documentation and family.samples for family in families.values())
    assert {family.name for family in RoutingCollector(RoutingFacts).describe()} == set(families)
    assert read(RoutingFacts()) == {}


# The ledger

def reading(generation: int, compared: int = 0, is_final: bool = False, version: str = "3") -> PlanReading:
    shadow = ShadowReading(version, compared + 1, compared, compared / 2, 0, {"late": 1})
    return PlanReading("m", generation, (), (shadow,), is_final=is_final)


def test_the_generation_in_force_the_one_before_and_those_in_flight_are_kept() -> None:
    ledger = RoutingLedger()
    ledger.note([reading(1, is_final=True), reading(2), reading(3, is_final=True), reading(4)])
    assert [one.generation for one in ledger.readings("m")] == [2, 3, 4]
    ledger.note([reading(2, is_final=True), reading(5)])
    assert [one.generation for one in ledger.readings("m")] == [4, 5]
    ledger.note([reading(generation) for generation in range(6, 40)])
    assert len(ledger.readings("m")) == MAX_GENERATIONS
    assert ledger.readings("other") == ()


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=12))
def test_shadow_counts_are_those_of_all_generations_and_never_go_back(growth: list[list[int]]) -> None:
    ledger = RoutingLedger()
    final: dict[int, int] = {}
    before = 0
    for generation, steps in enumerate(growth, 1):
        if generation > 1:      # the one before ends, and is told twice
            for _ in range(2):
                ledger.note([reading(generation - 1, final[generation - 1], is_final=True)])
        for step in steps:
            final[generation] = final.get(generation, 0) + step
            ledger.note([reading(generation, final[generation])])
            (shadow,) = ledger.shadows("m")
            assert shadow.compared == sum(final.values()) >= before
            before = shadow.compared
    assert (shadow.sampled, shadow.dropped) == (sum(final.values()) + len(final), {"late": len(final)})
    assert shadow.disagreement == pytest.approx(sum(final.values()) / 2)


def test_verdicts_are_counted_and_a_model_can_be_forgotten() -> None:
    ledger = RoutingLedger()
    for model, verdict in (("m", "hold"), ("m", "hold"), ("n", "promote")):
        ledger.verdict(model, verdict)
    ledger.note([reading(1)])
    assert ledger.verdicts() == {("m", "hold"): 2, ("n", "promote"): 1}
    ledger.forget("m")
    left: Any = (ledger.verdicts(), ledger.readings("m"), ledger.shadows("m"))
    assert left == ({("n", "promote"): 1}, (), ())
