"""Which files are merged, and that merging changes no row."""

import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import InternalError
from serve.recording.compaction import GRACE_NS, MAX_BYTES, MIN_BYTES, RETRY_NS, SETTLE_NS, CompactionJob, plan_merges
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.layout import HOUR_NS, part_path
from serve.recording.manifest import Part, encode
from serve.recording.manifest_file import Manifest, read_manifest
from serve.recording.sealing import Sealer
from serve.recording.stores import open_store
from tests.unit.recording.journals import HOUR, START_NS, header, read_parts, records, seqs_in, simple_journal, write_journal

OVER = START_NS + HOUR_NS + SETTLE_NS       # when the hour may be merged


def part(number: int, n_bytes: int, hour: int = HOUR, schema: str = "a", table: str = "records") -> Part:
    at = hour * HOUR_NS + number
    path = part_path("records", "m", "1", at, "r", 1, number) if table == "records" else part_path("labels", "m", "", at, "r", 1, number)
    return Part(path, 1, n_bytes, "", at, at + 1, number, number, schema)


def merged_numbers(parts: list[Part], now_ns: int = OVER) -> list[list[int]]:
    return [[one.min_seq for one in merge.parts] for merge in plan_merges(parts, now_ns)]


def test_an_hour_is_merged_once_it_is_over_and_settled() -> None:
    parts = [part(1, 1000), part(2, 1000)]
    assert merged_numbers(parts, OVER - 1) == []
    assert merged_numbers(parts, OVER) == [[1, 2]]


def test_only_files_of_one_hour_table_and_schema_are_merged() -> None:
    parts = [
        part(1, 10), part(2, 10, schema="b"), part(3, 10, hour=HOUR - 1), part(4, 10, hour=HOUR - 1), part(5, 10, table="labels"),
        part(6, 10),
    ]
    assert merged_numbers(parts) == [[3, 4], [1, 6]]


def test_large_files_are_left_alone_and_none_gets_too_large() -> None:
    parts = [part(i, 100 << 20) for i in range(7)] + [part(8, MIN_BYTES)]
    assert merged_numbers(parts) == [[0, 1, 2], [3, 4, 5]]
    assert merged_numbers([part(1, 1)]) == []


@given(st.lists(st.integers(1, 2 * MIN_BYTES), max_size=40))
def test_merging_comes_to_an_end(sizes: list[int]) -> None:
    """Each merge leaves fewer files, none over the limit, and after the last there is nothing to do."""
    parts = [part(i, size) for i, size in enumerate(sizes)]
    for _ in range(len(parts) + 1):
        merges = plan_merges(parts, OVER)
        if not merges:
            break
        for merge in merges:
            n_bytes = sum(one.bytes for one in merge.parts)
            assert len(merge.parts) > 1
            assert n_bytes <= MAX_BYTES
            parts = [one for one in parts if one not in merge.parts]
            parts.append(part(merge.parts[0].min_seq, n_bytes))
    assert not plan_merges(parts, OVER)


