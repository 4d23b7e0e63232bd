"""The account of a worker that is gone."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.recording.home import Home
from serve.recording.manifest import ManifestState, RowCounts
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.page import DROPS, PageNumbers, RecordPage
from serve.recording.recovery import RecoveryJob, check_names, epoch_line, highest_epoch
from serve.recording.sealing import Sealer
from serve.recording.stores import open_store
from serve.recording.verify import verify
from tests.unit.recording.journals import START_NS, labels, records, simple_journal, write_journal
from tests.unit.recording.journals import header as header_of

COUNTS = st.integers(0, 1 << 40)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.dictionaries(st.sampled_from(DROPS), COUNTS), COUNTS)
def test_every_number_is_accounted_for(assigned: int, sealed: int, torn: int, bad: int, dropped: dict[str, int], counted: int) -> None:
    line = epoch_line(PageNumbers(3, assigned, counted, dropped), RowCounts(sealed, torn, bad), 9)
    assert line["assigned"] == line["appended"] + sum(line["dropped"].values()) + line["lost"]
    assert line["appended"] == sealed + torn + bad
    assert line["lost"] >= 0
    assert line["assigned"] >= assigned
    assert (line["epoch"], line["at_ns"], line["torn_rows"], line["bad_rows"]) == (3, 9, torn, bad)


def page(home: Home, epoch: int, *, assigned: int, appended: int, ring_full: int = 0, clean: bool = False) -> None:
    made = RecordPage(home.path, epoch)
    words = made.buffer.cast("Q")
    words[3], words[5] = assigned, ring_full
    made.begin_append(1, 0, appended)
    made.end_append()
    if clean:
        made.close_cleanly()
    made.release()


def test_an_epoch_is_accounted_for_once_its_journals_are_sealed(tmp_path: Path) -> None:
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    manifest = Manifest(store, "r")
    # Killed after the append of the last ten rows and before they were counted.
    page(home, 1, assigned=40, appended=15, ring_full=7)
    torn = simple_journal(home, 1, range(25), closed=False)
    with torn.open("r+b") as file:
        file.truncate(torn.stat().st_size - 8)
    write_journal(home, header_of(2, table="labels"), [labels([0, 1], [5, 6], ["m", "m"])])
    page(home, 2, assigned=5, appended=5, clean=True)
    simple_journal(home, 1, range(5), epoch=2)
    page(home, 3, assigned=1, appended=0)
    job, sealer = RecoveryJob(manifest, home, 3), Sealer(store, manifest, home, 3)
    assert job.run(1) == []
    [first, second, third] = sealer.due(0)
    sealer.seal(first, 0)
    assert job.run(2) == []
    sealer.seal(second, 0)
    [line] = job.run(3)
    assert {name: line[name] for name in ("epoch", "assigned", "appended", "lost", "torn_rows", "is_clean", "at_ns")} == {
        "epoch": 1, "assigned": 40, "appended": 25, "lost": 8, "torn_rows": 5, "is_clean": False, "at_ns": 3}
    assert line["dropped"]["ring_full"] == 7
    sealer.seal(third, 0)
    [line] = job.run(4)
    assert (line["epoch"], line["lost"], line["is_clean"]) == (2, 0, True)
    assert job.run(5) == []
    assert sorted(path.name for path in home.path.glob("*.page")) == ["3.page"]
    epochs = read_manifest(store, "r").epochs
    assert {number: epoch.end is not None for number, epoch in epochs.items()} == {1: True, 2: True}
    assert highest_epoch(store, "r") == 2
    assert highest_epoch(store, "other") == 0


@pytest.mark.parametrize("crashed", [True, False])
def test_an_epoch_in_which_the_replica_was_renamed_is_accounted_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, crashed: bool,
) -> None:
    """Half of it was sealed under the old name; of one journal the manifest knew and the journal was still there."""
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    old, new = Manifest(store, "old"), Manifest(store, "new")
    old.begin("here", str(home.path), 1, home.identity())
    page(home, 1, assigned=32, appended=30)
    for number, seqs in ((1, range(20)), (2, range(20, 30))):
        write_journal(home, header_of(number, replica="old"), [records(seqs, [START_NS] * len(seqs))])
    sealer = Sealer(store, old, home, 2)
    with monkeypatch.context() as patched:
        if crashed:
            patched.setattr(Home, "finish", lambda *_, **__: None)
        sealer.seal(sealer.due(0)[0], 0)
    new.begin("here", str(home.path), 2, home.identity())
    sealer = Sealer(store, new, home, 2)
    for name in sealer.due(0):
        sealer.seal(name, 0)
    [line] = RecoveryJob(new, home, 2).run(3)
    assert (line["appended"], line["lost"]) == (30, 2)
    found = verify(store, host="here")
    assert found.faults == []
    assert [(one.found.rows, one.lost, one.unexplained) for one in found.accounts] == [(30, 2, 0)]


def test_a_journal_of_another_home_that_was_called_so_is_sealed(tmp_path: Path) -> None:
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    other = Manifest(store, "old")
    other.begin("there", "/other", 1, "another home")
    for kept, manifest in ((Home(tmp_path / "other"), other), (home, Manifest(store, "new"))):
        write_journal(kept, header_of(1, replica="old"), [records(range(5), [START_NS] * 5)])
        [message] = Sealer(store, manifest, kept, None).seal(kept.all_journals()[0], 0)
        assert message["rows"] == 5


def test_a_crash_between_the_line_and_the_pages_end_says_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    page(home, 1, assigned=4, appended=0)
    job = RecoveryJob(Manifest(store, "r"), home, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.run(1)
    assert RecoveryJob(Manifest(store, "r"), home, 2).run(2) == []
    assert not home.page(1).exists()
    assert read_manifest(store, "r").n_lines == 1


def test_a_page_that_cannot_be_read_is_said_and_done_with(tmp_path: Path) -> None:
    home, store = Home(tmp_path / "home"), open_store(str(tmp_path / "records"))
    home.page(1).write_bytes(b"\0" * 4096)
    job = RecoveryJob(Manifest(store, "r"), home, 2)
    error, line = job.run(1)
    assert error["type"] == "error"
    assert "which rows of epoch 1 were lost is not known" in error["text"]
    assert (line["type"], line["assigned"], line["lost"]) == ("epoch", 0, 0)
    assert job.run(2) == []


def test_rows_of_another_state_directory_keep_their_names(tmp_path: Path) -> None:
    """A machine was replaced, its state directory lost: the new one must not write over the old one's files."""
    home = Home(tmp_path / "home")
    state = ManifestState("r", home_id="other")
    state.epoch(5)
    check_names(state, home, None)
    check_names(state, home, 6)
    with pytest.raises(ConfigurationError, match="has rows up to epoch 5 from another state directory.*give another --replica-id"):
        check_names(state, home, 5)
    simple_journal(home, 1, range(5), epoch=2)
    with pytest.raises(ConfigurationError, match="those of epoch 2 in .* would get the same names"):
        check_names(state, home, 6)
    state.home_id = home.identity()
    check_names(state, home, 5)


def test_a_server_beside_us_keeps_its_name(tmp_path: Path) -> None:
    ours, theirs = Home(tmp_path / "ours"), Home(tmp_path / "theirs")
    state = ManifestState("r", host=os.uname().nodename, home=str(theirs.path), home_id=theirs.identity())
    check_names(state, ours, 1)
    with theirs.locked():
        with pytest.raises(ConfigurationError, match="a server that runs here, with its records in .*theirs, is replica r already"):
            check_names(state, ours, 1)
        check_names(replace(state, host="another"), ours, 1)
    # The folder was replaced under the same path: whoever keeps it now is ourselves.
    with ours.locked():
        check_names(replace(state, home=str(ours.path)), ours, 1)
