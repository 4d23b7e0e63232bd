"""The metrics of recording, read back by prometheus_client's own parser."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from serve.records import StreamReading
from serve.telemetry.recording_facts import RecordingFacts, by_version
from serve.telemetry.recording_metrics import RECORDING_FAMILIES, RecordingCollector

READINGS = (
    StreamReading("digits", "2", sampled=100, written=90, appended=80, dropped={"ring_full": 9, "too_large": 1, "disk_budget": 0},
                  refused=3, malformed=1),
    StreamReading("digits", "1", sampled=10, written=10, appended=10, dropped={"ring_full": 0, "disk_budget": 4}, left_out=2,
                  malformed=3),
    StreamReading("digits", "2", sampled=5, written=4, appended=4, dropped={"ring_full": 1, "blocked": 2}, refused=1, left_out=7,
                  malformed=5),
)
FACTS = RecordingFacts(
    readings=by_version(READINGS), lost={("digits", "2"): 2, ("digits", "1"): 0}, lost_before=41, ring_used_bytes=1, ring_capacity_bytes=64,
    waiting_bytes=5, journal_bytes=7, written_bytes=8, unsynced_bytes=6, append_age_s=0.5, sync_age_s=1.5, errors={"ENOSPC": 3, "EIO": 1},
    failing_s=2.0, error="EIO", observer_errors=11, labels={("digits", "appended"): 9, ("digits", "failed"): 1})

Key = tuple[str, frozenset[tuple[str, str]]]


def read(facts: RecordingFacts) -> dict[Key, float]:
    registry = CollectorRegistry()
    registry.register(RecordingCollector(lambda: facts))
    list(parse_openmetrics(openmetrics.generate_latest(registry).decode()))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = [sample for family in families for sample in family.samples]
    samples = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(samples) == len(found), "a series was exposed twice"
    return samples


def key(name: str, **labels: str) -> Key:
    return f"headrace_{name}", frozenset(labels.items())


@pytest.fixture
def samples() -> dict[Key, float]:
    return read(FACTS)


def test_streams_of_a_version_are_one_series(samples: dict[Key, float]) -> None:
    def of(name: str, version: str) -> float:
        return samples[key(name, model="digits", version=version)]

    assert [of(f"records_{what}_rows_total", "2") for what in ("sampled", "appended", "lost")] == [105, 84, 2]
    assert [of(f"records_{what}_rows_total", "1") for what in ("sampled", "appended", "lost")] == [10, 10, 0]
    assert [of("records_refused_requests_total", version) for version in "12"] == [0, 4]
    assert [of("records_left_out_tensors_total", version) for version in "12"] == [2, 7]
    assert [of("records_malformed_total", version) for version in "12"] == [3, 6]
    dropped = {reason: samples[key("records_dropped_rows_total", model="digits", version="2", reason=reason)]
               for reason in ("ring_full", "too_large", "blocked", "disk_budget")}
    assert dropped == {"ring_full": 10, "too_large": 1, "blocked": 2, "disk_budget": 0}


def test_what_earlier_workers_lost_stands_by_itself(samples: dict[Key, float]) -> None:
    assert samples[key("records_lost_rows_total", model="", version="")] == 41
    assert key("records_lost_rows_total", model="", version="") not in read(RecordingFacts())


def test_the_disk(samples: dict[Key, float]) -> None:
    gauges = ("ring_used_bytes", "ring_capacity_bytes", "waiting_bytes", "journal_bytes", "journal_written_bytes_total", "unsynced_bytes",
              "append_age_seconds", "sync_age_seconds", "observer_errors_total")
    assert [samples[key(f"records_{name}")] for name in gauges] == [1, 64, 5, 7, 8, 6, 0.5, 1.5, 11]
    assert [samples[key("records_journal_errors_total", errno=name)] for name in ("ENOSPC", "EIO")] == [3, 1]
    assert [samples[key("records_state", state=state)] for state in ("ok", "retrying")] == [0, 1]
    assert samples[key("feedback_labels_total", model="digits", result="failed")] == 1


def test_before_anything_was_recorded() -> None:
    samples = read(RecordingFacts())
    assert samples[key("records_state", state="ok")] == 1
    assert not any("age" in name for name, _ in samples)


def test_every_family_is_described() -> None:
    described = {family.name for family in RecordingCollector(lambda: FACTS).describe()}
    assert described == {family.name for family in RecordingCollector(lambda: FACTS).collect()}
    assert len(described) == len(RECORDING_FAMILIES)
