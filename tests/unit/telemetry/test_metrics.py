"""The exposition, read back by prometheus_client's own parsers."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serve.telemetry.facts import RuntimeFacts
from serve.telemetry.metrics import HeadraceCollector, metrics_registry
from serve.types import Duration, Histogram, VersionStatistics

STATISTICS = [
    VersionStatistics(name="digits", version="1"),
    VersionStatistics(
        name="digits", version="2", last_inference_ms=1_700_000_000_500, inference_count=12, execution_count=5,
        success=Duration(9, 9_000_999), fail=Duration(16, 100_000), queue=Duration(9, 1_000_000), compute_input=Duration(9, 200_000),
        compute_infer=Duration(9, 3_000_000),         compute_output=Duration(9, 300_000), queue_depth=3, in_flight=4,
        rejected={"queue_full": 2, "deadline": 1, "cancelled": 5, "invalid": 7, "failed": 1},
        stages={("http", "run"): Histogram((0.00001, 0.00002, 0.0001, 0.001), (1, 1, 1, 3, 4), 0.5),
                ("grpc", "total"): Histogram((0.00001, 0.00002, 0.0001, 0.001), (0, 0, 0, 2, 0), 0.001)},
        batch_sizes=Histogram((1.0, 2.0, 4.0), (1, 0, 4, 0), 12.0)),
]
FACTS = RuntimeFacts(
    version="0.1.0", worker_epoch=7, start_time_s=1_700_000_000.25, restarts=2, connections=3, accepted=11, in_flight_bytes=4096,
    io_turns=99, requests={"http": 20, "grpc": 5}, rejected={"in_flight_bytes": 6})

Key = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def registry() -> CollectorRegistry:
    return metrics_registry(HeadraceCollector(lambda: STATISTICS, lambda: FACTS))


@pytest.fixture
def samples(registry: CollectorRegistry) -> dict[Key, float]:
    text = generate_latest(registry).decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    read = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(read) == len(found), "a series was exposed twice"
    return read


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


def digits(name: str, **labels: str) -> Key:
    return key(name, model="digits", version="2", **labels)


@pytest.mark.parametrize(("name", "value"), [
    ("nv_inference_request_success", 9), ("nv_inference_count", 12), ("nv_inference_exec_count", 5),
    ("nv_inference_request_duration_us", 9000), ("nv_inference_queue_duration_us", 1000), ("nv_inference_compute_input_duration_us", 200),
    ("nv_inference_compute_infer_duration_us", 3000), ("nv_inference_compute_output_duration_us", 300),
    ("nv_inference_pending_request_count", 3),
])
def test_triton_names_to_the_letter(samples: dict[Key, float], name: str, value: float) -> None:
    assert samples[digits(name)] == value
    assert samples[key(name, model="digits", version="1")] == 0


@pytest.mark.parametrize(("reason", "count"), [("REJECTED", 3), ("CANCELED", 5), ("BACKEND", 1), ("OTHER", 7)])
def test_triton_failure_reasons(samples: dict[Key, float], reason: str, count: float) -> None:
    assert samples[digits("nv_inference_request_failure", reason=reason)] == count
    assert samples[key("nv_inference_request_failure", model="digits", version="1", reason=reason)] == 0


def test_there_are_no_other_triton_names(samples: dict[Key, float]) -> None:
    assert {name for name, _ in samples if name.startswith("nv_")} == {
        "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
        "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us", "nv_inference_pending_request_count"}


def test_stages_are_cumulative_histograms_in_seconds(samples: dict[Key, float]) -> None:
    name = "headrace_stage_duration_seconds"
    bounds = ("1e-05", "0.0001", "0.001", "+Inf")
    run = {bound: samples[digits(name + "_bucket", protocol="http", stage="run", le=bound)] for bound in bounds}
    assert run == {"1e-05": 1, "0.0001": 3, "0.001": 6, "+Inf": 10}
    assert digits(name + "_bucket", protocol="http", stage="run", le="2e-05") not in samples, "fine buckets nobody asked for are folded"
    assert samples[digits(name + "_count", protocol="http", stage="run")] == 10
    assert samples[digits(name + "_sum", protocol="http", stage="run")] == 0.5
    assert samples[digits(name + "_count", protocol="grpc", stage="total")] == 2


def test_the_rest_of_a_version(samples: dict[Key, float]) -> None:
    assert samples[digits("headrace_batch_size_bucket", le="4.0")] == 5
    assert samples[digits("headrace_batch_size_sum")] == 12
    assert samples[digits("headrace_inference_requests_total", outcome="success")] == 9
    assert samples[digits("headrace_inference_requests_total", outcome="failure")] == 16
    assert samples[digits("headrace_inference_rows_total")] == 12
    assert samples[digits("headrace_executions_total")] == 5
    assert samples[digits("headrace_queue_depth")] == 3
    assert samples[digits("headrace_in_flight")] == 4
    assert samples[digits("headrace_last_inference_timestamp_seconds")] == 1_700_000_000.5
    assert samples[digits("headrace_rejections_total", reason="queue_full")] == 2


def test_the_worker(samples: dict[Key, float]) -> None:
    assert samples[key("headrace_rejections_total", model="", version="", reason="in_flight_bytes")] == 6
    assert samples[key("headrace_requests_total", protocol="http")] == 20
    assert samples[key("headrace_requests_total", protocol="grpc")] == 5
    expected = {
        "headrace_connections": 3, "headrace_connections_accepted_total": 11, "headrace_in_flight_bytes": 4096,
        "headrace_io_turns_total": 99, "headrace_worker_epoch": 7, "headrace_worker_restarts_total": 2,
        "headrace_start_time_seconds": 1_700_000_000.25,
    }
    assert {name: samples[key(name)] for name in expected} == expected
    assert samples[key("headrace_build_info", build_version="0.1.0")] == 1
    assert samples[key("process_resident_memory_bytes")] > 0
    assert samples[key("process_cpu_seconds_total")] > 0


def test_every_family_has_help_and_the_right_type(registry: CollectorRegistry) -> None:
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert all(family.documentation for family in families.values())
    assert families["nv_inference_count"].type == "unknown"
    assert families["nv_inference_pending_request_count"].type == "gauge"
    assert families["headrace_stage_duration_seconds"].type == "histogram"
    assert families["headrace_rejections"].type == "counter"


def test_openmetrics_accepts_it_all(registry: CollectorRegistry) -> None:
    text = openmetrics.generate_latest(registry).decode()
    names = {sample.name for family in parse_openmetrics(text) for sample in family.samples}
    assert {"nv_inference_count", "nv_inference_request_failure", "headrace_requests_total"} <= names


def test_names_with_anything_in_them_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    registry = metrics_registry(HeadraceCollector(lambda: [VersionStatistics(name=odd, version="1")], lambda: FACTS))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    labels = {sample.labels["model"] for family in families if family.name == "nv_inference_count" for sample in family.samples}
    assert labels == {odd}


def test_no_models_no_series_of_models() -> None:
    registry = metrics_registry(HeadraceCollector(list, lambda: FACTS))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert families["nv_inference_count"].samples == []
    assert families["headrace_connections"].samples != []
