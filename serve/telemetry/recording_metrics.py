"""The metrics of recording as tables. Per model and version, sampled = appended + dropped + lost + what is on its way."""

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serve.records import StreamReading
from serve.telemetry.families import Family, Sample, Scalar
from serve.telemetry.recording_facts import RecordingFacts

_VERSION = ("model", "version")


def _of_version(count: Callable[[StreamReading], int]) -> Callable[[RecordingFacts], Iterable[Sample]]:
    return lambda facts: [((one.model, one.version), count(one)) for one in facts.readings]


def _dropped(facts: RecordingFacts) -> Iterable[Sample]:
    return [((one.model, one.version, reason), rows) for one in facts.readings for reason, rows in one.dropped.items()]


def _lost(facts: RecordingFacts) -> Iterable[Sample]:
    yield from facts.lost.items()
    if facts.lost_before:
        yield ("", ""), facts.lost_before


def _state(facts: RecordingFacts) -> Iterable[Sample]:
    return [(("ok",), float(facts.failing_s is None)), (("retrying",), float(facts.failing_s is not None))]


def _if_known(value: float | None) -> Iterable[Sample]:
    return [] if value is None else [((), value)]


RECORDING_FAMILIES: tuple[Family[RecordingFacts], ...] = (
    Scalar(CounterMetricFamily, "headrace_records_sampled_rows",
           "Rows that were to be recorded, numbered before it was decided whether they could be.", _VERSION,
           _of_version(lambda one: one.sampled)),
    Scalar(CounterMetricFamily, "headrace_records_appended_rows",
           "Rows in journals. Stands still while those of a journal that could not be synced are written again.", _VERSION,
           _of_version(lambda one: one.appended)),
    Scalar(CounterMetricFamily, "headrace_records_dropped_rows", "Rows that were not recorded, by reason.", (*_VERSION, "reason"),
           _dropped),
    Scalar(CounterMetricFamily, "headrace_records_lost_rows",
           "Rows that were taken for recording and are nowhere. Without model: those of workers before this one, found at its start.",
           _VERSION, _lost),
    Scalar(CounterMetricFamily, "headrace_records_refused_requests", "Requests refused because their record had no room (fail-closed).",
           _VERSION, _of_version(lambda one: one.refused)),
    Scalar(CounterMetricFamily, "headrace_records_left_out_tensors", "Tensors too large to be recorded with their rows.", _VERSION,
           _of_version(lambda one: one.left_out)),
    Scalar(CounterMetricFamily, "headrace_records_malformed",
           "Records, and tensors of others, that were not what they should be. They are failed rows and nulls of the table.", _VERSION,
           _of_version(lambda one: one.malformed)),
    Scalar(GaugeMetricFamily, "headrace_records_ring_used_bytes", "Records that the recorder has not taken from the rings.", (),
           lambda f: [((), f.ring_used_bytes)]),
    Scalar(GaugeMetricFamily, "headrace_records_ring_capacity_bytes", "What the rings take.", (), lambda f: [((), f.ring_capacity_bytes)]),
    Scalar(GaugeMetricFamily, "headrace_records_waiting_bytes", "Rows that the disk refused and that are tried again.", (),
           lambda f: [((), f.waiting_bytes)]),
    Scalar(GaugeMetricFamily, "headrace_records_journal_bytes", "Journals that are being appended to.", (),
           lambda f: [((), f.journal_bytes)]),
    Scalar(CounterMetricFamily, "headrace_records_journal_written_bytes", "Written into journals.", (), lambda f: [((), f.written_bytes)]),
    Scalar(GaugeMetricFamily, "headrace_records_unsynced_bytes", "In journals, and gone after a power cut.", (),
           lambda f: [((), f.unsynced_bytes)]),
    Scalar(GaugeMetricFamily, "headrace_records_append_age_seconds", "Since rows were last appended to a journal.", (),
           lambda f: _if_known(f.append_age_s)),
    Scalar(GaugeMetricFamily, "headrace_records_sync_age_seconds", "Since all rows in journals were last surely on the disk.", (),
           lambda f: _if_known(f.sync_age_s)),
    Scalar(GaugeMetricFamily, "headrace_records_state", "1 for the state of the journals' disk: ok, or retrying after a failure.",
           ("state",), _state),
    Scalar(CounterMetricFamily, "headrace_records_journal_errors", "Operations on journals that failed, by error.", ("errno",),
           lambda f: [((name,), count) for name, count in f.errors.items()]),
    Scalar(CounterMetricFamily, "headrace_records_observer_errors", "Batches that statistics could not be made of.", (),
           lambda f: [((), f.observer_errors)]),
    Scalar(CounterMetricFamily, "headrace_feedback_labels", "Labels by what became of them.", ("model", "result"),
           lambda f: list(f.labels.items())),
    Scalar(GaugeMetricFamily, "headrace_records_keeper_running", "1 while the process that seals records runs.", (),
           lambda f: [((), float(f.keeper_running))]),
    Scalar(CounterMetricFamily, "headrace_records_keeper_restarts", "How often it was replaced.", (),
           lambda f: [((), f.keeper_restarts)]),
    Scalar(GaugeMetricFamily, "headrace_records_kept", "What it keeps: journals that wait, sealed files (parts), their bytes.", ("what",),
           lambda f: [((what,), value) for what, value in f.kept.items()]),
)


class RecordingCollector:
    """Asks for the facts at each scrape. Register it beside HeadraceCollector where records are kept."""

    def __init__(self, facts: Callable[[], RecordingFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples, from one look."""
        facts = self._facts()
        return [family.family([facts]) for family in RECORDING_FAMILIES]

    def describe(self) -> Iterable[Metric]:
        """Every family without samples."""
        return [family.family([]) for family in RECORDING_FAMILIES]
