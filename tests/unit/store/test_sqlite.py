"""The SQLite store's file: how it is opened, what happens when it is damaged, full or failing, and its backups."""

import asyncio
import os
import resource
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from serve.errors import ConfigurationError, InsufficientStorage, Unavailable
from serve.store import sqlite as sqlite_module
from serve.store.port import ABSENT, Change
from serve.store.recovery import RESTORE_GAP, StoreDamaged
from serve.store.schema import SCHEMA_VERSION, Damaged, DiskFailed, connect
from serve.store.sqlite import SqliteStore
from tests.unit.store.contract import Clock, put, told

HOUR_S = 3601


def database(folder: Path) -> Path:
    return folder / "headrace.db"


def overwrite(path: Path, at: int = 0, with_bytes: bytes = b"\xff" * 512) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(with_bytes)


async def filled(folder: Path, n: int = 3, clock: Clock | None = None) -> SqliteStore:
    store = await SqliteStore.open(folder, **({"monotonic_ns": clock} if clock else {}))
    for value in range(n):
        await store.commit([put("a", {"n": value})], [told(after={"n": value})])
    return store


async def test_it_says_where_it_came_from(tmp_path):
    store = await filled(tmp_path / "deep" / "state")
    assert (store.opened.how, store.opened.note) == ("fresh", "")
    await store.close()
    store = await SqliteStore.open(tmp_path / "deep" / "state")
    assert (store.opened.how, await store.revision()) == ("existing", 3)
    await store.close()


async def test_only_the_owner_reads_it(tmp_path):
    """Audit rows name people."""
    clock = Clock()
    store = await filled(tmp_path, clock=clock)
    backup = await store.back_up()
    for path in [*tmp_path.glob("headrace.db*"), backup]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    await store.close()


def test_a_commit_is_on_the_disk_before_it_is_acknowledged(tmp_path):
    with closing(connect(tmp_path / "x.db")) as connection:
        read = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in
                ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")}
    assert read == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    await (await filled(tmp_path)).close()
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = database(tmp_path).read_bytes()
    for opening in (SqliteStore.open(tmp_path), SqliteStore.open_read_only(database(tmp_path))):
        with pytest.raises(ConfigurationError, match=f"schema is version {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}"):
            await opening
    assert database(tmp_path).read_bytes() == before


async def test_somebody_elses_database_is_refused(tmp_path):
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigurationError, match="something else"):
        await SqliteStore.open(tmp_path)


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--state-dir"):
        await SqliteStore.open(tmp_path / "file")


async def test_a_file_that_was_never_finished(tmp_path):
    """An empty file is a store that nobody has written to yet."""
    database(tmp_path).write_bytes(b"")
    store = await SqliteStore.open(tmp_path)
    assert (store.opened.how, (await store.commit([put("a", {})])).revision) == ("fresh", 1)
    await store.close()


async def test_what_is_no_database_is_damage_and_stays_where_it_is(tmp_path):
    content = b"x" * 200
    database(tmp_path).write_bytes(content)
    with pytest.raises(StoreDamaged):
        await SqliteStore.open(tmp_path)
    assert database(tmp_path).read_bytes() == content


@pytest.mark.parametrize("damage", ["header", "page", "cut", "emptied", "gone"])
async def test_a_damaged_store_is_replaced_by_the_newest_backup(tmp_path, damage):
    clock = Clock()
    store = await filled(tmp_path, 3, clock)
    backup = await store.back_up()
    await store.commit([put("a", {"n": "lost"})], [told()])
    await store.close()
    path = database(tmp_path)
    if damage == "header":
        overwrite(path)
    elif damage == "page":
        overwrite(path, 4096, b"\xa5" * 4096 * 3)
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:6000])
    else:
        path.unlink()
    store = await SqliteStore.open(tmp_path, source="headrace/again")
    assert (store.opened.how, store.opened.backup) == ("backup", backup)
    assert "changes made after it are lost" in store.opened.note
    assert (await store.get("traffic", "a")).value == {"n": 2}
    # No revision that the lost file may have given out is given out again.
    assert await store.revision() == 3 + RESTORE_GAP + 1
    assert (await store.commit([put("b", {}, ABSENT)])).revision == 3 + RESTORE_GAP + 2
    row = (await store.audit(3))[0]
    assert (row["type"], row["source"], row["data"]["evidence"]["backup"]) == ("dev.headrace.store.restored", "headrace/again", backup.name)
    assert (await store.verify_audit()).is_intact
    aside = list(tmp_path.glob("headrace.db.damaged-*"))
    assert aside == ([] if damage == "gone" else [store.opened.aside])
    assert row["data"]["evidence"]["moved_to"] == (store.opened.aside.name if aside else None)
    await store.close()
    again = await SqliteStore.open(tmp_path)
    assert again.opened.how == "existing"
    await again.close()


