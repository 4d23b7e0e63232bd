"""Realised performance and concept drift, in the keeper: predictions that got their truth, by the window of the prediction.

    joined rows -> sums of their windows, detectors of their errors -> realised.db -> {"type": "performance", ...} to the worker

A row counts once, also when a join fails or the keeper dies in the middle of one (realised_store.py). Detectors see errors in the order in
which the truth became known.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.monitoring.database import Series
from serve.monitoring.realised_store import Detectors, Key, RealisedStore, RealisedWindow
from serve.monitoring.realised_sums import RealisedSums
from serve.monitoring.windows import window_ns
from serve.monitors import MonitoringSpec
from serve.recording.jobs import Message
from serve.recording.join_specs import MONITORING, told_spec
from serve.recording.joined_rows import JoinedRows

PERFORMANCE = "performance"
INTERVAL_S = 10.0
# Windows of a series that a new worker is told of.
TOLD_WINDOWS = 288


class RealisedPerformance:
    """`JoinedSink`, and a job of the keeper that listens. home: STATE_DIR/records.

    Raises Unavailable of every method when its file there cannot be used.
    """

    name = PERFORMANCE
    interval_s = INTERVAL_S

    def __init__(self, home: Path) -> None:
        self.specs: dict[str, MonitoringSpec] = {}
        self._store = RealisedStore(home)
        self._changed: set[Key] = set()
        self._seen: set[bytes] = set()
        self._is_told = False

    def close(self) -> None:
        self._store.close()

    def tell(self, message: Mapping[str, Any]) -> None:
        """A model's `monitoring`, of the worker."""
        if message.get("type") == MONITORING:
            model, spec = told_spec(message)
            self.specs[model] = spec

    def take(self, rows: JoinedRows) -> None:
        spec = self.specs.get(rows.model, MonitoringSpec())
        if not spec.enabled:
            return
        if rows.batch != self._store.batch:
            self._store.begin(rows.batch)
            self._seen = set()
        rows = rows.where(self._unseen(rows))
        width = window_ns(spec.window_s)
        starts = rows.ts_ns // width * width
        for variant in sorted(set(rows.variant.tolist())):
            series = (rows.model, rows.version, str(variant))
            of_variant = np.asarray(rows.variant == variant, np.bool_)
            for start in np.unique(starts[of_variant]).tolist():
                self._window(series, start, width, rows).sums.add_rows(rows.where(of_variant & (starts == start)))
            self._detect(series, rows.where(of_variant), width)
        self._store.save()

    def run(self, now_ns: int) -> list[Message]:
        """`performance` messages of windows that have changed; at first of the newest of each series."""
        self._store.keep_durable()
        changed = self._changed if self._is_told else self._changed | self._store.newest(TOLD_WINDOWS)
        messages = [self._message(key, found) for key in sorted(changed, key=lambda key: (key[1], key[0]))
                    if (found := self._store.window(key)) is not None]
        self._changed, self._is_told = set(), True
        return messages

    def _message(self, key: Key, found: RealisedWindow) -> Message:
        (model, version, variant), start = key
        return {"type": PERFORMANCE, "model": model, "version": version, "variant": variant, "from_ns": start, "to_ns": found.end_ns,
                "labelled": found.sums.n, "metrics": found.sums.metrics(), "detections": found.detections}

    def _window(self, series: Series, start: int, width: int, rows: JoinedRows) -> RealisedWindow:
        key = (series, start)
        self._changed.add(key)
        return self._store.added.setdefault(key, RealisedWindow(start + width, RealisedSums(rows.task)))

    def _unseen(self, rows: JoinedRows) -> npt.NDArray[np.bool_]:
        """A join that failed comes again, in this process too."""
        found = np.ones(len(rows), np.bool_)
        of_version = f"{rows.model}\0{rows.version}\0"
        names = zip(rows.variant.tolist(), rows.row.tolist(), rows.request_id.tolist(), strict=True)
        for place, (variant, row, request) in enumerate(names):
            key = hashlib.blake2b(f"{of_version}{variant}\0{row}\0{request}".encode(), digest_size=16).digest()
            found[place] = key not in self._seen
            self._seen.add(key)
        return found

    def _detect(self, series: Series, rows: JoinedRows, width: int) -> None:
        if rows.task == "regression":
            errors = np.abs(rows.prediction.astype(np.float64) - rows.label.astype(np.float64))
        else:
            errors = np.asarray(rows.prediction != rows.label, np.float64)
        detectors = self._store.detectors.setdefault(series, Detectors())
        order = np.lexsort((rows.row, rows.request_id.astype(str), rows.ts_ns, rows.known_ns))
        for place in order[np.isfinite(errors[order])].tolist():
            at_ns = int(rows.ts_ns[place])
            if fired := detectors.update(float(errors[place]), at_ns):
                self._window(series, at_ns // width * width, width, rows).detections += fired


__all__ = ["INTERVAL_S", "PERFORMANCE", "TOLD_WINDOWS", "RealisedPerformance"]
