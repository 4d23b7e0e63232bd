"""Labels: in a journal when they are answered for, all of a submission or none of it, whatever the disk does."""

import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serve.errors import InvalidArgument, Unavailable
from serve.recording import label_writer as module
from serve.recording.journal import JournalContents, read_journal
from serve.recording.label_writer import LabelSettings, LabelWriter
from serve.recording.lane import JournalPlace
from serve.records import Label
from tests.unit.recording.recorder_parts import MS, FaultyFiles, S


@dataclass
class Office:
    """A label writer and its folder."""

    folder: Path
    files: FaultyFiles
    place: JournalPlace
    writer: LabelWriter

    @classmethod
    def build(cls, folder: Path, fsync_ns: int = 3600 * S, seal_ns: int = 3600 * S) -> "Office":
        files = FaultyFiles()
        place = JournalPlace(files, folder, seal_ns=seal_ns)
        return cls(folder, files, place, LabelWriter(place, LabelSettings("r", 4, fsync_ns)))

    def journals(self) -> list[JournalContents]:
        return [read_journal(path) for path in sorted(self.folder.iterdir())]

    def rows(self) -> list[dict[str, Any]]:
        found = [row for journal in self.journals() for batch in journal.read() for row in batch.to_pylist()]
        assert len({row["seq"] for row in found}) == len(found)
        return sorted(found, key=lambda row: row["seq"])

    def kept(self) -> list[str]:
        return [row["request_id"] for row in self.rows()]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office.build(tmp_path)
    yield made
    made.files.faults = {}
    made.writer.close(10)


def label(request_id: str, **values: Any) -> Label:
    return Label(request_id=request_id, **values)


def ask(office: Office, *ids: str, durable: bool = False, model: str = "digits") -> None:
    office.writer.submit(model, [label(one) for one in ids], durable=durable).result(10)


def test_labels_are_in_the_journal_when_they_are_answered_for(office: Office) -> None:
    before_ns = time.time_ns()
    office.writer.submit("digits", [
        label("a", value=1.5), label("a", row=1, text="seven", name="digit"), label("b", reward=0.25, label_ts_ns=17),
    ], durable=False).result(10)
    ask(office, "c", model="other")
    rows = office.rows()
    assert [(row["seq"], row["request_id"], row["row"], row["model"]) for row in rows] == [
        (0, "a", 0, "digits"), (1, "a", 1, "digits"), (2, "b", 0, "digits"), (3, "c", 0, "other")]
    assert [(row["name"], row["value"], row["text"], row["reward"], row["label_ts_ns"]) for row in rows[:3]] == [
        ("label", 1.5, None, None, None), ("digit", None, "seven", None, None), ("label", None, None, 0.25, 17)]
    assert all(before_ns <= row["ts_ns"] <= time.time_ns() for row in rows)
    headers = [journal.header for journal in office.journals()]
    assert [(head.table, head.replica, head.epoch, head.journal, head.model) for head in headers if head] == [
        ("labels", "r", 4, 1, "digits"), ("labels", "r", 4, 2, "other")]
    assert office.writer.counts() == {("digits", "appended"): 3, ("other", "appended"): 1}


def test_durable_labels_are_synced_before_they_are_answered_for(office: Office) -> None:
    ask(office, "a")
    assert office.files.n_syncs == 0
    ask(office, "b", durable=True)
    assert office.files.n_syncs >= 1
    before = office.files.n_syncs
    ask(office, "c", durable=True)
    assert office.files.n_syncs == before + 1


def test_an_interval_of_nothing_syncs_everything(tmp_path: Path) -> None:
    office = Office.build(tmp_path, fsync_ns=0)
    ask(office, "a")
    assert office.files.n_syncs == 1
    office.writer.close(10)


