"""Stores: the same promises from a folder and from objects, and what an operator is told about a URL."""

import errno
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from serve.errors import ConfigurationError, Unavailable
from serve.recording.store_port import RecordsStore, StoredFile
from serve.recording.stores import LocalStore, ObjectStore, open_store


@pytest.fixture(params=["folder", "memory", "objects in a folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordsStore]:
    if request.param == "folder":
        yield open_store(str(tmp_path / "a" / "b"))
    elif request.param == "memory":
        opened = open_store(f"memory://{uuid.uuid4().hex}/prefix")
        assert isinstance(opened, ObjectStore)
        yield opened
    else:
        yield ObjectStore(LocalFileSystem(auto_mkdir=True), str(tmp_path), f"file://{tmp_path}")


def test_what_is_written_is_read_listed_and_deleted(store: RecordsStore) -> None:
    store.write("d/e/f", b"one")
    store.write("d/e/f", b"two!")
    store.write("d/g", b"")
    store.write("h/i", b"0")
    assert store.read("d/e/f") == b"two!"
    assert store.size("d/e/f") == 4
    assert store.list("d") == [StoredFile("d/e/f", 4), StoredFile("d/g", 0)]
    store.delete("d/e/f")
    store.delete("d/e/f")
    assert store.list("d") == [StoredFile("d/g", 0)]
    assert store.list("nothing") == []


def test_appending_makes_the_file_and_adds_to_it(store: RecordsStore) -> None:
    store.append("m/a", b"1\n")
    store.append("m/a", b"2\n")
    assert store.read("m/a") == b"1\n2\n"
    store.append("m/a", b"3\n", after=4)
    for path, after in (("m/a", 4), ("m/b", 1)):
        with pytest.raises(Unavailable, match=rf"not the {after} that were written"):
            store.append(path, b"4\n", after=after)
    assert store.list("m") == [StoredFile("m/a", 6)]


def test_a_file_is_adopted_and_replaces_what_was_there(store: RecordsStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for content in (b"x" * 100, b"y"):
        source.write_bytes(content)
        store.adopt(source, "p/q")
        assert store.read("p/q") == content
        assert not source.exists()


def test_what_is_not_there_is_said(store: RecordsStore) -> None:
    for look in (store.read, store.size, lambda path: store.open(path).read()):
        with pytest.raises(FileNotFoundError):
            look("n/o")


def test_parquet_is_read_where_it_lies(store: RecordsStore, tmp_path: Path) -> None:
    table = pa.table({"a": range(1000)})
    pq.write_table(table, tmp_path / "file")
    store.adopt(tmp_path / "file", "t/file.parquet")
    with store.open("t/file.parquet") as file:
        assert pq.read_table(file) == table
    filesystem, root = store.arrow()
    assert ds.dataset(f"{root}/t", filesystem=filesystem).to_table() == table


def test_hidden_files_are_nobodys(store: RecordsStore) -> None:
    store.write("d/.unfinished-1", b"")
    store.write("d/.hidden/f", b"")
    store.write("d/f", b"")
    assert [file.path for file in store.list("d")] == ["d/f"]


def test_locations_are_what_duckdb_opens(tmp_path: Path) -> None:
    import duckdb

    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "file")
    memory = open_store(f"memory://{uuid.uuid4().hex}")
    assert isinstance(memory, ObjectStore)
    memory.write("x.parquet", (tmp_path / "file").read_bytes())
    with duckdb.connect() as connection:
        connection.register_filesystem(memory.filesystem)
        assert connection.execute("SELECT sum(a) FROM read_parquet(?)", [memory.location("x.parquet")]).fetchall() == [(6,)]
        local = open_store(str(tmp_path))
        assert connection.execute("SELECT sum(a) FROM read_parquet(?)", [local.location("file")]).fetchall() == [(6,)]


def test_a_failed_append_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.append("m", b"first\n")
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 3:
            return write(descriptor, bytes(data)[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        store.append("m", b"second\n")
    assert store.read("m") == b"first\n"


def test_a_file_of_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path / "store")
    source = tmp_path / "source"
    source.write_bytes(b"content")
    replace = Path.replace

    def across(self: Path, target: Path) -> Path:
        if self == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", across)
    store.adopt(source, "d/f")
    assert store.read("d/f") == b"content"
    assert not source.exists()
    assert [path.name for path in (tmp_path / "store" / "d").iterdir()] == ["f"]


def test_what_a_dead_process_was_writing_is_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("d/f", b"")
    unfinished = tmp_path / "d" / ".unfinished-abc-f"
    unfinished.write_bytes(b"half")
    store.sweep(unfinished.stat().st_mtime_ns)
    assert unfinished.exists()
    store.sweep(unfinished.stat().st_mtime_ns + 1)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]


@pytest.mark.parametrize(("url", "advice"), [
    ("", "give a folder"), ("s3://", "give a folder"), ("nosuch://a/b", "give a folder, s3://"),
])
def test_a_url_that_means_nothing_is_refused(url: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        open_store(url)


@pytest.mark.parametrize(("url", "package"), [("s3://b/p", "s3fs"), ("gs://b", "gcsfs"), ("az://c/p", "adlfs")])
def test_a_missing_driver_is_named(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)      # import fails
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)     # another test may have had it
    with pytest.raises(ConfigurationError, match=rf"there is no driver for {url.partition(':')[0]}:// here; pip install {package}"):
        open_store(url)


def test_a_folder_that_cannot_be_made_is_a_matter_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="give another --records"):
        open_store(str(tmp_path / "file" / "below"))


def test_a_drivers_own_errors_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"memory://{uuid.uuid4().hex}")
    assert isinstance(store, ObjectStore)

    def fail(path: str) -> bytes:
        raise RuntimeError("SlowDown")

    monkeypatch.setattr(store.filesystem, "cat_file", fail)
    with pytest.raises(Unavailable, match="RuntimeError: SlowDown"):
        store.read("a")


def test_an_object_that_arrived_short_keeps_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(LocalFileSystem(auto_mkdir=True), str(tmp_path / "store"), "file://x")
    source = tmp_path / "source"
    source.write_bytes(b"content")
    monkeypatch.setattr(store, "size", lambda path: 3)
    with pytest.raises(Unavailable, match="holds 3 bytes after 7 were put"):
        store.adopt(source, "f")
    assert source.exists()
