# ruff: noqa: S608  -- this module and `views` make SQL of names that they quote
"""Queries over sealed and journalled rows: DuckDB in memory, one SELECT each.

Each query has a connection of its own, which knows the views that the query names and no others. It may open the sealed files of those
views and nothing else: no other file, no network, no extension, no setting. In an object store pyarrow reads the files, and DuckDB opens
none at all. Projections and filters on columns are pushed down to the files.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from serve.errors import NotFound
from serve.recording.arrow_schema import COMMON_COLUMNS, LABELS_TABLE, table_schema
from serve.recording.bodies import databricks_sql, requests_sql
from serve.recording.journal import JournalContents
from serve.recording.layout import HOUR_NS
from serve.recording.relations import ALWAYS, Period, Progress, Relations, Rows
from serve.recording.sealed_files import SealedFiles
from serve.recording.snapshot import OpenJournal, Snapshot
from serve.recording.statement import names_in
from serve.recording.store_port import RecordsStore
from serve.recording.stream_header import TableName
from serve.recording.views import Source, View, ViewKind, common_sql, labelled_sql, literal, model_sql, namesakes, quoted, views_of

# What a query may not change afterwards, and the bar that asks for how far it has come.
_SETTINGS = (
    "autoinstall_known_extensions=false", "autoload_known_extensions=false", "allow_community_extensions=false",
    "allow_persistent_secrets=false", "python_enable_replacements=false", "TimeZone='UTC'", "enable_progress_bar=true",
    "enable_progress_bar_print=false",
)


class Result:
    """Rows of a query as they are made. schema: Arrow's. views: that the query reads. Close it; a query that runs ends then.

    Raises InvalidArgument for what DuckDB finds wrong with the query, Unavailable for a file that is gone or too little memory.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, sql: str, resources: contextlib.ExitStack, views: tuple[View, ...], files: SealedFiles,
    ) -> None:
        self.views = views
        self._files = files
        self._connection = connection
        self._resources = resources
        with files.told():
            self._reader = pa.RecordBatchReader.from_stream(connection.sql(sql))
        self.schema: pa.Schema = self._reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with self._files.told():
            yield from self._reader

    def table(self) -> pa.Table:
        """All rows, for results that are small."""
        return pa.Table.from_batches(list(self), self.schema)

    def rows(self) -> list[dict[str, Any]]:
        """The same as Python's values."""
        rows: list[dict[str, Any]] = self.table().to_pylist()
        return rows

    @property
    def share_done(self) -> float:
        """Of the query, 0 to 1, as far as DuckDB can tell. From any thread."""
        return max(0.0, float(self._connection.query_progress())) / 100

    def interrupt(self) -> None:
        """Ends a query that runs in another thread."""
        self._connection.interrupt()

    def close(self) -> None:
        self.interrupt()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Records:
    """What can be asked of a snapshot. views: by name in lower case. Close the snapshot afterwards.

    progress: called while metadata of files is read, with how many are done of how many.
    """

    def __init__(self, store: RecordsStore, snapshot: Snapshot, progress: Progress = lambda done, of: None) -> None:
        self._relations = Relations(store, snapshot, progress)
        self.views: dict[str, View] = views_of(self._relations.versions)

    @property
    def warnings(self) -> list[str]:
        """What cannot be read, for people. Complete after the queries."""
        return self._relations.warnings

    def contents(self, journal: OpenJournal) -> JournalContents:
        """A journal of the snapshot, with the rows that queries see."""
        return self._relations.contents(journal)

    def view(self, kind: ViewKind, model: str = "", version: str = "") -> str:
        """A view's name. Raises NotFound when nothing of that model is recorded."""
        for view in self.views.values():
            if (view.kind, view.model, view.version) == (kind, model, version):
                return view.name
        there = ", ".join(self._relations.versions) or "none of any"
        raise NotFound(f"no rows of model {model!r} are recorded in {self._relations.store.url}; there are {there}")

    def query(self, sql: str, period: Period = ALWAYS) -> Result:
        """Over the rows of a period; sealed files outside it are not opened.

        Raises InvalidArgument for what is no single SELECT or is wrong in it, NotFound for a view that does not exist.
        """
        with contextlib.ExitStack() as resources:
            connection = resources.enter_context(_connection())
            names = names_in(connection, sql)
            unknown = sorted(names.read - names.own - self.views.keys())
            if unknown:
                there = namesakes(self.views.values(), unknown[0]) or f"there are {', '.join(view.name for view in self.views.values())}"
                raise NotFound(f"there is no view {unknown[0]!r}; {there}")
            views = tuple(self.views[name] for name in sorted(names.read & self.views.keys()))
            session = _Session(connection, self._relations, period)
            for view in views:
                session.define(view, self.views)
            session.lock()
            return Result(connection, sql, resources.pop_all(), views, session.files)

    def told(self, view: View) -> str:
        """Whose rows a view has, for people, where others might be meant by its name; else ""."""
        return namesakes(self.views.values(), view.name)

    def slices(self, model: str, n_rows: int, period: Period = ALWAYS) -> list[Period]:
        """The period in pieces of about n_rows rows of a model, each within an hour, in order; none where there are no rows."""
        hours: Counter[int] = Counter()
        for first, last, rows in self._relations.spans(model):
            for hour in range(first // HOUR_NS, last // HOUR_NS + 1):
                hours[hour] += rows
        found = []
        for hour, rows in sorted(hours.items()):
            n = max(1, -(-rows // n_rows))
            found += [Period(hour * HOUR_NS + HOUR_NS * i // n, hour * HOUR_NS + HOUR_NS * (i + 1) // n) for i in range(n)]
        return [cut for piece in found if (cut := piece.within(period)) is not None]

    def newest(self, n_rows: int, view: str) -> Period:
        """A period from the last n_rows rows of a view of rows on, which may have more."""
        times = f"SELECT ts_ns FROM {quoted(view)} ORDER BY ts_ns DESC LIMIT {n_rows}"
        since = self._relations.newest(n_rows, self.views[view.lower()].model)
        with self.query(times, Period(since)) as result:
            return Period(min((row["ts_ns"] for row in result.rows()), default=None))

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Names and types of a view."""
        with self.query(f"DESCRIBE {quoted(view)}") as described:
            return [(row["column_name"], row["column_type"]) for row in described.rows()]


class _Session:
    """Defines views in one connection, each once, with the relations below it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, relations: Relations, period: Period) -> None:
        self._connection = connection
        self._relations = relations
        self._period = period
        self._defined: set[str] = set()
        self.files = SealedFiles(relations.store)
        self._n_relations = 0

    def define(self, view: View, views: Mapping[str, View]) -> None:
        if view.name in self._defined:
            return
        self._defined.add(view.name)
        below = {one.kind: one for one in views.values() if one.model == view.model or one.kind == "labels"}
        needed: dict[str, tuple[ViewKind, ...]] = {"labelled": ("model",), "databricks": ("requests",)}
        for kind in needed.get(view.kind, ()):
            self.define(below[kind], views)
        with self.files.told():
            self._connection.execute(f"CREATE VIEW {quoted(view.name)} AS {self._sql(view, below)}")

    def lock(self) -> None:
        """From here on nothing can be opened but the files of the views, and no setting changed."""
        store = self._relations.store
        places = ", ".join(literal(store.location(path)) for path in sorted(self.files.paths)) if store.root else ""
        self._connection.execute(f"SET allowed_paths=[{places}]")
        for setting in (*_SETTINGS, "enable_external_access=false", "lock_configuration=true"):
            self._connection.execute(f"SET {setting}")

    def _sql(self, view: View, below: Mapping[ViewKind, View]) -> str:
        if view.kind == "records":
            return common_sql([self._relation(self._relations.of_table("records", self._period), "records")], COMMON_COLUMNS)
        if view.kind == "labels":
            return common_sql([self._relation(self._relations.of_table("labels", self._period), "labels")], LABELS_TABLE.names)
        if view.kind == "labelled":
            return labelled_sql(below["model"].name, self._later_labels(), view.model)
        if view.kind == "databricks":
            return databricks_sql(below["requests"].name)
        found = self._relations.of_model(view.model, view.version or None, self._period)
        sources = [Source(self._relation(rows, "records"), rows.columns, rows.is_batched) for rows in found]
        return requests_sql(sources) if view.kind == "requests" else model_sql(sources, is_raw=view.kind == "raw")

    def _later_labels(self) -> str:
        """Labels come after their rows: where the period ends, only the rows end."""
        period = Period(self._period.from_ns)
        relation = self._relation(self._relations.of_table("labels", period), "labels", period)
        name = self._name()
        self._connection.execute(f"CREATE VIEW {name} AS {common_sql([relation], LABELS_TABLE.names)}")
        return name

    def _relation(self, rows: Rows, table: TableName, period: Period | None = None) -> str:
        """Defines a relation of rows of one schema with columns as views have them; its name. It may be empty."""
        schema = LABELS_TABLE if table == "labels" else table_schema(tuple(column.tensor for column in rows.columns))
        n_common = len(schema) - len(rows.columns)
        cells = [f"c{i} AS {quoted(name)}" for i, name in enumerate(schema.names[:n_common])]
        # A fixed-size list is a list in Parquet, and an array in Arrow.
        cells += [f"CAST(c{i} AS {column.form.sql}) AS {quoted(column.name)}" for i, column in enumerate(rows.columns, n_common)]
        # By place: names of columns that differ in case alone would otherwise be one.
        names = ", ".join(f"c{i}" for i in range(len(schema)))
        bounds = _bounds(period or self._period)
        arms = [f"SELECT {', '.join(cells)} FROM {place} AS t({names}){bounds}" for place in self._places(rows, schema)]
        name = self._name()
        self._connection.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(arms)}")
        return name

    def _places(self, rows: Rows, schema: pa.Schema) -> Iterator[str]:
        store = self._relations.store
        self.files.paths.update(rows.paths)
        if rows.paths and store.root is not None:
            yield f"read_parquet([{', '.join(literal(store.location(path)) for path in rows.paths)}], hive_partitioning=false)"
        elif rows.paths:
            filesystem, root = store.arrow()
            paths = [f"{root}/{path}" for path in rows.paths]
            yield self._registered(ds.dataset(paths, schema=_plain(schema), filesystem=filesystem, format="parquet"))
        for table in rows.tables:
            yield self._registered(table.select(schema.names))
        if not rows.paths and not rows.tables:
            yield self._registered(schema.empty_table())

    def _registered(self, rows: Any) -> str:
        name = self._name()
        self._connection.register(name, rows)
        return name

    def _name(self) -> str:
        self._n_relations += 1
        return f"_rows_{self._n_relations}"


def _bounds(period: Period) -> str:
    """ts_ns is the first column of both tables."""
    bounds = [f"c0 {sign} {at}" for sign, at in ((">=", period.from_ns), ("<", period.to_ns)) if at is not None]
    return f" WHERE {' AND '.join(bounds)}" if bounds else ""


@contextlib.contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """In memory; what does not fit there goes to a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="headrace-query-") as spill:
        connection = duckdb.connect(config={"temp_directory": spill})
        try:
            yield connection
        finally:
            connection.close()


def _plain(schema: pa.Schema) -> pa.Schema:
    """Words instead of dictionaries: a filter on them is pushed down as a comparison with text."""
    return pa.schema([field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in schema])
