"""A reading while everything moves sees each row once."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from serve.errors import Unavailable
from serve.recording import snapshot as snapshot_module
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.journal import read_journal
from serve.recording.journal_writer import JournalWriter
from serve.recording.layout import JournalName, manifest_path
from serve.recording.manifest_file import Manifest
from serve.recording.sealing import Sealer
from serve.recording.snapshot import Snapshot, snapshot
from serve.recording.store_port import RecordsStore
from serve.recording.stores import open_store
from tests.unit.recording.journals import START_NS, header, journal_schema, records, seqs_in, simple_journal


def rows(store: RecordsStore, found: Snapshot) -> list[int]:
    seqs = seqs_in(store, found.parts)
    for journal in found.journals:
        seqs += [seq for batch in read_journal(journal.file).read() for seq in batch["seq"].to_pylist()]
    return sorted(seqs)


@pytest.fixture
def store(tmp_path: Path) -> RecordsStore:
    return open_store(str(tmp_path / "records"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def keeper(store: RecordsStore, home: Home, replica: str = "r", host: str = "here") -> Sealer:
    manifest = Manifest(store, replica)
    manifest.begin(host, str(home.path), 0)
    return Sealer(store, manifest, home, None)


def test_sealed_and_journalled_rows_are_seen_alike(store: RecordsStore, home: Home) -> None:
    one = keeper(store, home)
    simple_journal(home, 1, range(10))
    one.seal(JournalName(1, 1, "journal"), 0)
    simple_journal(home, 2, range(10, 20))
    simple_journal(home, 3, range(20, 30), closed=False)
    with snapshot(store, "here") as found:
        assert rows(store, found) == list(range(30))
        assert [(one.epoch, one.number) for one in found.journals] == [(1, 2), (1, 3)]
        assert found.warnings == ()
    assert all(journal.file.closed for journal in found.journals)


def test_a_journal_that_is_sealed_but_not_yet_removed_counts_once(store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    one = keeper(store, home)
    simple_journal(home, 1, range(10))
    monkeypatch.setattr(Home, "finish", lambda *_, **__: None)
    one.seal(JournalName(1, 1, "journal"), 0)
    assert [name.file for name in home.all_journals()] == ["1-1.journal"]
    with snapshot(store, "here") as found:
        assert rows(store, found) == list(range(10))


def test_an_opened_journal_outlives_its_sealing(store: RecordsStore, home: Home) -> None:
    one = keeper(store, home)
    simple_journal(home, 1, range(10))
    with snapshot(store, "here") as found:
        one.seal(JournalName(1, 1, "journal"), 0)
        assert rows(store, found) == list(range(10))


def test_two_names_of_one_home_share_its_journals(store: RecordsStore, home: Home) -> None:
    """The state directory was given another --replica-id."""
    first = keeper(store, home, "old")
    simple_journal(home, 1, range(10))
    first.seal(JournalName(1, 1, "journal"), 0)
    keeper(store, home, "new")
    simple_journal(home, 1, range(10, 20), epoch=2)
    with snapshot(store, "here") as found:
        assert rows(store, found) == list(range(20))


def test_what_cannot_be_read_is_said(store: RecordsStore, home: Home, tmp_path: Path) -> None:
    simple_journal(home, 1, range(10))
    keeper(store, home, "a")
    keeper(store, Home(tmp_path / "b"), "b", host="there")
    Manifest(store, "c").begin("here", str(tmp_path / "gone"), 0)
    store.append(manifest_path("a"), b"?\n")
    with snapshot(store, "here") as found:
        assert rows(store, found) == list(range(10))
        assert [(state.replica, state.n_damaged) for state in found.manifests] == [("a", 1), ("b", 0), ("c", 0)]
        damaged, elsewhere, unreadable = found.warnings
    assert "1 lines of the manifest of a cannot be read" in damaged
    assert f"rows that replica b has not sealed yet are on there in {tmp_path / 'b'}" in elsewhere
    assert f"the journals of replica c in {tmp_path / 'gone'} cannot be read" in unreadable


def test_without_a_manifest_there_are_no_rows(store: RecordsStore) -> None:
    with snapshot(store) as found:
        assert (found.parts, found.journals, found.warnings) == ((), (), ())


def test_a_renaming_in_mid_listing_hides_nothing(store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's listing may show neither name of a file that is renamed meanwhile."""
    keeper(store, home)
    simple_journal(home, 1, range(10))
    real = snapshot_module.os.listdir
    listings = iter([[], real(home.journals)])
    monkeypatch.setattr(snapshot_module.os, "listdir", lambda path: next(listings, None) or real(path))
    with snapshot(store, "here") as found:
        assert rows(store, found) == list(range(10))


def test_a_journal_that_keeps_vanishing_is_given_up(store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper(store, home)
    opened = []
    simple_journal(home, 1, range(10))
    real = Path.open

    def vanishes(self: Path, *args: str, **options: str) -> object:
        if self.suffix == ".journal":
            opened.append(self)
            raise FileNotFoundError(self)
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", vanishes)
    with pytest.raises(Unavailable, match="during each of 20 tries"):
        snapshot(store, "here")
    assert len(opened) == 20


def test_each_row_is_seen_once_while_it_is_recorded_and_sealed(store: RecordsStore, home: Home) -> None:
    """One thread journals, one seals, this one looks: whatever had been appended before a look is seen, once."""
    keeper(store, home)
    appended = 0
    room = threading.Semaphore(3)       # journals that may wait to be sealed

    def journal() -> None:
        nonlocal appended
        for number in range(1, 41):
            room.acquire()
            writer = JournalWriter(SystemFiles(), home.journals, header(number), journal_schema(header(number).tensors))
            for _ in range(3):
                writer.append(records(range(appended, appended + 5), [START_NS + appended] * 5))
                appended += 5
            writer.end()
            writer.publish()

    def seal() -> None:
        one = keeper(store, home)
        one.epoch = 1
        n_sealed = 0
        while n_sealed < 40:
            for name in one.due(0):
                n_sealed += len(one.seal(name, 0))
                room.release()

    threads = [threading.Thread(target=work, daemon=True) for work in (journal, seal)]
    for thread in threads:
        thread.start()
    sources: Counter[str] = Counter()
    while any(thread.is_alive() for thread in threads):
        before = appended
        with snapshot(store, "here") as found:
            seen = rows(store, found)
            sources.update(parts=len(found.parts), journals=len(found.journals))
        assert seen == list(range(len(seen)))
        assert len(seen) >= before
    assert min(sources["parts"], sources["journals"]) > 0
    with snapshot(store, "here") as found:
        assert (rows(store, found), found.journals) == (list(range(600)), ())
