"""Verification counts every row, and finds every byte that changed."""

import dataclasses
import shutil
import struct
from pathlib import Path

import pytest

from serve.recording.accounts import Account, FoundRows, JournalRows, Pages, accounts, owners, purge_faults, with_missing
from serve.recording.layout import compacted_path
from serve.recording.manifest import EpochState, ManifestState, RowCounts, compacted_line, purged_line
from serve.recording.page import MAGIC, PAGE_BYTES, PageNumbers
from serve.recording.reading import read
from serve.recording.stores import open_store
from serve.recording.verify import Verification, verify
from tests.unit.recording.recorded import DIGITS_1, HOST, T0, Recorder, image, write_records


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return write_records(str(tmp_path / "records"), tmp_path / "home")


def check(recorder: Recorder) -> Verification:
    return verify(recorder.store, host=HOST)


def write_page(home: Path, epoch: int, assigned: int, appended: int, dropped: int = 0) -> None:
    words = (MAGIC, 1, epoch, assigned, appended, dropped)
    (home / f"{epoch}.page").write_bytes(struct.pack("=6Q", *words).ljust(PAGE_BYTES, b"\0"))


def account(recorder: Recorder) -> Account:
    found, = check(recorder).accounts
    return found


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def test_an_epoch_that_is_accounted_for(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    found = check(recorder)
    assert found.is_intact
    assert found.accounts == [Account("r-0", 1, "closed", FoundRows(18, 0, 19, 1, ((13, 14),)), assigned=20, dropped={"ring_full": 2})]
    assert found.n_files == 4
    assert [journal.rows for journal in found.journals] == [2, 3, 1]
    assert found.warnings == []


def test_an_epoch_that_runs(recorder: Recorder) -> None:
    write_page(recorder.home, 1, assigned=25, appended=18, dropped=2)
    found = account(recorder)
    assert (found.state, found.assigned, found.under_way, found.unexplained) == ("open", 25, 5, 0)
    assert check(recorder).is_intact


def test_rows_that_the_recorder_appended_and_nobody_has(recorder: Recorder) -> None:
    write_page(recorder.home, 1, assigned=25, appended=21, dropped=2)
    assert check(recorder).faults == ["replica r-0, epoch 1: 3 rows are missing and nothing says why"]


def test_more_rows_than_were_numbered(recorder: Recorder) -> None:
    recorder.end(dropped=3)
    assert check(recorder).faults == ["replica r-0, epoch 1: there are 1 rows more than were numbered"]


def test_an_epoch_whose_page_is_elsewhere(recorder: Recorder) -> None:
    found = verify(recorder.store, host="another")
    assert [(one.state, one.assigned, one.found.rows) for one in found.accounts] == [("unknown", None, 13)]
    assert found.is_intact
    assert "not read here" in found.warnings[0]


def test_a_row_that_is_there_twice(recorder: Recorder) -> None:
    recorder.journal("digits", "1", DIGITS_1, [{"in_x": image(0), "out_label": 0, "seq": 3}])
    recorder.end(dropped=2)
    assert "replica r-0, epoch 1: 1 rows are there more than once" in check(recorder).faults


@pytest.mark.parametrize("at", [100, -1])
@pytest.mark.parametrize("number", range(4))
def test_a_changed_byte_of_a_sealed_file(recorder: Recorder, number: int, at: int) -> None:
    recorder.end(dropped=2)
    part = list(recorder.manifest.state.parts.values())[number]
    flip(Path(recorder.store.location(part.path)), at)
    found = check(recorder)
    assert list(found.damaged) == [part.path]
    assert f"instead of {part.sha256}" in found.faults[-1]
    n_missing = part.rows if part.name.table == "records" else 0
    assert found.accounts[0].found.rows == 18 - n_missing
    assert (found.accounts[0].missing, found.accounts[0].purged) == (n_missing, 0)
    assert len(found.faults) == 1 + (n_missing > 0)


def test_a_sealed_file_that_is_gone(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    part = next(iter(recorder.manifest.state.parts.values()))
    recorder.store.delete(part.path)
    assert check(recorder).faults == [
        f"replica r-0: {part.rows} rows that were sealed are in no file that is whole, nor were they purged", f"{part.path} is not there"]


def test_what_is_compacted_while_it_is_verified(recorder: Recorder) -> None:
    """A file that is gone because another one has its rows is no fault, and the other one is checked too."""
    recorder.end(dropped=2)
    part = next(iter(recorder.manifest.state.parts.values()))
    merged = dataclasses.replace(part, path=compacted_path("r-0", [part.path]))

    def compact(what: str, done: int, of: int) -> None:
        if part.path in recorder.manifest.state.parts:
            recorder.store.write(merged.path, recorder.store.read(part.path))
            recorder.manifest.append(compacted_line(merged, [part.path], T0))
            recorder.store.delete(part.path)

    found = verify(recorder.store, host=HOST, progress=compact)
    assert found.is_intact, found.faults
    assert found.accounts[0].found.rows == 18


def test_an_epoch_that_is_accounted_for_while_it_is_verified(recorder: Recorder) -> None:
    """Its page goes once the manifest has its account, and what was read of the manifest before that does not."""
    write_page(recorder.home, 1, assigned=20, appended=18, dropped=2)

    def end(what: str, done: int, of: int) -> None:
        if what == "looking for gaps" and (recorder.home / "1.page").exists():
            recorder.end(dropped=2)
            (recorder.home / "1.page").unlink()

    found = verify(recorder.store, host=HOST, progress=end)
    assert found.is_intact, found.faults
    assert [(one.state, one.assigned, one.found.rows) for one in found.accounts] == [("closed", 20, 18)]


def test_files_that_are_cut_or_gone(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    label, = [path for path in recorder.manifest.state.parts if path.startswith("labels")]
    content = recorder.store.read(label)
    recorder.store.write(label, content[:-1])
    assert check(recorder).faults == [f"{label} has {len(content) - 1} bytes instead of {len(content)}"]
    recorder.store.delete(label)
    assert check(recorder).faults == [f"{label} is not there"]


def test_a_changed_byte_of_a_journal(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    journal = recorder.home / "journals" / "1-4.journal"
    flip(journal, -100)
    found = check(recorder)
    assert [(one.bad_rows, one.bad_frames) for one in found.journals] == [(0, 0), (3, 1), (0, 0)]
    assert found.accounts[0].bad == 3
    assert found.accounts[0].unexplained == 0
    assert found.faults == [f"{journal}: 3 rows in 1 damaged stretches"]


def test_purged_rows_are_accounted_for(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    first, *_ = [part for part in recorder.manifest.state.parts.values() if part.name.version == "1"]
    recorder.manifest.append(purged_line([first], "retention", T0))
    recorder.store.delete(first.path)
    found = check(recorder)
    assert found.is_intact
    assert found.accounts[0].purged == first.rows == 7
    assert found.accounts[0].missing == 0


def test_rows_of_a_lost_file_are_missing_and_not_purged(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    purged, lost = [part for part in recorder.manifest.state.parts.values() if part.name.version == "1"]
    recorder.manifest.append(purged_line([purged], "retention", T0))
    recorder.store.delete(purged.path)
    recorder.store.delete(lost.path)
    found = account(recorder)
    assert (found.purged, found.missing, found.unexplained) == (purged.rows, lost.rows, 0) == (7, 3, 0)


def test_missing_rows_are_of_the_epochs_whose_files_are_damaged() -> None:
    """Else, where a merged file does not say its epoch, of the newest: purging takes the oldest."""
    state = ManifestState("r", epochs={n: EpochState(records=RowCounts(sealed=10)) for n in (1, 2, 3)})
    state.rows["records"].purged = 10
    found = {("r", 1): FoundRows(rows=4), ("r", 2): FoundRows(rows=2), ("r", 3): FoundRows(rows=10)}
    made = accounts([state], [], found, {})
    assert [(one.purged, one.missing) for one in with_missing(made, [state], {("r", 1): 4})] == [(2, 4), (8, 0), (0, 0)]
    assert [(one.purged, one.missing) for one in with_missing(made, [state], {})] == [(6, 0), (4, 4), (0, 0)]
    state.rows["records"].purged = 14
    assert [one.missing for one in with_missing(made, [state], {("r", 1): 4})] == [0, 0, 0]


def test_rows_that_vanished_from_the_manifest_are_not_purged() -> None:
    state = ManifestState("r", epochs={1: EpochState(records=RowCounts(sealed=10))})
    made = accounts([state], [], {("r", 1): FoundRows(rows=8, last=9)}, {})
    assert purge_faults([state], made) == ["replica r: 2 rows that were sealed are in no file that is whole, nor were they purged"]
    made = accounts([state], [], {("r", 1): FoundRows(rows=11, last=10)}, {})
    assert purge_faults([state], made) == ["replica r: 1 rows are there that the manifest does not count"]


def test_a_line_that_cannot_be_read_is_a_fault(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    recorder.store.append("_manifest/r-0.jsonl", b"{garbage}\n")
    assert check(recorder).faults == ["the manifest of replica r-0 has 1 lines that cannot be read"]


def test_files_that_no_manifest_names_are_told(recorder: Recorder) -> None:
    recorder.end(dropped=2)
    stray = "records/model=m/version=1/dt=2026-01-01/hr=00/part-r-0-9-9.parquet"
    recorder.store.write(stray, b"x")
    found = check(recorder)
    assert found.is_intact
    assert found.warnings == [f"1 files are named by no manifest and not read, {stray} for instance"]


def test_torn_rows_of_a_worker_that_was_killed(recorder: Recorder) -> None:
    """Its last append is half there, and was not counted: those rows are among the ones under way."""
    journal = recorder.home / "journals" / "1-4.journal"
    content = journal.read_bytes()
    journal.rename(journal.with_suffix(".open"))
    journal.with_suffix(".open").write_bytes(content[:-200])
    write_page(recorder.home, 1, assigned=20, appended=15, dropped=2)
    found = account(recorder)
    assert (found.torn, found.under_way, found.unexplained) == (3, 3, 0)


def test_a_replica_that_was_renamed_is_one_account(tmp_path: Path) -> None:
    """Its successor seals the journals that it left."""
    store = open_store(str(tmp_path / "records"))
    before = Recorder(store, tmp_path / "home", "old")
    journal = before.journal("digits", "1", DIGITS_1, [{"in_x": image(i), "out_label": i} for i in range(5)])
    after = Recorder(store, tmp_path / "home", "new")
    after.manifest.begin(HOST, str(tmp_path / "home"), T0 + 1, before.manifest.state.home_id)
    after.seal(journal)
    after.next_seq = 5
    after.end()
    found = check(after)
    assert found.is_intact, found.faults
    assert [(one.epoch, one.found.rows, one.assigned) for one in found.accounts] == [(1, 5, 5)]


def test_what_is_left_over_is_unexplained() -> None:
    end = {"assigned": 100, "dropped": {"ring_full": 5, "memory": 1}, "lost": 4}
    state = ManifestState("r", epochs={1: EpochState({1}, RowCounts(sealed=70, torn=2, bad=3), end)})
    journal = JournalRows("j", "records", "r", 1, 10, 0, 0, 0)
    made, = accounts([state], [journal], {("r", 1): FoundRows(rows=80, last=99)}, {})
    assert (made.unexplained, made.purged) == (5, 0)
    labels = dataclasses.replace(journal, table="labels")
    made, = accounts([state], [labels], {("r", 1): FoundRows(rows=70, last=99)}, {})
    assert made.unexplained == 15


def test_rows_that_came_while_it_was_read_are_under_way() -> None:
    pages = Pages(PageNumbers(1, 100, 90, {"ring_full": 1}), PageNumbers(1, 150, 140, {"ring_full": 2}))
    made, = accounts([], [JournalRows("j", "records", "r", 1, 120, 0, 0, 0)], {("r", 1): FoundRows(rows=120, last=121)}, {("r", 1): pages})
    assert (made.under_way, made.unexplained) == (28, 0)


def test_homes_have_one_owner() -> None:
    states = [ManifestState("a", home_id="x", created_ns=1), ManifestState("b", home_id="x", created_ns=2), ManifestState("c")]
    assert owners(states) == {"a": "b", "b": "b", "c": "c"}


# A state directory that is elsewhere

def test_a_copied_state_directory_is_read_by_its_identity(recorder: Recorder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(recorder.home, copy)
    shutil.rmtree(recorder.home)
    with read(recorder.store, host=HOST) as reading:
        assert not reading.snapshot.journals
        assert len(reading.snapshot.warnings) == 1
    with read(recorder.store, copy, host=HOST) as reading:
        assert [journal.path.parent.parent for journal in reading.snapshot.journals] == [copy] * 3
        assert reading.snapshot.warnings == ()
        assert reading.homes == {"r-0": copy}
    recorder.end(dropped=2)
    found = verify(recorder.store, copy, HOST)
    assert found.is_intact
    assert found.accounts[0].found.rows == 18


@pytest.mark.parametrize("is_other", [True, False])
def test_other_state_directories_are_not_mixed_in(recorder: Recorder, tmp_path: Path, *, is_other: bool) -> None:
    other = tmp_path / "other"
    if is_other:
        write_records(str(tmp_path / "elsewhere"), other)
    else:
        shutil.copytree(recorder.home, other)       # of the same server, whose own is there
    with read(recorder.store, other, host=HOST) as reading:
        assert {journal.path.parent.parent for journal in reading.snapshot.journals} == {recorder.home}


def test_a_sealed_journal_of_a_copy_is_not_read_again(recorder: Recorder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(recorder.home, copy)
    recorder.seal(recorder.home / "journals" / "1-4.journal")
    with read(recorder.store, copy, host="another") as reading:
        assert sorted(journal.number for journal in reading.snapshot.journals) == [3, 6]
