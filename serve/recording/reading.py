"""A snapshot with the journals of a state directory that is not where its manifest says: a copy, or mounted elsewhere.

Those journals are opened before the snapshot is taken: one that is sealed in between is dropped for its part's sake, as in `snapshot`.
"""

import dataclasses
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serve.recording.layout import JOURNALS, journal_name
from serve.recording.manifest import ManifestState
from serve.recording.manifest_file import list_replicas, read_manifest
from serve.recording.snapshot import OpenJournal, Snapshot, snapshot
from serve.recording.store_port import RecordsStore


@dataclass(frozen=True, slots=True)
class Reading:
    """homes: by replica, of those whose journals are in the snapshot. Close it when the journals are read."""

    snapshot: Snapshot
    homes: Mapping[str, Path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.snapshot.close()


def read(store: RecordsStore, home: Path | None = None, host: str | None = None) -> Reading:
    """home: `records` of a state directory, read for the replicas whose own it is, by its `id`, if that cannot be reached where it was.

    host: this machine's name. Raises as `snapshot`.
    """
    host = os.uname().nodename if host is None else host
    journals = [] if home is None else _open(home / JOURNALS)
    kept: tuple[OpenJournal, ...] = ()
    try:
        found = snapshot(store, host)
        homes = {state.replica: Path(state.home) for state in found.manifests if _is_here(state, host)}
        if home is not None and (identity := _identity(home)):
            tenants = [state for state in found.manifests if state.home_id == identity and state.replica not in homes]
            if tenants:
                kept = tuple(one for one in journals if not any(state.is_sealed(one.epoch, one.number) for state in tenants))
            warnings = tuple(text for text in found.warnings if not any(_tells_of(text, state.replica) for state in tenants))
            found = dataclasses.replace(found, journals=found.journals + kept, warnings=warnings)
            homes |= {state.replica: home for state in tenants}
        return Reading(found, homes)
    finally:
        for journal in journals:
            if journal not in kept:
                journal.file.close()


def replica_of(store: RecordsStore, home: Path) -> str:
    """The newest replica whose home it is, by its `id`; "" where the store knows none. Raises as the store."""
    identity = _identity(home)
    tenants = [state for name in list_replicas(store) if (state := read_manifest(store, name)).home_id == identity]
    return max(tenants, key=lambda state: state.created_ns).replica if identity and tenants else ""


def _open(folder: Path) -> list[OpenJournal]:
    """One that is being renamed belongs to a server that runs here, and `snapshot` finds it."""
    opened = []
    for path in sorted(folder.glob("*")):
        name = journal_name(path.name)
        if name is not None and name.state != "bad":
            with suppress(FileNotFoundError):
                opened.append(OpenJournal(name.epoch, name.number, path, path.open("rb")))
    return opened


def _is_here(state: ManifestState, host: str) -> bool:
    return bool(state.home) and state.host == host and (Path(state.home) / JOURNALS).is_dir()


def _identity(home: Path) -> str:
    try:
        return (home / "id").read_text("ascii").strip()
    except OSError:
        return ""


def _tells_of(warning: str, replica: str) -> bool:
    """Whether it is `snapshot`'s, of that replica's journals."""
    return f"replica {replica} " in warning and "not sealed" in warning


__all__ = ["Reading", "read", "replica_of"]
