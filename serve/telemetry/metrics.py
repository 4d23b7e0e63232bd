"""The metrics of Headrace as tables, and the collector that fills them at each scrape.

Units are seconds, bytes and rows. Counters start at zero when a version is loaded, which a metrics store takes for a restart.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.telemetry.buckets import BATCH_TARGETS, DURATION_TARGETS
from serve.telemetry.facts import RuntimeFacts
from serve.telemetry.families import Distribution, Family, HistogramSample, Sample, Scalar
from serve.telemetry.triton_metrics import TRITON_FAMILIES
from serve.types import VersionStatistics

_VERSION = ("model", "version")


def _of(version: VersionStatistics, *more: str) -> tuple[str, ...]:
    return (version.name, version.version, *more)


def _stages(version: VersionStatistics) -> Iterable[HistogramSample]:
    for (protocol, stage), histogram in version.stages.items():
        yield _of(version, protocol, stage), histogram


def _outcomes(version: VersionStatistics) -> Iterable[Sample]:
    yield _of(version, "success"), version.success.count
    yield _of(version, "failure"), version.fail.count


def _rejections(source: VersionStatistics | RuntimeFacts) -> Iterable[Sample]:
    # A request refused before its version was known has empty labels, which a metrics store takes for none.
    labels = _of(source) if isinstance(source, VersionStatistics) else ("", "")
    return [((*labels, reason), count) for reason, count in source.rejected.items()]


VERSION_FAMILIES: tuple[Family[VersionStatistics], ...] = (
    Distribution("headrace_stage_duration_seconds",
                 "Time that requests spent in a stage: receive, queue, gather, run, scatter, send; total is all of them.",
                 (*_VERSION, "protocol", "stage"), DURATION_TARGETS, _stages),
    Distribution("headrace_batch_size", "Rows of the batches that were run.", _VERSION, BATCH_TARGETS, lambda v: [(_of(v), v.batch_sizes)]),
    Scalar(CounterMetricFamily, "headrace_inference_requests", "Inference requests by outcome.", (*_VERSION, "outcome"), _outcomes),
    Scalar(CounterMetricFamily, "headrace_inference_rows", "Rows inferred.", _VERSION, lambda v: [(_of(v), v.inference_count)]),
    Scalar(CounterMetricFamily, "headrace_executions", "Runs of the model; rows divided by runs is the mean batch.", _VERSION,
           lambda v: [(_of(v), v.execution_count)]),
    Scalar(GaugeMetricFamily, "headrace_queue_depth", "Requests that wait for a batch.", _VERSION, lambda v: [(_of(v), v.queue_depth)]),
    Scalar(GaugeMetricFamily, "headrace_in_flight", "Requests accepted and not yet answered.", _VERSION, lambda v: [(_of(v), v.in_flight)]),
    Scalar(GaugeMetricFamily, "headrace_last_inference_timestamp_seconds", "Wall time of the last inference; 0 before the first.", _VERSION,
           lambda v: [(_of(v), v.last_inference_ms / 1000)]),
)

REJECTIONS: Scalar[VersionStatistics | RuntimeFacts] = Scalar(
    CounterMetricFamily, "headrace_rejections", "Requests that were not answered with a result, by reason; without a model where none was "
    "known yet.", (*_VERSION, "reason"), _rejections)

RUNTIME_FAMILIES: tuple[Family[RuntimeFacts], ...] = (
    Scalar(CounterMetricFamily, "headrace_requests", "Requests received, whatever became of them.", ("protocol",),
           lambda f: [((protocol,), count) for protocol, count in f.requests.items()]),
    Scalar(GaugeMetricFamily, "headrace_connections", "Open connections.", (), lambda f: [((), f.connections)]),
    Scalar(CounterMetricFamily, "headrace_connections_accepted", "Connections accepted.", (), lambda f: [((), f.accepted)]),
    Scalar(GaugeMetricFamily, "headrace_in_flight_bytes", "Bytes held for requests that are not answered.", (),
           lambda f: [((), f.in_flight_bytes)]),
    Scalar(CounterMetricFamily, "headrace_io_turns", "Turns of the I/O threads' loops.", (), lambda f: [((), f.io_turns)]),
    Scalar(GaugeMetricFamily, "headrace_worker_epoch", "Epoch of the worker; grows with each restart and upgrade.", (),
           lambda f: [((), f.worker_epoch)]),
    Scalar(CounterMetricFamily, "headrace_worker_restarts", "Workers replaced after a crash.", (), lambda f: [((), f.restarts)]),
    Scalar(GaugeMetricFamily, "headrace_start_time_seconds", "Wall time of the worker's start.", (), lambda f: [((), f.start_time_s)]),
    Scalar(GaugeMetricFamily, "headrace_build_info", "Always 1; the version is in the label.", ("build_version",),
           lambda f: [((f.version,), 1.0)]),
)


class HeadraceCollector:
    """Asks for statistics and facts at each scrape and says them in both vocabularies."""

    def __init__(self, statistics: Callable[[], Iterable[VersionStatistics]], facts: Callable[[], RuntimeFacts]) -> None:
        self._statistics = statistics
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples, from one look at the sources."""
        return _families(list(self._statistics()), [self._facts()])

    def describe(self) -> Iterable[Metric]:
        """Every family without samples, so that a scrape can ask for some by name."""
        return _families([], [])


def _families(versions: list[VersionStatistics], facts: list[RuntimeFacts]) -> Iterable[Metric]:
    yield from (family.family(versions) for family in VERSION_FAMILIES)
    yield REJECTIONS.family([*versions, *facts])
    yield from (family.family(facts) for family in RUNTIME_FAMILIES)
    yield from (family.family(versions) for family in TRITON_FAMILIES)


def metrics_registry(*collectors: Collector) -> CollectorRegistry:
    """A registry of our own with the collectors and the process's CPU time, memory and file descriptors (`process_*`)."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry
