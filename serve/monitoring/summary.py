"""The document of a model: what is watched, how its windows were, which alerts stand. Of the service's thread."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve.errors import NotFound
from serve.monitoring.alert_book import shown
from serve.monitoring.baseline import Baseline
from serve.monitoring.database import MonitoringDatabase, Series
from serve.monitoring.distributions import shape_of
from serve.monitoring.service import MonitoringService
from serve.monitors import MonitoringSpec
from serve.store.audit import rfc3339


class Summaries:
    """baseline: by which a version is watched now, None: by none. collecting: rows of a first baseline, and how many it takes."""

    def __init__(
        self, service: MonitoringService, database: MonitoringDatabase, specs: Callable[[str], MonitoringSpec],
        baseline: Callable[[str, str], Baseline | None], collecting: Callable[[str, str], tuple[int, int] | None],
    ) -> None:
        self._service = service
        self._database = database
        self._specs = specs
        self._baseline = baseline
        self._collecting = collecting

    def document(self, model: str, versions: Sequence[str], version: str, variant: str, since_ns: int, limit: int) -> dict[str, Any]:
        """versions: of which rows have come since the start. version, variant: "" is all. Raises NotFound."""
        def wanted(series: Series) -> bool:
            return (not version or series[1] == version) and (not variant or series[2] == variant)

        windows = [row for row in self._database.windows(model, since_ns, limit) if wanted(row.series)]
        realised = [row for row in self._database.realised(model, since_ns, limit) if wanted(row.series)]
        known = {series for series in (*self._service.latest, *self._service.realised, *self._service.pending_rows()) if series[0] == model}
        if not known and not versions:
            raise NotFound(f"model '{model}' is not watched: nothing of it has been recorded, or `monitoring.enabled` is false")
        waiting = {one for one in versions if one not in {series[1] for series in known}}
        listed = sorted(known | {(model, one, "") for one in waiting})
        return {
            "model": model, "settings": settings_document(self._specs(model)),
            "series": [self._series(series) for series in listed if wanted(series)],
            "windows": [row.document for row in windows], "realised": [row.document for row in realised],
            "alerts": [shown(alert) for alert in self._service.book.of_model(model)
                       if wanted((model, alert.subject.version, alert.subject.variant))],
            "violations": [{"version": key[1], "feature": key[2], "kind": key[3], "count": count}
                           for key, count in sorted(self._service.violations.counts().items())
                           if key[0] == model and (not version or key[1] == version)],
        }

    def _series(self, series: Series) -> dict[str, Any]:
        model, version, variant = series
        baseline = self._baseline(model, version)
        latest = self._service.latest.get(series)
        collecting = self._collecting(model, version)
        return {
            "version": version, "variant": variant, "baseline": baseline_document(baseline) if baseline is not None else None,
            "collecting": {"rows": collecting[0], "wanted": collecting[1]} if collecting is not None else None,
            "latest": latest, "waiting_rows": self._service.pending_rows().get(series, 0),
            "distributions": _distributions(latest, baseline),
        }


def _distributions(latest: Mapping[str, Any] | None, baseline: Baseline | None) -> list[dict[str, Any]]:
    """Of the newest window, where it was counted by the baseline that is in force."""
    if latest is None or baseline is None or latest.get("baseline") != baseline.id:
        return []
    edges = {key: latest[key] for key in ("from", "to", "from_ns", "to_ns")}
    found = []
    for feature, counts in latest["counts"].items():
        drift = latest["features"].get(feature) or latest["predictions"].get(feature)
        shape = shape_of(baseline, feature)
        if drift is not None and shape is not None:
            found.append({"feature": feature, **shape.document(counts), "psi": drift["psi"], "drifted": drift["drifted"], **edges})
    return found


def baseline_document(baseline: Baseline) -> dict[str, Any]:
    """In short."""
    return {"id": baseline.id, "source": baseline.source, "rows": baseline.rows, "digest": baseline.digest,
            "created": rfc3339(baseline.created_ns), "sha256": baseline.sha256}


def settings_document(spec: MonitoringSpec) -> dict[str, Any]:
    """What conclusions are drawn by."""
    return {name: getattr(spec, name) for name in
            ("window_s", "min_rows", "min_psi", "fdr", "alert_m", "alert_n", "metric", "min_metric", "cooldown_s")}


__all__ = ["Summaries", "baseline_document", "settings_document"]
