"""Sealed files as Delta tables: the same rows, each once, whatever happens between the files and the log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError

from serve.errors import ConfigurationError, InvalidArgument
from serve.recording.arrow_schema import journal_schema
from serve.recording.compaction import GRACE_NS, CompactionJob
from serve.recording.delta import DeltaJob, Registered, delta_schema, difference, table_root
from serve.recording.holds import Hold, place_hold
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.layout import DAY_NS, HOUR_NS, compacted_path, part_path
from serve.recording.manifest import Part
from serve.recording.manifest_file import Manifest
from serve.recording.retention import RetentionJob
from serve.recording.sealing import Sealer
from serve.recording.stores import open_store
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor
from tests.unit.recording.journals import START_NS, header, labels, read_parts, records, simple_journal, write_journal

ROOT = "records/model=m/version=1"
OVER = START_NS + 2 * HOUR_NS


def keeping_of(tmp_path: Path, replica: str = "r") -> Keeping:
    store = open_store(str(tmp_path / "records"))
    return Keeping(store, Manifest(store, replica), Home(tmp_path / f"home-{replica}"), replica, None)


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return keeping_of(tmp_path)


def seal(keeping: Keeping) -> None:
    sealer = Sealer(keeping.store, keeping.manifest, keeping.home, None)
    for name in sealer.due(0):
        sealer.seal(name, 0)


def table_of(keeping: Keeping, root: str = ROOT) -> DeltaTable:
    return DeltaTable(keeping.store.location(root))


def seqs(keeping: Keeping) -> list[int]:
    return sorted(table_of(keeping).to_pyarrow_table(columns=["seq"])["seq"].to_pylist())


def write_other(keeping: Keeping, head: StreamHeader, values: Mapping[str, list[Any]]) -> None:
    """A journal of one row of tensors that are not TENSORS."""
    common, schema = records([100], [START_NS], ()), journal_schema(head.tensors)
    columns = [pa.array(values[one.name], one.type) if one.name in values else common[one.name] for one in schema]
    write_journal(keeping.home, head, [pa.RecordBatch.from_arrays(columns, schema=schema)])


def actions(keeping: Keeping, version: int) -> list[dict[str, Any]]:
    log = Path(keeping.store.location(ROOT)) / "_delta_log" / f"{version:020}.json"
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_readers_of_the_table_see_the_sealed_rows(keeping: Keeping) -> None:
    for i in range(3):
        simple_journal(keeping.home, i + 1, range(i * 15, i * 15 + 15), at_ns=START_NS - i * HOUR_NS)
    seal(keeping)
    before = {file.path: file.n_bytes for file in keeping.store.list("records")}
    [message] = DeltaJob(keeping).run(OVER)
    assert (message["table"], message["version"], message["added"], message["removed"]) == (ROOT, 1, 3, 0)
    assert before.items() <= {file.path: file.n_bytes for file in keeping.store.list("records")}.items()
    expected = pa.concat_tables(read_parts(keeping.store, keeping.manifest.state.parts.values())).sort_by("seq")
    read = table_of(keeping).to_pyarrow_table().sort_by("seq")
    assert read.drop_columns(["dt", "hr"]).to_pylist() == expected.to_pylist()
    assert set(zip(read["dt"].cast(pa.string()).to_pylist(), read["hr"].to_pylist(), strict=True)) == {
        ("2027-01-15", "06"), ("2027-01-15", "07"), ("2027-01-15", "08")}
    rows = table_of(keeping).to_pyarrow_dataset()
    assert duckdb.sql("SELECT count(*), sum(seq), sum(in_x[1]) FROM rows WHERE hr = '07'").fetchall() == [(15, 330, 330.0)]
    query = QueryBuilder().register("t", table_of(keeping)).execute(f"SELECT sum(seq) AS s FROM t WHERE ts_ns >= {START_NS}")
    assert pa.table(query.read_all())["s"].to_pylist() == [105]
    assert table_of(keeping).count() == 45
    assert rows.schema.names[:2] == ["ts_ns", "request_id"]


def test_nothing_is_added_twice(keeping: Keeping) -> None:
    simple_journal(keeping.home, 1, range(15))
    seal(keeping)
    job = DeltaJob(keeping)
    assert len(job.run(OVER)) == 1
    assert job.run(OVER) == []
    assert DeltaJob(keeping).run(OVER) == []        # after a restart
    simple_journal(keeping.home, 2, range(15, 20))
    seal(keeping)
    assert [message["version"] for message in job.run(OVER)] == [2]
    assert (seqs(keeping), table_of(keeping).transaction_version("r")) == (list(range(20)), 2)


def test_a_crash_after_the_commit_adds_nothing_twice(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    simple_journal(keeping.home, 1, range(15))
    seal(keeping)
    commit = DeltaTable.create_write_transaction

    def dies(self: DeltaTable, *args: Any, **options: Any) -> None:
        commit(self, *args, **options)
        raise ConnectionResetError

    job = DeltaJob(keeping)
    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "create_write_transaction", dies)
        with pytest.raises(ConnectionResetError):
            job.run(OVER)
    assert job.run(OVER) == []
    assert seqs(keeping) == list(range(15))


def test_of_two_that_are_the_same_replica_one_commit_fails(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library accepts the same version of an application twice when the table is read afresh; not so when both read it before."""
    simple_journal(keeping.home, 1, range(15))
    seal(keeping)
    DeltaJob(keeping).run(OVER)
    simple_journal(keeping.home, 2, range(15, 30))
    seal(keeping)
    stale = table_of(keeping)
    DeltaJob(keeping).run(OVER)
    other = DeltaJob(keeping)
    with monkeypatch.context() as patched:
        patched.setattr(DeltaJob, "_open", lambda self, root: stale)
        with pytest.raises(CommitFailedError):
            other.run(OVER)
    assert other.run(OVER) == []
    assert seqs(keeping) == list(range(30))


