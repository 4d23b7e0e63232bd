"""What the keeper says of a window of predictions with labels, as a row of the history and verdicts. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.database import Row
from serve.monitoring.evaluation import performance
from serve.monitoring.service import Judged, times
from serve.monitors import MonitoringSpec


def realised_window(message: Mapping[str, Any], spec: MonitoringSpec, baseline: Baseline | None) -> tuple[Row, dict[Kind, Judged]]:
    """message: {"type": "performance", ...} of serve.monitoring.realised. baseline: of the version now; None: there are no bands.

    A window with fewer than `min_rows` labels concludes nothing, but for a detector that has fired.
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
    if detections or labelled >= spec.min_rows:
        judged[Kind.CONCEPT_DRIFT] = Judged(bool(detections), _detected(detections) if detections else {})
    series = (message["model"], message["version"], message["variant"])
    return Row(series, message["from_ns"], document), judged


def _detected(detections: list[Mapping[str, Any]]) -> dict[str, Any]:
    last = next((one for one in reversed(detections) if one["detector"] == "adwin"), detections[-1])
    said = f"{last['detector'].replace('_', '-')}: the mean error rose from {last['before']:.3g} to {last['after']:.3g}"
    return {"detections": detections, "said": said}


__all__ = ["realised_window"]
