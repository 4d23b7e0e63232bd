"""What is told of alerts: once, cooled down, and retraining asked for at most once an alert."""

from dataclasses import replace

import pytest

from serve.monitoring.alerts import Alert, Kind, Subject
from serve.monitoring.triggers import (
    ALERT_CLEARED,
    DATA_INVALID,
    DRIFT_DETECTED,
    PERFORMANCE_DEGRADED,
    RETRAIN_REQUESTED,
    Told,
    events,
    rows_query,
)
from serve.monitors import MonitoringSpec

S = 10**9
HOUR = 3600.0


def alert(id_: str, kind: Kind = Kind.DRIFT, version: str = "1", variant: str = "stable", at_s: int = 0, **more: object) -> Alert:
    evidence = {"features": [{"feature": f"x[{i}]"} for i in range(5)], "n_features": 5, "baseline": "b1", "said": "x[0], x[1]"}
    made = Alert(id_, Subject("digits", version, variant, kind), at_s * S, at_s * S, (at_s * S, (at_s + 300) * S), evidence)
    return replace(made, **more)       # type: ignore[arg-type]


def told(alerts: list[Alert], last: dict[str, int] | None = None, now_s: float = 10_000, stable: str = "") -> list[Told]:
    return events("digits", alerts, last or {}, round(now_s * S), MonitoringSpec(cooldown_s=HOUR, window_s=300), stable)


def types(found: list[Told]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.type, one.alerts) for one in found]


@pytest.mark.parametrize(("kind", "type_"), [
    (Kind.DRIFT, DRIFT_DETECTED), (Kind.PREDICTION_DRIFT, DRIFT_DETECTED), (Kind.CONCEPT_DRIFT, DRIFT_DETECTED),
    (Kind.ESTIMATED_PERFORMANCE, PERFORMANCE_DEGRADED), (Kind.REALISED_PERFORMANCE, PERFORMANCE_DEGRADED)])
def test_what_is_raised_is_told_and_asks_for_retraining(kind: Kind, type_: str) -> None:
    assert types(told([alert("a", kind)])) == [(type_, ("a",)), (RETRAIN_REQUESTED, ("a",))]


@pytest.mark.parametrize(("kind", "type_"), [(Kind.DATA_INVALID, DATA_INVALID), (Kind.CANARY_DRIFT, DRIFT_DETECTED)])
def test_broken_data_and_canaries_do_not_ask_for_retraining(kind: Kind, type_: str) -> None:
    assert types(told([alert("a", kind)])) == [(type_, ("a",))]


def test_a_shadow_and_a_canary_are_told_and_do_not_ask() -> None:
    assert types(told([alert("a", variant="shadow"), alert("b", version="2")], stable="1")) == [
        (DRIFT_DETECTED, ("a",)), (DRIFT_DETECTED, ("b",))]


def test_what_is_raised_together_makes_one_request() -> None:
    found = told([alert("a", at_s=600), alert("b", Kind.ESTIMATED_PERFORMANCE, at_s=300)])
    (request,) = [one for one in found if one.type == RETRAIN_REQUESTED]
    assert request.alerts == ("a", "b")
    assert request.evidence["since"] == "1970-01-01T00:05:00.000000Z"
    assert request.evidence["until"] == "1970-01-01T00:15:00.000000Z"
    assert [one["kind"] for one in request.evidence["alerts"]] == ["drift", "estimated_performance"]
    assert request.evidence["query"] == rows_query("digits", ["1"], 300 * S, 900 * S)
    assert request.reason == "version 1: inputs have drifted: x[0], x[1]; estimated performance is below its band: x[0], x[1]"


def test_nothing_is_told_twice() -> None:
    assert told([alert("a", is_told=True, is_requested=True)]) == []
    found = told([alert("a", is_told=True, is_requested=True), alert("b")])
    assert types(found) == [(DRIFT_DETECTED, ("b",)), (RETRAIN_REQUESTED, ("a", "b"))]


def test_a_request_waits_for_a_window_so_that_one_cause_makes_one_request() -> None:
    first, second = alert("a", at_s=1000), alert("b", Kind.ESTIMATED_PERFORMANCE, at_s=1200)
    assert types(told([first], now_s=1299)) == [(DRIFT_DETECTED, ("a",))]
    seen = replace(first, is_told=True)
    assert types(told([seen, second], now_s=1299)) == [(PERFORMANCE_DEGRADED, ("b",))]
    assert types(told([seen, replace(second, is_told=True)], now_s=1300)) == [(RETRAIN_REQUESTED, ("a", "b"))]


def test_cooling_down_holds_back_a_kind_of_a_version_until_it_is_over() -> None:
    (first, request) = told([alert("a")])
    last = {one.kind: 9_000 * S for one in (first, request)}
    others = [alert("b", Kind.REALISED_PERFORMANCE), alert("c", Kind.PREDICTION_DRIFT), alert("d", version="2")]
    assert types(told([alert("a"), *others], last)) == [(DRIFT_DETECTED, ("c",)), (DRIFT_DETECTED, ("d",)), (PERFORMANCE_DEGRADED, ("b",))]
    assert types(told([alert("a")], last, now_s=9_000 + HOUR)) == [(DRIFT_DETECTED, ("a",)), (RETRAIN_REQUESTED, ("a",))]


def test_a_clearing_is_told_of_what_was_told() -> None:
    cleared = alert("a", cleared_ns=9 * S, cleared_because="the last 3 windows are good", is_told=True)
    (found,) = told([cleared], {told([alert("a")])[0].kind: 9_999 * S})
    assert (found.type, found.alerts, found.reason) == (ALERT_CLEARED, ("a",), "version 1 (stable), drift: the last 3 windows are good")
    assert told([replace(cleared, is_told=False)]) == told([replace(cleared, is_clear_told=True)]) == []


def test_the_query_is_one_that_a_model_and_a_variant_cannot_break() -> None:
    assert rows_query("a-b.c", ["1", "2"], 5, 9, "it's") == (
        "SELECT * FROM records_a_b_c WHERE model = 'a-b.c' AND version IN ('1', '2') AND variant = 'it''s' AND ts_ns >= 5 AND ts_ns < 9")


def test_two_variants_of_a_version_are_two_of_one_kind() -> None:
    both = [alert("a", at_s=20), alert("b", variant="shadow", at_s=10)]
    (first,) = told(both, now_s=300)
    assert first.alerts == ("b",)
    waiting = [both[0], replace(both[1], is_told=True)]
    assert types(told(waiting, {first.kind: 300 * S, RETRAIN_REQUESTED: 300 * S}, now_s=400)) == []
    assert types(told(waiting, {first.kind: 300 * S, RETRAIN_REQUESTED: 3_000 * S}, now_s=300 + HOUR)) == [(DRIFT_DETECTED, ("a",))]


def test_what_was_told_by_a_clock_that_was_ahead_holds_nothing_back() -> None:
    (first, request) = told([alert("a")])
    assert types(told([alert("a")], {first.kind: 99_999 * S, request.kind: 99_999 * S})) == [
        (DRIFT_DETECTED, ("a",)), (RETRAIN_REQUESTED, ("a",))]