def test_what_comes_while_it_writes_is_one_append(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group commit, and labels of clients that went away are kept all the same once they are being written."""
    first, goes_on = threading.Event(), threading.Event()
    write = office.files.pwritev
    n_writes = 0

    def held(*arguments: Any) -> int:
        nonlocal n_writes
        n_writes += 1
        first.set()
        goes_on.wait(10)
        return write(*arguments)

    monkeypatch.setattr(office.files, "pwritev", held)
    futures = [office.writer.submit("digits", [label("first")])]
    assert first.wait(10)
    futures += [office.writer.submit("digits", [label(f"{i}-0"), label(f"{i}-1")]) for i in range(200)]
    assert futures[0].cancel() is False, "it is being written"
    assert futures[1].cancel(), "nobody has begun with it"
    goes_on.set()
    for future in futures[2:]:
        future.result(10)
    assert n_writes == 3, "a header, the first label, and all the others"
    assert len(office.kept()) == 1 + 2 * 199


@pytest.mark.parametrize("fault", [{"create": errno.EROFS}, {"pwritev": errno.ENOSPC}, {"pwritev": errno.EIO}])
def test_a_disk_that_refuses_is_said_to_who_asked(office: Office, fault: dict[str, int]) -> None:
    if "create" not in fault:
        ask(office, "a")
    office.files.faults = dict(fault)
    with pytest.raises(Unavailable, match="nothing of them is kept, send them again later"):
        ask(office, "b", "c")
    office.files.faults = {}
    ask(office, "d")
    assert office.kept() == (["d"] if "create" in fault else ["a", "d"])
    assert office.writer.counts()["digits", "failed"] == 2


def test_a_sync_that_fails_keeps_nothing_of_what_waited_for_it(office: Office) -> None:
    """And everything that had been answered for."""
    ask(office, "a")
    ask(office, "b", durable=True)
    ask(office, "c")
    office.files.once = {"fdatasync": [0, errno.EIO]}
    with pytest.raises(Unavailable, match="Input/output error"):
        ask(office, "d", "e", durable=True)
    assert sorted(office.kept()) == ["a", "b", "c"]
    ask(office, "f", durable=True)
    assert sorted(office.kept()) == ["a", "b", "c", "f"]


def test_what_was_answered_for_is_written_again_when_its_sync_fails(tmp_path: Path) -> None:
    office = Office.build(tmp_path, fsync_ns=20 * MS)
    office.files.faults = {"fdatasync": errno.EIO}
    ask(office, "a", "b")
    until = time.monotonic() + 10
    while not office.writer._given_back and time.monotonic() < until:
        time.sleep(0.005)
    office.files.faults = {}
    ask(office, "c", durable=True)
    office.writer.close(10)
    assert sorted(office.kept()) == ["a", "b", "c"]
    assert office.writer.counts() == {("digits", "appended"): 3}
    assert all(journal.is_complete for journal in office.journals())


def test_what_cannot_be_written_again_is_counted(tmp_path: Path) -> None:
    office = Office.build(tmp_path)
    ask(office, "a", "b")
    office.files.faults = {"fdatasync": errno.EIO, "create": errno.EIO}
    office.writer.close(10)
    assert office.writer.counts() == {("digits", "appended"): 2, ("digits", "lost"): 2}
    assert office.kept() == []


def test_one_label_that_cannot_be_kept_does_not_cost_the_others(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    began, gate = threading.Event(), threading.Event()

    def hold(fd: int) -> None:
        began.set()
        gate.wait(10)

    monkeypatch.setattr(office.files, "fdatasync", hold)
    held = office.writer.submit("digits", [label("first")], durable=True)
    assert began.wait(10)
    submissions: dict[str, Future[None]] = {
        "good": office.writer.submit("digits", [label("good")]),
        "surrogate": office.writer.submit("digits", [label("fine"), label("\ud800")]),
        "range": office.writer.submit("digits", [label("x", row=1 << 40)]),
        "better": office.writer.submit("digits", [label("better", value=1)]),
    }
    gate.set()
    held.result(10)
    for name in ("good", "better"):
        submissions[name].result(10)
    for name in ("surrogate", "range"):
        with pytest.raises(InvalidArgument, match="a label cannot be kept"):
            submissions[name].result(10)
    assert office.kept() == ["first", "good", "better"]


def test_the_queue_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    began, gate = threading.Event(), threading.Event()

    def hold(fd: int) -> None:
        began.set()
        gate.wait(10)

    monkeypatch.setattr(office.files, "fdatasync", hold)
    futures = [office.writer.submit("digits", [label("held")], durable=True)]
    assert began.wait(10)
    futures.append(office.writer.submit("digits", [label(str(i)) for i in range(3)]))
    with pytest.raises(Unavailable, match="3 labels wait to be written, of at most 3"):
        office.writer.submit("digits", [label("x")])
    gate.set()
    for future in futures:
        future.result(10)


def test_closing_writes_what_waits_and_takes_no_more(tmp_path: Path) -> None:
    office = Office.build(tmp_path)
    futures = [office.writer.submit("digits", [label(str(i))], durable=i % 2 == 0) for i in range(100)]
    office.writer.close(10)
    assert all(future.done() and future.exception() is None for future in futures)
    assert sorted(office.kept(), key=int) == [str(i) for i in range(100)]
    assert [path.suffix for path in tmp_path.iterdir()] == [".journal"]
    with pytest.raises(Unavailable, match="the server stops"):
        office.writer.submit("digits", [label("late")])


def test_old_journals_are_closed(tmp_path: Path) -> None:
    office = Office.build(tmp_path, fsync_ns=10 * MS, seal_ns=50 * MS)
    ask(office, "a")
    until = time.monotonic() + 10
    while not list(tmp_path.glob("*.journal")) and time.monotonic() < until:
        time.sleep(0.005)
    ask(office, "b")
    office.writer.close(10)
    assert [journal.rows for journal in office.journals()] == [1, 1]
    assert office.kept() == ["a", "b"]


def test_a_bug_is_told_to_who_waits(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "labels_batch", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        ask(office, "a")
    monkeypatch.undo()
    ask(office, "b")
    assert office.kept() == ["b"]


def test_closing_says_when_the_disk_does_not_let_go(tmp_path: Path) -> None:
    office = Office.build(tmp_path)
    office.writer.submit("digits", [label("a")]).result(10)
    office.files.slow_s = 0.5
    office.writer.submit("digits", [label("b")])
    assert not office.writer.close(0.05)
    assert office.writer.close(10)
    assert office.kept() == ["a", "b"]
