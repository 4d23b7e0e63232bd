# ruff: noqa: S608  -- names are quoted
"""Whether everything that was recorded is there, to the row: sampled = stored + dropped + lost, and no stored byte changed.

For each replica and epoch rows were numbered from 0. Each number is one of
    found       in a sealed file or a journal, once
    dropped     by the recorder, counted by reason
    lost        in the rings, or on their way to a journal, when a worker died, by its page
    torn, bad   in frames that a journal ends in the middle of, or that do not check
    purged      by retention or the disk budget
    missing     of a sealed file that is gone or damaged
    under way   of an epoch that runs, or that nobody has accounted for yet
and what is left is unexplained: a fault. So are a number that is found twice and a file whose SHA-256 is not the manifest's.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve.recording.accounts import Account, FoundRows, JournalRows, Key, Pages, accounts, owners, purge_faults, with_missing
from serve.recording.journal import JournalContents
from serve.recording.layout import HOLDS, MANIFESTS, TABLES, page_epoch
from serve.recording.manifest import ManifestState, Part
from serve.recording.manifest_file import list_replicas, read_manifest
from serve.recording.page import PageNumbers, read_page
from serve.recording.query import Records
from serve.recording.reading import read
from serve.recording.snapshot import OpenJournal
from serve.recording.store_port import RecordsStore
from serve.recording.views import literal

# What is done, how many bytes of it are, of how many.
Progress = Callable[[str, int, int], object]

GAPS_KEPT = 100
_CHUNK = 1 << 20
# Times that everything is read, where epochs are accounted for meanwhile.
_READINGS = 4

_NUMBERS = """SELECT *, lag(seq, 1, -1) OVER (PARTITION BY replica, epoch ORDER BY seq) AS before
    FROM (SELECT {replica} AS replica, epoch, seq FROM records)"""
_FOUND = f"""SELECT replica, epoch, count(*) AS found, count(*) FILTER (WHERE seq = before) AS twice, max(seq) AS last,
    count(*) FILTER (WHERE seq > before + 1) AS n_gaps FROM ({_NUMBERS}) GROUP BY ALL"""
_GAPS = f"""SELECT replica, epoch, before + 1 AS first, seq - 1 AS last FROM ({_NUMBERS}) WHERE seq > before + 1
    QUALIFY row_number() OVER (PARTITION BY replica, epoch ORDER BY seq) <= {GAPS_KEPT} ORDER BY ALL"""


@dataclass(frozen=True, slots=True)
class Verification:
    """accounts: of every epoch of which anything is known. n_files, n_bytes: sealed files that were read. damaged: path -> what is wrong.

    faults: one sentence each; without any, everything is there. warnings: what could not be looked at.
    """

    accounts: list[Account]
    journals: list[JournalRows]
    n_files: int
    n_bytes: int
    damaged: dict[str, str]
    faults: list[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Nothing was ever recorded."""
        return not (self.accounts or self.journals or self.n_files)

    @property
    def is_intact(self) -> bool:
        return not self.faults


def verify(store: RecordsStore, home: Path | None = None, host: str | None = None,
           progress: Progress = lambda what, done, of: None) -> Verification:
    """Reads every row's number and every byte. home, host: as `reading.read`.

    Raises as `snapshot`, and Unavailable when rows are purged faster than they can be read.
    """
    present = [file.path for table in TABLES for file in store.list(table)]
    with read(store, home, host) as first:
        homes = first.homes
    damaged = _check_files(store, first.snapshot.parts, progress)
    before = _pages(homes, owners(first.snapshot.manifests))
    # Reading every byte takes long: what was compacted meanwhile is gone, and what was sealed is new.
    n_readings = 0
    while True:
        with read(store, home, host) as reading:
            snapshot = reading.snapshot
            known = {part.path for part in first.snapshot.parts}
            damaged |= _check_files(store, [part for part in snapshot.parts if part.path not in known], progress)
            whole = tuple(part for part in snapshot.parts if part.path not in damaged)
            records = Records(store, replace(snapshot, parts=whole))
            progress("looking for gaps", 0, 0)
            found = _found(records, owners(snapshot.manifests))
            journals = [_journal_rows(journal, records.contents(journal), homes) for journal in snapshot.journals]
            after = _pages(homes, owners(snapshot.manifests))
        n_readings += 1
        if n_readings == _READINGS or not _was_accounted(before.keys() - after.keys(), snapshot.manifests):
            break
    pages = {key: Pages(before.get(key, PageNumbers(page.epoch, 0, 0)), page) for key, page in after.items()}
    lost = _rows_of([part for part in (*first.snapshot.parts, *snapshot.parts) if part.path in damaged], owners(snapshot.manifests))
    made = with_missing(accounts(snapshot.manifests, journals, found, pages), snapshot.manifests, lost)
    faults = [fault for account in made for fault in account.faults] + purge_faults(snapshot.manifests, made)
    faults += [f"{one.path}: {one.bad_rows} rows in {one.bad_frames} damaged stretches" for one in journals if one.bad_frames]
    faults += [f"{path} {fault}" for path, fault in damaged.items()]
    faults += [f"the manifest of replica {state.replica} has {state.n_damaged} lines that cannot be read"
               for state in snapshot.manifests if state.n_damaged]
    if not snapshot.manifests and (present or _holds_other_files(store)):
        faults.append(f"{store.url} holds other files and no manifest of a server: give --records as the server has it")
    return Verification(
        made, journals, len(snapshot.parts), sum(part.bytes for part in snapshot.parts), damaged, faults,
        [*records.warnings, *_strays(present, snapshot.manifests)])