@pytest.fixture(params=["folder", "objects"])
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Keeping:
    store = open_store(str(tmp_path / "records") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")
    return Keeping(store, Manifest(store, "r"), Home(tmp_path / "home"), "r", None)


def seal(keeping: Keeping) -> None:
    sealer = Sealer(keeping.store, keeping.manifest, keeping.home, None)
    for name in sealer.due(0):
        sealer.seal(name, 0)


def sealed_hour(keeping: Keeping, n_journals: int = 4) -> pa.Table:
    for i in range(n_journals):
        simple_journal(keeping.home, i + 1, range(i * 15, i * 15 + 15))
    seal(keeping)
    return pa.concat_tables(read_parts(keeping.store, keeping.manifest.state.parts.values()))


def test_rows_and_columns_are_the_same_afterwards(keeping: Keeping) -> None:
    before = sealed_hour(keeping)
    old = set(keeping.manifest.state.parts)
    job = CompactionJob(keeping)
    [message] = job.run(OVER)
    [part] = read_manifest(keeping.store, "r").parts.values()
    assert message["replaces"] == sorted(old)
    assert part.name.compacted
    [after] = read_parts(keeping.store, [part])
    assert after.schema.remove_metadata() == before.schema.remove_metadata()
    assert after.sort_by("seq").equals(before.sort_by("seq"))
    assert (part.rows, part.min_seq, part.max_seq) == (60, 0, 59)
    assert part.bytes == keeping.store.size(part.path)
    assert {file.path for file in keeping.store.list("records")} == old | {part.path}
    assert job.run(OVER + GRACE_NS - 1) == []
    [message] = job.run(OVER + GRACE_NS)
    assert (message["type"], set(message["paths"])) == ("deleted", old)
    assert [file.path for file in keeping.store.list("records")] == [part.path]


def test_row_groups_are_made_full(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.recording.compaction.ROW_GROUP_ROWS", 30)
    sealed_hour(keeping, 5)
    CompactionJob(keeping).run(OVER)
    [part] = keeping.manifest.state.parts.values()
    with keeping.store.open(part.path) as file:
        metadata = pq.ParquetFile(file).metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [30, 30, 15]


def test_one_merge_a_run_and_soon_the_next(keeping: Keeping) -> None:
    for i in range(4):
        simple_journal(keeping.home, i + 1, range(i * 5, i * 5 + 5), at_ns=START_NS - (i % 2) * HOUR_NS)
    seal(keeping)
    job = CompactionJob(keeping)
    assert [message["part"]["min_seq"] for message in job.run(OVER)] == [5]
    assert job.interval_s == 0
    assert [message["part"]["min_seq"] for message in job.run(OVER)] == [0]
    assert job.interval_s > 0
    assert job.run(OVER) == []


def test_a_late_journal_is_merged_in(keeping: Keeping) -> None:
    sealed_hour(keeping)
    job = CompactionJob(keeping)
    job.run(OVER)
    simple_journal(keeping.home, 9, range(60, 70))
    seal(keeping)
    job.run(OVER + 1)
    [part] = keeping.manifest.state.parts.values()
    assert (part.name.compacted, seqs_in(keeping.store, [part])) == (True, list(range(70)))


@pytest.mark.parametrize("step", ["started", "adopted", "compacted"])
def test_a_crash_leaves_every_row_once_and_no_file_that_nobody_knows(keeping: Keeping, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed_hour(keeping)
    adopt, append = keeping.store.adopt, keeping.store.append

    def adopts(source: Path, path: str) -> None:
        if step == "started":
            raise KeyboardInterrupt
        adopt(source, path)
        if step == "adopted":
            raise KeyboardInterrupt

    def appends(path: str, content: bytes, after: int) -> None:
        append(path, content, after)
        if b'"compacted"' in content:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeping.store, "adopt", adopts)
        patched.setattr(keeping.store, "append", appends)
        with pytest.raises(KeyboardInterrupt):
            CompactionJob(keeping).run(OVER)
    # A late journal comes between: what was begun would now get another name.
    simple_journal(keeping.home, 9, range(60, 70))
    again = Keeping(keeping.store, Manifest(keeping.store, "r"), keeping.home, "r", None)
    again.home.sweep()
    seal(again)
    assert seqs_in(again.store, again.manifest.state.parts.values()) == list(range(70))
    job = CompactionJob(again)
    job.run(OVER)
    job.run(OVER + GRACE_NS)
    state = read_manifest(again.store, "r")
    assert seqs_in(again.store, state.parts.values()) == list(range(70))
    assert ([file.path for file in again.store.list("records")], state.doomed) == (list(state.parts), {})


def test_a_merge_that_lost_rows_is_not_taken(keeping: Keeping) -> None:
    sealed_hour(keeping, 2)
    path = next(iter(keeping.manifest.state.parts))
    keeping.store.append("_manifest/r.jsonl", encode([{"type": "part", "part": {
        "path": path, "rows": 16, "bytes": 1, "sha256": "", "min_ts_ns": START_NS, "max_ts_ns": START_NS, "min_seq": 0, "max_seq": 1,
        "schema": keeping.manifest.state.parts[path].schema}}]))
    wrong = Keeping(keeping.store, Manifest(keeping.store, "r"), keeping.home, "r", None)
    with pytest.raises(InternalError, match="have 30 rows, not 31 as the manifest says"):
        CompactionJob(wrong).run(OVER)
    assert len(read_manifest(keeping.store, "r").parts) == 2
    assert not list(keeping.home.staging.iterdir())


def test_streams_that_differ_stay_apart(keeping: Keeping) -> None:
    """The same version, recorded with other tensors after a restart."""
    fewer = header(3, tensors=header(3).tensors[:2])
    simple_journal(keeping.home, 1, range(5))
    simple_journal(keeping.home, 2, range(5, 10))
    write_journal(keeping.home, fewer, [records(range(10, 12), [START_NS] * 2, fewer.tensors)])
    seal(keeping)
    CompactionJob(keeping).run(OVER)
    assert sorted(part.rows for part in keeping.manifest.state.parts.values()) == [2, 10]


def test_a_file_that_is_gone_stands_in_the_way_of_its_own_hour_only(keeping: Keeping) -> None:
    for i in range(4):
        simple_journal(keeping.home, i + 1, range(i * 10, i * 10 + 10), at_ns=START_NS + i // 2 * HOUR_NS)
    seal(keeping)
    parts = sorted(keeping.manifest.state.parts.values(), key=lambda part: part.min_seq)
    content = keeping.store.read(parts[0].path)
    keeping.store.delete(parts[0].path)
    job, now_ns = CompactionJob(keeping), OVER + HOUR_NS
    with pytest.raises(FileNotFoundError):
        job.run(now_ns)
    assert [message["part"]["rows"] for message in job.run(now_ns + 1)] == [20]
    keeping.store.write(parts[0].path, content)
    assert [message["type"] for message in job.run(now_ns + 2)] == []
    assert [message["type"] for message in job.run(now_ns + RETRY_NS)] == ["deleted", "compacted"]
    assert seqs_in(keeping.store, keeping.manifest.state.parts.values()) == list(range(40))


def test_a_merge_that_failed_leaves_nothing_on_the_disk(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written would count against the budget until the keeper starts anew."""
    sealed_hour(keeping, 2)
    last = max(keeping.manifest.state.parts)
    content = keeping.store.read(last)
    keeping.store.write(last, b"damaged")
    with pytest.raises(ValueError, match="Parquet"):
        CompactionJob(keeping).run(OVER)
    assert not list(keeping.home.staging.iterdir())
    keeping.store.write(last, content)

    def fails(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(type(keeping.store), "adopt", fails)
        with pytest.raises(OSError, match="no room"):
            CompactionJob(keeping).run(OVER)
    assert not list(keeping.home.staging.iterdir())
