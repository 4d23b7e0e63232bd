"""Windows that close on made-up minutes: what is concluded, what is told, and what outlives a restart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.errors import InvalidArgument, Unavailable
from serve.monitoring.alerts import Kind
from serve.monitoring.baseline import Baseline
from serve.monitoring.cells import Cells
from serve.monitoring.database import MonitoringDatabase, Row, Series
from serve.monitoring.ports import Evaluation, Judged, Ports, SeenCells
from serve.monitoring.service import MonitoringService, times
from serve.monitoring.triggers import DRIFT_DETECTED, PERFORMANCE_DEGRADED, RETRAIN_REQUESTED
from serve.monitoring.windows import GRACE_NS, cell_ns, floor_to, place, window_ns
from serve.monitors import MonitoringSpec

S = 10**9
MINUTE = 60 * S
STABLE: Series = ("digits", "1", "1")
CANARY: Series = ("digits", "2", "2")
START = 1_769_860_800 * S       # on the hour


def bare(name: str) -> Baseline:
    return Baseline(model="digits", version=name, digest=f"sha256:{'0' * 64}", source="training", created_ns=0, rows=100,
                    task="classification")


class World:
    """A server's monitoring with cells and verdicts that a test makes up."""

    def __init__(self, folder: Path, spec: MonitoringSpec | None = None) -> None:
        self.folder = folder
        self.spec = spec or MonitoringSpec(window_s=300, min_rows=10, cooldown_s=0)
        self.rows: list[SeenCells] = []
        self.evaluated: list[tuple[Series, int, int | None]] = []
        self.is_bad = False
        self.failure: Exception | None = None
        self.baselines = {version: bare(version) for version in ("1", "2", "9")}
        self.watched_by = {"1": "1", "2": "2"}
        self.start()

    def start(self) -> None:
        self.database = MonitoringDatabase(self.folder)
        self.service = MonitoringService(self.database, Ports(
            self, self.evaluate, lambda model: self.spec, lambda model: "1",
            lambda sha256: next((one for one in self.baselines.values() if one.sha256 == sha256), None)))

    def restart(self) -> None:
        self.database.close()
        self.start()

    def see(self, series: Series, at_ns: int, rows: int) -> None:
        start = floor_to(at_ns, cell_ns(self.spec.window_s))
        self.rows.append(SeenCells(series, start, Cells(self.baselines[self.watched_by[series[1]]].sha256, rows)))
        if series[1] != "1":
            self.rows.append(SeenCells(series, start, Cells(self.baselines["1"].sha256, rows), "stable"))

    def take(self) -> list[SeenCells]:
        found, self.rows = self.rows, []
        return found

    def evaluate(self, series: Series, cells: Cells, stable: tuple[Cells, Cells] | None, spec: MonitoringSpec) -> Evaluation:
        if self.failure is not None:
            raise self.failure
        if stable is not None:
            assert (stable[0].rows, stable[0].baseline) == (cells.rows, stable[1].baseline)
        self.evaluated.append((series, cells.rows, stable[1].rows if stable is not None else None))
        concluded = cells.rows >= spec.min_rows
        document: dict[str, Any] = {"rows": cells.rows, "concluded": concluded, "reason": "" if concluded else "too few"}
        judged = {Kind.DRIFT: Judged(self.is_bad, {"features": [{"feature": "x"}]})} if concluded else {}
        return Evaluation(document, judged, {"x": {"missing": 2}})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(("window_s", "cell"), [(300, MINUTE), (60, MINUTE), (30, 30 * S), (90, 90 * S), (0.5, S // 2)])
def test_cells_of_a_window(window_s: float, cell: int) -> None:
    assert cell_ns(window_s) == cell
    assert window_ns(window_s) % cell == 0


@pytest.mark.parametrize(("cell", "closed", "expected"), [
    (START + 2 * MINUTE, 0, (START, False)), (START + 2 * MINUTE, START, (START, False)),
    (START + 2 * MINUTE, START + 5 * MINUTE, (START + 5 * MINUTE, True)), (START, START + 7 * MINUTE, (START + 10 * MINUTE, True))])
def test_what_comes_too_late_counts_in_the_next_window(cell: int, closed: int, expected: tuple[int, bool]) -> None:
    assert place(cell, 300 * S, closed) == expected


def test_a_window_is_the_sum_of_its_minutes_and_closes_after_its_grace(world: World) -> None:
    for minute in range(6):
        world.see(STABLE, START + minute * MINUTE + 30 * S, 100)
    end = START + 5 * MINUTE
    assert world.service.tick(end + GRACE_NS - 1) == []
    assert world.evaluated == []
    world.service.tick(end + GRACE_NS)
    assert world.evaluated == [(STABLE, 500, None)]
    assert world.service.pending_rows() == {STABLE: 100}
    (row,) = world.database.windows("digits")
    assert (row.start_ns, row.document) == (START, {
        "version": "1", "variant": "1", **times(START, end), "rows": 500, "concluded": True, "reason": ""})
    world.service.tick(START + 10 * MINUTE + GRACE_NS)
    assert world.evaluated[1:] == [(STABLE, 100, None)]


def test_a_canary_is_held_against_stable_in_the_same_window(world: World) -> None:
    explicit: Series = ("digits", "1", "explicit")
    for series, rows in ((STABLE, 100), (explicit, 7), (CANARY, 20)):
        world.see(series, START, rows)
    world.see(CANARY, START + 5 * MINUTE, 30)
    world.service.tick(START + 1 * MINUTE)
    world.restart()
    world.service.tick(START + 20 * MINUTE)
    assert world.evaluated == [(STABLE, 100, None), (explicit, 7, None), (CANARY, 20, 107), (CANARY, 30, None)]


def test_late_rows_count_in_the_next_window_and_are_counted(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + 6 * MINUTE)
    world.see(STABLE, START + 4 * MINUTE, 11)
    world.see(STABLE, START + 6 * MINUTE, 50)
    world.service.tick(START + 12 * MINUTE)
    assert world.evaluated == [(STABLE, 100, None), (STABLE, 61, None)]
    assert (world.service.late_rows, world.service.counts[STABLE].rows) == (11, 161)


def test_two_bad_windows_of_three_raise_an_alert_and_ask_for_retraining(world: World) -> None:
    world.is_bad = True
    found = []
    for window in range(3):
        world.see(STABLE, START + window * 5 * MINUTE, 100)
        found.append(world.service.tick(START + (window + 1) * 5 * MINUTE + GRACE_NS))
        for event in found[-1]:
            world.service.told(event)
    assert [[one.type for one in events] for events in found] == [[], [DRIFT_DETECTED], [RETRAIN_REQUESTED]]
    assert found[1][0].evidence["since"] == "2026-01-31T12:00:00.000000Z"
    assert world.service.retrain_events == {"digits": 1}
    assert world.service.book.standing() == {("digits", "drift"): 1}


def test_what_was_not_told_is_told_after_a_restart(world: World) -> None:
    world.is_bad = True
    for window in range(2):
        world.see(STABLE, START + window * 5 * MINUTE, 100)
        world.service.tick(START + (window + 1) * 5 * MINUTE + GRACE_NS)
    drift, request = world.service.tick(START + 16 * MINUTE)
    assert request.type == RETRAIN_REQUESTED
    world.service.told(drift)
    world.restart()
    assert [one.type for one in world.service.tick(START + 17 * MINUTE)] == [RETRAIN_REQUESTED]


def test_a_restart_goes_on_where_it_was(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + MINUTE)
    world.see(STABLE, START + MINUTE, 40)
    world.service.tick(START + 2 * MINUTE)
    world.restart()
    world.see(STABLE, START + MINUTE, 2)
    world.service.tick(START + 5 * MINUTE + GRACE_NS)
    assert world.evaluated == [(STABLE, 142, None)]
    world.restart()
    assert world.service.latest[STABLE]["rows"] == 142
    assert world.service.violations.counts() == {("digits", "1", "x", "missing"): 2}
    world.see(STABLE, START + 4 * MINUTE, 5)
    world.service.tick(START + 6 * MINUTE)
    assert world.service.late_rows == 5, "the window was closed before the restart"


def test_a_new_baseline_in_the_middle_of_a_window(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + MINUTE)
    world.watched_by["1"] = "9"
    world.see(STABLE, START + MINUTE, 30)
    world.see(STABLE, START + 2 * MINUTE, 3)
    world.service.tick(START + 6 * MINUTE)
    assert world.evaluated == [(STABLE, 33, None)], "counts by two baselines are not added; the newest counts"
    world.see(STABLE, START + 6 * MINUTE, 5)
    world.service.tick(START + 7 * MINUTE)
    world.service.forget_cells("digits", "1")
    assert world.service.pending_rows() == {}


def test_what_was_counted_by_a_baseline_that_is_gone_is_judged_by_it_after_a_restart(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + MINUTE)
    sha256 = world.baselines["1"].sha256
    world.baselines = {}
    world.restart()
    found = world.service.baseline(sha256)
    assert found is not None
    assert (found.version, world.service.pending_rows()) == ("1", {STABLE: 100})


def test_too_few_rows_conclude_nothing(world: World) -> None:
    world.is_bad = True
    for window in range(3):
        world.see(STABLE, START + window * 5 * MINUTE, 3)
    assert world.service.tick(START + 60 * MINUTE) == []
    assert world.service.counts[STABLE].windows == {"concluded": 0, "too_few": 3}
    assert list(world.service.book.models()) == []


def test_a_window_that_cannot_be_evaluated_is_left_out(world: World) -> None:
    world.see(STABLE, START, 100)
    world.failure = InvalidArgument("no scores")
    world.service.tick(START + 6 * MINUTE)
    assert (world.database.windows("digits"), world.service.pending_rows()) == ([], {STABLE: 0})


def test_a_disk_that_takes_nothing_stops_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise Unavailable("the disk is full")

    flush = world.database.flush
    monkeypatch.setattr(world.database, "flush", fails)
    world.is_bad = True
    for window in range(2):
        world.see(STABLE, START + window * 5 * MINUTE, 100)
    assert [one.type for one in world.service.tick(START + 11 * MINUTE)] == [DRIFT_DETECTED]
    monkeypatch.setattr(world.database, "flush", flush)
    world.service.tick(START + 12 * MINUTE)
    assert len(world.database.windows("digits")) == 2


def test_what_labels_say_is_kept_by_the_time_of_the_prediction_and_revised(world: World) -> None:
    def learn(window: int, accuracy: float, labelled: int = 50) -> None:
        start = START + window * 5 * MINUTE
        row = Row(STABLE, start, {"version": "1", "variant": "1", **times(start, start + 5 * MINUTE), "labelled": labelled,
                                  "metrics": {"accuracy": accuracy}})
        judged = {Kind.REALISED_PERFORMANCE: Judged(accuracy < 0.9, {"metric": "accuracy", "value": accuracy, "bound": 0.9})}
        world.service.learn_realised(row, judged, START + 60 * MINUTE)

    learn(1, 0.8)
    learn(0, 0.95)
    assert world.service.tick(START + 60 * MINUTE) == []
    learn(0, 0.85)
    assert [one.type for one in world.service.tick(START + 65 * MINUTE)] == [PERFORMANCE_DEGRADED, RETRAIN_REQUESTED]
    learn(2, 1.0, labelled=3)
    assert world.service.realised[STABLE]["metrics"] == {"accuracy": 0.8}, "the newest window with enough labels"
    world.service.tick(START + 66 * MINUTE)
    assert [row.document["metrics"]["accuracy"] for row in world.database.realised("digits")] == [0.85, 0.8, 1.0]
    world.restart()
    assert world.service.realised[STABLE]["metrics"] == {"accuracy": 0.8}


def test_a_fault_of_a_window_is_that_window_s_alone(world: World) -> None:
    world.see(STABLE, START, 100)
    world.failure = ValueError("shapes differ")
    world.service.tick(START + 6 * MINUTE)
    world.failure = None
    world.see(STABLE, START + 5 * MINUTE, 40)
    world.service.tick(START + 11 * MINUTE)
    assert [row.document["rows"] for row in world.database.windows("digits")] == [40]


def test_a_clock_that_is_set_back_stops_nothing(world: World) -> None:
    ahead = START + 365 * 24 * 60 * MINUTE
    world.is_bad = True
    for window in range(3):
        world.see(STABLE, ahead + window * 5 * MINUTE, 100)
    world.service.tick(ahead + 11 * MINUTE)
    assert world.service.book.standing() == {("digits", "drift"): 1}
    world.is_bad = False
    world.service.tick(START)
    world.restart()
    for window in range(3):
        world.see(STABLE, START + window * 5 * MINUTE, 50)
        world.service.tick(START + (window + 1) * 5 * MINUTE + GRACE_NS)
    assert [row.start_ns for row in world.database.windows("digits")] == [START + window * 5 * MINUTE for window in range(3)]
    assert (world.service.late_rows, world.service.pending_rows()) == (0, {STABLE: 0})
    assert world.service.book.standing() == {("digits", "drift"): 0}
    assert world.service.latest[STABLE]["from_ns"] == START + 10 * MINUTE


def test_wider_windows_take_what_shorter_ones_have_left(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + 6 * MINUTE)
    world.spec = replace(world.spec, window_s=3600)
    world.see(STABLE, START + 7 * MINUTE, 30)
    world.service.tick(START + 61 * MINUTE)
    assert world.evaluated == [(STABLE, 100, None), (STABLE, 30, None)]
    assert world.service.late_rows == 0


def test_a_version_without_windows_for_a_month_is_forgotten(world: World) -> None:
    world.see(CANARY, START, 100)
    world.service.tick(START + 6 * MINUTE)
    later = START + 31 * 24 * 60 * MINUTE
    world.see(STABLE, later, 100)
    world.service.tick(later + 6 * MINUTE)
    assert {row.series for row in world.database.windows("digits")} == {STABLE}
    assert set(world.service.latest) == {STABLE}


def test_a_stored_baseline_that_this_release_cannot_read_keeps_nothing_from_starting(world: World) -> None:
    world.see(STABLE, START, 100)
    world.service.tick(START + MINUTE)
    world.database.put_baseline(world.baselines["1"].sha256, '{"format": 0}')
    world.database.flush()
    world.restart()
    assert world.service.pending_rows() == {}
