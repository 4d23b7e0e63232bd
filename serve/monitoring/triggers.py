"""From alerts to events: what is told, when, and when retraining is asked for. Pure; nothing here promotes anything.

    dev.headrace.monitoring.drift.detected        an alert of features, predictions, embeddings, concept or against stable was raised
    dev.headrace.monitoring.performance.degraded  of estimated or realised performance
    dev.headrace.monitoring.data.invalid          of rows that are not what the baseline knows
    dev.headrace.monitoring.alert.cleared         an alert that was told has cleared
    dev.headrace.retrain.requested                a model's alerts, put together: what drifted, since when, the rows

Debounced: an alert is m of n windows by itself, and a request waits for a window, so that what has one cause makes one request.
Cooled down: two events of one kind of alert of a version, and two requests of a model, are at least `cooldown_s` apart; what is raised in
between is told when that is over if it still stands, and never if it has cleared by then. An alert is part of at most one request, so that
a drift that stays does not ask again while somebody trains.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.monitoring.alerts import Alert, Kind
from serve.monitors import MonitoringSpec
from serve.recording.views import sql_name
from serve.records import SHADOW
from serve.store.audit import rfc3339

DRIFT_DETECTED = "dev.headrace.monitoring.drift.detected"
PERFORMANCE_DEGRADED = "dev.headrace.monitoring.performance.degraded"
DATA_INVALID = "dev.headrace.monitoring.data.invalid"
ALERT_CLEARED = "dev.headrace.monitoring.alert.cleared"
RETRAIN_REQUESTED = "dev.headrace.retrain.requested"

_TYPES = {
    Kind.DRIFT: DRIFT_DETECTED, Kind.PREDICTION_DRIFT: DRIFT_DETECTED, Kind.EMBEDDING_DRIFT: DRIFT_DETECTED,
    Kind.CANARY_DRIFT: DRIFT_DETECTED, Kind.CONCEPT_DRIFT: DRIFT_DETECTED,
    Kind.ESTIMATED_PERFORMANCE: PERFORMANCE_DEGRADED, Kind.REALISED_PERFORMANCE: PERFORMANCE_DEGRADED, Kind.DATA_INVALID: DATA_INVALID,
}
# A canary that differs from stable is for its rollout to judge, and data that is broken for whoever sends it.
_RETRAIN = frozenset(_TYPES) - {Kind.CANARY_DRIFT, Kind.DATA_INVALID}

_WORDS = {
    Kind.DRIFT: "inputs have drifted", Kind.PREDICTION_DRIFT: "predictions have drifted", Kind.EMBEDDING_DRIFT: "embeddings have drifted",
    Kind.CANARY_DRIFT: "answers differ from the stable version's", Kind.CONCEPT_DRIFT: "errors have become more frequent",
    Kind.ESTIMATED_PERFORMANCE: "estimated performance is below its band",
    Kind.REALISED_PERFORMANCE: "realised performance is below its band", Kind.DATA_INVALID: "rows are not what the baseline knows",
}


@dataclass(frozen=True, slots=True)
class Told:
    """An event to send. alerts: ids of those that it speaks of. kind: what is cooled down after it, "" nothing."""

    type: str
    model: str
    kind: str
    reason: str
    evidence: Mapping[str, Any]
    time_ns: int
    alerts: tuple[str, ...]


def events(
    model: str, alerts: Sequence[Alert], last_ns: Mapping[str, int], now_ns: int, spec: MonitoringSpec, stable: str = "",
) -> list[Told]:
    """What is to be told of one model now. alerts: those that stand, and those that cleared and were told but not that they cleared.

    last_ns: Told.kind -> when one of it was told of this model. stable: the version whose alerts ask for retraining; "" all do.
    """
    def is_ready(kind: str) -> bool:
        # What lies ahead was told by a clock that was wrong.
        return not 0 <= now_ns - last_ns.get(kind, -(1 << 62)) < spec.cooldown_s * 1e9

    told = [_cleared(alert, now_ns) for alert in alerts if not alert.is_raised and alert.is_told and not alert.is_clear_told]
    standing = [alert for alert in alerts if alert.is_raised]
    fresh = [alert for alert in standing if not alert.is_told and is_ready(_cooled(alert))]
    fresh = sorted(fresh, key=lambda one: (_TYPES[one.subject.kind], one.raised_ns, one.id))
    if spec.cooldown_s > 0:     # of several variants of a version the first
        fresh = list({_cooled(alert): alert for alert in reversed(fresh)}.values())[::-1]
    told += [_raised(alert, now_ns) for alert in fresh]
    asking = [alert for alert in standing if _asks(alert, stable)]
    waited_ns = max((now_ns - alert.raised_ns for alert in asking if not alert.is_requested), default=-1)
    if is_ready(RETRAIN_REQUESTED) and waited_ns >= spec.window_s * 1e9:
        told.append(_request(model, asking, now_ns))
    return told


def _cooled(alert: Alert) -> str:
    return f"{alert.subject.kind.value} {alert.subject.version}"


def _asks(alert: Alert, stable: str) -> bool:
    subject = alert.subject
    return subject.kind in _RETRAIN and subject.variant != SHADOW and (not stable or subject.version == stable)


def _raised(alert: Alert, now_ns: int) -> Told:
    subject = alert.subject
    reason = f"version {subject.version} ({subject.variant}): {_WORDS[subject.kind]} since {rfc3339(alert.since_ns)}{_said(alert)}"
    return Told(_TYPES[subject.kind], subject.model, _cooled(alert), reason, evidence_of(alert), now_ns, (alert.id,))


def _cleared(alert: Alert, now_ns: int) -> Told:
    subject = alert.subject
    reason = f"version {subject.version} ({subject.variant}), {subject.kind.value}: {alert.cleared_because}"
    return Told(ALERT_CLEARED, subject.model, "", reason, {**evidence_of(alert), "cleared": rfc3339(alert.cleared_ns)}, now_ns, (alert.id,))


def _request(model: str, asking: Sequence[Alert], now_ns: int) -> Told:
    first = min(asking, key=lambda alert: alert.since_ns)
    versions = sorted({alert.subject.version for alert in asking})
    since, until = first.since_ns, max(alert.window[1] for alert in asking)
    said = "; ".join(_unique(_WORDS[alert.subject.kind] + _said(alert) for alert in asking))
    evidence = {
        "version": first.subject.version, "versions": versions, "since": rfc3339(since), "until": rfc3339(until),
        "alerts": [evidence_of(alert) for alert in asking], "baseline": first.evidence.get("baseline"),
        "query": rows_query(model, versions, since, until),
    }
    reason = f"version {', '.join(versions)}: {said}"
    return Told(RETRAIN_REQUESTED, model, RETRAIN_REQUESTED, reason, evidence, now_ns, tuple(alert.id for alert in asking))


def evidence_of(alert: Alert) -> dict[str, Any]:
    """What an event says of an alert: what, how much, since when, against which baseline, and SQL for the rows."""
    subject = alert.subject
    return {
        "alert": alert.id, "kind": subject.kind.value, "version": subject.version, "variant": subject.variant,
        "since": rfc3339(alert.since_ns), "window": [rfc3339(edge) for edge in alert.window], **alert.evidence,
        "query": rows_query(subject.model, [subject.version], alert.since_ns, alert.window[1], subject.variant),
    }


def rows_query(model: str, versions: Iterable[str], since_ns: int, until_ns: int, variant: str = "") -> str:
    """SQL for `headrace records query`: the recorded rows of a time, with inputs and outputs."""
    named = ", ".join(f"'{version}'" for version in versions)
    name = sql_name(model)
    # Where the name of the view is not the model's, another model may have that view.
    mine = "" if name == model else "model = '" + model.replace("'", "''") + "' AND "
    only = " AND variant = '" + variant.replace("'", "''") + "'" if variant else ""
    when = f"ts_ns >= {since_ns} AND ts_ns < {until_ns}"
    return f"SELECT * FROM records_{name} WHERE {mine}version IN ({named}){only} AND {when}"     # noqa: S608  # for a person to run


def _said(alert: Alert) -> str:
    said = alert.evidence.get("said")
    return f": {said}" if said else ""


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


__all__ = [
    "ALERT_CLEARED", "DATA_INVALID", "DRIFT_DETECTED", "PERFORMANCE_DEGRADED", "RETRAIN_REQUESTED", "Told", "events", "evidence_of",
    "rows_query",
]
