"""Monitoring's memory and judgement: cells add up to windows, windows are concluded, alerts follow. Blocking, of one thread; no clock.

    tick(now)   rows seen since -> cells -> windows that have ended -> evaluated -> history, alerts -> events to tell
    told(event) the event is durable: it is not told again

What was not told when the server ended is told after the next start; cells that were not closed yet go on where they were.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from serve.errors import HeadraceError
from serve.monitoring.alert_book import AlertBook
from serve.monitoring.alerts import Alert, Kind, Subject, Verdict
from serve.monitoring.baseline import Baseline, baseline_of_json
from serve.monitoring.cells import Cells
from serve.monitoring.database import FORGOTTEN_NS, MonitoringDatabase, Row, Series
from serve.monitoring.ports import Counts, Judged, Ports, Role
from serve.monitoring.triggers import RETRAIN_REQUESTED, Told
from serve.monitoring.windows import GRACE_NS, floor_to, place, window_ns
from serve.monitors import MonitoringSpec
from serve.store.audit import rfc3339
from serve.telemetry.monitoring_facts import ViolationLedger

_log = structlog.get_logger(__name__)

_VIOLATIONS = "violations"
_CLOSED = "closed"
_DAY_NS = 86_400 * 10**9


class MonitoringService:
    """All that is counted is put into the database; what the disk does not take is logged, and monitoring goes on in memory."""

    def __init__(self, database: MonitoringDatabase, ports: Ports) -> None:
        self._database = database
        self._ports = ports
        self.book = AlertBook(database)
        self.counts: dict[Series, Counts] = {}
        self.late_rows = 0
        self.retrain_events: dict[str, int] = {}
        # The newest concluded window of a series, and the newest of which enough labels have come.
        self.latest: dict[Series, dict[str, Any]] = {}
        self.realised: dict[Series, dict[str, Any]] = {}
        self.violations = ViolationLedger({tuple(key): count for key, count in database.fact(_VIOLATIONS, [])})
        self._closed: dict[str, int] = database.fact(_CLOSED, {})
        self._cells: dict[tuple[Series, Role], dict[int, Cells]] = {}
        self._stored: dict[str, Baseline] = {}
        self._forgot_ns = 0
        self._restore()

    def _restore(self) -> None:
        for model in self._database.models():
            for row in self._database.windows(model, limit=1):
                self.latest[row.series] = row.document
            for row in self._database.realised(model):
                self._note_realised(row)
        for sha256, text in self._database.baselines().items():
            try:
                self._stored[sha256] = baseline_of_json(text)
            except HeadraceError as error:
                _log.warning("a baseline of before the start cannot be read: its cells are left out", sha256=sha256, reason=str(error))
        for series, role, start, sha256, content in self._database.cells():
            try:
                cells = self._stored[sha256].cells()
                cells.load(content)
                self._cells.setdefault((series, "own" if role == "own" else "stable"), {})[start] = cells
            except (HeadraceError, KeyError) as error:
                _log.warning("what was seen before the start is left out", model=series[0], version=series[1], reason=str(error))

    def baseline(self, sha256: str) -> Baseline | None:
        """By which cells were counted, before the start too."""
        return self._ports.known(sha256) or self._stored.get(sha256)

    def tick(self, now_ns: int) -> list[Told]:
        """Everything that is due. Returns what is to be told; until `told` says so, it is returned again."""
        self._mind_clock(now_ns)
        self._forget_series(now_ns)
        dirty = self._take()
        closed = self._close(now_ns)
        for series, role, start in dirty - closed:
            cells = self._cells[series, role][start]
            self._store_baseline(cells.baseline)
            self._database.put_cell(series, role, start, cells.baseline, cells.to_bytes())
        self.book.forget(now_ns)
        self._flush()
        return [event for model in sorted(self.book.models())
                for event in self.book.due(model, self._ports.specs(model), now_ns, self._ports.stable(model))]

    def told(self, event: Told) -> None:
        self.book.told(event)
        self._flush()
        if event.type == RETRAIN_REQUESTED:
            self.retrain_events[event.model] = self.retrain_events.get(event.model, 0) + 1

    def acknowledge(self, model: str, alert_id: str, by: str, now_ns: int) -> Alert:
        """Raises NotFound."""
        seen = self.book.acknowledge(model, alert_id, by, now_ns)
        self._flush()
        return seen

    def learn_realised(self, row: Row, judged: Mapping[Kind, Judged], now_ns: int) -> None:
        """What labels say of a window of predictions, so far. row.document has from_ns and to_ns."""
        self._database.put_realised(row)
        self._note_realised(row)
        self._conclude(row.series, row.start_ns, row.document["to_ns"], judged, now_ns)

    def _note_realised(self, row: Row) -> None:
        is_enough = row.document["labelled"] >= self._ports.specs(row.series[0]).min_rows
        if is_enough and row.start_ns >= self.realised.get(row.series, {}).get("from_ns", 0):
            self.realised[row.series] = row.document

    def forget_cells(self, model: str, version: str) -> None:
        """The version has another baseline: what was counted by the old one cannot be added to."""
        for series, role in list(self._cells):
            if series[0] == model and (series[1] == version or role == "stable"):
                self._database.drop_cells(series, role, 0, 1 << 62)
                del self._cells[series, role]

    def pending_rows(self) -> dict[Series, int]:
        """Rows in cells that no window has closed."""
        return {series: sum(cell.rows for cell in cells.values()) for (series, role), cells in self._cells.items() if role == "own"}

    def _mind_clock(self, now_ns: int) -> None:
        """Where the clock was ahead: else everything would be late until it is there again."""
        for model, closed in list(self._closed.items()):
            width = window_ns(self._ports.specs(model).window_s)
            if closed <= now_ns + width:
                continue
            _log.warning("the clock was set back: windows that lie ahead are forgotten", model=model, closed_until=rfc3339(closed))
            self._closed[model] = floor_to(now_ns, width)
            self._database.put_fact(_CLOSED, self._closed)
            self._database.drop_windows(model, now_ns)
            for known in (self.latest, self.realised):
                for series in [one for one, row in known.items() if one[0] == model and row["from_ns"] > now_ns]:
                    del known[series]
            for (series, role), cells in self._cells.items():
                if series[0] == model:
                    for start in [start for start in cells if start > now_ns + width]:
                        del cells[start]
                    self._database.drop_cells(series, role, now_ns + width + 1, 1 << 62)

    def _forget_series(self, now_ns: int) -> None:
        """Once a day: what has had no window for long is gone for good."""
        if 0 <= now_ns - self._forgot_ns < _DAY_NS:
            return
        self._forgot_ns = now_ns
        self._database.forget_series(now_ns - FORGOTTEN_NS)
        for known in (self.latest, self.realised):
            for series in [one for one, row in known.items() if row["to_ns"] < now_ns - FORGOTTEN_NS]:
                del known[series]

    def _store_baseline(self, sha256: str) -> None:
        if sha256 not in self._stored and (baseline := self._ports.known(sha256)) is not None:
            self._stored[sha256] = baseline
            self._database.put_baseline(sha256, baseline.to_json())

    def _flush(self) -> None:
        try:
            self._database.flush()
        except HeadraceError as error:
            _log.error("what monitoring saw is not written yet; it goes on", reason=str(error))

    def _take(self) -> set[tuple[Series, Role, int]]:
        dirty = set()
        for seen in self._ports.seen.take():
            series = seen.series
            width = window_ns(self._ports.specs(series[0]).window_s)
            start, is_late = place(seen.start_ns, width, self._closed.get(series[0], 0))
            start = start if is_late else seen.start_ns
            if seen.role == "own":
                self.late_rows += seen.cells.rows if is_late else 0
                self.counts.setdefault(series, Counts()).rows += seen.cells.rows
            cells = self._cells.setdefault((series, seen.role), {})
            before = cells.get(start)
            if before is None or before.baseline != seen.cells.baseline:
                cells[start] = seen.cells
            else:
                before.add(seen.cells)
            dirty.add((series, seen.role, start))
        return dirty

    def _close(self, now_ns: int) -> set[tuple[Series, Role, int]]:
        """Concludes every window that has ended, the oldest first. Returns the cells that are gone."""
        due: set[tuple[int, str]] = set()
        for (series, _), cells in self._cells.items():
            width = window_ns(self._ports.specs(series[0]).window_s)
            windows = {floor_to(start, width) for start in cells}
            due |= {(window, series[0]) for window in windows if window + width + min(GRACE_NS, width) <= now_ns}
        gone = set()
        for window, model in sorted(due):
            gone |= self._close_window(model, window, now_ns)
        if gone:
            self._database.put_fact(_CLOSED, self._closed)
            self._database.put_fact(_VIOLATIONS, [[list(key), count] for key, count in self.violations.counts().items()])
        return gone

    def _close_window(self, model: str, window: int, now_ns: int) -> set[tuple[Series, Role, int]]:
        spec = self._ports.specs(model)
        end = window + window_ns(spec.window_s)
        sums = {key: together(cell for start, cell in sorted(cells.items(), reverse=True) if window <= start < end)
                for key, cells in sorted(self._cells.items()) if key[0][0] == model}
        own = {series: cells for (series, role), cells in sums.items() if role == "own" and cells is not None}
        stable = self._ports.stable(model)
        of_stable = together(cells for series, cells in own.items() if series[1] == stable)
        for series, cells in own.items():
            mine = sums.get((series, "stable"))
            is_comparable = series[1] != stable and mine is not None and of_stable is not None and mine.baseline == of_stable.baseline
            pair = (mine, of_stable) if is_comparable and mine is not None and of_stable is not None else None
            self._evaluate(series, cells, pair, (window, end), spec, now_ns)
        self._closed[model] = max(self._closed.get(model, 0), end)
        gone = set()
        for series, role in sums:
            kept = self._cells[series, role]
            gone |= {(series, role, start) for start in kept if window <= start < end}
            self._cells[series, role] = {start: cell for start, cell in kept.items() if not window <= start < end}
            self._database.drop_cells(series, role, window, end)
        return gone

    def _evaluate(
        self, series: Series, cells: Cells, stable: tuple[Cells, Cells] | None, window: tuple[int, int], spec: MonitoringSpec, now_ns: int,
    ) -> None:
        try:
            found = self._ports.evaluate(series, cells, stable, spec)
        except HeadraceError as error:
            _log.error("a window cannot be evaluated", model=series[0], version=series[1], variant=series[2], reason=str(error))
            return
        except Exception:       # noqa: BLE001  else it would be tried again at every turn, and no other window would ever close
            _log.exception("a window cannot be evaluated", model=series[0], version=series[1], variant=series[2])
            return
        document = {"version": series[1], "variant": series[2], **times(*window), **found.document}
        self._database.put_window(Row(series, window[0], document))
        counts = self.counts.setdefault(series, Counts())
        counts.windows["concluded" if document["concluded"] else "too_few"] += 1
        if document["concluded"] or series not in self.latest:
            self.latest[series] = document
        for feature, kinds in found.violations.items():
            for kind, count in kinds.items():
                self.violations.add(series[0], series[1], feature, kind, count)
        self._conclude(series, *window, found.judged, now_ns)

    def _conclude(self, series: Series, start_ns: int, end_ns: int, judged: Mapping[Kind, Judged], now_ns: int) -> None:
        for kind, said in judged.items():
            self.book.conclude(Subject(*series, kind), Verdict(start_ns, end_ns, said.is_bad, said.evidence),
                               self._ports.specs(series[0]), now_ns)


def times(start_ns: int, end_ns: int) -> dict[str, Any]:
    """Of a window, as documents have them."""
    return {"from_ns": start_ns, "to_ns": end_ns, "from": rfc3339(start_ns), "to": rfc3339(end_ns)}


def together(parts: Iterable[Cells]) -> Cells | None:
    """The sum of those that have the baseline of the first; None of none."""
    total: Cells | None = None
    for part in parts:
        if total is None:
            total = copy.deepcopy(part)
        elif part.baseline == total.baseline:
            total.add(part)
    return total


__all__ = ["MonitoringService", "times", "together"]
