"""Sealed files as Delta tables, registered where they lie: records/model=M/version=V and labels/model=M, partitioned by dt and hr.

A pass compares what a table's log names as ours with what the manifest names, and commits the difference in one transaction: whatever was
committed before a crash is in the log that the next pass reads, so that no file is added twice. The replica is the transaction's
application id, with a version that grows by one: should two processes ever be the same replica, the later commit fails and is compared
anew. Other replicas' files are theirs. A merge is one commit that adds and removes; its rows are no change of data. What retention purged
is removed as well; older versions of the table then name files that are gone.

A table gets the columns that only later files have. A column has one type for good: files that have it with another one stay out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from serve.errors import ConfigurationError, InvalidArgument
from serve.recording.jobs import Keeping, Message
from serve.recording.layout import part_name
from serve.recording.manifest import Part

_PARTITIONS = ["dt", "hr"]
_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
# Delta has no unsigned numbers; these are what Spark reads Parquet's as.
_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20, 0)}


@dataclass(frozen=True, slots=True)
class Registered:
    """A file of ours in a table's log. path: relative to the table."""

    path: str
    n_bytes: int
    rows: int
    dt: str
    hr: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What a commit has to say. is_new: of each part to add, whether its rows are new to the table."""

    add: tuple[tuple[Part, bool], ...]
    remove: tuple[tuple[Registered, bool], ...]


def table_root(path: str) -> str:
    """The table that a sealed file belongs to: a folder of the store."""
    return path.partition("/dt=")[0]


def difference(wanted: Iterable[Part], registered: Iterable[Registered]) -> Difference:
    """What makes `registered` what is wanted. In an hour in which as many rows come as go, they are the same rows, merged."""
    by_path = {_in_table(part.path): part for part in wanted}
    present = {one.path: one for one in registered}
    add = [part for path, part in by_path.items() if path not in present]
    remove = [one for path, one in present.items() if path not in by_path]
    rows: dict[tuple[str, str], int] = {}
    for part in add:
        rows[part.name.dt, part.name.hr] = rows.get((part.name.dt, part.name.hr), 0) + part.rows
    for one in remove:
        rows[one.dt, one.hr] = rows.get((one.dt, one.hr), 0) - one.rows
    return Difference(
        tuple((part, rows[part.name.dt, part.name.hr] != 0) for part in add), tuple((one, rows[one.dt, one.hr] != 0) for one in remove))


def delta_schema(schema: pa.Schema) -> pa.Schema:
    """A sealed file's schema as Delta can say it, with the partition columns: tensors are lists, and dictionaries their values."""
    columns = [pa.field(column.name, _delta_type(column.type)) for column in schema]
    return pa.schema([*columns, pa.field("dt", pa.date32()), pa.field("hr", pa.string())])


def _delta_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _delta_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _delta_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _delta_type(one.type)) for one in kind])
    return _SIGNED.get(kind, kind)


