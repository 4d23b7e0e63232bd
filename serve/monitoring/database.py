"""What monitoring remembers, in a SQLite file of its own: cells not yet closed, windows, watches, alerts, what was told. Blocking.

Of one thread. A file that is damaged is set aside and a new one begun: the server goes on. Losing power may cost the last seconds.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from serve.errors import Unavailable
from serve.store.canonical import canonical, plain

_log = structlog.get_logger(__name__)

FILE = "monitoring.db"
# Windows of a series that are kept: a week of five minutes.
MAX_WINDOWS = 2016
MAX_ALERTS = 1000
# A series that has had no window for so long is forgotten: its version is gone.
FORGOTTEN_NS = 30 * 86_400 * 10**9
# Writes that wait for a disk that takes none; further ones push out the oldest.
MAX_WAITING = 100_000

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE cells (model TEXT, version TEXT, variant TEXT, role TEXT, start_ns INTEGER, baseline TEXT, content BLOB NOT NULL,
    PRIMARY KEY (model, version, variant, role, start_ns)) WITHOUT ROWID;
CREATE TABLE baselines (sha256 TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE windows (model TEXT, version TEXT, variant TEXT, start_ns INTEGER, document TEXT NOT NULL,
    PRIMARY KEY (model, version, variant, start_ns)) WITHOUT ROWID;
CREATE TABLE realised (model TEXT, version TEXT, variant TEXT, start_ns INTEGER, document TEXT NOT NULL,
    PRIMARY KEY (model, version, variant, start_ns)) WITHOUT ROWID;
CREATE TABLE watches (model TEXT, version TEXT, variant TEXT, kind TEXT, alert TEXT, document TEXT NOT NULL,
    PRIMARY KEY (model, version, variant, kind)) WITHOUT ROWID;
CREATE TABLE alerts (id TEXT PRIMARY KEY, model TEXT, raised_ns INTEGER, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX alerts_of_model ON alerts (model, raised_ns);
CREATE TABLE facts (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
"""

_HISTORY = ("windows", "realised")

Series = tuple[str, str, str]       # model, version, variant


@dataclass(frozen=True, slots=True)
class Row:
    """A document of a series and a time."""

    series: Series
    start_ns: int
    document: dict[str, Any]