def _found(records: Records, owner: Mapping[str, str]) -> dict[Key, FoundRows]:
    renamed = " ".join(f"WHEN {literal(replica)} THEN {literal(name)}" for replica, name in owner.items() if name != replica)
    replica = f"CASE replica {renamed} ELSE replica END" if renamed else "replica"
    gaps: dict[Key, list[tuple[int, int]]] = {}
    with records.query(_GAPS.format(replica=replica)) as result:
        for row in result.rows():
            gaps.setdefault((row["replica"], row["epoch"]), []).append((row["first"], row["last"]))
    with records.query(_FOUND.format(replica=replica)) as result:
        return {key: FoundRows(row["found"], row["twice"], row["last"], row["n_gaps"], tuple(gaps.get(key, ())))
                for row in result.rows() for key in [(row["replica"], row["epoch"])]}


def _pages(homes: Mapping[str, Path], owner: Mapping[str, str]) -> dict[Key, PageNumbers]:
    found = {}
    for replica, home in homes.items():
        for path in home.glob("*.page"):
            if (epoch := page_epoch(path)) is not None:
                with suppress(FileNotFoundError, ValueError):       # accounted for meanwhile; of another release
                    found[owner[replica], epoch] = read_page(path)
    return found


def _was_accounted(gone: Iterable[Key], manifests: Sequence[ManifestState]) -> bool:
    """Whether an epoch whose page is gone is not accounted for in these manifests, which are older than its account then."""
    owner = owners(manifests)
    ended = {(owner[state.replica], number) for state in manifests for number, epoch in state.epochs.items() if epoch.end}
    return bool(set(gone) - ended)


def _journal_rows(journal: OpenJournal, contents: JournalContents, homes: Mapping[str, Path]) -> JournalRows:
    header = contents.header
    here = next((replica for replica, home in homes.items() if home in journal.path.parents), "")
    return JournalRows(
        str(journal.path), header.table if header else "records", header.replica if header else here, journal.epoch,
        contents.rows, contents.torn_rows, contents.bad_rows, contents.bad_frames)


def _check_files(store: RecordsStore, parts: Sequence[Part], progress: Progress) -> dict[str, str]:
    of = sum(part.bytes for part in parts)
    done = 0
    damaged = {}
    for part in parts:
        progress("reading files", done, of)
        if (fault := _fault_of(store, part)) is not None:
            damaged[part.path] = fault
        done += part.bytes
    progress("reading files", of, of)
    return damaged


def _fault_of(store: RecordsStore, part: Part) -> str | None:
    digest = hashlib.sha256()
    n_bytes = 0
    try:
        with store.open(part.path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                n_bytes += len(chunk)
    except FileNotFoundError:
        is_still_named = any(part.path in read_manifest(store, replica).parts for replica in list_replicas(store))
        return "is not there" if is_still_named else None
    if n_bytes != part.bytes:
        return f"has {n_bytes} bytes instead of {part.bytes}"
    return None if digest.hexdigest() == part.sha256 else f"has the SHA-256 {digest.hexdigest()} instead of {part.sha256}"


def _rows_of(parts: Iterable[Part], owner: Mapping[str, str]) -> dict[Key, int]:
    """Rows of `records` in these files, each once, where a file's name says its epoch: that of a merged one does not."""
    rows = {part.path: part for part in parts if part.name.table == "records" and not part.name.compacted}
    found: Counter[Key] = Counter()
    for path, part in rows.items():
        found[owner.get(part.name.replica, part.name.replica), int(path.rsplit("-", 2)[1])] += part.rows
    return found


def _holds_other_files(store: RecordsStore) -> bool:
    """Of a folder that no server writes to yet: whether it is something else's. A new file system has lost+found."""
    own = {*TABLES, MANIFESTS, HOLDS, "lost+found"}
    return store.root is not None and any(entry.name not in own and not entry.name.startswith(".") for entry in store.root.iterdir())


def _strays(present: Iterable[str], manifests: Iterable[ManifestState]) -> list[str]:
    """Files that were put before a crash kept the manifest from naming them: they are put again, or never read."""
    named = {path for state in manifests for path in (*state.parts, *state.doomed)}
    strays = [path for path in present if path not in named]
    return [f"{len(strays)} files are named by no manifest and not read, {strays[0]} for instance"] if strays else []
