"""Records in S3, as moto imitates it on loopback; skipped where moto and s3fs are not installed (`pip install s3fs 'moto[server]'`).

No real cloud: its consistency, its errors and its credentials are not tested here.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from serve.errors import ConfigurationError
from serve.recording.compaction import GRACE_NS, CompactionJob
from serve.recording.delta import DeltaJob
from serve.recording.holds import Hold, place_hold, read_holds
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.journal import read_journal
from serve.recording.layout import HOUR_NS
from serve.recording.manifest_file import Manifest
from serve.recording.retention import RetentionJob
from serve.recording.sealing import Sealer
from serve.recording.snapshot import snapshot
from serve.recording.stores import ObjectStore, StoredFile, open_store
from tests.unit.recording.journals import START_NS, seqs_in, simple_journal

OVER = START_NS + 2 * HOUR_NS


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"b-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/records of/us"


@pytest.fixture
def keeping(url: str, tmp_path: Path) -> Keeping:
    store = open_store(url)
    manifest = Manifest(store, "r")
    home = Home(tmp_path / "home")
    manifest.begin("here", str(home.path), 0, home.identity())
    return Keeping(store, manifest, home, "r", None)


def seal(keeping: Keeping) -> None:
    sealer = Sealer(keeping.store, keeping.manifest, keeping.home, None)
    for name in sealer.due(0):
        sealer.seal(name, 0)


def test_the_store_keeps_its_promises(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.write("d/e/f", b"one")
    store.write("d/e/f", b"two!")
    store.append("d/g", b"1\n")
    store.append("d/g", b"2\n")
    (tmp_path / "source").write_bytes(bytes(6 << 20))
    store.adopt(tmp_path / "source", "d/h")
    assert (store.read("d/e/f"), store.read("d/g"), store.size("d/h")) == (b"two!", b"1\n2\n", 6 << 20)
    assert store.list("d") == [StoredFile("d/e/f", 4), StoredFile("d/g", 4), StoredFile("d/h", 6 << 20)]
    assert not (tmp_path / "source").exists()
    store.delete("d/h")
    store.delete("d/h")
    assert (store.list("d/e"), store.list("none")) == ([StoredFile("d/e/f", 4)], [])
    for look in (store.read, store.size, lambda path: store.open(path).read()):
        with pytest.raises(FileNotFoundError):
            look("d/h")


def test_rows_are_sealed_merged_read_and_purged(keeping: Keeping) -> None:
    for i in range(3):
        simple_journal(keeping.home, i + 1, range(i * 10, i * 10 + 10))
    seal(keeping)
    simple_journal(keeping.home, 4, range(30, 35))
    CompactionJob(keeping).run(OVER)
    with snapshot(keeping.store, "here") as found:
        [part], [journal] = found.parts, found.journals
        assert (part.name.compacted, seqs_in(keeping.store, [part])) == (True, list(range(30)))
        assert read_journal(journal.file).rows == 5
    filesystem, root = keeping.store.arrow()
    assert ds.dataset(f"{root}/{part.path}", filesystem=filesystem).count_rows() == 30
    assert isinstance(keeping.store, ObjectStore)
    with duckdb.connect() as connection:
        connection.register_filesystem(keeping.store.filesystem)
        count = connection.execute("SELECT count(*), sum(seq) FROM read_parquet(?)", [keeping.store.location(part.path)]).fetchall()
        assert count == [(30, 435)]
    place_hold(keeping.store, Hold(name="h"))
    assert read_holds(keeping.store) == ([Hold(name="h")], [])
    CompactionJob(keeping).run(OVER + GRACE_NS)
    assert [file.path for file in keeping.store.list("records")] == [part.path]


def test_a_delta_table_in_the_bucket_has_the_same_rows(keeping: Keeping, url: str) -> None:
    from deltalake import DeltaTable

    for i in range(2):
        simple_journal(keeping.home, i + 1, range(i * 10, i * 10 + 10))
    seal(keeping)
    job = DeltaJob(keeping)
    job.run(OVER)
    CompactionJob(keeping).run(OVER)
    [message] = job.run(OVER)
    assert (message["added"], message["removed"]) == (1, 2)
    table = DeltaTable(f"{url}/records/model=m/version=1").to_pyarrow_table(columns=["seq"])
    assert sorted(table["seq"].to_pylist()) == list(range(20))
    RetentionJob(keeping, 0, 1 << 40).run(OVER)
    job.run(OVER)
    assert DeltaTable(f"{url}/records/model=m/version=1").count() == 0


def test_a_bucket_that_is_not_there_is_said(url: str, tmp_path: Path) -> None:
    store: Any = open_store("s3://no-such-bucket-here/p")
    with pytest.raises(OSError, match=r"NoSuchBucket|does not exist|no-such-bucket-here"):
        store.write("a", b"")
    with pytest.raises(ConfigurationError):
        open_store("s3://")
