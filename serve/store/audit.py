"""The audit chain: every change as a CloudEvent that holds the hash of the one before it.

    row  = specversion, id, source, type, subject, time, datacontenttype, sequence, data, prevhash, hash [, mac]
    hash = SHA-256 of the canonical JSON of the row without hash and mac, in hexadecimal; it covers prevhash, so it covers all rows before
    mac  = HMAC-SHA-256 of the hash with the operator's key, where there is one

`sequence` counts from 1 without gaps, padded with zeros so that it sorts as text (CloudEvents sequence extension). Whoever can write the
file and knows no key can write a new chain: keep a hash elsewhere, or use a key.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from serve.errors import HeadraceError
from serve.store.canonical import canonical, plain

TYPE_PREFIX = "dev.headrace."

# prevhash of the first row.
GENESIS = "0" * 64

_SEQUENCE_DIGITS = 20


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What is to be told. type: `dev.headrace.<what>.<verb>`; subject: the model or rollout that it is about, "" for none.

    before, after, evidence: JSON; what JSON cannot say is written as text. digests: version -> digest of its files, of the loaded versions
    that the entry is about. time_ns: since the epoch, None for the moment of the commit.
    """

    type: str
    subject: str
    actor: str
    reason: str = ""
    before: Any = None
    after: Any = None
    evidence: Any = None
    time_ns: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.type.startswith(TYPE_PREFIX):
            raise ValueError(f"the type of an audit entry is {self.type!r}; it begins with {TYPE_PREFIX}")


@dataclass(frozen=True, slots=True)
class Chain:
    """What the rows of one store have in common. source: `headrace/<name of the server>`; name: drawn when the store was made."""

    source: str
    name: str
    key: bytes | None = field(default=None, repr=False)

    def row(self, entry: AuditEntry, sequence: int, prevhash: str, now_ns: int) -> dict[str, Any]:
        """The CloudEvent at this place of the chain. now_ns: for an entry that does not say when. Raises InvalidArgument."""
        row: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"{self.name}-{sequence}",
            "source": quote(self.source),
            "type": entry.type,
            "time": rfc3339(now_ns if entry.time_ns is None else entry.time_ns),
            "datacontenttype": "application/json",
            "sequence": str(sequence).zfill(_SEQUENCE_DIGITS),
            "data": {
                "actor": entry.actor, "reason": entry.reason,
                "before": plain(entry.before), "after": plain(entry.after), "evidence": plain(entry.evidence),
            },
            "prevhash": prevhash,
        }
        if entry.digests:
            row["data"]["digests"] = dict(entry.digests)
        if entry.subject:
            row["subject"] = entry.subject
        row["hash"] = hash_of(row)
        if self.key is not None:
            row["mac"] = mac_of(row["hash"], self.key)
        return row


@dataclass(frozen=True, slots=True)
class AuditReport:
    """n_rows: that were read. head: hash of the last of them. first_bad: the first sequence number that is wrong, None for an intact chain.

    fault: in plain words, "" for an intact chain.
    """

    n_rows: int
    head: str
    first_bad: int | None = None
    fault: str = ""

    @property
    def is_intact(self) -> bool:
        return self.first_bad is None


def hash_of(row: Mapping[str, Any]) -> str:
    """The hash that a row must have. Raises InvalidArgument for a row that is not JSON."""
    covered = {name: value for name, value in row.items() if name not in {"hash", "mac"}}
    return hashlib.sha256(canonical(covered).encode()).hexdigest()


def mac_of(digest: str, key: bytes) -> str:
    """The mac of a row with this hash."""
    return hmac.digest(key, digest.encode(), "sha256").hex()


def rfc3339(time_ns: int) -> str:
    """UTC with microseconds. time_ns: since the epoch."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"


def sequence_of(row: Mapping[str, Any]) -> int:
    """Place of an event in the chain; 0 for an event that is not of the chain."""
    found = row.get("sequence")
    return int(found) if isinstance(found, str) and found.isascii() and found.isdigit() else 0


def verify_rows(
    rows: Iterable[Mapping[str, Any]], head: str | None = None, *, key: bytes | None = None, recorded: tuple[int, str] | None = None
) -> AuditReport:
    """Whether the rows are a whole chain from its first row, each as it was written.

    head: a hash that somebody kept, which one of the rows must have. key: every row must carry its mac. recorded: sequence number and hash
    of the newest row as the store remembers them beside the chain: rows removed at the end are found by it.
    """
    n_rows, last, has_head = 0, GENESIS, head is None or head == GENESIS
    for row in rows:
        fault = _fault(row, n_rows + 1, key)
        if fault:
            return AuditReport(n_rows, last, n_rows + 1, fault)
        if row.get("prevhash") != last:
            # The row agrees with itself, so it follows a row that is not the one before it any more.
            fault = f"edited: row {n_rows + 1} follows a row with the hash {row.get('prevhash')}; the one before it has {last}"
            return AuditReport(n_rows, last, max(n_rows, 1), fault)
        n_rows, last = n_rows + 1, str(row["hash"])
        has_head = has_head or last == head
    if recorded is not None and recorded[0] > n_rows:
        return AuditReport(n_rows, last, n_rows + 1, f"removed: rows {n_rows + 1} to {recorded[0]} are gone from the end")
    if recorded is not None and recorded != (n_rows, last):
        return AuditReport(n_rows, last, max(n_rows, 1), f"the store remembers row {recorded[0]} with hash {recorded[1]} as the newest")
    if not has_head:
        return AuditReport(n_rows, last, n_rows + 1, f"no row has the hash {head}: the end was removed, or the chain was written anew")
    return AuditReport(n_rows, last)


def _fault(row: Mapping[str, Any], expected: int, key: bytes | None) -> str:
    sequence = sequence_of(row)
    if sequence > expected:
        return f"removed or reordered: row {sequence} stands where row {expected} belongs"
    if sequence != expected:
        return f"reordered or repeated: row {row.get('sequence')} stands where row {expected} belongs"
    try:
        digest = hash_of(row)
    except HeadraceError as error:
        return f"edited: row {expected} is {error}"
    if row.get("hash") != digest:
        return f"edited: row {expected} hashes to {digest} and says {row.get('hash')}"
    if key is not None and not hmac.compare_digest(str(row.get("mac", "")).encode(), mac_of(digest, key).encode()):
        return f"forged: the mac of row {expected} is not of this key"
    return ""


__all__ = [
    "GENESIS", "TYPE_PREFIX", "AuditEntry", "AuditReport", "Chain", "hash_of", "mac_of", "rfc3339", "sequence_of", "verify_rows",
]
