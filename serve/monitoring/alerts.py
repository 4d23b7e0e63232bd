"""Alerts: m of the last n windows are bad, and it is raised; none of them is, and it is cleared. Pure; all times are arguments.

Only windows that were concluded count: one with too few rows says nothing, and neither raises nor clears. A window may be concluded again
(labels come late): the newest word about it counts. What was raised and has had no concluded window for STALE_NS is cleared as forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from serve.store.audit import rfc3339

# Nothing was heard of what is watched for so long: the version is gone.
STALE_NS = 86_400 * 10**9


class Kind(StrEnum):
    """What an alert is about; its value names it everywhere.

    canary_drift: a version differs from the stable one in the same windows. concept_drift: a detector on the errors fired.
    """

    DRIFT = "drift"
    PREDICTION_DRIFT = "prediction_drift"
    EMBEDDING_DRIFT = "embedding_drift"
    CANARY_DRIFT = "canary_drift"
    CONCEPT_DRIFT = "concept_drift"
    ESTIMATED_PERFORMANCE = "estimated_performance"
    REALISED_PERFORMANCE = "realised_performance"
    DATA_INVALID = "data_invalid"


# A detector has made sure by itself.
_AT_ONCE = frozenset({Kind.CONCEPT_DRIFT})


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What an alert watches."""

    model: str
    version: str
    variant: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one concluded window, [start_ns, end_ns) of wall time. evidence: JSON, what is bad about it."""

    start_ns: int
    end_ns: int
    is_bad: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """since_ns: start of the first of the bad windows. window: the newest bad one. evidence: of it. cleared_ns 0: it stands.

    acknowledged: who has seen it, "" nobody. is_told, is_clear_told, is_requested: the events that have gone out for it.
    """

    id: str
    subject: Subject
    since_ns: int
    raised_ns: int
    window: tuple[int, int]
    evidence: Mapping[str, Any]
    cleared_ns: int = 0
    cleared_because: str = ""
    acknowledged: str = ""
    acknowledged_ns: int = 0
    is_told: bool = False
    is_clear_told: bool = False
    is_requested: bool = False

    @property
    def is_raised(self) -> bool:
        return not self.cleared_ns

    def as_document(self) -> dict[str, Any]:
        """For the API and for people; `stored` is what is kept."""
        subject = self.subject
        return {
            "id": self.id, "model": subject.model, "version": subject.version, "variant": subject.variant, "kind": subject.kind.value,
            "state": "raised" if self.is_raised else "cleared", "since": rfc3339(self.since_ns), "raised": rfc3339(self.raised_ns),
            "cleared": rfc3339(self.cleared_ns) if self.cleared_ns else None, "cleared_because": self.cleared_because,
            "window": [rfc3339(edge) for edge in self.window], "acknowledged_by": self.acknowledged,
            "acknowledged": rfc3339(self.acknowledged_ns) if self.acknowledged_ns else None, "evidence": dict(self.evidence),
        }

    def stored(self) -> dict[str, Any]:
        """JSON from which `restored` makes it again."""
        subject = self.subject
        return {
            "id": self.id, "subject": [subject.model, subject.version, subject.variant, subject.kind.value], "since_ns": self.since_ns,
            "raised_ns": self.raised_ns, "window": list(self.window), "evidence": dict(self.evidence), "cleared_ns": self.cleared_ns,
            "cleared_because": self.cleared_because, "acknowledged": self.acknowledged, "acknowledged_ns": self.acknowledged_ns,
            "is_told": self.is_told, "is_clear_told": self.is_clear_told, "is_requested": self.is_requested,
        }


def restored(document: Mapping[str, Any]) -> Alert:
    """The alert of a stored document."""
    model, version, variant, kind = document["subject"]
    start, end = document["window"]
    return Alert(**{**document, "subject": Subject(model, version, variant, Kind(kind)), "window": (start, end)})


@dataclass(frozen=True, slots=True)
class Watch:
    """The newest concluded windows of a subject, oldest first, at most n, and the alert that stands."""

    recent: tuple[Verdict, ...] = ()
    alert: Alert | None = None


def advance(
    watch: Watch, subject: Subject, verdict: Verdict, m: int, n: int, now_ns: int, alert_id: str,
) -> tuple[Watch, Alert | None]:
    """The watch after a window was concluded, and the alert that was raised or cleared by it, or has a newer bad window.

    alert_id: of the alert, should one be raised. Windows that lie ahead of now_ns are of a clock that was wrong, and are forgotten.
    """
    if watch.recent and watch.recent[-1].start_ns > now_ns:
        watch = replace(watch, recent=tuple(one for one in watch.recent if one.start_ns <= now_ns))
    if watch.recent and len(watch.recent) >= n and verdict.start_ns < watch.recent[0].start_ns:
        return watch, None      # concluded anew, and older than what is looked at
    recent = sorted([one for one in watch.recent if one.start_ns != verdict.start_ns] + [verdict], key=lambda one: one.start_ns)[-n:]
    bad = [one for one in recent if one.is_bad]
    needed = 1 if subject.kind in _AT_ONCE else m
    alert = watch.alert
    if alert is None:
        if len(bad) < needed:
            return Watch(tuple(recent)), None
        alert = Alert(alert_id, subject, bad[0].start_ns, now_ns, (bad[-1].start_ns, bad[-1].end_ns), bad[-1].evidence)
        return Watch(tuple(recent), alert), alert
    if not bad and len(recent) >= n:
        cleared = replace(alert, cleared_ns=now_ns, cleared_because=f"the last {n} windows are good")
        return Watch(tuple(recent)), cleared
    if bad and bad[-1].end_ns >= alert.window[1]:
        alert = replace(alert, window=(bad[-1].start_ns, bad[-1].end_ns), evidence=bad[-1].evidence)
        return Watch(tuple(recent), alert), alert
    return Watch(tuple(recent), alert), None


def forgotten(watch: Watch, now_ns: int) -> Alert | None:
    """The alert, cleared, where nothing was heard for STALE_NS."""
    if watch.alert is None or not watch.recent or abs(now_ns - watch.recent[-1].end_ns) < STALE_NS:
        return None
    return replace(watch.alert, cleared_ns=now_ns, cleared_because="nothing was concluded for a day: the version gets no requests")


def watch_of(document: Mapping[str, Any], alert: Alert | None) -> Watch:
    """The watch of a stored document."""
    return Watch(tuple(Verdict(start, end, is_bad, evidence) for start, end, is_bad, evidence in document["recent"]), alert)


def watch_document(watch: Watch) -> dict[str, Any]:
    """JSON from which `watch_of` makes it again, with its alert."""
    return {"recent": [[one.start_ns, one.end_ns, one.is_bad, dict(one.evidence) if one.is_bad else {}] for one in watch.recent]}


def standing(watches: Sequence[Watch]) -> list[Alert]:
    """The alerts that stand, oldest first."""
    return sorted((watch.alert for watch in watches if watch.alert is not None), key=lambda alert: (alert.raised_ns, alert.id))


__all__ = [
    "STALE_NS", "Alert", "Kind", "Subject", "Verdict", "Watch", "advance", "forgotten", "restored", "standing", "watch_document",
    "watch_of",
]