class MonitoringDatabase:
    """What is put is written by `flush`, all of it or nothing; what the disk does not take stays and is tried again with the next."""

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable, for a folder that cannot be written."""
        self._path = folder / FILE
        self._writes: dict[tuple[Any, ...], tuple[str, tuple[Any, ...]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = open_or_set_aside(self._path, _connect)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"monitoring cannot keep anything in {self._path}: {error}") from error

    def flush(self) -> None:
        """Raises Unavailable when it cannot be written; nothing was then."""
        if not self._writes:
            return
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, values in self._writes.values():
                    self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self._writes.clear()

    def close(self) -> None:
        """Without what was not flushed."""
        self._connection.close()

    def put_cell(self, series: Series, role: str, start_ns: int, baseline: str, content: bytes) -> None:
        """role: by whose baseline it was counted. baseline: its sha256."""
        self._put(("cells", series, role, start_ns), "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?)", *series, role, start_ns,
                  baseline, content)

    def put_baseline(self, sha256: str, content: str) -> None:
        """The file of a baseline that cells were counted by."""
        self._put(("baselines", sha256), "INSERT OR REPLACE INTO baselines VALUES (?, ?)", sha256, content)

    def baselines(self) -> dict[str, str]:
        """By sha256, those that cells were counted by; others are forgotten."""
        self._put(("baselines",), "DELETE FROM baselines WHERE sha256 NOT IN (SELECT baseline FROM cells)")
        self.flush()
        return dict(self._read("SELECT sha256, content FROM baselines"))

    def drop_cells(self, series: Series, role: str, from_ns: int, to_ns: int) -> None:
        """Those that begin in [from_ns, to_ns)."""
        for key in [key for key in self._writes if key[:3] == ("cells", series, role) and from_ns <= key[3] < to_ns]:
            del self._writes[key]
        self._put(("drop", series, role, from_ns, to_ns), "DELETE FROM cells WHERE model = ? AND version = ? AND variant = ? AND role = ? "
                  "AND start_ns >= ? AND start_ns < ?", *series, role, from_ns, to_ns)

    def cells(self) -> Sequence[tuple[Series, str, int, str, bytes]]:
        """(series, role, start, sha256 of the baseline, content), oldest first."""
        return [((model, version, variant), role, start, baseline, bytes(content))
                for model, version, variant, role, start, baseline, content in self._read("SELECT * FROM cells ORDER BY start_ns")]

    def put_window(self, row: Row) -> None:
        """Forgets the oldest ones of the series."""
        self._put_row("windows", row)

    def windows(self, model: str, since_ns: int = 0, limit: int = MAX_WINDOWS) -> list[Row]:
        """The newest `limit` windows of each series of a model, oldest first."""
        return self._rows_of("windows", model, since_ns, limit)

    def drop_windows(self, model: str, after_ns: int) -> None:
        """Those of a model that begin after a time, realised ones too."""
        for table in _HISTORY:
            for key in [key for key in self._writes if key[0] == table and key[1][0] == model and len(key) == 3 and key[2] > after_ns]:
                del self._writes[key]
            self._put(("ahead", table, model), f"DELETE FROM {table} WHERE model = ? AND start_ns > ?", model, after_ns)     # noqa: S608

    def forget_series(self, before_ns: int) -> None:
        """Those whose newest window began before a time."""
        old = "(model, version, variant) IN (SELECT model, version, variant FROM {0} GROUP BY 1, 2, 3 HAVING max(start_ns) < ?)"
        for table in _HISTORY:
            self._put(("old", table), f"DELETE FROM {table} WHERE {old.format(table)}", before_ns)     # noqa: S608

    def put_realised(self, row: Row) -> None:
        self._put_row("realised", row)

    def realised(self, model: str, since_ns: int = 0, limit: int = MAX_WINDOWS) -> list[Row]:
        return self._rows_of("realised", model, since_ns, limit)

    def models(self) -> list[str]:
        """That have windows."""
        return [model for [model] in self._read("SELECT model FROM windows UNION SELECT model FROM realised ORDER BY 1")]

    def put_watch(self, series: Series, kind: str, alert_id: str, document: Mapping[str, Any]) -> None:
        self._put(("watches", series, kind), "INSERT OR REPLACE INTO watches VALUES (?, ?, ?, ?, ?, ?)", *series, kind, alert_id,
                  _text(document))

    def watches(self) -> Sequence[tuple[Series, str, str, dict[str, Any]]]:
        """(series, kind, id of the alert that stands or "", document)."""
        return [((model, version, variant), kind, alert, json.loads(document))
                for model, version, variant, kind, alert, document in self._read("SELECT * FROM watches")]

    def put_alert(self, alert_id: str, model: str, raised_ns: int, document: Mapping[str, Any]) -> None:
        self._put(("alerts", alert_id), "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?)", alert_id, model, raised_ns, _text(document))

    def alerts(self, limit: int = MAX_ALERTS) -> list[dict[str, Any]]:
        """Oldest first; all but the newest `limit` and those that stand are forgotten."""
        self._put(("alerts",), "DELETE FROM alerts WHERE id NOT IN (SELECT id FROM alerts ORDER BY raised_ns DESC LIMIT ?) "
                  "AND id NOT IN (SELECT alert FROM watches)", limit)
        self.flush()
        return [json.loads(document) for [document] in self._read("SELECT document FROM alerts ORDER BY raised_ns, id")]

    def put_fact(self, name: str, document: Any) -> None:
        self._put(("facts", name), "INSERT OR REPLACE INTO facts VALUES (?, ?)", name, _text(document))

    def fact(self, name: str, default: Any) -> Any:
        """What was put under a name."""
        found = self._read("SELECT document FROM facts WHERE name = ?", name)
        return json.loads(found[0][0]) if found else default

    def _put_row(self, table: str, row: Row) -> None:
        self._put((table, row.series, row.start_ns), f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", *row.series,    # noqa: S608
                  row.start_ns, _text(row.document))
        of_series = "model = ? AND version = ? AND variant = ?"
        oldest = f"SELECT start_ns FROM {table} WHERE {of_series} ORDER BY start_ns DESC LIMIT 1 OFFSET ?"     # noqa: S608
        self._writes.pop((table, row.series), None)     # once, behind the last row of the series
        self._put((table, row.series), f"DELETE FROM {table} WHERE {of_series} AND start_ns < ({oldest})", *row.series, *row.series,   # noqa: S608
                  MAX_WINDOWS - 1)

    def _rows_of(self, table: str, model: str, since_ns: int, limit: int) -> list[Row]:
        found = self._read(
            "SELECT model, version, variant, start_ns, document FROM (SELECT *, row_number() OVER "     # noqa: S608
            f"(PARTITION BY version, variant ORDER BY start_ns DESC) AS place FROM {table} WHERE model = ? AND start_ns >= ?) "
            "WHERE place <= ? ORDER BY start_ns, version, variant", model, since_ns, limit)
        return [Row((of, version, variant), start, json.loads(document)) for of, version, variant, start, document in found]

    def _put(self, key: tuple[Any, ...], statement: str, *values: Any) -> None:
        while len(self._writes) >= MAX_WAITING:
            del self._writes[next(iter(self._writes))]
        self._writes[key] = statement, values

    def _read(self, statement: str, *values: Any) -> list[Any]:
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(f"monitoring cannot use {self._path}: {error}") from error


def open_or_set_aside(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> sqlite3.Connection:
    """The database; where the file is damaged, a new one beside it. Raises OSError, sqlite3.Error for a disk that takes nothing."""
    try:
        return _whole(connect(path))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = path.with_suffix(f".damaged-{path.stat().st_mtime_ns}")
        _log.error("what monitoring remembered is damaged, it begins anew", file=str(path), aside=str(aside), reason=str(error))
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return connect(path)


def _whole(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Raises DatabaseError where a page is damaged: 0.1 s for some hundred MB."""
    try:
        [[found]] = connection.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # The thread that opens it is not always the one that uses it; there is one at a time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        [[version]] = connection.execute("PRAGMA user_version")
        if version not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema {version}, this release has {_SCHEMA_VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _text(document: Any) -> str:
    return canonical(plain(document))


__all__ = ["FILE", "FORGOTTEN_NS", "MAX_WINDOWS", "MonitoringDatabase", "Row", "Series", "open_or_set_aside"]
