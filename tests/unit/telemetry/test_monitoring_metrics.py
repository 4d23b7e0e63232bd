"""The metrics of monitoring, read back by prometheus_client's own parser."""

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from serve.telemetry.monitoring_facts import MAX_FEATURES, REST, MonitoringFacts, SeriesFacts, ViolationLedger, worst_features
from serve.telemetry.monitoring_metrics import MONITORING_FAMILIES, MonitoringCollector

SERIES = ("digits", "1", "stable")
FACTS = MonitoringFacts(
    series={SERIES: SeriesFacts(
        psi={f"x[{i}]": i / 100 for i in range(64)}, drifted=3, steady=60, unsaid=1, estimated={"accuracy": 0.91},
        realised={"accuracy": 0.9}, bands={"accuracy": (0.93, 0.99)}, rows=5000, windows={"concluded": 4, "too_few": 1})},
    violations={("digits", "1", "x[3]", "missing"): 7}, alerts={("digits", "drift"): 1}, retrain_events={"digits": 2},
    skipped={"late": 3}, commands={"done": 1})


def read(facts: MonitoringFacts) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(MonitoringCollector(lambda: facts))
    text = openmetrics.generate_latest(registry).decode()
    return {(sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse_openmetrics(text) for sample in family.samples}


def test_what_is_exposed() -> None:
    found = read(FACTS)
    series = dict(zip(("model", "version", "variant"), SERIES, strict=True))

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert value("headrace_drift_psi", **series, feature="x[63]") == 0.63
    assert value("headrace_drift_psi", **series, feature=REST) == 0.13, "the largest of the 14 that are not named"
    assert sum(name == "headrace_drift_psi" for name, _ in found) == MAX_FEATURES + 1
    assert [value("headrace_drift_features", **series, state=state) for state in ("drifted", "steady", "unsaid")] == [3, 60, 1]
    assert value("headrace_estimated_performance", **series, metric="accuracy") == 0.91
    assert value("headrace_realised_performance", **series, metric="accuracy") == 0.9
    assert value("headrace_performance_band", **series, metric="accuracy", bound="lower") == 0.93
    assert value("headrace_data_violations_total", model="digits", version="1", feature="x[3]", kind="missing") == 7
    assert value("headrace_monitored_rows_total", **series) == 5000
    assert value("headrace_monitoring_windows_total", **series, result="too_few") == 1
    assert value("headrace_monitoring_alerts", model="digits", kind="drift") == 1
    assert value("headrace_retrain_events_total", model="digits") == 2
    assert value("headrace_monitoring_skipped_rows_total", reason="late") == 3
    assert value("headrace_monitoring_commands_total", result="done") == 1


def test_every_family_is_there_and_nothing_is_said_of_nothing() -> None:
    assert {family.name for family in MonitoringCollector(MonitoringFacts).describe()} == {family.name for family in MONITORING_FAMILIES}
    assert read(MonitoringFacts()) == {}
    assert all(family.help for family in MONITORING_FAMILIES)


def test_few_features_need_no_rest() -> None:
    assert worst_features({"a": 1.0, "b": 2.0}) == {"b": 2.0, "a": 1.0}
    assert worst_features({"a": 1.0, "b": 2.0, "c": 0.5}, 1) == {"b": 2.0, REST: 1.0}


def test_counters_of_violations_keep_their_names_and_lose_nothing() -> None:
    ledger = ViolationLedger()
    for i in range(MAX_FEATURES + 10):
        ledger.add("m", "1", f"f{i}", "missing", 1)
    ledger.add("m", "1", "f59", "missing", 5)
    ledger.add("m", "1", "f0", "missing", 2)
    ledger.add("m", "1", "f0", "not_finite", 0)
    counts = ledger.counts()
    assert (counts["m", "1", "f0", "missing"], counts["m", "1", REST, "missing"]) == (3, 15)
    assert (len(counts), sum(counts.values())) == (MAX_FEATURES + 1, MAX_FEATURES + 10 + 7)
    again = ViolationLedger(counts)
    again.add("m", "1", "f59", "missing", 1)
    again.add("m", "1", "f49", "missing", 1)
    assert (again.counts()["m", "1", REST, "missing"], again.counts()["m", "1", "f49", "missing"]) == (16, 2)
