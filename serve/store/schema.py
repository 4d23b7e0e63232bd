"""The tables of the SQLite store, its connections, and what SQLite's errors mean to a caller.

`PRAGMA user_version` is the version of the schema. A store that a newer Headrace wrote is refused and left as it is.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.errors import ConfigurationError, InsufficientStorage, Unavailable

SCHEMA_VERSION = 1

# "HDRC": says that a file is a store of Headrace.
APPLICATION_ID = 0x48445243

BUSY_TIMEOUT_S = 5.0

_TABLES = (
    # One row. audit_sequence and audit_hash are of the newest row of the chain, chain is its name.
    """CREATE TABLE store (
        id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL,
        audit_sequence INTEGER NOT NULL, audit_hash TEXT NOT NULL, chain TEXT NOT NULL) STRICT""",
    # value is NULL for a document that was deleted at `revision`.
    """CREATE TABLE documents (
        kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, value TEXT, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX documents_by_revision ON documents (revision)",
    "CREATE TABLE blobs (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, content BLOB NOT NULL) STRICT",
    # owner is '' for a lease that was given back. expires_ns is of the monotonic clock, which begins anew with every boot.
    """CREATE TABLE leases (
        name TEXT PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL, boot TEXT NOT NULL, expires_ns INTEGER NOT NULL) STRICT""",
    # AUTOINCREMENT: sqlite_sequence remembers the newest number when rows are removed from the end.
    "CREATE TABLE audit (sequence INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL) STRICT",
)

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Damaged(Unavailable):
    """The file is not a whole SQLite database."""


class DiskFailed(Unavailable):
    """Reading or writing the file failed below SQLite."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection of the calling thread, in autocommit. Raises Damaged, Unavailable.

    Writers get WAL with synchronous=FULL: a commit is on the disk before it returns.
    """
    with store_errors(path):
        if read_only:
            return _connect_read_only(path)
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _connect_read_only(path: Path) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # Nobody has it open and nothing waits in a log: in a folder that cannot be written to, this is how it is read.
        connection = sqlite3.connect(f"{uri}&immutable=1", isolation_level=None, uri=True)
    return connection


def check_whole(connection: sqlite3.Connection, path: Path) -> None:
    """Raises Damaged when the file's structure is not sound."""
    with store_errors(path):
        [[said]] = connection.execute("PRAGMA quick_check(1)").fetchall()
    if said != "ok":
        raise Damaged(f"{path} is damaged: {said}")


def check_schema(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the tables are there; False for an empty file. Raises ConfigurationError for a newer schema and for somebody else's file."""
    with store_errors(path):
        [[version]] = connection.execute("PRAGMA user_version").fetchall()
        [[application]] = connection.execute("PRAGMA application_id").fetchall()
        [[n_tables]] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if n_tables == 0 and version == 0:
        return False
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{path} is a database of something else; give another --state-dir, or move the file away")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} was written by a newer Headrace: its schema is version {version}, this one knows {SCHEMA_VERSION}; "
            "start the newer one, or give another --state-dir"
        )
    return True


def create_schema(connection: sqlite3.Connection, path: Path, chain: str, genesis: str) -> None:
    """Makes the tables if nobody has made them meanwhile. chain: the name that its audit rows will carry."""
    with store_errors(path), transaction(connection):
        if check_schema(connection, path):
            return
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO store VALUES (1, 0, 0, ?, ?)", (genesis, chain))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything in the block, or nothing. Takes the right to write at once, so that what is read in it is still so when it commits."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF
        if primary in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ:
            raise Damaged(f"{path} is damaged: {error}") from error
        if primary == sqlite3.SQLITE_FULL:
            raise InsufficientStorage(f"the disk of {path} is full; nothing was changed. Make room and try again") from error
        if primary == sqlite3.SQLITE_BUSY:
            raise Unavailable(f"{path} has been locked by another process for {BUSY_TIMEOUT_S:g} s; try again") from error
        if primary == sqlite3.SQLITE_IOERR:
            raise DiskFailed(f"the disk of {path} has failed: {error}") from error
        raise Unavailable(f"the store {path} cannot be used: {error}") from error


__all__ = [
    "APPLICATION_ID", "BUSY_TIMEOUT_S", "SCHEMA_VERSION", "Damaged", "DiskFailed", "check_schema", "check_whole", "connect",
    "create_schema", "store_errors", "transaction",
]
