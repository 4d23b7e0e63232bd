"""Queries: every row once whether sealed or journalled, columns as the models have them, and nothing read that is not asked for."""

import math
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serve.errors import InternalError, InvalidArgument, NotFound, Unavailable
from serve.recording.join_rows import with_labels
from serve.recording.manifest import purged_line
from serve.recording.outcome_sql import LABEL_COLUMNS
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.relations import ALWAYS, Period
from serve.recording.stores import open_store
from serve.records import RecordedTensor
from tests.unit.recording.recorded import DIGITS_1, HOST, HOUR_NS, LABEL, T0, TEXT, Recorder, X, image, write_records

AT = datetime(2026, 1, 1, 10)       # noqa: DTZ001  # ts has no zone, and is UTC


@pytest.fixture(scope="module", params=["folder", "memory"])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    folder = tmp_path_factory.mktemp("query")
    recorder = write_records(str(folder / "records") if request.param == "folder" else f"memory://{folder.name}", folder / "home")
    with read(recorder.store, host=HOST) as reading:
        yield Records(recorder.store, reading.snapshot)


def rows_of(records: Records, sql: str, period: Period = ALWAYS) -> list[dict[str, Any]]:
    with records.query(sql, period) as result:
        return result.rows()


def column_of(records: Records, sql: str, period: Period = ALWAYS) -> list[Any]:
    return [next(iter(row.values())) for row in rows_of(records, sql, period)]


def open_records(recorder: Recorder) -> Records:
    with read(recorder.store, host=HOST) as reading:
        found = Records(recorder.store, reading.snapshot)
        for journal in reading.snapshot.journals:
            found.contents(journal)
        return found


@pytest.mark.parametrize(("view", "n"), [
    ("records", 18), ("labels", 4), ("records_digits", 15), ("records_digits_v1", 10), ("records_digits_v2", 5), ("records_digits_raw", 15),
    ("records_digits_labelled", 4), ("requests_digits", 13), ("databricks_digits", 13), ("records_text", 3), ("records_text_labelled", 0),
])
def test_rows_of_each_view(records: Records, view: str, n: int) -> None:
    assert column_of(records, f"SELECT count(*) FROM {view}") == [n]


