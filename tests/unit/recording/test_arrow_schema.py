"""Journalled rows as the table that is sealed and queried: through Parquet and DuckDB and back, every value as it was recorded."""

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve._core.tensors import KINDS
from serve.errors import InvalidArgument
from serve.recording.arrow_schema import COMMON_COLUMNS, ELEMENTS, LABELS_JOURNAL, LABELS_TABLE, journal_schema, table_schema, to_table
from serve.recording.stream_header import METADATA_KEY, StreamHeader
from serve.recording.tag_column import tags_to_map
from serve.records import RecordedTensor, RecordingSpec, RecordStreamSpec

SHAPES = [(), (1, 1), (4,), (2, 2), (-1,), (-1, 2), (-1, -1), (0,)]
TENSORS = tuple(
    RecordedTensor("out", f"{datatype}_{number}", datatype, shape, number)
    for datatype in ELEMENTS for number, shape in enumerate(SHAPES)
)
HEADER = StreamHeader(
    table="records", replica="r-0", epoch=4, journal=2, model="größe", version="3", digest="sha256:ab", sampling=0.25, tensors=TENSORS,
    provenance={"git": "0123"}, created_ns=5,
)
ROW = {
    "ts_ns": 1_700_000_000_000_000_000, "seq": 1, "batch_id": 9, "row": 0, "request_id": "a", "variant": "canary", "trace_id": None,
    "protocol": 1, "status": 200, "error": 0, "generation": 2, "unit": 2**64 - 1, "queue_us": 1, "compute_us": 2, "total_us": 3,
    "tags": b"country\0de\0plan\0\0",
}


def values(datatype: str, n: int) -> list[Any]:
    if datatype == "BYTES":
        return [b"\xff\0" * i for i in range(n)]
    if datatype == "BOOL":
        return [i % 3 == 0 for i in range(n)]
    if datatype.startswith(("FP", "BF")):
        return [np.float16(i + 0.5) if datatype == "FP16" else i + 0.5 for i in range(n)]
    return [np.iinfo(datatype.lower()).max - i for i in range(n)]


def cell(tensor: RecordedTensor) -> Any:
    """A value as the journal holds it."""
    dims = [3 if size < 0 else size for size in tensor.shape]
    flat = values(tensor.datatype, math.prod(dims))
    if sum(size < 0 for size in tensor.shape) > 1:
        return {"data": flat, "shape": dims}
    return flat[0] if -1 not in tensor.shape and len(flat) == 1 else flat


def journal_rows() -> list[dict[str, Any]]:
    """One as it should be, one that failed, one of a shadow without tags."""
    good = {**ROW, **{tensor.column: cell(tensor) for tensor in TENSORS}}
    failed = {**ROW, "row": -1, "seq": 2, "status": 503, "error": KINDS["UNAVAILABLE"], "batch_id": 0, "unit": None}
    shadow = {**good, "seq": 3, "variant": "shadow", "trace_id": "ab" * 16, "protocol": 0, "tags": None}
    return [good, {**dict.fromkeys(tensor.column for tensor in TENSORS), **failed}, shadow]


def batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=journal_schema(TENSORS))


def expected(row: dict[str, Any]) -> dict[str, Any]:
    names = {number: name for name, number in KINDS.items()}
    tags = {b"country\0de\0plan\0\0": [("country", "de"), ("plan", "")], None: None}
    return {
        **{name: row[name] for name in row if name in COMMON_COLUMNS}, "model": "größe", "version": "3", "replica": "r-0", "epoch": 4,
        "digest": "sha256:ab", "sampling": 0.25, "protocol": ("http", "grpc")[row["protocol"]], "tags": tags[row["tags"]],
        "error_codes": [names[row["error"]]] if row["error"] else [], **{tensor.column: row[tensor.column] for tensor in TENSORS},
    }


def test_table_has_every_value() -> None:
    rows = journal_rows()
    table = to_table([batch(rows[:2]), batch(rows[2:])], HEADER)
    table.validate(full=True)
    assert table.schema.equals(table_schema(TENSORS))
    assert table.to_pylist() == [expected(row) for row in rows]
    assert StreamHeader.from_json(table.schema.metadata[METADATA_KEY]) == HEADER


def test_fixed_shapes_of_numbers_keep_their_shape() -> None:
    tensor = RecordedTensor("in", "x", "FP16", (2, 3), 0)
    header = StreamHeader(table="records", replica="r", epoch=1, journal=1, tensors=(tensor,))
    rows = [{**ROW, "in_x": [np.float16(i) for i in range(6)]}] * 4
    table = to_table([pa.RecordBatch.from_pylist(rows, schema=journal_schema((tensor,)))], header)
    found = table["in_x"].combine_chunks().to_numpy_ndarray()
    assert found.shape == (4, 2, 3)
    assert found.dtype == np.float32
    assert found[3].ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_round_trip_through_parquet(tmp_path: Path) -> None:
    table = to_table([batch(journal_rows())], HEADER)
    pq.write_table(table, tmp_path / "part.parquet", compression="zstd")
    back = pq.read_table(tmp_path / "part.parquet")
    assert back.schema.equals(table.schema)
    assert back.schema.metadata == table.schema.metadata
    assert back.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("source", ["parquet", "arrow"])