async def test_tokens_of_the_lost_file_are_not_given_out_again(tmp_path):
    clock = Clock()
    store = await filled(tmp_path, 1, clock)
    old = await store.lease("driver", "one", 10)
    await store.back_up()
    await store.close()
    database(tmp_path).unlink()
    store = await SqliteStore.open(tmp_path, monotonic_ns=clock)
    # The holder may have been replaced in what was lost.
    new = await store.lease("driver", "two", 10)
    assert new.token > old.token + 1000
    await store.close()


@pytest.mark.parametrize("at", [0, 4096])
async def test_a_damaged_backup_is_passed_over(tmp_path, at):
    clock = Clock()
    store = await filled(tmp_path, 1, clock)
    good = await store.back_up()
    await store.commit([put("a", {"n": 1})])
    clock.advance(HOUR_S)
    bad = await store.back_up()
    await store.close()
    overwrite(bad, at, b"\xa5" * 4096)
    overwrite(database(tmp_path))
    store = await SqliteStore.open(tmp_path)
    assert store.opened.backup == good
    assert (await store.get("traffic", "a")).value == {"n": 0}
    await store.close()


async def test_without_a_whole_backup_nothing_is_touched(tmp_path):
    clock = Clock()
    store = await filled(tmp_path, 1, clock)
    backup = await store.back_up()
    await store.close()
    overwrite(backup)
    overwrite(database(tmp_path))
    before = database(tmp_path).read_bytes()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="Nothing can be changed"):
            await SqliteStore.open(tmp_path)
    assert database(tmp_path).read_bytes() == before


async def test_a_restore_that_was_cut_short_is_done_again(tmp_path):
    """Killed after the damaged file was moved away: its log is still there, and so is half a copy."""
    clock = Clock()
    store = await filled(tmp_path, 2, clock)
    await store.back_up()
    await store.close()
    database(tmp_path).rename(tmp_path / "headrace.db.damaged-1")
    (tmp_path / "headrace.db-wal").write_bytes(b"left behind")
    (tmp_path / "headrace.db.restoring").write_bytes(b"half")
    (tmp_path / "headrace.db.restoring-wal").write_bytes(b"half")
    (tmp_path / "backups" / ".headrace-1.db.77").write_bytes(b"half")
    store = await SqliteStore.open(tmp_path)
    assert (store.opened.how, (await store.get("traffic", "a")).value) == ("backup", {"n": 1})
    assert not list((tmp_path / "backups").glob(".*"))
    await store.close()


async def test_three_backups_are_kept_at_most_one_an_hour(tmp_path):
    clock = Clock()
    store = await filled(tmp_path, 0, clock)
    made = []
    for n in range(5):
        await store.commit([put("a", {"n": n})])
        made.append(await store.back_up())
        assert await store.back_up() is None
        clock.advance(HOUR_S)
    assert sorted((tmp_path / "backups").iterdir()) == made[2:]
    await store.close()


async def test_a_backup_that_failed_does_not_count(tmp_path):
    clock = Clock()
    store = await filled(tmp_path, 1, clock)
    (tmp_path / "backups").rmdir()
    with pytest.raises(Unavailable):
        await store.back_up()
    (tmp_path / "backups").mkdir()
    assert await store.back_up() is not None
    await store.close()


async def test_read_only_beside_a_server(tmp_path):
    store = await filled(tmp_path)
    viewer = await SqliteStore.open_read_only(database(tmp_path))
    await store.commit([put("a", {"n": 9})], [told()])
    assert (await viewer.get("traffic", "a")).value == {"n": 9}
    assert (await viewer.verify_audit()).n_rows == 4
    for change in (viewer.commit([put("a", {})]), viewer.lease("a", "b", 1)):
        with pytest.raises(Unavailable, match="read only"):
            await change
    await viewer.close()
    await store.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_read_only_in_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await (await filled(folder)).close()
        assert sorted(os.listdir(folder)) == ["backups", "headrace.db"]
        os.chmod(database(folder), 0o444)
        os.chmod(folder, 0o555)
        with as_nobody():
            viewer = await SqliteStore.open_read_only(database(folder))
            assert (await viewer.revision(), (await viewer.verify_audit()).n_rows) == (3, 3)
            await viewer.close()
        os.chmod(folder, 0o755)


async def test_read_only_of_what_is_not_there(tmp_path):
    with pytest.raises(Unavailable, match="no store"):
        await SqliteStore.open_read_only(tmp_path / "other.db")


