"""The account of each epoch: of the rows that were numbered, which were found and what became of the others. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.recording.manifest import EpochState, ManifestState
from serve.recording.page import PageNumbers
from serve.recording.stream_header import TableName

# (replica, epoch)
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class JournalRows:
    """A journal that is not sealed. bad_frames: stretches of one or more frames that do not check."""

    path: str
    table: TableName
    replica: str
    epoch: int
    rows: int
    torn_rows: int
    bad_rows: int
    bad_frames: int


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Rows of `records` in files and journals. twice: of them, those whose number another one has.

    gaps: missing numbers below `last`, first and last of each; the first of n_gaps.
    """

    rows: int = 0
    twice: int = 0
    last: int = -1
    n_gaps: int = 0
    gaps: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Pages:
    """The page of an epoch, read before and after the rows were."""

    before: PageNumbers
    after: PageNumbers


@dataclass(frozen=True, slots=True)
class Account:
    """Rows of one epoch of one replica.

    state: closed: the manifest accounts for it. open: it runs, or was not accounted for yet. unknown: its page is not on this machine.
    assigned: None where unknown. missing: sealed, and in no whole file, without having been purged (`with_missing` tells the two apart).
    unexplained: neither found nor anything else that is known to happen to rows.
    """

    replica: str
    epoch: int
    state: Literal["closed", "open", "unknown"]
    found: FoundRows
    assigned: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    torn: int = 0
    bad: int = 0
    purged: int = 0
    missing: int = 0
    under_way: int = 0
    unexplained: int = 0

    @property
    def faults(self) -> list[str]:
        """One sentence each."""
        where = f"replica {self.replica}, epoch {self.epoch}"
        faults = []
        if self.found.twice:
            faults.append(f"{where}: {self.found.twice} rows are there more than once")
        if self.unexplained > 0:
            faults.append(f"{where}: {self.unexplained} rows are missing and nothing says why")
        if self.unexplained < 0:
            faults.append(f"{where}: there are {-self.unexplained} rows more than were numbered")
        return faults


def owners(manifests: Sequence[ManifestState]) -> dict[str, str]:
    """Replica -> the name under which its home is accounted for: one that was called otherwise left journals that the next one sealed."""
    newest: dict[str, str] = {}
    for state in sorted(manifests, key=lambda state: state.created_ns):
        newest[state.home_id or state.replica] = state.replica
    return {state.replica: newest[state.home_id or state.replica] for state in manifests}


def accounts(
    manifests: Sequence[ManifestState], journals: Iterable[JournalRows], found: Mapping[Key, FoundRows], pages: Mapping[Key, Pages],
) -> list[Account]:
    """By owner and epoch. found, pages: by owner; journals: by replica."""
    owner = owners(manifests)
    epochs: dict[Key, EpochState] = {}
    for state in manifests:
        for number, epoch in state.epochs.items():
            known = epochs.setdefault((owner[state.replica], number), EpochState())
            known.end = epoch.end or known.end
            for name in ("sealed", "torn", "bad"):
                setattr(known.records, name, getattr(known.records, name) + getattr(epoch.records, name))
    in_journals: dict[Key, list[JournalRows]] = {}
    for journal in journals:
        if journal.table == "records":
            in_journals.setdefault((owner.get(journal.replica, journal.replica), journal.epoch), []).append(journal)
    keys = sorted(epochs.keys() | in_journals.keys() | found.keys() | pages.keys())
    return [_account(key, epochs.get(key, EpochState()), in_journals.get(key, []), found.get(key, FoundRows()), pages.get(key))
            for key in keys]


def _account(key: Key, epoch: EpochState, journals: list[JournalRows], found: FoundRows, pages: Pages | None) -> Account:
    """`stored` is what the manifest and the journals count, `found` what was read: purged rows were stored, and are not found."""
    stored = epoch.records.sealed + sum(journal.rows for journal in journals)
    torn = epoch.records.torn + sum(journal.torn_rows for journal in journals)
    bad = epoch.records.bad + sum(journal.bad_rows for journal in journals)
    account = Account(*key, "unknown", found, torn=torn, bad=bad, purged=stored - found.rows)
    if (end := epoch.end) is not None:
        known = stored + torn + bad + sum(end["dropped"].values()) + end["lost"]
        return replace(account, state="closed", assigned=end["assigned"], dropped=end["dropped"], lost=end["lost"],
                       unexplained=end["assigned"] - known)
    if pages is None:
        return account
    rest = pages.after.assigned - stored - sum(pages.after.dropped.values())
    missing = max(0, pages.before.appended - stored - torn - bad)
    return replace(account, state="open", assigned=pages.after.assigned, dropped=pages.after.dropped,
                   under_way=max(0, rest - bad - missing), unexplained=missing or min(0, rest))     # torn rows are among those under way


def with_missing(found: Sequence[Account], manifests: Sequence[ManifestState], damaged: Mapping[Key, int]) -> list[Account]:
    """The accounts, with what is in no whole file divided into purged and missing. damaged: rows of files that are not whole, by owner.

    Manifests count the purged rows of a replica, not of an epoch, and merged files do not say whose rows they have. What `damaged` does not
    explain is taken to be of the newest epochs, since purging takes the oldest.
    """
    left = _unpurged(manifests, found)
    missing: Counter[Key] = Counter()
    for is_named in (True, False):
        for account in sorted(found, key=lambda one: one.epoch, reverse=True):
            key = account.replica, account.epoch
            most = damaged.get(key, 0) if is_named else account.purged
            n = max(0, min(most, account.purged - missing[key], left[account.replica]))
            missing[key] += n
            left[account.replica] -= n
    return [replace(one, purged=one.purged - missing[one.replica, one.epoch], missing=missing[one.replica, one.epoch]) for one in found]


def _unpurged(manifests: Sequence[ManifestState], found: Iterable[Account]) -> Counter[str]:
    """By owner: rows that were sealed and are in no whole file, less those that were purged."""
    owner = owners(manifests)
    rows: Counter[str] = Counter()
    for account in found:
        rows[account.replica] += account.purged + account.missing
    for state in manifests:
        rows[owner[state.replica]] -= state.rows["records"].purged
    return rows


def purge_faults(manifests: Sequence[ManifestState], found: Iterable[Account]) -> list[str]:
    """Where the rows that are in no file are not as many as the manifest says were purged."""
    missing = _unpurged(manifests, found)
    return [f"replica {replica}: {n} rows that were sealed are in no file that is whole, nor were they purged" if n > 0
            else f"replica {replica}: {-n} rows are there that the manifest does not count" for replica, n in sorted(missing.items()) if n]
