"""A query reads the views, and nothing else of the machine; it changes nothing."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from serve.errors import HeadraceError, InvalidArgument, NotFound, Unavailable
from serve.recording import query
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.statement import Names, names_in
from tests.unit.recording.recorded import HOST, write_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confined")
    (folder / "secret.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> Iterator[Records]:
    recorder = write_records(str(folder / "records"), folder / "home")
    with read(recorder.store, host=HOST) as reading:
        yield Records(recorder.store, reading.snapshot)


def sealed(folder: Path) -> str:
    return str(min((folder / "records").rglob("*.parquet")))


def state_of(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


ESCAPES = [
    "SELECT * FROM read_csv('{secret}')", "SELECT * FROM '{secret}'", "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')", "SELECT * FROM glob('/etc/*')", "SELECT * FROM read_parquet('{sealed}')",
    "SELECT * FROM parquet_metadata('{sealed}')", "SELECT * FROM query('SELECT * FROM records')", "SELECT * FROM query_table('records')",
    "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{sealed}'' (USE_TMP_FILE false)) SELECT * FROM x')",
    "SELECT * FROM json_execute_serialized_sql('x')", "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x')", "SELECT * FROM 'https://127.0.0.1/x.parquet'", "SELECT * FROM enable_logging()",
    "SELECT getenv('HOME')", "SELECT * FROM arrow_scan(1, 2, 3)", "SELECT * FROM information_schema.tables", "SHOW TABLES", "DESCRIBE",
    "COPY (SELECT 1) TO '{target}'", "COPY records TO '{target}'", "EXPORT DATABASE '{target}'", "IMPORT DATABASE '{target}'",
    "ATTACH '{target}'", "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true", "RESET lock_configuration",
    "PRAGMA database_list", "CALL pragma_version()", "CREATE TABLE x AS SELECT 1", "DROP VIEW records", "CHECKPOINT", "VACUUM",
    "PREPARE p AS SELECT 1", "EXPLAIN ANALYZE COPY (SELECT 1) TO '{target}'", "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{target}'",
    "WITH x AS (COPY (SELECT 1) TO '{sealed}' (USE_TMP_FILE false)) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{target}') SELECT * FROM x)",
    "WITH x AS (INSERT INTO records VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM labels RETURNING *) SELECT count(*) FROM x", "FROM records SELECT 1 UNION SELECT * FROM read_text('{secret}')",
    "SELECT (SELECT content FROM read_text('{secret}'))", "", ";", "-- nothing",
]


def filled(statement: str, folder: Path) -> str:
    return statement.replace("{secret}", str(folder / "secret.csv")).replace("{sealed}", sealed(folder)).replace(
        "{target}", str(folder / "target"))


@pytest.mark.parametrize("statement", ESCAPES)
def test_statements_that_are_refused(statement: str, folder: Path, records: Records) -> None:
    before = state_of(folder)
    with pytest.raises((InvalidArgument, NotFound)), records.query(filled(statement, folder)) as result:
        result.rows()
    assert state_of(folder) == before


# Of the escapes, those that touch something outside; DuckDB alone must stop them, should the walk over a statement miss one.
OUTSIDE = [one for one in ESCAPES if any(word in one for word in ("{secret}", "{target}", "/etc", "http", "SET ", "RESET"))]


@pytest.mark.parametrize("statement", OUTSIDE)
def test_duckdb_alone_stops_what_reaches_outside(
    statement: str, folder: Path, records: Records, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query, "names_in", lambda *_: Names(frozenset({"records"}), frozenset()))
    before = state_of(folder)
    with pytest.raises((InvalidArgument, Unavailable)), records.query(filled(statement, folder)) as result:
        result.rows()
    assert state_of(folder) == before


def test_python_values_are_no_tables(records: Records) -> None:
    hidden = pa.table({"a": [1]})     # noqa: F841  # a replacement scan would find it
    with pytest.raises(NotFound, match="no view 'hidden'"):
        records.query("SELECT * FROM hidden")


@pytest.mark.parametrize("statement", [
    "SELECT 1", "SELECT * FROM records;", "(SELECT 1)", "VALUES (1)", "FROM records", "WITH a AS (SELECT 1) SELECT * FROM a -- that is all",
    "SELECT * FROM range(3)", "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r",
    "SELECT unnest(in_x) FROM records_digits", "SELECT * FROM records_digits, unnest(in_x)", "SUMMARIZE records", "DESCRIBE labels",
    "SELECT * FROM (PIVOT records ON model IN ('digits', 'text') USING count(*))", "SELECT 'COPY (SELECT 1) TO x'",
    "SELECT count(*) FILTER (WHERE status = 200) OVER (PARTITION BY model) FROM records QUALIFY row_number() OVER () = 1",
    "SELECT * FROM records EXCEPT SELECT * FROM records", "SELECT * FROM records TABLESAMPLE 50%",
])
def test_what_a_query_may_be(statement: str, records: Records) -> None:
    with records.query(statement) as result:
        assert result.schema.names
        result.rows()


def test_what_does_not_fit_in_memory_is_spilled(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with records.query("SELECT range AS x FROM range(3000000) ORDER BY hash(range)") as result:
        assert sum(batch.num_rows for batch in result) == 3_000_000
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("sql", "read", "own"), [
    ("SELECT * FROM A JOIN main.b USING (x) WHERE y IN (SELECT z FROM \"C c\")", {"a", "b", "c c"}, set()),
    ("WITH v AS (SELECT * FROM v), w AS (FROM v) SELECT * FROM w", {"v", "w"}, {"v", "w"}),
    ("SELECT 1 UNION (SELECT * FROM a LIMIT (SELECT count(*) FROM b))", {"a", "b"}, set()),
    ("SUMMARIZE a", {"a"}, set()),
])
def test_names_that_a_statement_reads(sql: str, read: set[str], own: set[str]) -> None:
    with duckdb.connect() as connection:
        assert names_in(connection, sql) == Names(frozenset(read), frozenset(own))


@pytest.mark.parametrize("sql", ["SELECT " + "(" * 3000 + "1" + ")" * 3000, "SELECT " + "+".join("1" * 950)])
def test_a_query_that_is_nested_too_deeply(sql: str, records: Records) -> None:
    with pytest.raises(HeadraceError, match=r"depth|deeply"):
        records.query(sql)
