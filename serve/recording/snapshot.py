"""All rows at one moment, each exactly once: the parts that the manifests name, and the journals that no manifest calls sealed.

The order of reading makes it exact while sealing goes on: journals are listed first, then the manifest is read, then what it does not call
sealed is opened. A journal that was sealed in between is dropped for its part's sake; one that was sealed and deleted after that, or
renamed when it was closed, is not there to be opened, and the reading starts again. An opened journal stays readable when it is deleted.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from serve.errors import Unavailable
from serve.recording.layout import JOURNALS, JournalName, journal_name
from serve.recording.manifest import ManifestState, Part
from serve.recording.manifest_file import list_replicas, read_manifest
from serve.recording.store_port import RecordsStore

_MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class OpenJournal:
    """A journal whose rows are in no part. file: open from the beginning of the journal, whatever becomes of `path`."""

    epoch: int
    number: int
    path: Path
    file: IO[bytes]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """parts: sealed files of all replicas, by path. journals: of the homes that can be reached. warnings: what is missing, for people.

    manifests: as they were read, by replica. A part's file is there for at least the grace period of compaction (10 min); one that is not
    was purged to make room: take another snapshot. Close it when the journals are read.
    """

    parts: tuple[Part, ...]
    journals: tuple[OpenJournal, ...]
    manifests: tuple[ManifestState, ...]
    warnings: tuple[str, ...]

    def close(self) -> None:
        for journal in self.journals:
            journal.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def snapshot(store: RecordsStore, host: str | None = None) -> Snapshot:
    """What can be read now. host: this machine's name, by which the homes that are on it are known.

    Raises Unavailable when journals come and go faster than they can be opened, or a manifest is of a later release; and as the store.
    """
    host = os.uname().nodename if host is None else host
    for _ in range(_MAX_TRIES):
        with ExitStack() as opened:
            try:
                found = _snapshot(store, host, opened)
            except _Moved:
                continue
            opened.pop_all()
            return found
    raise Unavailable(f"journals of {store.url} were closed and sealed during each of {_MAX_TRIES} tries to read them; try again")


class _Moved(Exception):
    """A journal is not called what it was called a moment ago."""


def _snapshot(store: RecordsStore, host: str, opened: ExitStack) -> Snapshot:
    names = list_replicas(store)
    # Homes are learned from one reading; what is sealed comes from another one, after the journals were listed.
    homes = {(state.host, state.home) for state in (read_manifest(store, name) for name in names) if state.home}
    listed = {home: _list_journals(Path(home)) for at, home in sorted(homes) if at == host}
    manifests = [read_manifest(store, name) for name in names]
    journals: list[OpenJournal] = []
    for home, found in listed.items():
        # All replicas that ever had this home: its epochs are counted once, whatever the replica was called.
        tenants = [state for state in manifests if (state.host, state.home) == (host, home)]
        journals += _open(Path(home), _unsealed(found or (), tenants), opened)
    parts = sorted((part for state in manifests for part in state.parts.values()), key=lambda part: part.path)
    return Snapshot(tuple(parts), tuple(journals), tuple(manifests), tuple(_warnings(manifests, host, listed)))


def _list_journals(home: Path) -> tuple[JournalName, ...] | None:
    """By name; None when the folder is not there. Listed until two listings agree: a renaming can hide a file from one."""
    before: set[str] | None = None
    while True:
        try:
            files = set(os.listdir(home / JOURNALS))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        if files == before:
            return tuple(sorted((name for file in files if (name := journal_name(file))), key=lambda name: name.key))
        before = files


def _unsealed(journals: Iterable[JournalName], tenants: Iterable[ManifestState]) -> list[JournalName]:
    return [name for name in journals if name.state != "bad" and not any(state.is_sealed(*name.key) for state in tenants)]


def _open(home: Path, names: Iterable[JournalName], opened: ExitStack) -> list[OpenJournal]:
    journals = []
    for name in names:
        path = home / JOURNALS / name.file
        try:
            file = opened.enter_context(path.open("rb"))
        except FileNotFoundError as error:
            raise _Moved from error
        journals.append(OpenJournal(name.epoch, name.number, path, file))
    return journals


def _warnings(manifests: Iterable[ManifestState], host: str, listed: dict[str, tuple[JournalName, ...] | None]) -> list[str]:
    warnings = []
    for state in manifests:
        if state.home and state.host != host:
            warnings.append(f"rows that replica {state.replica} has not sealed yet are on {state.host} in {state.home}: not read here")
        elif state.home and listed.get(state.home) is None:
            warnings.append(f"the journals of replica {state.replica} in {state.home} cannot be read: rows not sealed yet are missing")
        if state.n_damaged:
            warnings.append(f"{state.n_damaged} lines of the manifest of {state.replica} cannot be read: run `headrace records verify`")
    return warnings


__all__ = ["OpenJournal", "Snapshot", "snapshot"]
