"""What the acts share, and how they read what monitoring says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve.client.admin import AdminClient
from serve.demo.story.commands import Headrace, Places
from serve.demo.story.narration import Narrator
from serve.demo.story.pictures import Parts
from serve.demo.story.receiver import Receiver
from serve.demo.story.scale import Scale
from serve.demo.story.server import RunningServer
from serve.demo.story.traffic import Traffic

DRIFT, DEGRADED = "dev.headrace.monitoring.drift.detected", "dev.headrace.monitoring.performance.degraded"
RETRAIN, GATE = "dev.headrace.retrain.requested", "dev.headrace.gate.reported"
# A window is concluded so long after its end, at the latest, that nobody has to wonder; other processes may be slow.
PATIENCE_S = 90.0

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """All of it runs while the server does."""

    narrator: Narrator
    scale: Scale
    places: Places
    pictures: Parts
    headrace: Headrace
    server: RunningServer
    admin: AdminClient
    traffic: Traffic
    receiver: Receiver


@dataclass(frozen=True, slots=True)
class Story:
    """What has happened so far. Moments in nanoseconds since 1970. baseline_accuracy: of clean windows, as estimated."""

    broken_ns: int
    clean_estimate: float
    broken_estimate: float


def windows_of(document: Document, version: str, from_ns: int = 0, to_ns: int = 1 << 62) -> list[Document]:
    """Concluded windows of a version that answered, all of which lie in the time, oldest first."""
    found = [one for one in document["windows"] if one["version"] == version and one["variant"] != "shadow" and one["concluded"]
             and one["from_ns"] >= from_ns and one["to_ns"] <= to_ns]
    return sorted(found, key=lambda one: int(one["from_ns"]))


def standing(document: Document, version: str) -> dict[str, Document]:
    """Kind -> alert that stands, of a version."""
    return {one["kind"]: one for one in document["alerts"] if one["version"] == version and one["state"] == "raised"}


def estimated(windows: Sequence[Document]) -> float:
    """Accuracy without labels, over windows weighted by their rows; NaN of none."""
    known = [(one["estimated"]["accuracy"], one["rows"]) for one in windows if "accuracy" in one["estimated"]]
    return _mean(known)


def realised(document: Document, version: str, from_ns: int = 0, to_ns: int = 1 << 62) -> tuple[float, int]:
    """Accuracy by labels of what a version answered in windows that lie in the time, and of how many rows."""
    known = [(one["metrics"]["accuracy"], one["labelled"]) for one in document["realised"]
             if one["version"] == version and one["variant"] != "shadow" and one["from_ns"] >= from_ns and one["to_ns"] <= to_ns
             and "accuracy" in one["metrics"]]
    return _mean(known), sum(rows for _, rows in known)


def _mean(known: Sequence[tuple[float, int]]) -> float:
    rows = sum(n for _, n in known)
    return sum(value * n for value, n in known) / rows if rows else float("nan")


__all__ = ["DEGRADED", "DRIFT", "GATE", "PATIENCE_S", "RETRAIN", "Document", "Stage", "Story", "estimated", "realised", "standing",
           "windows_of"]
