"""Where everything of the records lies: names in a replica's home and in the records directory, made and read in one place.

    STATE_DIR/records (home, one replica's own):  journals/<epoch>-<n>.open|.journal|.bad   <epoch>.page   staging/   keeper.lock
    the records directory or URL:  records/model=M/version=V/dt=YYYY-MM-DD/hr=HH/part-<replica>-<epoch>-<n>.parquet
                                   labels/model=M/dt=YYYY-MM-DD/hr=HH/part-<replica>-<epoch>-<n>.parquet
                                   _manifest/<replica>.jsonl    _holds/<name>.json

A part's name is a pure function of its journal, a compacted file's one of the paths that it replaces: done twice, either writes the same
file twice. Pure: nothing here touches a disk.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from serve.errors import ConfigurationError

Table = Literal["records", "labels"]
TABLES: tuple[Table, ...] = ("records", "labels")

MANIFESTS = "_manifest"
HOLDS = "_holds"
JOURNALS = "journals"
STAGING = "staging"

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS

_REPLICA = re.compile(r"[A-Za-z0-9._-]{1,128}")
_JOURNAL = re.compile(r"(\d+)-(\d+)\.(open|journal|bad)")
_PART = re.compile(
    r"(records|labels)/model=([^/]+)(?:/version=([^/]+))?/dt=(\d{4}-\d{2}-\d{2})/hr=(\d{2})/(part|compact)-([^/]+)\.parquet")


def check_replica(replica: str) -> str:
    """The name itself. Raises ConfigurationError when files cannot be named by it."""
    if not _REPLICA.fullmatch(replica) or replica.startswith("."):
        raise ConfigurationError(
            f"the replica id {replica!r} is not 1 to 128 of A-Z a-z 0-9 . _ - without a dot in front; give another --replica-id")
    return replica


@dataclass(frozen=True, slots=True)
class JournalName:
    """state: open (being appended to, or left by a worker that died), journal (closed), bad (sealed, and kept because frames failed)."""

    epoch: int
    number: int
    state: Literal["open", "journal", "bad"]

    @property
    def key(self) -> tuple[int, int]:
        """(epoch, n): one journal, whatever its state."""
        return self.epoch, self.number

    @property
    def file(self) -> str:
        return f"{self.epoch}-{self.number}.{self.state}"


def journal_name(file: str) -> JournalName | None:
    """What a file in `journals` is called after; None for anything else."""
    found = _JOURNAL.fullmatch(file)
    return JournalName(int(found[1]), int(found[2]), found[3]) if found else None  # type: ignore[arg-type]  # the expression lists them


@dataclass(frozen=True, slots=True)
class PartName:
    """A sealed file's path, taken apart. version: "" of labels. hour: the first ns of its UTC hour. replica: who wrote it."""

    table: Table
    model: str
    version: str
    dt: str
    hr: str
    replica: str
    compacted: bool

    @property
    def partition(self) -> tuple[Table, str, str, str, str]:
        """Files of equal partitions hold rows of one hour of one version (of one model: labels)."""
        return self.table, self.model, self.version, self.dt, self.hr

    @property
    def hour_ns(self) -> int:
        return int(datetime.fromisoformat(f"{self.dt}T{self.hr}:00:00+00:00").timestamp()) * 1_000_000_000


def part_name(path: str) -> PartName | None:
    """None when `path` is not that of a sealed file."""
    found = _PART.fullmatch(path)
    if not found or (found[1] == "records") != (found[3] is not None):
        return None
    tail = found[7].rsplit("-", 1 if found[6] == "compact" else 2)
    if len(tail) != (2 if found[6] == "compact" else 3):
        return None
    return PartName(found[1], found[2], found[3] or "", found[4], found[5], tail[0], found[6] == "compact")  # type: ignore[arg-type]


def hour_folder(table: Table, model: str, version: str, ts_ns: int) -> str:
    """The partition of a row. ts_ns: since the epoch, of the row or of its hour."""
    at = datetime.fromtimestamp(ts_ns // HOUR_NS * 3600, UTC)
    owner = f"records/model={model}/version={version}" if table == "records" else f"labels/model={model}"
    return f"{owner}/dt={at:%Y-%m-%d}/hr={at:%H}"


def part_path(table: Table, model: str, version: str, ts_ns: int, replica: str, epoch: int, number: int) -> str:
    """The file that one hour of one journal is sealed into."""
    return f"{hour_folder(table, model, version, ts_ns)}/part-{replica}-{epoch}-{number}.parquet"


def compacted_path(replica: str, replaced: Iterable[str]) -> str:
    """The file that takes the place of `replaced`, which are all of one partition."""
    paths = sorted(replaced)
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]
    return f"{paths[0].rpartition('/')[0]}/compact-{replica}-{digest}.parquet"


def manifest_path(replica: str) -> str:
    """The lines of one replica."""
    return f"{MANIFESTS}/{replica}.jsonl"


def page_epoch(path: Path) -> int | None:
    """The epoch of a counters page, None for another file."""
    return int(path.stem) if path.suffix == ".page" and path.stem.isdigit() else None


__all__ = [
    "DAY_NS", "HOLDS", "HOUR_NS", "JOURNALS", "MANIFESTS", "STAGING", "TABLES", "JournalName", "PartName", "Table", "check_replica",
    "compacted_path", "hour_folder", "journal_name", "manifest_path", "page_epoch", "part_name", "part_path",
]