def test_a_period_ends_for_rows_and_not_for_their_labels(tmp_path: Path) -> None:
    """Labels come after their rows."""
    recorder = write_records(str(tmp_path / "records"), tmp_path / "home")
    recorder.labels([{"request_id": "digits-3", "value": 3.0, "name": "late", "ts_ns": T0 + HOUR_NS, "seq": 99}])
    found = open_records(recorder)
    sql = "SELECT count(*) FROM records_digits_labelled WHERE label_name = 'late'"
    assert column_of(found, sql) == column_of(found, sql, Period(None, T0 + HOUR_NS // 2)) == [1]


def test_sealed_and_journalled_rows_are_one_table(records: Records) -> None:
    counts = "SELECT version, variant, status, count(*) AS n FROM records WHERE model = 'digits' GROUP BY ALL ORDER BY ALL"
    assert rows_of(records, counts) == [
        {"version": "1", "variant": "shadow", "status": 200, "n": 1}, {"version": "1", "variant": "stable", "status": 200, "n": 9},
        {"version": "2", "variant": "stable", "status": 200, "n": 4}, {"version": "2", "variant": "stable", "status": 503, "n": 1}]
    assert column_of(records, "SELECT DISTINCT seq FROM records ORDER BY seq") == [*range(13), *range(15, 20)]


def test_the_columns_common_to_all_models(records: Records) -> None:
    row, = rows_of(records, "SELECT * FROM records WHERE request_id = 'pair' AND row = 1")
    assert row == {
        "ts_ns": T0 + 10, "ts": AT, "request_id": "pair", "batch_id": 1, "row": 1, "model": "digits", "version": "1",
        "variant": "stable", "replica": "r-0", "protocol": "http", "status": 200, "queue_us": 10, "compute_us": 1500, "total_us": 2000,
        "sampling": 1.0, "seq": 5, "epoch": 1, "generation": 3, "unit": None, "digest": "sha256:digits1", "trace_id": None,
        "tags": [("tenant", "a")], "error_codes": []}
    failed, = rows_of(records, "SELECT row, error_codes FROM records WHERE status >= 400")
    assert failed == {"row": -1, "error_codes": ["UNAVAILABLE"]}


def test_versions_with_other_schemas_unite_by_name(records: Records) -> None:
    assert records.columns("records_digits")[-4:] == [
        ("in_x", "FLOAT[]"), ("in_word", "VARCHAR"), ("out_label", "BIGINT"), ("out_scores", "FLOAT[]")]
    assert records.columns("records_digits_v1")[-2:] == [("in_x", "FLOAT[]"), ("out_label", "BIGINT")]
    assert records.columns("records_digits_v2")[-2:] == [("out_label", "INTEGER"), ("out_scores", "FLOAT[]")]
    rows = rows_of(records, "SELECT version, in_word, out_label, out_scores FROM records_digits WHERE out_label > 3 AND row = 0 ORDER BY 3")
    assert [row["out_label"] for row in rows] == [7, 8, 9]
    assert rows[2] == {"version": "1", "in_word": None, "out_label": 9, "out_scores": None}


def test_numbers_are_those_that_were_sent(records: Records) -> None:
    sent, = column_of(records, "SELECT in_x FROM records_digits WHERE request_id = 'digits-1'")
    assert sent[:2] == image(1)[:2]
    assert math.isnan(sent[2])
    grid, = column_of(records, "SELECT in_grid FROM records_text WHERE request_id = 'text-19'")
    assert grid == {"data": [0.5] * 4, "shape": [2, 2]}
    assert column_of(records, "SELECT DISTINCT out_half FROM records_text") == [0.5]


def test_bytes_are_text_where_they_are_text(records: Records) -> None:
    words = "SELECT in_word FROM records_digits{} WHERE in_word IS NOT NULL AND protocol = 'http' ORDER BY ts_ns LIMIT 2"
    assert column_of(records, words.format("")) == ["café", "\\xFF\\x00a"]
    assert column_of(records, words.format("_raw")) == ["café".encode(), b"\xff\x00a"]
    assert column_of(records, "SELECT DISTINCT out_words FROM records_text") == [["a", "\\xFE"]]


def test_labels_meet_their_rows_and_the_first_one_of_a_name_counts(records: Records) -> None:
    columns = "request_id, row, variant, label_name, label, label_text, out_label"
    rows = rows_of(records, f"SELECT {columns} FROM records_digits_labelled ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        ("digits-0", 0, "shadow", "label", 0.0, None, 9), ("digits-0", 0, "stable", "label", 0.0, None, 0),
        ("digits-1", 0, "stable", "label", 5.0, None, 1), ("pair", 1, "stable", "label", None, "one", 1)]
    share = "SELECT avg((label = out_label)::INT) FROM records_digits_labelled WHERE variant = 'stable'"
    assert column_of(records, share) == [0.5], "of digits-0 and digits-1"


def test_the_labelled_view_has_what_an_outcome_expression_has(tmp_path: Path) -> None:
    recorder = write_records(str(tmp_path / "records"), tmp_path / "home")
    recorder.labels([{"request_id": "digits-3", "reward": 0.5, "name": "clicked", "ts_ns": T0 + 50, "label_ts_ns": T0 + 7, "seq": 9}])
    found = open_records(recorder)
    kinds = dict(found.columns("records_digits_labelled"))
    joined = with_labels(pa.table({}), ())
    assert [name for name in kinds if name not in dict(found.columns("records_digits"))] == [*LABEL_COLUMNS, "label_ts"]
    assert [kinds[name] for name in LABEL_COLUMNS] == [
        {pa.float64(): "DOUBLE", pa.string(): "VARCHAR", pa.int64(): "BIGINT"}[joined.schema.field(name).type] for name in LABEL_COLUMNS]
    rows = rows_of(found, f"SELECT {', '.join(LABEL_COLUMNS)}, label_ts FROM records_digits_labelled WHERE label_name <> 'label'")
    assert [tuple(row.values())[:-1] for row in rows] == [(None, None, 0.5, "clicked", T0 + 50, T0 + 7)]
    assert column_of(found, "SELECT DISTINCT known_ns - received_ns FROM records_digits_labelled WHERE label_name = 'label'") == [0]


def test_of_labels_of_one_moment_the_first_written_counts(tmp_path: Path) -> None:
    recorder = write_records(str(tmp_path / "records"), tmp_path / "home")
    recorder.labels([{"request_id": "digits-3", "value": value, "ts_ns": T0 + 60, "seq": 20 + at} for at, value in enumerate((3.0, 4.0))])
    asked = "SELECT label FROM records_digits_labelled WHERE request_id = 'digits-3'"
    assert column_of(open_records(recorder), asked) == [3.0]


def test_only_rows_of_the_period_are_seen(records: Records) -> None:
    second_hour = Period(T0 + HOUR_NS, T0 + 2 * HOUR_NS)
    assert column_of(records, "SELECT count(*) FROM records", second_hour) == [6]
    assert column_of(records, "SELECT count(*) FROM records_digits", Period(T0 + 2 * HOUR_NS + 1)) == [1]
    assert column_of(records, "SELECT count(*) FROM records_digits_v1", Period(T0 + 2 * HOUR_NS)) == [0]
    assert column_of(records, "SELECT count(*) FROM labels", Period(None, T0 + 1)) == [2]


def test_views_may_be_joined_and_named_again(records: Records) -> None:
    assert column_of(records, "WITH records AS (SELECT * FROM RECORDS WHERE row = 1) SELECT count(*) FROM records") == [1]
    joined = """SELECT count(*) FROM "Labels" JOIN records_digits d USING (request_id, row) WHERE d.variant = 'stable'"""
    assert column_of(records, joined) == [4]


def test_slices_hold_all_rows_in_order(records: Records) -> None:
    slices = records.slices("digits", 4)
    assert len(slices) > 4
    counts = [column_of(records, "SELECT count(*) FROM records_digits", piece)[0] for piece in slices]
    assert sum(counts) == 15
    ends = [end for piece in slices for end in (piece.from_ns, piece.to_ns)]
    assert ends == sorted(ends, key=lambda end: end or 0)
    assert sum(column_of(records, "SELECT count(*) FROM records_digits", piece)[0]
               for piece in records.slices("digits", 4, Period(T0 + 2, T0 + HOUR_NS))) == 5


@pytest.mark.parametrize("n", [1, 3, 5, 100])
def test_the_newest_rows_are_in_the_period_that_is_found_for_them(records: Records, n: int) -> None:
    newest = sorted(column_of(records, "SELECT ts_ns FROM records_digits"))[-n:]
    period = records.newest(n, "records_digits")
    assert sorted(column_of(records, "SELECT ts_ns FROM records_digits", period))[-n:] == newest
    assert period.from_ns == newest[0]


# What is wrong

def test_unknown_names_are_answered_with_what_there_is(records: Records) -> None:
    with pytest.raises(NotFound, match="no view 'recordz'; there are databricks_digits, databricks_text, labels, records, "):
        records.query("SELECT * FROM recordz")
    with pytest.raises(NotFound, match="no rows of model 'nope' are recorded in .*; there are digits, text"):
        records.view("model", "nope")


@pytest.mark.parametrize(("sql", "match"), [
    ("SELECT nope FROM records", "nope"), ("SELECT FROM", "syntax"), ("SELECT 'a'::INTEGER", "Could not convert"), ("SELEC 1", "syntax")])
def test_faults_of_a_query_are_its_authors(records: Records, sql: str, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        rows_of(records, sql)


def test_nothing_recorded(tmp_path: Path) -> None:
    with read(open_store(str(tmp_path)), host=HOST) as reading:
        records = Records(open_store(str(tmp_path)), reading.snapshot)
    assert list(records.views) == ["labels", "records"]
    assert rows_of(records, "SELECT * FROM records") == []
    assert column_of(records, "SELECT count(*) FROM labels") == [0]


# What is read

def test_files_of_other_models_and_times_are_not_opened(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    for model, hour in (("a", 0), ("a", 1), ("b", 0)):
        recorder.seal(recorder.journal(model, "1", DIGITS_1, [{"ts_ns": T0 + hour * HOUR_NS, "in_x": image(0), "out_label": hour}]))
    kept = [part.path for part in recorder.manifest.state.parts.values() if part.name.model == "a" and part.name.hr == "11"]
    for path in recorder.manifest.state.parts:
        if path not in kept:
            (tmp_path / "records" / path).write_bytes(b"not Parquet")
    records = open_records(recorder)
    assert column_of(records, "SELECT out_label FROM records_a", Period(T0 + HOUR_NS)) == [1]
    with pytest.raises(InvalidArgument, match="too small to be a Parquet file"):
        rows_of(records, "SELECT out_label FROM records_a")
    with pytest.raises(InternalError, match="is not the file that was sealed"):
        records.query("SELECT * FROM records_b")


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM records", "SELECT count(*) FROM records_a"])
@pytest.mark.parametrize("is_purged", [False, True])
def test_a_file_that_is_gone_is_named(tmp_path: Path, sql: str, is_purged: bool) -> None:
    """One that was purged since is no loss, and the next snapshot does without."""
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    recorder.seal(recorder.journal("a", "1", DIGITS_1, [{"in_x": image(0), "out_label": 0}]))
    records = open_records(recorder)
    part, = recorder.manifest.state.parts.values()
    if is_purged:
        recorder.manifest.append(purged_line([part], "retention", T0))
    recorder.store.delete(part.path)
    said = "was purged or compacted meanwhile: ask again" if is_purged else (
        "is gone, though its manifest names it: run `headrace records verify`")
    with pytest.raises(Unavailable) as caught:
        rows_of(records, sql)
    assert str(caught.value).startswith(f"{tmp_path}/records/{part.path} {said}")


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    journal = recorder.journal("a", "1", DIGITS_1, [{"in_x": image(0), "out_label": 0}] * 3)
    content = bytearray(journal.read_bytes())
    content[-100] ^= 1
    journal.write_bytes(content)
    records = open_records(recorder)
    assert column_of(records, "SELECT count(*) FROM records") == [0]
    assert "1-1.journal is damaged: 3 rows cannot be read" in records.warnings[0]


def test_names_that_sql_does_not_tell_apart(tmp_path: Path) -> None:
    """Models a-b and a.b, a name with quotes, tensors X and x."""
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    upper = RecordedTensor("in", "X", "FP32", (2, 2), 1)
    for number, model in enumerate(("a-b", "a.b", "a'\"b")):
        recorder.seal(recorder.journal(model, "1", (X, upper, LABEL), [{"in_x": image(0), "in_X": image(3), "out_label": number}]))
        recorder.journal(model, "1", (X, upper, LABEL), [{"in_x": image(0), "in_X": image(3), "out_label": number}])
    records = open_records(recorder)
    for number, model in enumerate(("a-b", "a.b", "a'\"b")):
        rows = rows_of(records, f'SELECT in_x, in_X_2, out_label, model FROM "{records.view("model", model)}"')
        assert rows == [{"in_x": image(0), "in_X_2": image(3), "out_label": number, "model": model}] * 2
        request, = column_of(records, f'SELECT request FROM "{records.view("requests", model)}" LIMIT 1')
        assert '"name":"X"' in request


def test_models_and_versions_of_one_name_can_all_be_asked(tmp_path: Path) -> None:
    """records_a_v2 is version 2 of `a`, and all of `a_v2`; records_a_b is `a.b`, and `a_b`."""
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    whose = [("a", "2"), ("a_v2", "1"), ("a.b", "1"), ("a_b", "1")]
    for number, (model, version) in enumerate(whose):
        recorder.seal(recorder.journal(model, version, (LABEL,), [{"out_label": number}]))
    records = open_records(recorder)
    for number, (model, version) in enumerate(whose):
        for view in (records.view("model", model), records.view("version", model, version), records.view("raw", model)):
            assert rows_of(records, f"SELECT out_label, model FROM {view}") == [{"out_label": number, "model": model}]
    with records.query("SELECT * FROM RECORDS_A_V2 JOIN records_a USING (ts_ns)") as result:
        assert [view.name for view in result.views] == ["records_a", "records_a_v2"]
        other = records.view("version", "a", "2")
        assert [records.told(view) for view in result.views] == [
            "", f"records_a_v2 is model 'a_v2'; {other} is version '2' of model 'a'"]
    assert records.told(records.views[other]) == "", "who gives the digits knows"
    with pytest.raises(NotFound, match=r"no view 'records_a_b_raw'; records_a_b_raw_\w{6} is raw of model 'a.b'; records_a_b_raw_\w{6} is"):
        records.query("SELECT * FROM records_a_b_raw")


def test_what_does_not_unite_is_left_to_the_versions(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    text = RecordedTensor("out", "label", "BYTES", (), 0)
    recorder.seal(recorder.journal("m", "1", DIGITS_1, [{"in_x": image(0), "out_label": 5}]))
    recorder.seal(recorder.journal("m", "2", (X, text), [{"in_x": image(0), "out_label": b"five"}]))
    records = open_records(recorder)
    assert [name for name, _ in records.columns("records_m")][-1] == "in_x"
    assert column_of(records, "SELECT out_label FROM records_m_v1") == [5]
    assert column_of(records, "SELECT out_label FROM records_m_v2") == ["five"]


def test_a_file_that_nobody_sealed(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    recorder.seal(recorder.journal("a", "1", TEXT[2:], [{"out_words": [b"a", b"b"], "out_half": None}]))
    path, = recorder.manifest.state.parts
    pa.parquet.write_table(pa.table({"ts_ns": [1]}), tmp_path / "records" / path)
    with pytest.raises(InternalError, match="is not the file that was sealed"):
        open_records(recorder).query("SELECT * FROM records_a")


def test_a_million_rows_are_counted_in_less_than_a_second(tmp_path: Path) -> None:
    recorder = Recorder(open_store(str(tmp_path / "records")), tmp_path / "home")
    recorder.seal(recorder.journal("a", "1", DIGITS_1, [{"in_x": image(0), "out_label": 0}]))
    part, = recorder.manifest.state.parts.values()
    table = pa.parquet.read_table(tmp_path / "records" / part.path)
    repeated = pa.concat_tables([table] * 1000).combine_chunks()
    pa.parquet.write_table(pa.concat_tables([repeated] * 1000), tmp_path / "records" / part.path, row_group_size=65_536)
    records = open_records(recorder)
    begun = time.process_time()
    assert column_of(records, "SELECT count(*) FROM records_a") == [1_000_000]
    assert time.process_time() - begun < 1.0