def test_a_merge_is_one_commit_without_a_change_of_data(keeping: Keeping) -> None:
    for i in range(3):
        simple_journal(keeping.home, i + 1, range(i * 15, i * 15 + 15))
    seal(keeping)
    job = DeltaJob(keeping)
    job.run(OVER)
    CompactionJob(keeping).run(OVER)
    [message] = job.run(OVER)
    assert (message["added"], message["removed"]) == (1, 3)
    changes = [action.get("add") or action.get("remove") for action in actions(keeping, 2) if {"add", "remove"} & action.keys()]
    assert [change["dataChange"] for change in changes] == [False] * 4
    CompactionJob(keeping).run(OVER + GRACE_NS)
    assert seqs(keeping) == list(range(45))
    assert DeltaJob(keeping).run(OVER) == []


def test_purged_rows_leave_the_table(keeping: Keeping) -> None:
    simple_journal(keeping.home, 1, range(15), at_ns=START_NS - 5 * DAY_NS)
    simple_journal(keeping.home, 2, range(15, 30))
    seal(keeping)
    DeltaJob(keeping).run(OVER)
    RetentionJob(keeping, 2, 1 << 40).run(START_NS)
    [message] = DeltaJob(keeping).run(OVER)
    assert (message["added"], message["removed"], seqs(keeping)) == (0, 1, list(range(15, 30)))
    assert [action["remove"]["dataChange"] for action in actions(keeping, 2) if "remove" in action] == [True]
    RetentionJob(keeping, 0, 1 << 40).run(OVER)
    assert [message["removed"] for message in DeltaJob(keeping).run(OVER)] == [1]
    assert seqs(keeping) == []


def test_replicas_share_a_table_and_leave_each_others_files(tmp_path: Path) -> None:
    first, second = keeping_of(tmp_path, "a"), keeping_of(tmp_path, "a-1")
    for keeping, seq in ((first, range(10)), (second, range(10, 20))):
        write_journal(keeping.home, header(1, replica=keeping.replica), [records(seq, [START_NS] * 10)])
        seal(keeping)
        DeltaJob(keeping).run(OVER)
    assert seqs(first) == list(range(20))
    RetentionJob(first, 0, 1 << 40).run(OVER)
    DeltaJob(first).run(OVER)
    assert seqs(first) == list(range(10, 20))
    assert DeltaJob(second).run(OVER) == []


