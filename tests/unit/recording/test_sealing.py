"""A journal becomes files, once, wherever the process dies."""

import errno
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.errors import Conflict
from serve.recording import home as home_module
from serve.recording.arrow_schema import to_table
from serve.recording.home import Home
from serve.recording.journal import read_journal
from serve.recording.layout import HOUR_NS, JournalName, manifest_path
from serve.recording.manifest import encode, lines_of
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.parquet_parts import fingerprint
from serve.recording.sealing import Sealer
from serve.recording.store_port import RecordsStore
from serve.recording.stores import open_store
from serve.recording.stream_header import METADATA_KEY, StreamHeader
from tests.unit.recording.journals import (
    START_NS,
    header,
    labels,
    read_parts,
    records,
    seqs_in,
    simple_journal,
    write_journal,
)


@pytest.fixture(params=["folder", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RecordsStore:
    return open_store(str(tmp_path / "records") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/prefix")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def sealer(store: RecordsStore, home: Home, epoch: int | None = None) -> Sealer:
    return Sealer(store, Manifest(store, "r"), home, epoch)


def seal_all(one: Sealer, now_ns: int = 0) -> list[dict[str, Any]]:
    return [message for name in one.due(now_ns) for message in one.seal(name, now_ns)]


def test_rows_arrive_as_they_were_journalled(store: RecordsStore, home: Home) -> None:
    path = simple_journal(home, 1, range(25))
    contents = read_journal(path)
    assert contents.header is not None
    expected = to_table(list(contents.read()), contents.header)
    [message] = seal_all(sealer(store, home))
    [part] = read_manifest(store, "r").parts.values()
    [table] = read_parts(store, [part])
    assert table.equals(expected)
    assert StreamHeader.from_json(table.schema.metadata[METADATA_KEY]) == header(1)
    assert part.path == "records/model=m/version=1/dt=2027-01-15/hr=08/part-r-1-1.parquet"
    assert (part.rows, part.min_seq, part.max_seq, part.min_ts_ns, part.max_ts_ns) == (25, 0, 24, START_NS, START_NS + 24_000_000)
    assert (hashlib.sha256(store.read(part.path)).hexdigest(), store.size(part.path)) == (part.sha256, part.bytes)
    assert (message["type"], message["rows"], message["parts"][0]["path"]) == ("sealed", 25, part.path)
    assert not list(home.journals.iterdir())
    assert not list(home.staging.iterdir())


def test_only_what_queries_prune_by_has_statistics(store: RecordsStore, home: Home) -> None:
    simple_journal(home, 1, range(25))
    seal_all(sealer(store, home))
    [part] = read_manifest(store, "r").parts.values()
    with store.open(part.path) as file:
        group = pq.ParquetFile(file).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if column.is_stats_set} == {"ts_ns", "seq", "request_id"}
    assert {column.compression for column in columns} == {"ZSTD"}
    assert {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings} == {
        "row", "model", "version", "variant", "replica", "protocol", "status", "sampling", "epoch", "generation", "digest"}


def test_a_journal_gives_a_part_for_each_hour(store: RecordsStore, home: Home) -> None:
    at = [START_NS - 2, START_NS - 1, START_NS, START_NS + HOUR_NS, START_NS - 1]
    write_journal(home, header(7), [records(range(3), at[:3]), records(range(3, 5), at[3:])])
    seal_all(sealer(store, home))
    parts = read_manifest(store, "r").parts
    assert [path.split("/", 3)[3] for path in parts] == [
        "dt=2027-01-15/hr=07/part-r-1-7.parquet", "dt=2027-01-15/hr=08/part-r-1-7.parquet", "dt=2027-01-15/hr=09/part-r-1-7.parquet"]
    assert [seqs_in(store, [part]) for part in parts.values()] == [[0, 1, 4], [2], [3]]


def test_labels_are_sealed_by_model(store: RecordsStore, home: Home) -> None:
    write_journal(home, header(1, table="labels"), [labels(range(4), [START_NS] * 4, ["a", "b", "a", "b"])])
    [message] = seal_all(sealer(store, home))
    state = read_manifest(store, "r")
    assert list(state.parts) == [f"labels/model={model}/dt=2027-01-15/hr=08/part-r-1-1.parquet" for model in "ab"]
    assert [seqs_in(store, [part]) for part in state.parts.values()] == [[0, 2], [1, 3]]
    assert (message["table"], message["rows"], state.rows["labels"].sealed) == ("labels", 4, 4)
    assert read_parts(store, state.parts.values())[0].column("replica").to_pylist() == ["r", "r"]


def test_a_journal_of_a_worker_that_died_is_sealed_without_its_torn_end(store: RecordsStore, home: Home) -> None:
    path = simple_journal(home, 1, range(25), closed=False)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 9)
    simple_journal(home, 2, range(25, 30), closed=False, epoch=2)
    one = sealer(store, home, epoch=2)
    [message] = seal_all(one)
    assert (message["rows"], message["torn_rows"], message["bad_rows"]) == (20, 5, 0)
    assert [name.file for name in home.all_journals()] == ["2-2.open"]


def test_a_replica_that_was_renamed_names_the_files_of_what_it_left(store: RecordsStore, home: Home) -> None:
    """Its rows say who recorded them; the file belongs to whose manifest names it."""
    simple_journal(home, 1, range(5))
    one = Sealer(store, Manifest(store, "new"), home, None)
    seal_all(one)
    [part] = one.manifest.state.parts.values()
    assert (part.name.replica, read_parts(store, [part])[0]["replica"].unique().to_pylist()) == ("new", ["r"])


def test_a_journal_that_is_still_written_is_left_alone(store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker may be of an earlier epoch, and draining: it holds the lock of its page."""
    simple_journal(home, 1, range(5), closed=False)
    home.page(1).write_bytes(b"")
    with home.page(1).open("rb") as page:
        home_module.fcntl.flock(page, home_module.fcntl.LOCK_EX)
        assert (sealer(store, home).due(0), home.ended_epochs(2)) == ([], [])
    assert (len(sealer(store, home).due(0)), home.ended_epochs(2), home.ended_epochs(1)) == (1, [1], [])


def test_a_damaged_journal_gives_what_checks_and_is_kept(store: RecordsStore, home: Home) -> None:
    path = simple_journal(home, 1, range(30))
    content = bytearray(path.read_bytes())
    content[content.find(b"id-15")] ^= 1
    path.write_bytes(content)
    [message] = seal_all(sealer(store, home))
    assert (message["rows"], message["bad_rows"], message["torn_rows"]) == (20, 10, 0)
    assert seqs_in(store, read_manifest(store, "r").parts.values()) == [*range(10), *range(20, 30)]
    assert [name.file for name in home.all_journals()] == ["1-1.bad"]
    assert seal_all(sealer(store, home)) == []


@pytest.mark.parametrize("content", [b"", b"HJNL", b"\xff" * 4096])
def test_a_journal_without_a_header_has_no_rows_and_is_not_looked_at_again(content: bytes, store: RecordsStore, home: Home) -> None:
    home.file(JournalName(1, 1, "open")).write_bytes(content)
    [message] = seal_all(sealer(store, home))
    assert (message["rows"], message["parts"], message["model"]) == (0, [], "")
    assert read_manifest(store, "r").is_sealed(1, 1)
    assert sealer(store, home).due(0) == []


STEPS: list[tuple[str, str]] = [
    ("home", "close"), ("store", "adopt"), ("manifest", "append"), ("home", "finish"),
]


@pytest.mark.parametrize("happened", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS)
def test_a_crash_at_any_step_neither_loses_nor_doubles_a_row(
    owner: str, step: str, happened: bool, store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = simple_journal(home, 1, range(25), closed=False, at_ns=START_NS + HOUR_NS - 12_000_000)
    content = bytearray(path.read_bytes())
    content[content.find(b"id-3")] ^= 1     # so that the journal is kept as bad
    path.write_bytes(content)
    first = sealer(store, home)
    crash(monkeypatch, {"home": home, "store": store, "manifest": first.manifest}[owner], step, happened)
    with pytest.raises(Crash):
        seal_all(first)
    monkeypatch.undo()
    seal_all(sealer(store, home))
    seal_all(sealer(store, home))
    state = read_manifest(store, "r")
    assert seqs_in(store, state.parts.values()) == [*range(10, 25)]
    assert (state.rows["records"].sealed, state.rows["records"].bad) == (15, 10)
    assert [name.file for name in home.all_journals()] == ["1-1.bad"]
    assert sorted(file.path for file in store.list("records")) == sorted(state.parts)


class Crash(BaseException):
    """Not an Exception: nothing tidies up after it, as nothing does after a kill."""


def crash(monkeypatch: pytest.MonkeyPatch, owner: object, step: str, happened: bool) -> None:
    real: Callable[..., Any] = getattr(owner, step)

    def dies(*args: Any, **options: Any) -> None:
        if happened:
            real(*args, **options)
        raise Crash

    monkeypatch.setattr(type(owner), step, lambda self, *args, **options: dies(*args, **options))


def test_a_journal_that_cannot_be_sealed_waits_longer_each_time_and_lets_others_pass(
    store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch,
) -> None:
    simple_journal(home, 1, range(5))
    simple_journal(home, 2, range(5, 9))
    one = sealer(store, home)
    adopt = store.adopt

    def full(source: Path, path: str) -> None:
        if "-1-1." in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        adopt(source, path)

    monkeypatch.setattr(store, "adopt", full)
    first, second = one.due(0)
    waits, now = [], 0
    for _ in range(4):
        with pytest.raises(OSError, match="No space"):
            one.seal(first, now)
        before, now = now, now + 1
        while first not in one.due(now):
            now += 500_000_000
        waits.append(round((now - before) / 1e9))
    assert waits == [1, 2, 4, 8]
    assert one.seal(second, now)[0]["rows"] == 4
    assert not list(home.staging.iterdir())
    monkeypatch.undo()
    assert one.seal(first, now)[0]["rows"] == 5


def test_many_row_groups_are_one_file(store: RecordsStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.recording.parquet_parts.ROW_GROUP_ROWS", 20)
    simple_journal(home, 1, range(95))
    seal_all(sealer(store, home))
    [part] = read_manifest(store, "r").parts.values()
    with store.open(part.path) as file:
        metadata = pq.ParquetFile(file).metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [20, 20, 20, 20, 15]
    assert seqs_in(store, [part]) == list(range(95))


def test_files_of_one_stream_may_be_merged_and_others_may_not() -> None:
    def of(head: StreamHeader) -> str:
        schema: pa.Schema = to_table([], head).schema
        return fingerprint(schema)

    assert of(header(1)) == of(header(2, epoch=5, retention_days=3))
    assert len({of(header(1)), of(header(1, model="n")), of(header(1, tensors=())), of(header(1, table="labels"))}) == 4


def test_one_process_keeps_a_home(home: Home) -> None:
    with home.locked() as first, Home(home.path).locked() as second:
        assert (first, second) == (True, False)
    with home.locked() as first:
        assert first


def test_a_home_is_known_by_more_than_its_path(tmp_path: Path) -> None:
    first = Home(tmp_path / "a").identity()
    assert first == Home(tmp_path / "a").identity() != Home(tmp_path / "b").identity()


def test_what_was_in_the_making_is_swept(home: Home) -> None:
    (home.staging / "1-1-0.parquet").write_bytes(b"half")
    simple_journal(home, 1, range(5))
    size = home.file(JournalName(1, 1, "journal")).stat().st_size
    assert (home.n_bytes().unsealed, home.n_bytes().staging, home.n_bytes().total) == (size, 4, size + 4)
    home.sweep()
    assert home.n_bytes().total == size


def test_of_two_homes_of_one_name_the_later_one_writes_and_no_row_of_the_other_is_lost(store: RecordsStore, tmp_path: Path) -> None:
    """Two servers that began at once, each with its own state directory, both with epoch 1."""
    homes = [Home(tmp_path / "one"), Home(tmp_path / "two")]
    sealers = []
    for home in homes:
        manifest = Manifest(store, "r")
        manifest.begin("host", str(home.path), 1, home.identity())
        sealers.append(Sealer(store, manifest, home, 1))
    simple_journal(homes[0], 1, range(10))
    path = simple_journal(homes[1], 1, range(10, 20))
    name = JournalName(1, 1, "journal")
    for _ in range(2):
        with pytest.raises(Conflict, match="another server, on host with its records in .*two, writes as replica r too"):
            sealers[0].seal(name, 2)
    sealers[1].seal(name, 2)
    for _ in range(2):
        with pytest.raises(Conflict, match="Give each server its own --replica-id"):
            sealers[0].seal(name, 3)
    assert homes[0].all_journals() == [name]
    assert not path.exists()
    state = read_manifest(store, "r")
    assert seqs_in(store, state.parts.values()) == list(range(10, 20))
    assert len(store.list("records")) == 1


def test_a_name_that_was_given_out_twice_keeps_its_rows(store: RecordsStore, home: Home) -> None:
    """The state directory was put back from a copy, and with it the number of the start."""
    manifest = Manifest(store, "r")
    sealer = Sealer(store, manifest, home, 1)
    simple_journal(home, 1, range(10))
    name = JournalName(1, 1, "journal")
    sealer.seal(name, START_NS - 1)     # sealed, it seems, before the second one was begun
    path = simple_journal(home, 1, range(10, 20))
    store.write(manifest_path("r"), encode(lines_of(manifest.state)))
    with pytest.raises(Conflict, match="1-1.journal was begun after the journal of that name was sealed.*give another --replica-id"):
        Sealer(store, Manifest(store, "r"), home, 1).seal(name, START_NS)
    assert path.exists()
