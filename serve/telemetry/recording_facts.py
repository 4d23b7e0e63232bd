"""What the metrics of recording are made from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve.records import StreamReading


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingFacts:
    """State and counters of recording at one moment; counters since the worker started.

    readings: one of each model and version; with what the recorder itself dropped (disk_budget). lost: (model, version) -> rows that the
    recorder took and could not keep. lost_before: rows that earlier workers lost. waiting_bytes: of rows that the disk refused and that are
    tried again. journal_bytes: of the journals that are open. written_bytes: into journals, rows that were written again counted again.
    append_age_s, sync_age_s: since something was last appended, and since everything was last synced; None: never. errors: errno's name ->
    operations on journals that failed. failing_s: for how long the disk has refused, None: it does not; error: with what, an errno's name.
    observer_errors: batches that somebody who looks at them choked on. labels: (model, result) -> labels. keeper_running,
    keeper_restarts: of the process that seals. kept: as it said last: journals (that wait to be sealed), unsealed_bytes, bad_bytes,
    used_bytes (of the disk budget), parts, part_bytes.
    """

    readings: tuple[StreamReading, ...] = ()
    lost: Mapping[tuple[str, str], int] = field(default_factory=dict)
    lost_before: int = 0
    ring_used_bytes: int = 0
    ring_capacity_bytes: int = 0
    waiting_bytes: int = 0
    journal_bytes: int = 0
    written_bytes: int = 0
    unsynced_bytes: int = 0
    append_age_s: float | None = None
    sync_age_s: float | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    failing_s: float | None = None
    error: str = ""
    observer_errors: int = 0
    labels: Mapping[tuple[str, str], int] = field(default_factory=dict)
    keeper_running: bool = False
    keeper_restarts: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)


def by_version(readings: Iterable[StreamReading]) -> tuple[StreamReading, ...]:
    """One of each model and version: a version that was loaded again with another configuration has several streams."""
    summed: dict[tuple[str, str], StreamReading] = {}
    for one in readings:
        key = one.model, one.version
        summed[key] = _sum(summed[key], one) if key in summed else one
    return tuple(summed[key] for key in sorted(summed))


def _sum(a: StreamReading, b: StreamReading) -> StreamReading:
    dropped = {reason: a.dropped.get(reason, 0) + b.dropped.get(reason, 0) for reason in {**a.dropped, **b.dropped}}
    return StreamReading(
        a.model, a.version, a.sampled + b.sampled, a.written + b.written, a.appended + b.appended, dropped, a.refused + b.refused,
        a.left_out + b.left_out, a.malformed + b.malformed)


__all__ = ["RecordingFacts", "by_version"]
