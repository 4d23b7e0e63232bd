"""What monitoring remembers: read back as written, bounded, and begun anew where the file is damaged."""

import sqlite3
from pathlib import Path

import pytest

from serve.errors import NotFound, Unavailable
from serve.monitoring import database as module
from serve.monitoring.alert_book import AlertBook
from serve.monitoring.alerts import Kind, Subject, Verdict
from serve.monitoring.database import FILE, MonitoringDatabase, Row
from serve.monitoring.triggers import ALERT_CLEARED, DRIFT_DETECTED, RETRAIN_REQUESTED
from serve.monitors import MonitoringSpec

ONE = ("digits", "1", "stable")
TWO = ("digits", "2", "canary")
MINUTE = 60 * 10**9
WINDOW = 300 * 10**9
SPEC = MonitoringSpec(cooldown_s=600, window_s=300)
DRIFT = Subject(*ONE, Kind.DRIFT)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first = MonitoringDatabase(tmp_path / "monitoring")
    first.put_cell(ONE, "own", 60, "b", b"\x00cell")
    first.put_cell(ONE, "own", 120, "b", b"one")
    first.put_cell(ONE, "own", 120, "b", b"two")
    first.put_cell(TWO, "own", 60, "b", b"other")
    first.drop_cells(ONE, "own", 60, 120)
    first.put_window(Row(ONE, 5, {"rows": 7, "psi": float("inf")}))
    first.put_realised(Row(ONE, 5, {"accuracy": 0.5}))
    first.put_fact("told", {"a": 1})
    assert first.cells() == [], "not before it is flushed"
    first.flush()
    first.put_fact("told", {"a": 2})
    first.close()
    again = MonitoringDatabase(tmp_path / "monitoring")
    assert again.cells() == [(TWO, "own", 60, "b", b"other"), (ONE, "own", 120, "b", b"two")]
    assert again.windows("digits") == [Row(ONE, 5, {"rows": 7, "psi": "Infinity"})]
    assert again.realised("digits") == [Row(ONE, 5, {"accuracy": 0.5})]
    assert (again.fact("told", {}), again.fact("nothing", 3), again.models()) == ({"a": 1}, 3, ["digits"])
    again.drop_cells(ONE, "own", 0, 1 << 62)
    again.put_cell(ONE, "own", 120, "b", b"new")
    again.flush()
    assert again.cells() == [(TWO, "own", 60, "b", b"other"), (ONE, "own", 120, "b", b"new")], "in the order in which it was put"
    again.close()