def test_columns_that_come_later_are_null_before(keeping: Keeping) -> None:
    """The same version, recorded with one more tensor after a restart."""
    few = header(1, tensors=header(1).tensors[:1])
    write_journal(keeping.home, few, [records(range(3), [START_NS] * 3, few.tensors)])
    seal(keeping)
    job = DeltaJob(keeping)
    job.run(OVER)
    simple_journal(keeping.home, 2, range(3, 6))
    seal(keeping)
    job.run(OVER)
    read = table_of(keeping).to_pyarrow_table().sort_by("seq")
    assert read["out_y"].to_pylist() == [None] * 3 + [6, 8, 10]
    assert read["in_x"].to_pylist()[5] == [5.0, 5.25, 5.5, 5.75]


def test_a_column_whose_type_changed_stays_out_and_is_told(keeping: Keeping) -> None:
    """The same version, with another graph behind it: the table would have a long column over files of doubles."""
    simple_journal(keeping.home, 1, range(3))
    seal(keeping)
    job = DeltaJob(keeping)
    job.run(OVER)
    tensors = (RecordedTensor("out", "y", "FP64", (1,), 0), RecordedTensor("out", "new", "INT64", (1,), 1))
    write_other(keeping, header(2, tensors=tensors), {"out_y": [0.5], "out_new": [1]})
    simple_journal(keeping.home, 3, range(3, 6))
    seal(keeping)
    files = list(keeping.manifest.state.parts)
    told = (r"^records/model=m/version=1: column 'out_y' is long in the Delta table and double now\. 1 sealed files are not registered, "
            r"records/.*part-r-1-2\.parquet for instance; .* new version")
    for _ in range(2):      # it is told for as long as it is so
        with pytest.raises(InvalidArgument, match=told):
            job.run(OVER)
        assert (seqs(keeping), "out_new" in table_of(keeping).to_pyarrow_table().column_names) == (list(range(6)), False)
    assert list(keeping.manifest.state.parts) == files
    RetentionJob(keeping, 0, 1 << 40).run(OVER)
    assert [message["removed"] for message in job.run(OVER)] == [2]


@pytest.mark.parametrize(("datatype", "shape", "word"), [("INT64", (-1,), "array<long>"), ("FP64", (-1, -1), "struct")])
def test_a_first_commit_of_two_types_takes_the_earlier(keeping: Keeping, datatype: str, shape: tuple[int, ...], word: str) -> None:
    tensors = (RecordedTensor("out", "y", datatype, shape, 0),)
    simple_journal(keeping.home, 1, range(3))
    write_other(keeping, header(2, tensors=tensors), {"out_y": [None]})
    seal(keeping)
    with pytest.raises(InvalidArgument, match=f"column 'out_y' is long in the Delta table and .*{word}"):
        DeltaJob(keeping).run(OVER)
    assert seqs(keeping) == [0, 1, 2]


def test_labels_are_tables_too(keeping: Keeping) -> None:
    write_journal(keeping.home, header(1, table="labels"), [labels(range(4), [START_NS] * 4, ["a", "b", "a", "b"])])
    seal(keeping)
    assert [message["table"] for message in DeltaJob(keeping).run(OVER)] == ["labels/model=a", "labels/model=b"]
    assert table_of(keeping, "labels/model=b").to_pyarrow_table()["value"].to_pylist() == [1.0, 3.0]


