"""ConfigStore: what routing needs of a store. SQLite fills it in `sqlite.py`; whatever else does passes the same tests.

A store holds small JSON documents, named by (kind, key), blobs, leases and the audit chain. Every commit gets the next revision, a
counter of the whole store that only grows; a document carries the revision that wrote it. Nothing is acknowledged before it is durable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve.errors import Conflict
from serve.store.audit import AuditEntry, AuditReport

# The kind under which a commit changes blobs; no document may have it.
BLOB = "blob"

# `Change.expected` of a document that must not exist.
ABSENT = 0


class StoreConflict(Conflict):
    """A document was not at the revision that a change expected; nothing was written. actual 0: it does not exist."""

    def __init__(self, document_kind: str, key: str, expected: int, actual: int) -> None:
        found = f"is at revision {actual}" if actual else "does not exist"
        wanted = f"expected revision {expected}" if expected else "expected none"
        super().__init__(f"{document_kind} {key!r} {found}, {wanted}; read it again and repeat the change")
        self.document_kind = document_kind
        self.key = key
        self.expected = expected
        self.actual = actual


class LeaseLost(Conflict):
    """A commit was made under a lease that somebody else has taken since, or that was given back; nothing was written."""


@dataclass(frozen=True, slots=True)
class Document:
    """value: JSON, the caller's to keep; None says that it was deleted, at that revision (`list_since` only)."""

    kind: str
    key: str
    value: dict[str, Any] | None
    revision: int

    @property
    def content(self) -> dict[str, Any]:
        """The value of a document that is known to exist."""
        assert self.value is not None, f"{self.kind} {self.key!r} was deleted"
        return self.value


@dataclass(frozen=True, slots=True)
class Change:
    """One document or blob to write, or to delete (value None).

    value: a mapping for a document; bytes for a blob, with kind BLOB. expected: the revision that it must have now, ABSENT (0) if it must
    not exist, None for whatever is there.
    """

    kind: str
    key: str
    value: Mapping[str, Any] | bytes | None
    expected: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """What a transaction wrote: its revision, and its audit rows as CloudEvents in the order of the chain."""

    revision: int
    audit_rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act alone under a name, until it expires.

    token grows with every new holder: whoever sees a larger one has been replaced.
    """

    name: str
    owner: str
    token: int


class ConfigStore(Protocol):
    """Raises of every method: Unavailable when the store cannot be used; InsufficientStorage when the disk is full and nothing was written.

    Of one event loop. A call that is cancelled either happened or did not, as a whole.
    """

    async def get(self, kind: str, key: str) -> Document | None: ...

    async def list(self, kind: str) -> Sequence[Document]:
        """The documents of a kind that exist, by key."""

    async def list_since(self, revision: int) -> Sequence[Document]:
        """Documents written after `revision`, deletions included, each once with its newest state, by revision."""

    async def commit(
        self, changes: Sequence[Change], audit: Sequence[AuditEntry] = (), *, fence: Lease | None = None
    ) -> Commit:
        """All changes and audit rows, or none. fence: only while this lease is the newest of its name.

        Raises StoreConflict, LeaseLost; InvalidArgument for what is not JSON (NaN and infinities are not), the same document twice or
        nothing to do; TooLarge.
        """

    async def get_blob(self, key: str) -> bytes | None: ...

    async def put_blob(self, key: str, content: bytes) -> Commit:
        """A commit of one blob, whatever was there. To write it together with documents: a Change of kind BLOB."""

    async def delete_blob(self, key: str) -> Commit: ...

    async def revision(self) -> int:
        """The newest one; 0 before the first commit."""

    async def wait(self, revision: int, timeout_s: float) -> int:
        """The newest revision, as soon as it is larger than `revision`, or what it is after timeout_s seconds.

        This process's commits wake at once, another's within a quarter of a second.
        """

    async def lease(self, name: str, owner: str, ttl_s: float) -> Lease | None:
        """Takes the lease for ttl_s seconds, or renews it for its owner with the token it has; None while somebody else holds it.

        An owner is one holder: a name that no other process uses. An expired lease is taken with a new token, by its last owner too.
        """

    async def release(self, lease: Lease) -> None:
        """Gives it back; nothing happens if it is held no more."""

    async def audit(self, after: int = 0, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """Audit rows (CloudEvents) with a sequence number over `after`, ascending, at most `limit` of them."""

    async def audit_head(self) -> tuple[int, str]:
        """Sequence number and hash of the newest audit row; (0, 64 zeros) before the first."""

    async def verify_audit(self, head: str | None = None) -> AuditReport:
        """Reads the whole chain. head: a hash that somebody kept elsewhere, which must be in it."""

    async def close(self) -> None:
        """After what was begun. Nothing may be called after it."""


__all__ = ["ABSENT", "BLOB", "Change", "Commit", "ConfigStore", "Document", "Lease", "LeaseLost", "StoreConflict"]
