# ruff: noqa: S608  -- this module makes SQL of names that it quotes
"""Finds recorded rows by request id and row: in the sealed files that may hold them, and in this replica's journals.

Which files may hold them is known by time. An id that is a UUIDv7, as the server makes them, says when its request came; any other is
looked for wherever its label could belong. DuckDB joins, and reads of a file only the columns that are wanted, and only row groups whose
ids and times meet those that are looked for.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from serve.recording.arrow_schema import table_schema
from serve.recording.join_source import OwnJournals
from serve.recording.manifest import Part
from serve.recording.relations import Period, Relations, Rows
from serve.recording.snapshot import Snapshot
from serve.recording.store_port import RecordsStore
from serve.recording.views import Column, literal, quoted

# What a clock of whoever made an id, and the time until a record is written, may be off.
ID_MARGIN_NS = 900_000_000_000
_SETTINGS = ("threads=1", "memory_limit='1GB'", "preserve_insertion_order=false", "autoinstall_known_extensions=false",
             "autoload_known_extensions=false", "python_enable_replacements=false")
# Of every row that is found, beside the columns that are asked for.
KEYS = ("ts_ns", "request_id", "row", "variant", "epoch", "generation", "unit")

_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Rows by request id and row, numbered from 0. times_ns: of the requests, where ids say it, else -1. from_ns, to_ns: of the others,
    both included.
    """

    request_ids: Sequence[str]
    rows: Sequence[int]
    times_ns: npt.NDArray[np.int64]
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of one version: `number` of what was wanted, KEYS, and the columns that were asked for."""

    version: str
    columns: tuple[Column, ...]
    table: pa.Table


def id_time_ns(request_id: str) -> int:
    """When the request of a UUIDv7 came, to the millisecond; -1 of any other id. RFC 9562, section 5.7."""
    found = _UUID7.fullmatch(request_id.lower())
    return int(found[1] + found[2], 16) * 1_000_000 if found else -1


def find(
    store: RecordsStore, parts: Iterable[Part], journals: OwnJournals, model: str, wanted: Wanted,
    columns: Callable[[Sequence[Column]], Sequence[str]],
) -> Iterator[Found]:
    """Rows of `model` that are wanted, by version and schema. parts: of the model, as near_parts. columns: names to give, of a schema's.

    Raises duckdb.Error for a file that cannot be read, and as the store.
    """
    own = tuple(journals.of("records", model))
    relations = Relations(store, Snapshot(tuple(parts), own, (), ()), lambda done, of: None)
    with duckdb.connect() as connection:
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}")
        connection.register("wanted", pa.table({
            "number": pa.array(np.arange(len(wanted.rows))), "wanted_id": pa.array(wanted.request_ids, pa.string()),
            "wanted_row": pa.array(wanted.rows, pa.int32())}))
        for version in relations.versions.get(model, ()):
            for rows in relations.of_model(model, version, Period()):
                chosen = columns(rows.columns)
                tables = [_join(connection, place, rows, chosen, _bounds(wanted)) for place in _places(connection, store, rows)]
                found = pa.concat_tables(tables, promote_options="permissive") if tables else None
                if found is not None and found.num_rows:
                    yield Found(version, rows.columns, found.sort_by("number"))


def near_parts(parts: Iterable[Part], wanted: Wanted) -> list[Part]:
    """Parts in which rows that are wanted may lie, by their times."""
    known = np.sort(wanted.times_ns[wanted.times_ns >= 0])
    has_others = len(known) < len(wanted.times_ns)

    def is_near(part: Part) -> bool:
        if has_others and part.max_ts_ns >= wanted.from_ns and part.min_ts_ns <= wanted.to_ns:
            return True
        at = int(np.searchsorted(known, part.min_ts_ns - ID_MARGIN_NS))
        return at < len(known) and int(known[at]) <= part.max_ts_ns + ID_MARGIN_NS

    return [part for part in parts if is_near(part)]


def _bounds(wanted: Wanted) -> tuple[int, int]:
    known = wanted.times_ns[wanted.times_ns >= 0]
    low = [int(known.min()) - ID_MARGIN_NS] if len(known) else []
    high = [int(known.max()) + ID_MARGIN_NS] if len(known) else []
    if len(known) < len(wanted.times_ns):
        low.append(wanted.from_ns)
        high.append(wanted.to_ns)
    return min(low), max(high)


def _places(connection: duckdb.DuckDBPyConnection, store: RecordsStore, rows: Rows) -> Iterator[str]:
    """Relations with the columns of table_schema, in its order."""
    schema = table_schema(tuple(column.tensor for column in rows.columns))
    if rows.paths and store.root is not None:
        yield f"read_parquet([{', '.join(literal(store.location(path)) for path in rows.paths)}], hive_partitioning=false)"
    elif rows.paths:
        filesystem, root = store.arrow()
        plain = pa.schema([one.with_type(pa.string()) if pa.types.is_dictionary(one.type) else one for one in schema])
        files = ds.dataset([f"{root}/{path}" for path in rows.paths], schema=plain, filesystem=filesystem, format="parquet")
        connection.register("sealed", files)
        yield "sealed"
    for table in rows.tables:
        connection.register("journalled", table.select(schema.names))
        yield "journalled"


def _join(
    connection: duckdb.DuckDBPyConnection, place: str, rows: Rows, chosen: Sequence[str], bounds: tuple[int, int]
) -> pa.Table:
    schema = table_schema(tuple(column.tensor for column in rows.columns))
    # By place: names that differ in case alone would otherwise be one.
    at = {name: f"c{i}" for i, name in enumerate(schema.names)}
    n_common = len(schema) - len(rows.columns)
    cells = [f"r.{at[name]} AS {quoted(name)}" for name in KEYS]
    cells += [f"r.{at[name]} AS {quoted(name)}" for name in chosen if name in schema.names[:n_common] and name not in KEYS]
    cells += [f"CAST(r.c{i} AS {column.form.sql}) AS {quoted(column.name)}"
              for i, column in enumerate(rows.columns, n_common) if column.name in chosen]
    names = ", ".join(f"c{i}" for i in range(len(schema)))
    found = connection.sql(
        f"SELECT w.number, {', '.join(cells)} FROM {place} AS r({names}) JOIN wanted w "
        f"ON r.{at['request_id']} = w.wanted_id AND r.{at['row']} = w.wanted_row "
        f"WHERE r.{at['ts_ns']} BETWEEN {bounds[0]} AND {bounds[1]}")
    table: pa.Table = found.to_arrow_table()
    return table.set_column(table.schema.get_field_index("variant"), "variant", table["variant"].cast(pa.string()))


__all__ = ["ID_MARGIN_NS", "KEYS", "Found", "Wanted", "find", "id_time_ns", "near_parts"]