def test_every_datatype_can_be_read_back(keeping: Keeping) -> None:
    shapes = {"scalar": (1,), "fixed": (2,), "list": (-1,)}
    kinds = {
        "BOOL": [True, False], "UINT8": [255, 0], "UINT16": [65535, 1], "UINT32": [4294967295, 2], "UINT64": [18446744073709551615, 3],
        "INT8": [-128, 4], "INT64": [-1 << 63, 5], "FP16": [0.5, 6.0], "BF16": [1.5, 7.0], "FP32": [0.25, 8.0], "FP64": [1e300, 9.0],
        "BYTES": [b"\xff", b""],
    }
    tensors = (
        *(RecordedTensor("in", f"{kind}_{shape}", kind, of, 0) for kind in kinds for shape, of in shapes.items()),
        RecordedTensor("out", "image", "FP32", (-1, -1), 0),
    )
    head = header(1, tensors=tensors)
    common = records([0], [START_NS], ())
    columns = dict(zip(common.schema.names, common.columns, strict=True))
    schema = journal_schema(tensors)
    for tensor in tensors:
        values: Any = {"data": [1.0, 2.0], "shape": [1, 2]} if tensor.kind == "out" else kinds[tensor.datatype]
        columns[tensor.column] = pa.array([values[0] if tensor.shape == (1,) else values], schema.field(tensor.column).type)
    write_journal(keeping.home, head, [pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)])
    seal(keeping)
    DeltaJob(keeping).run(OVER)
    [sealed] = read_parts(keeping.store, keeping.manifest.state.parts.values())
    read = table_of(keeping).to_pyarrow_table()
    for tensor in tensors:
        assert read[tensor.column].to_pylist() == sealed[tensor.column].to_pylist(), tensor


def test_unsigned_numbers_are_what_spark_reads_them_as() -> None:
    schema = delta_schema(pa.schema([("a", pa.uint8()), ("b", pa.list_(pa.uint32())), ("c", pa.struct([("d", pa.uint64())]))]))
    assert schema.types[:3] == [pa.int16(), pa.list_(pa.int64()), pa.struct([("d", pa.decimal128(20, 0))])]


def test_an_hour_with_as_many_rows_as_before_is_the_same_data() -> None:
    def part(number: int, rows: int, hour: int) -> Part:
        return Part(part_path("records", "m", "1", hour * HOUR_NS, "r", 1, number), rows, 1, "", 0, 0, 0, 0)

    def old(number: int, rows: int, hour: int) -> Registered:
        one = part(number, rows, hour)
        return Registered(one.path.removeprefix(f"{table_root(one.path)}/"), 1, rows, one.name.dt, one.name.hr)

    merged = Part(compacted_path("r", [part(1, 3, 0).path]), 7, 1, "", 0, 0, 0, 0)
    change = difference([merged, part(3, 5, 1), part(4, 9, 2)], [old(1, 3, 0), old(2, 4, 0), old(4, 9, 2), old(5, 1, 3)])
    assert [(one.rows, is_new) for one, is_new in change.add] == [(7, False), (5, True)]
    assert [(one.rows, is_new) for one, is_new in change.remove] == [(3, False), (4, False), (1, True)]
    assert difference([part(4, 9, 2)], [old(4, 9, 2)]) == difference([], [])


def test_a_store_that_the_library_cannot_write_to_is_refused(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}")
    with pytest.raises(ConfigurationError, match="--records-delta cannot write to memory://"):
        DeltaJob(Keeping(store, Manifest(store, "r"), Home(tmp_path), "r", None))


def test_holds_keep_rows_in_the_table_too(keeping: Keeping) -> None:
    simple_journal(keeping.home, 1, range(15))
    seal(keeping)
    DeltaJob(keeping).run(OVER)
    place_hold(keeping.store, Hold(name="h"))
    RetentionJob(keeping, 0, 1).run(OVER)
    assert (DeltaJob(keeping).run(OVER), seqs(keeping)) == ([], list(range(15)))


def test_a_table_that_cannot_be_written_stands_in_no_others_way(keeping: Keeping) -> None:
    for number, model in enumerate("abc", 1):
        write_journal(keeping.home, header(number, model=model), [records(range(number), [START_NS] * number)])
    seal(keeping)
    log = Path(keeping.store.location("records/model=a/version=1")) / "_delta_log"
    log.write_text("no folder")
    job = DeltaJob(keeping)
    with pytest.raises(OSError, match="_delta_log"):
        job.run(OVER)
    assert [table_of(keeping, f"records/model={model}/version=1").count() for model in "bc"] == [2, 3]
    log.unlink()
    assert [message["table"] for message in job.run(OVER)] == ["records/model=a/version=1"]
