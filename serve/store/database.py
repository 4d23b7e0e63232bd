"""The SQLite store, blocking: one connection, of the thread that opened it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve import clock
from serve.errors import InvalidArgument, TooLarge, Unavailable
from serve.store.audit import AuditEntry, AuditReport, Chain, sequence_of, verify_rows
from serve.store.canonical import canonical
from serve.store.port import BLOB, Change, Commit, Document, Lease, LeaseLost, StoreConflict
from serve.store.schema import connect, store_errors, transaction

MAX_DOCUMENT_BYTES = 16 << 20
MAX_BLOB_BYTES = 64 << 20

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Database:
    """Raises of every method: Unavailable, Damaged, InsufficientStorage; ConfigStore says what else.

    source and key: of the audit rows. monotonic_ns, wall_ns: the clocks of leases and of labels.
    """

    def __init__(
        self, path: Path, source: str, key: bytes | None = None, *, read_only: bool = False,
        monotonic_ns: Callable[[], int] = clock.monotonic_ns, wall_ns: Callable[[], int] = clock.wall_ns,
    ) -> None:
        self._path = path
        self._read_only = read_only
        self._monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._connection = connect(path, read_only=read_only)
        self._boot = _BOOT_ID.read_text().strip()
        [[name]] = self._rows("SELECT chain FROM store")
        self._chain = Chain(source, name, key)

    def close(self) -> None:
        self._connection.close()

    def revision(self) -> int:
        [[revision]] = self._rows("SELECT revision FROM store")
        return int(revision)

    def data_version(self) -> int:
        """Changes when another connection has committed."""
        [[version]] = self._rows("PRAGMA data_version")
        return int(version)

    def get(self, kind: str, key: str) -> Document | None:
        rows = self._rows("SELECT value, revision FROM documents WHERE kind = ? AND key = ? AND value IS NOT NULL", kind, key)
        return Document(kind, key, json.loads(rows[0][0]), rows[0][1]) if rows else None

    def list(self, kind: str) -> Sequence[Document]:
        rows = self._rows("SELECT key, value, revision FROM documents WHERE kind = ? AND value IS NOT NULL ORDER BY key", kind)
        return [Document(kind, key, json.loads(value), revision) for key, value, revision in rows]

    def list_since(self, revision: int) -> Sequence[Document]:
        rows = self._rows("SELECT kind, key, value, revision FROM documents WHERE revision > ? ORDER BY revision, kind, key", revision)
        return [Document(kind, key, None if value is None else json.loads(value), at) for kind, key, value, at in rows]

    def get_blob(self, key: str) -> bytes | None:
        rows = self._rows("SELECT content FROM blobs WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def commit(self, changes: Sequence[Change], audit: Sequence[AuditEntry], fence: Lease | None) -> Commit:
        values = _checked(changes, audit)
        with self._writing():
            if fence is not None:
                self._check_fence(fence)
            [[revision]] = self._rows("SELECT revision + 1 FROM store")
            for change, value in zip(changes, values, strict=True):
                self._check_expected(change)
                self._write(change, value, revision)
            rows = self._append(audit)
            self._connection.execute("UPDATE store SET revision = ?", (revision,))
        return Commit(revision, rows)

    def _check_fence(self, fence: Lease) -> None:
        if not self._rows("SELECT 1 FROM leases WHERE name = ? AND owner = ? AND token = ?", fence.name, fence.owner, fence.token):
            raise LeaseLost(f"{fence.owner} does not hold the lease {fence.name} with token {fence.token} any more; take it again")

    def _check_expected(self, change: Change) -> None:
        if change.expected is None:
            return
        if change.kind == BLOB:
            rows = self._rows("SELECT revision FROM blobs WHERE key = ?", change.key)
        else:
            rows = self._rows(
                "SELECT revision FROM documents WHERE kind = ? AND key = ? AND value IS NOT NULL", change.kind, change.key)
        actual = rows[0][0] if rows else 0
        if actual != change.expected:
            raise StoreConflict(change.kind, change.key, change.expected, actual)

    def _write(self, change: Change, value: str | bytes | None, revision: int) -> None:
        execute = self._connection.execute
        if change.kind != BLOB and value is None:
            execute("UPDATE documents SET value = NULL, revision = ? WHERE kind = ? AND key = ? AND value IS NOT NULL",
                    (revision, change.kind, change.key))
        elif change.kind != BLOB:
            execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (change.kind, change.key, revision, value))
        elif value is None:
            execute("DELETE FROM blobs WHERE key = ?", (change.key,))
        else:
            execute("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", (change.key, revision, value))

    def _append(self, entries: Sequence[AuditEntry]) -> tuple[Mapping[str, Any], ...]:
        if not entries:
            return ()
        sequence, last = self.audit_head()
        rows = []
        for entry in entries:
            sequence += 1
            row = self._chain.row(entry, sequence, last, self._wall_ns())
            last = row["hash"]
            self._connection.execute("INSERT INTO audit VALUES (?, ?)", (sequence, canonical(row)))
            rows.append(row)
        self._connection.execute("UPDATE store SET audit_sequence = ?, audit_hash = ?", (sequence, last))
        return tuple(rows)

    def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        if not owner or ttl_s <= 0:
            raise InvalidArgument(f"a lease needs an owner and a time to live, got {owner!r} and {ttl_s} s")
        with self._writing():
            rows = self._rows("SELECT owner, token, boot, expires_ns FROM leases WHERE name = ?", name)
            holder, token, boot, expires_ns = rows[0] if rows else ("", 0, "", 0)
            now = self._monotonic_ns()
            is_held = holder != "" and boot == self._boot and expires_ns > now
            if is_held and holder != owner:
                return None
            token = token if is_held else token + 1
            self._connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)", (name, owner, token, self._boot, now + round(ttl_s * 1e9)))
        return Lease(name, owner, token)

    def release(self, lease: Lease) -> None:
        with self._writing():
            self._connection.execute(
                "UPDATE leases SET owner = '' WHERE name = ? AND owner = ? AND token = ?", (lease.name, lease.owner, lease.token))

    def audit(self, after: int, limit: int) -> Sequence[Mapping[str, Any]]:
        if limit < 0:
            raise InvalidArgument(f"limit is {limit}; at least 0")
        rows = self._rows("SELECT event FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?", after, limit)
        return [json.loads(event) for [event] in rows]

    def audit_head(self) -> tuple[int, str]:
        [[sequence, digest]] = self._rows("SELECT audit_sequence, audit_hash FROM store")
        return int(sequence), str(digest)

    def verify_audit(self, head: str | None) -> AuditReport:
        with store_errors(self._path):
            # One snapshot for the rows and for what is remembered of them.
            self._connection.execute("BEGIN")
            try:
                sequence, digest = self.audit_head()
                used = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")
                recorded = (max(sequence, used[0][0] if used else 0), digest)
                return verify_rows(self._stored_rows(), head, key=self._chain.key, recorded=recorded)
            finally:
                self._connection.execute("ROLLBACK")

    def _stored_rows(self) -> Iterator[Mapping[str, Any]]:
        rows = self._connection.execute("SELECT sequence, event FROM audit ORDER BY sequence")
        for position, (sequence, event) in enumerate(rows, start=1):
            row = _parsed(event)
            # A row that was given another number, and none that its event knows of.
            yield {**row, "sequence": str(sequence)} if sequence != position == sequence_of(row) else row

    def advance(self, by: int) -> None:
        """Skips revisions and tokens that a lost file may have given out."""
        with self._writing():
            self._connection.execute("UPDATE store SET revision = revision + ?", (by,))
            self._connection.execute("UPDATE leases SET token = token + ?, owner = ''", (by,))

    def vacuum_into(self, target: Path) -> None:
        """A compact copy, of one moment, without stopping writers."""
        with store_errors(self._path):
            self._connection.execute("VACUUM INTO ?", (str(target),))

    def _rows(self, statement: str, *values: Any) -> Sequence[Any]:
        with store_errors(self._path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._read_only:
            raise Unavailable(f"{self._path} was opened to be read only")
        with store_errors(self._path), transaction(self._connection):
            yield


def _checked(changes: Sequence[Change], audit: Sequence[AuditEntry]) -> Sequence[str | bytes | None]:
    """What is written for each change."""
    if not changes and not audit:
        raise InvalidArgument("a commit without changes and audit entries")
    named = [(change.kind, change.key) for change in changes]
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise InvalidArgument(f"{twice[0]} {twice[1]!r} is changed twice in one commit")
    return [_encoded(change) for change in changes]


def _encoded(change: Change) -> str | bytes | None:
    if change.value is None:
        return None
    if (change.kind == BLOB) != isinstance(change.value, bytes):
        found = type(change.value).__name__
        raise InvalidArgument(f"{change.kind} {change.key!r} is of type {found}; bytes go with kind {BLOB!r}, and only they")
    encoded = change.value if isinstance(change.value, bytes) else canonical(change.value)
    limit = MAX_BLOB_BYTES if change.kind == BLOB else MAX_DOCUMENT_BYTES
    if len(encoded) > limit:
        raise TooLarge(f"{change.kind} {change.key!r} is {len(encoded)} bytes; the limit is {limit}")
    return encoded


def _parsed(event: str) -> Mapping[str, Any]:
    try:
        row = json.loads(event)
    except ValueError:
        return {"sequence": "that is not JSON"}
    return row if isinstance(row, dict) else {"sequence": "that is no object"}


__all__ = ["MAX_BLOB_BYTES", "MAX_DOCUMENT_BYTES", "Database"]
