"""What the metrics say of monitoring, from the service's state. Of the service's thread."""

from collections.abc import Mapping
from typing import Any

from serve.monitoring.command import CommandStatistics
from serve.monitoring.database import Series
from serve.monitoring.ports import Counts
from serve.monitoring.service import MonitoringService
from serve.telemetry.monitoring_facts import MonitoringFacts, SeriesFacts


def monitoring_facts(service: MonitoringService, skipped: Mapping[str, int], commands: CommandStatistics | None) -> MonitoringFacts:
    """skipped: rows that no statistics hold, by reason."""
    known = {*service.latest, *service.realised, *service.counts}
    return MonitoringFacts(
        series={series: _series(service, series) for series in sorted(known)}, violations=service.violations.counts(),
        alerts=service.book.standing(), retrain_events=dict(service.retrain_events), skipped={**skipped, "late": service.late_rows},
        commands={"done": commands.done, "failed": commands.failed, "dropped": commands.dropped} if commands is not None else {},
    )


def _series(service: MonitoringService, series: Series) -> SeriesFacts:
    window: Mapping[str, Any] = service.latest.get(series, {})
    realised: Mapping[str, Any] = service.realised.get(series, {})
    counts = service.counts.get(series, Counts())
    drifts = {**window.get("features", {}), **window.get("predictions", {})}
    drifted, unsaid = window.get("n_drifted", 0), window.get("n_unsaid", 0)
    bands = {**window.get("bands", {}), **realised.get("bands", {})}
    return SeriesFacts(
        psi={name: one["psi"] for name, one in drifts.items()}, drifted=drifted, unsaid=unsaid,
        steady=window.get("n_features", 0) - drifted - unsaid, estimated=dict(window.get("estimated", {})),
        effects={name: one["effect"] for name, one in window.get("embeddings", {}).items()},
        realised=dict(realised.get("metrics", {})), bands={name: (low, high) for name, (low, high) in bands.items()},
        rows=counts.rows, windows=dict(counts.windows),
    )


__all__ = ["monitoring_facts"]