def test_duckdb_sees_the_same_in_parquet_and_in_arrow(source: str, tmp_path: Path) -> None:
    """A query reads sealed rows from the one and journalled rows from the other."""
    rows = journal_rows()
    table = to_table([batch(rows)], HEADER)
    pq.write_table(table, tmp_path / "part.parquet", compression="zstd")
    with duckdb.connect() as connection:
        if source == "arrow":
            connection.register("found", table)
        else:
            connection.execute(f"CREATE VIEW found AS SELECT * FROM '{tmp_path / 'part.parquet'}'")
        names = [one[0] for one in connection.execute("DESCRIBE found").fetchall()]
        found = [dict(zip(names, row, strict=True)) for row in connection.execute("SELECT * FROM found ORDER BY seq").fetchall()]
        assert names == list(table_schema(TENSORS).names)
        assert [plain(row) for row in found] == [as_duckdb(expected(row)) for row in rows]
        assert connection.execute("SELECT tags['country'] FROM found WHERE seq = 1").fetchone() == ("de",)
        assert connection.execute("SELECT count(*) FROM found WHERE 'UNAVAILABLE' IN error_codes").fetchone() == (1,)


def as_duckdb(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "tags": None if row["tags"] is None else dict(row["tags"])}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """DuckDB gives arrays of a fixed size as tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


def test_journal_without_rows_is_an_empty_table() -> None:
    table = to_table([], HEADER)
    assert table.num_rows == 0
    assert table.schema.equals(table_schema(TENSORS))


def test_error_kind_of_a_later_release_has_a_name() -> None:
    assert to_table([batch([{**journal_rows()[1], "error": 99}])], HEADER)["error_codes"].to_pylist() == [["KIND_99"]]


def test_labels() -> None:
    header = StreamHeader(table="labels", replica="r-0", epoch=2, journal=5)
    label = {
        "ts_ns": 1, "seq": 0, "request_id": "a", "row": 3, "model": "m", "name": "label", "value": 1.0, "text": None, "reward": None,
        "label_ts_ns": None,
    }
    rows = [label, {**label, "seq": 1, "model": "n", "value": None, "text": "cat", "label_ts_ns": 9}]
    table = to_table([pa.RecordBatch.from_pylist(rows, schema=LABELS_JOURNAL)], header)
    assert table.schema.equals(LABELS_TABLE)
    assert table.to_pylist() == [{**row, "replica": "r-0", "epoch": 2} for row in rows]


# --- tags ---------------------------------------------------------------------------------------------------------------

word = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
tag_rows = st.lists(st.none() | st.lists(st.tuples(word, word), max_size=4), max_size=12)


@given(tag_rows, st.integers(0, 3))
def test_tags_are_what_was_sent(rows: list[list[tuple[str, str]] | None], skipped: int) -> None:
    blobs = [None if row is None else "".join(f"{name}\0{value}\0" for name, value in row).encode() for row in rows]
    assert tags_to_map(pa.array(blobs, pa.binary()).slice(skipped)).to_pylist() == rows[skipped:]


@pytest.mark.parametrize("broken", [b"a", b"a\0", b"a\0b", b"a\0b\0c\0", b"\0"])
def test_broken_tags_are_null_and_spoil_no_other_row(broken: bytes) -> None:
    made = tags_to_map(pa.array([b"a\0b\0", broken, b"c\0d\0"], pa.binary()))
    assert made.to_pylist() == [[("a", "b")], None, [("c", "d")]]


# --- the header ---------------------------------------------------------------------------------------------------------

def test_header_of_a_stream_survives_json() -> None:
    stream = RecordStreamSpec("m", "1", "sha256:00", TENSORS, RecordingSpec(sampling=0.1, retention_days=30), {"dvc": "é"})
    header = StreamHeader.of_stream(stream, replica="r", epoch=1, journal=9, created_ns=2)
    assert StreamHeader.from_json(header.to_json()) == header
    assert (header.sampling, header.retention_days, header.provenance, header.tensors) == (0.1, 30, {"dvc": "é"}, TENSORS)


@pytest.mark.parametrize("is_batched", [True, False])
def test_a_header_says_whether_rows_are_of_batches(is_batched: bool) -> None:
    stream = RecordStreamSpec("m", "1", "sha256:00", TENSORS, is_batched=is_batched)
    header = StreamHeader.of_stream(stream, replica="r", epoch=1, journal=9, created_ns=2)
    assert header.is_batched is is_batched
    assert StreamHeader.from_json(header.to_json()) == header
    assert json.loads(to_table([], header).schema.metadata[METADATA_KEY])["is_batched"] is is_batched


def test_a_header_of_an_earlier_release_is_of_batches() -> None:
    document = json.loads(HEADER.to_json())
    del document["is_batched"]
    assert StreamHeader.from_json(json.dumps(document)) == HEADER
    assert HEADER.is_batched


@pytest.mark.parametrize(("text", "says"), [
    ("{", "no stream header"), ("[]", "no stream header"), ('{"format":1}', "no stream header"), ('{"format":2}', "format 2: this release"),
    (HEADER.to_json().replace('"shape":[]', '"shape":3'), "no stream header"),
])
def test_what_is_no_header_says_so(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        StreamHeader.from_json(text)
