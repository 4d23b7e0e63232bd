"""The metrics of monitoring as tables: drift, performance, violations, alerts.

Cardinality is bounded. Of a version and variant, `headrace_drift_psi` has the 50 features with the largest PSI of the newest window, and
under feature="_rest" the largest of the others; `headrace_data_violations_total` names the first 50 features that had any and sums the rest
under "_rest". Performance is a number of the metric's own unit, mostly a share.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serve.telemetry.families import Family, Sample, Scalar
from serve.telemetry.monitoring_facts import MonitoringFacts, SeriesFacts, worst_features

_SERIES = ("model", "version", "variant")


def _psi(facts: MonitoringFacts) -> Iterable[Sample]:
    for series, found in facts.series.items():
        yield from (((*series, feature), value) for feature, value in worst_features(found.psi).items())


def _features(facts: MonitoringFacts) -> Iterable[Sample]:
    for series, found in facts.series.items():
        yield (*series, "drifted"), found.drifted
        yield (*series, "steady"), found.steady
        yield (*series, "unsaid"), found.unsaid


def _performance(part: Callable[[SeriesFacts], Mapping[str, float]]) -> Callable[[MonitoringFacts], Iterable[Sample]]:
    def samples(facts: MonitoringFacts) -> Iterable[Sample]:
        return [((*series, metric), value) for series, found in facts.series.items() for metric, value in part(found).items()]

    return samples


def _bands(facts: MonitoringFacts) -> Iterable[Sample]:
    for series, found in facts.series.items():
        for metric, (lower, upper) in found.bands.items():
            yield (*series, metric, "lower"), lower
            yield (*series, metric, "upper"), upper


def _windows(facts: MonitoringFacts) -> Iterable[Sample]:
    return [((*series, result), count) for series, found in facts.series.items() for result, count in found.windows.items()]


MONITORING_FAMILIES: tuple[Family[MonitoringFacts], ...] = (
    Scalar(GaugeMetricFamily, "headrace_drift_psi",
           "Population stability index against the baseline in the newest window; feature _rest: the largest of those not named.",
           (*_SERIES, "feature"), _psi),
    Scalar(GaugeMetricFamily, "headrace_drift_embedding_effect",
           "Squared maximum mean discrepancy of an embedding in the newest window, as a share of the variance of its random features.",
           (*_SERIES, "feature"), lambda f: [((*s, name), value) for s, one in f.series.items() for name, value in one.effects.items()]),
    Scalar(GaugeMetricFamily, "headrace_drift_features", "Features of the newest window by what was found; unsaid: too few values.",
           (*_SERIES, "state"), _features),
    Scalar(GaugeMetricFamily, "headrace_estimated_performance", "Performance of the newest window as estimated without labels.",
           (*_SERIES, "metric"), _performance(lambda found: found.estimated)),
    Scalar(GaugeMetricFamily, "headrace_realised_performance", "Performance of the newest window that has enough labels.",
           (*_SERIES, "metric"), _performance(lambda found: found.realised)),
    Scalar(GaugeMetricFamily, "headrace_performance_band", "Between these bounds performance is as good as the baseline's.",
           (*_SERIES, "metric", "bound"), _bands),
    Scalar(CounterMetricFamily, "headrace_data_violations", "Values that the baseline does not know: missing, not_finite, out_of_range, "
           "unseen_category. Feature _rest: of those not named.", ("model", "version", "feature", "kind"),
           lambda f: [(key, count) for key, count in f.violations.items()]),
    Scalar(CounterMetricFamily, "headrace_monitored_rows", "Rows that the statistics hold.", _SERIES,
           lambda f: [(series, found.rows) for series, found in f.series.items()]),
    Scalar(CounterMetricFamily, "headrace_monitoring_skipped_rows", "Rows that no statistics hold, by reason.", ("reason",),
           lambda f: [((reason,), count) for reason, count in f.skipped.items()]),
    Scalar(CounterMetricFamily, "headrace_monitoring_windows", "Windows closed: concluded, or too_few rows to conclude anything.",
           (*_SERIES, "result"), _windows),
    Scalar(GaugeMetricFamily, "headrace_monitoring_alerts", "Alerts that stand.", ("model", "kind"),
           lambda f: [(key, count) for key, count in f.alerts.items()]),
    Scalar(CounterMetricFamily, "headrace_retrain_events", "Times that retraining was asked for.", ("model",),
           lambda f: [((model,), count) for model, count in f.retrain_events.items()]),
    Scalar(CounterMetricFamily, "headrace_monitoring_commands", "Runs of the monitoring command by result.", ("result",),
           lambda f: [((result,), count) for result, count in f.commands.items()]),
)


class MonitoringCollector:
    """Asks for the facts at each scrape. Register it beside HeadraceCollector."""

    def __init__(self, facts: Callable[[], MonitoringFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples, from one look."""
        facts = self._facts()
        return [family.family([facts]) for family in MONITORING_FAMILIES]

    def describe(self) -> Iterable[Metric]:
        """Every family without samples."""
        return [family.family([]) for family in MONITORING_FAMILIES]
