"""A metric family as one line of a table: name, help, labels, and where the samples come from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, UnknownMetricFamily

from serve.telemetry.buckets import cumulative_buckets
from serve.types import Histogram

Source = TypeVar("Source")

Sample = tuple[tuple[str, ...], float]
HistogramSample = tuple[tuple[str, ...], Histogram]

ScalarFamily = type[CounterMetricFamily] | type[GaugeMetricFamily] | type[UnknownMetricFamily]


@dataclass(frozen=True, slots=True)
class Scalar(Generic[Source]):
    """A counter, a gauge, or a family of type unknown, whose name is exposed exactly as it stands here."""

    kind: ScalarFamily
    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Source], Iterable[Sample]]

    def family(self, sources: Iterable[Source]) -> Metric:
        """The family with every source's samples."""
        family = self.kind(self.name, self.help, labels=self.labels)
        for source in sources:
            for labels, value in self.samples(source):
                family.add_metric(labels, value)
        return family


@dataclass(frozen=True, slots=True)
class Distribution(Generic[Source]):
    """A histogram, coarsened to the targets."""

    name: str
    help: str
    labels: tuple[str, ...]
    targets: tuple[float, ...]
    samples: Callable[[Source], Iterable[HistogramSample]]

    def family(self, sources: Iterable[Source]) -> Metric:
        """The family with every source's histograms."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for source in sources:
            for labels, histogram in self.samples(source):
                family.add_metric(labels, cumulative_buckets(histogram, self.targets), histogram.sum)
        return family


Family = Scalar[Source] | Distribution[Source]