@dataclass(slots=True)
class DeltaJob:
    """Brings the tables up to what the manifest says. Raises ConfigurationError for a store that the library cannot write to."""

    keeping: Keeping
    name: str = "delta"
    interval_s: float = 30.0
    _done: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scheme, separator, _ = self.keeping.store.url.partition("://")
        if self.keeping.store.root is None and (not separator or scheme not in _SCHEMES):
            raise ConfigurationError(f"--records-delta cannot write to {self.keeping.store.url}; it takes a folder, s3://, gs:// or az://")

    def run(self, now_ns: int) -> list[Message]:
        """A `delta` message for each table that was committed to: {"table", "version", "added", "removed"}.

        Raises what stood in the way of one table, once all were tried.
        """
        state = self.keeping.manifest.state
        tables: dict[str, list[Part]] = {root: [] for root in {*self._done, *map(table_root, state.doomed)}}
        for part in state.parts.values():
            tables.setdefault(table_root(part.path), []).append(part)
        messages, failed = list[Message](), list[Exception]()
        for root, parts in tables.items():
            paths = frozenset(part.path for part in parts)
            if paths != self._done.get(root):
                try:
                    messages += self._commit(root, parts, now_ns)
                    self._done[root] = paths
                except Exception as error:  # noqa: BLE001  of one table; the others are kept up to date all the same
                    failed.append(error)
        if failed:
            raise failed[0]
        return messages

    def _commit(self, root: str, parts: list[Part], now_ns: int) -> list[Message]:
        """Raises InvalidArgument for files that are not registered, once all others are."""
        table = self._open(root)
        registered = list(_registered(table, root, self.keeping.replica)) if table else []
        present = {one.path for one in registered}
        schemas = self._schemas(part for part in parts if _in_table(part.path) not in present)
        if table is None and schemas:
            table = DeltaTable.create(self._uri(root), Schema.from_arrow(next(iter(schemas.values()))), partition_by=_PARTITIONS)
        if table is None:
            return []
        misfits = _widen(table, schemas)
        fits = {part.path: _in_table(part.path) in present or _kind(part) not in misfits for part in parts}
        change = difference((part for part in parts if fits[part.path]), registered)
        messages = self._write(table, root, change, now_ns) if change.add or change.remove else []
        if out := [part for part in parts if not fits[part.path]]:
            raise InvalidArgument(
                f"{root}: {misfits[_kind(out[0])]}. {len(out)} sealed files are not registered, {out[0].path} for instance; `headrace"
                " records query` has their rows. Give a model whose tensors change their types a new version: it has a table of its own")
        return messages

    def _write(self, table: DeltaTable, root: str, change: Difference, now_ns: int) -> list[Message]:
        version = (table.transaction_version(self.keeping.replica) or 0) + 1
        table.create_write_transaction(
            [*(_add(part, is_new) for part, is_new in change.add), *(_remove(one, is_new, now_ns) for one, is_new in change.remove)],
            "append", table.schema(), partition_by=_PARTITIONS,
            commit_properties=CommitProperties(app_transactions=[Transaction(self.keeping.replica, version)]),
        )
        return [{"type": "delta", "table": root, "version": version, "added": len(change.add), "removed": len(change.remove)}]

    def _open(self, root: str) -> DeltaTable | None:
        try:
            return DeltaTable(self._uri(root))
        except TableNotFoundError:
            return None

    def _uri(self, root: str) -> str:
        return self.keeping.store.location(root) if self.keeping.store.root is not None else f"{self.keeping.store.url}/{root}"

    def _schemas(self, parts: Iterable[Part]) -> dict[str, pa.Schema]:
        """By kind of file, the earlier sealed first."""
        found: dict[str, pa.Schema] = {}
        for part in parts:
            if _kind(part) not in found:
                with self.keeping.store.open(part.path) as file:
                    found[_kind(part)] = delta_schema(pq.read_schema(file))
        return found


def _registered(table: DeltaTable, root: str, replica: str) -> Iterator[Registered]:
    files: pa.Table = pa.table(table.get_add_actions(flatten=True)).select(
        ["path", "size_bytes", "num_records", "partition.dt", "partition.hr"])
    for path, n_bytes, rows, dt, hr in zip(*(column.to_pylist() for column in files.columns), strict=True):
        name = part_name(f"{root}/{path}")
        if name is not None and name.replica == replica:
            yield Registered(path, n_bytes, rows, str(dt), hr)


def _kind(part: Part) -> str:
    """Files of equal kinds have equal schemas."""
    return part.schema or part.path


def _widen(table: DeltaTable, schemas: Mapping[str, pa.Schema]) -> dict[str, str]:
    """Adds columns that only later files have: a version whose recording keeps other tensors now.

    Returns what is wrong with the kinds of files that do not fit into the table.
    """
    known = {column.name: column.type for column in table.schema().fields}
    misfits = {}
    for kind, schema in schemas.items():
        columns = Schema.from_arrow(schema).fields
        other = [column for column in columns if known.get(column.name, column.type) != column.type]
        if other:
            misfits[kind] = f"column {other[0].name!r} is {_word(known[other[0].name])} in the Delta table and {_word(other[0].type)} now"
            continue
        more = [column for column in columns if column.name not in known]
        if more:
            table.alter.add_columns(more)
            known.update((column.name, column.type) for column in more)
    return misfits


def _word(kind: Any) -> str:
    """A type as Delta calls it: long, array<float>, or the JSON of one that is deeper."""
    said = json.loads(kind.to_json())
    if isinstance(said, dict) and said["type"] == "array" and isinstance(said["elementType"], str):
        return f"array<{said['elementType']}>"
    return said if isinstance(said, str) else json.dumps(said)


def _add(part: Part, is_new: bool) -> AddAction:
    stats: dict[str, Any] = {
        "numRecords": part.rows, "minValues": {"ts_ns": part.min_ts_ns, "seq": part.min_seq},
        "maxValues": {"ts_ns": part.max_ts_ns, "seq": part.max_seq}, "nullCount": {"ts_ns": 0, "seq": 0},
    }
    name = part.name
    hour = {"dt": name.dt, "hr": name.hr}
    return AddAction(_in_table(part.path), part.bytes, hour, part.max_ts_ns // 1_000_000, is_new, json.dumps(stats))


def _remove(one: Registered, is_new: bool, now_ns: int) -> RemoveAction:
    return RemoveAction(one.path, is_new, now_ns // 1_000_000, one.n_bytes, {"dt": one.dt, "hr": one.hr})


def _in_table(path: str) -> str:
    return path[len(table_root(path)) + 1:]


__all__ = ["DeltaJob", "Difference", "Registered", "delta_schema", "difference", "table_root"]
