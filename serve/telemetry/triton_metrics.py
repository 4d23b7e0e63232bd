"""The statistics under Triton's metric names, for the dashboards and tools that know no others.

The names are exact to the letter. Triton's counters lack the `_total` that the OpenMetrics format asks of counters, so that they are
exposed as families of type unknown. Source: Triton's metrics documentation; wire contract 2.6.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily

from serve.telemetry.families import Sample, Scalar
from serve.types import VersionStatistics

_LABELS: Final = ("model", "version")

# Our reason -> Triton's; every other reason is OTHER.
_REASONS: Final[Mapping[str, str]] = {"queue_full": "REJECTED", "deadline": "REJECTED", "cancelled": "CANCELED", "failed": "BACKEND"}
_ALL_REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


def _failures(version: VersionStatistics) -> Iterable[Sample]:
    counts = dict.fromkeys(_ALL_REASONS, 0)
    for reason, count in version.rejected.items():
        counts[_REASONS.get(reason, "OTHER")] += count
    return [((version.name, version.version, reason), count) for reason, count in counts.items()]


def _counter(name: str, help_text: str, value: Callable[[VersionStatistics], int]) -> Scalar[VersionStatistics]:
    return Scalar(UnknownMetricFamily, name, help_text, _LABELS, lambda v: [((v.name, v.version), value(v))])


def _microseconds(name: str, what: str, nanoseconds: Callable[[VersionStatistics], int]) -> Scalar[VersionStatistics]:
    return _counter(name, f"Cumulative {what} in microseconds", lambda v: nanoseconds(v) // 1000)


TRITON_FAMILIES: Final[tuple[Scalar[VersionStatistics], ...]] = (
    _counter("nv_inference_request_success", "Number of successful inference requests", lambda v: v.success.count),
    Scalar(UnknownMetricFamily, "nv_inference_request_failure", "Number of failed inference requests", (*_LABELS, "reason"), _failures),
    _counter("nv_inference_count", "Number of inferences performed, rows counted", lambda v: v.inference_count),
    _counter("nv_inference_exec_count", "Number of model executions performed", lambda v: v.execution_count),
    _microseconds("nv_inference_request_duration_us", "inference request duration", lambda v: v.success.ns),
    _microseconds("nv_inference_queue_duration_us", "inference queuing duration", lambda v: v.queue.ns),
    _microseconds("nv_inference_compute_input_duration_us", "compute input duration", lambda v: v.compute_input.ns),
    _microseconds("nv_inference_compute_infer_duration_us", "compute inference duration", lambda v: v.compute_infer.ns),
    _microseconds("nv_inference_compute_output_duration_us", "compute output duration", lambda v: v.compute_output.ns),
    Scalar(GaugeMetricFamily, "nv_inference_pending_request_count", "Number of requests that wait for execution", _LABELS,
           lambda v: [((v.name, v.version), v.queue_depth)]),
)