async def test_read_only_of_what_is_no_store(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(Damaged):
        await SqliteStore.open_read_only(tmp_path / "x.db")
    (tmp_path / "y.db").write_bytes(b"")
    with pytest.raises(Unavailable, match="empty"):
        await SqliteStore.open_read_only(tmp_path / "y.db")


async def test_a_full_disk_refuses_the_change_and_passes(tmp_path):
    store = await filled(tmp_path)
    connection = store._database._connection
    await store._run(lambda: connection.execute("PRAGMA max_page_count = 20").fetchall())
    with pytest.raises(InsufficientStorage, match="nothing was changed"):
        await store.commit([put("a", {"n": "new"}), put("b", {"x": "x" * 300_000})], [told()])
    assert (await store.get("traffic", "a")).value == {"n": 2}
    assert (await store.verify_audit()).n_rows == await store.revision() == 3
    await store._run(lambda: connection.execute("PRAGMA max_page_count = 100000").fetchall())
    await store.commit([put("b", {"x": "x" * 300_000})])
    await store.close()


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Writing beyond fails with EFBIG, which SQLite takes for a failing disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_after_an_error_of_the_disk_nothing_is_written_until_a_restart(tmp_path):
    """An fsync that failed may have dropped pages that a later one would report as written."""
    store = await filled(tmp_path)
    size = (tmp_path / "headrace.db-wal").stat().st_size
    with files_no_longer_than(size + 1000), pytest.raises(DiskFailed):
        await store.commit([put("a", {"n": "new"})], [told()])
    for change in (store.commit([put("a", {"n": "new"})]), store.lease("driver", "one", 1)):
        with pytest.raises(Unavailable, match="until|restart"):
            await change
    assert (await store.get("traffic", "a")).value == {"n": 2}
    await store.close()
    store = await SqliteStore.open(tmp_path)
    assert (await store.verify_audit()).n_rows == await store.revision() == 3
    await store.commit([put("a", {"n": "new"})])
    await store.close()


async def test_a_commit_between_the_look_and_the_wait_wakes(tmp_path, monkeypatch):
    """Right after the newest revision was read, before anybody waits: as late as a commit can come."""
    monkeypatch.setattr(sqlite_module, "POLL_S", 60)
    store = await SqliteStore.open(tmp_path)
    look = store.revision

    async def look_then_commit() -> int:
        seen = await look()
        monkeypatch.setattr(store, "revision", look)
        await store.commit([put("a", {})])
        return seen

    monkeypatch.setattr(store, "revision", look_then_commit)
    assert await asyncio.wait_for(store.wait(0, 120), 5) == 1
    await store.close()


async def test_listeners_hear_every_commit_in_order(tmp_path):
    """Also those whose caller has gone: they happened."""
    store = await SqliteStore.open(tmp_path)
    heard: list[int] = []
    store.on_commit(lambda commit: heard.append(commit.revision))
    tasks = [asyncio.create_task(store.commit([put("a", {"n": n})])) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    newest = await store.revision()
    await asyncio.sleep(0)
    assert heard == list(range(1, newest + 1))
    await store.close()


async def test_the_loop_is_free_while_the_disk_is_slow(tmp_path):
    store = await SqliteStore.open(tmp_path)
    turns = 0
    release = asyncio.Event()

    async def count() -> None:
        nonlocal turns
        while not release.is_set():
            turns += 1
            await asyncio.sleep(0)

    gate = threading.Event()
    slow = asyncio.create_task(store._run(gate.wait))
    commit = asyncio.create_task(store.commit([put("a", {})]))
    counter = asyncio.create_task(count())
    while turns < 1000:
        await asyncio.sleep(0)
    assert not commit.done()
    gate.set()
    assert (await commit).revision == 1
    release.set()
    await asyncio.gather(slow, counter)
    await store.close()


async def test_too_many_callers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "MAX_WAITING", 3)
    store = await SqliteStore.open(tmp_path)
    commits = [asyncio.create_task(store.commit([put("a", {"n": n})])) for n in range(5)]
    done = await asyncio.gather(*commits, return_exceptions=True)
    assert [isinstance(result, Unavailable) for result in done] == [False] * 3 + [True] * 2
    assert await store.revision() == 3
    await store.close()


async def test_a_store_of_another_process_that_holds_the_lock_is_waited_for(tmp_path, monkeypatch):
    store = await filled(tmp_path, 0)
    await store._run(lambda: store._database._connection.execute("PRAGMA busy_timeout = 20").fetchall())
    with closing(sqlite3.connect(database(tmp_path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            await store.commit([put("a", {})])
        assert await store.revision() == 0
        other.execute("ROLLBACK")
    await store.commit([Change("a", "b", {}, ABSENT)])
    await store.close()
