"""What the keeper says of a window of predictions with labels, as a row of the history and verdicts. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.database import Row
from serve.monitoring.evaluation import performance
from serve.monitoring.ports import Judged
from serve.monitoring.realised_store import ADWIN, PAGE_HINKLEY
from serve.monitoring.service import times
from serve.monitors import MonitoringSpec


def realised_window(message: Mapping[str, Any], spec: MonitoringSpec, baseline: Baseline | None) -> tuple[Row, dict[Kind, Judged]]:
    """message: {"type": "performance", ...} of serve.monitoring.realised. baseline: of the version now; None: there are no bands.

    A window with fewer than `min_rows` labels concludes nothing, but for ADWIN's alarm. Page-Hinkley's alone is shown and no alert.
    """
    labelled, metrics, detections = message["labelled"], message["metrics"], message["detections"]
    bands = {} if baseline is None else {
        name: baseline.performance[name].band(labelled) for name in metrics if name in baseline.performance}
    document = {
        "version": message["version"], "variant": message["variant"], **times(message["from_ns"], message["to_ns"]), "labelled": labelled,
        # One infinite prediction makes a mean infinite: that is bad, and no number of JSON.
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "bands": {name: list(band) for name, band in bands.items()}, "detections": list(detections),
        "baseline": baseline.id if baseline is not None else "",
    }
    judged: dict[Kind, Judged] = {}
    found = performance(metrics, bands, spec, baseline.id if baseline is not None else "", labelled)
    if found is not None:
        judged[Kind.REALISED_PERFORMANCE] = found
    alarms = [one for one in detections if one["detector"] == ADWIN]
    if alarms or labelled >= spec.min_rows:
        judged[Kind.CONCEPT_DRIFT] = Judged(bool(alarms), _detected(alarms[-1], detections) if alarms else {})
    series = (message["model"], message["version"], message["variant"])
    return Row(series, message["from_ns"], document), judged


def _detected(alarm: Mapping[str, Any], detections: list[Mapping[str, Any]]) -> dict[str, Any]:
    also = "; Page-Hinkley has fired too" if any(one["detector"] == PAGE_HINKLEY for one in detections) else ""
    return {"detections": detections, "said": f"the mean error rose from {alarm['before']:.3g} to {alarm['after']:.3g} (ADWIN{also})"}


__all__ = ["realised_window"]