def test_what_the_disk_does_not_take_stays_and_is_written_later(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    locker = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    database._connection.execute("PRAGMA busy_timeout = 10")
    locker.execute("BEGIN IMMEDIATE")
    database.put_cell(ONE, "own", 60, "b", b"x")
    with pytest.raises(Unavailable, match="locked"):
        database.flush()
    database.put_cell(ONE, "own", 120, "b", b"y")
    locker.execute("ROLLBACK")
    locker.close()
    database.flush()
    assert database.cells() == [(ONE, "own", 60, "b", b"x"), (ONE, "own", 120, "b", b"y")]
    database.close()


def test_history_is_bounded_by_series_and_asked_for_from_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WINDOWS", 10)
    database = MonitoringDatabase(tmp_path)
    for start in range(25):
        database.put_window(Row(ONE, start, {"at": start}))
    for start in range(3):
        database.put_window(Row(TWO, start, {"at": start}))
    database.flush()
    assert [row.start_ns for row in database.windows("digits") if row.series == ONE] == list(range(15, 25))
    assert [(row.series[1], row.start_ns) for row in database.windows("digits", limit=2)] == [("2", 1), ("2", 2), ("1", 23), ("1", 24)]
    assert [row.start_ns for row in database.windows("digits", since_ns=20)] == [20, 21, 22, 23, 24]
    assert database.windows("other") == []
    database.close()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    database.put_cell(ONE, "own", 60, "b", b"x")
    database.flush()
    database.close()
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    again = MonitoringDatabase(tmp_path)
    assert again.cells() == []
    assert len(list(tmp_path.glob("monitoring.damaged-*"))) == 1
    again.close()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot keep anything in"):
        MonitoringDatabase(tmp_path / "file" / "monitoring")


def conclude(book: AlertBook, words: str, first: int = 0) -> int:
    for index, word in enumerate(words, start=first):
        book.conclude(DRIFT, Verdict(index * MINUTE, (index + 1) * MINUTE, word == "b"), SPEC, (index + 1) * MINUTE)
    return (first + len(words)) * MINUTE


def test_alerts_and_what_was_told_outlive_a_restart(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    now = conclude(book, "bb") + WINDOW
    for event in book.due("digits", SPEC, now, ""):
        book.told(event)
    database.flush()
    database.close()
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    (alert,) = book.of_model("digits")
    assert (alert.id, alert.is_told, alert.is_requested, book.due("digits", SPEC, now, "")) == ("digits-a1", True, True, [])
    assert book.standing() == {("digits", "drift"): 1}
    now = conclude(book, "ggg", first=2)
    (cleared,) = book.due("digits", SPEC, now, "")
    assert (cleared.type, cleared.alerts) == (ALERT_CLEARED, ("digits-a1",))
    book.told(cleared)
    now = conclude(book, "bb", first=5)
    assert book.due("digits", SPEC, now, "") == [], "cooling down"
    later = book.due("digits", SPEC, now + 600 * 10**9, "")
    assert [(one.type, one.alerts) for one in later] == [(DRIFT_DETECTED, ("digits-a2",)), (RETRAIN_REQUESTED, ("digits-a2",))]
    database.close()


def test_an_alert_that_clears_while_it_is_told_is_still_known_to_be_told(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    now = conclude(book, "bb")
    events = book.due("digits", SPEC, now, "")
    now = conclude(book, "ggg", first=2)
    for event in events:
        book.told(event)
    assert [one.type for one in book.due("digits", SPEC, now, "")] == [ALERT_CLEARED]
    database.close()


def test_who_has_seen_it(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    conclude(book, "bb")
    assert book.acknowledge("digits", "digits-a1", "ada", 9).acknowledged == "ada"
    conclude(book, "b", first=2)
    assert [one.acknowledged for one in book.of_model("digits")] == ["ada"], "a newer bad window does not forget it"
    for model, alert in (("other", "digits-a1"), ("digits", "digits-a9")):
        with pytest.raises(NotFound, match="has no alert"):
            book.acknowledge(model, alert, "ada", 9)
    database.close()


def test_what_nothing_is_heard_of_is_cleared(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    now = conclude(book, "bb")
    book.forget(now + 23 * 3600 * 10**9)
    assert book.standing()["digits", "drift"] == 1
    book.forget(now + 25 * 3600 * 10**9)
    assert (book.standing()["digits", "drift"], [one.is_raised for one in book.of_model("digits")]) == (0, [False])
    database.close()


def test_an_alert_that_stands_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = MonitoringDatabase(tmp_path)
    book = AlertBook(database)
    conclude(book, "bb")
    for index in range(5):
        database.put_alert(f"later{index}", "digits", (100 + index) * MINUTE, {})
    database.flush()
    assert [one["id"] for one in database.alerts(limit=2) if one] == ["digits-a1"]
    assert len(database.alerts(limit=2)) == 3
    database.close()


def test_a_file_that_is_damaged_within_is_set_aside(tmp_path: Path) -> None:
    database = MonitoringDatabase(tmp_path)
    for start in range(300):
        database.put_window(Row(ONE, start, {"text": "x" * 500}))
    database.flush()
    database.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    for page in range(3 * 4096, len(content) - 4096, 4096):
        content[page:page + 64] = b"damaged " * 8
    (tmp_path / FILE).write_bytes(content)
    again = MonitoringDatabase(tmp_path)
    assert again.windows("digits") == []
    assert len(list(tmp_path.glob("monitoring.damaged-*"))) == 1
    again.close()
