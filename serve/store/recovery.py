"""How the store's file is opened: as it is, new, or from the newest whole backup when it is damaged or gone.

    <state-dir>/headrace.db                           the store, with -wal and -shm beside it
    <state-dir>/backups/headrace-<revision>.db        compact copies, the newest three
    <state-dir>/headrace.db.damaged-<when>            what was damaged; nothing here is ever removed

A damaged file is left where it is unless a whole backup can take its place. What takes its place skips 2^32 revisions, so that no
revision is given out twice, and says in its audit chain what happened.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve.errors import ConfigurationError, Unavailable
from serve.store.audit import GENESIS, AuditEntry, rfc3339
from serve.store.database import Database
from serve.store.schema import Damaged, check_schema, check_whole, connect, create_schema

FILE = "headrace.db"
BACKUPS = "backups"
KEEP_BACKUPS = 3

# More revisions than a store writes between two backups.
RESTORE_GAP = 1 << 32

RESTORED = "dev.headrace.store.restored"


class StoreDamaged(Unavailable):
    """The store is damaged and no backup is whole: nothing can be changed until somebody repairs it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Where the store came from. note: for people, "" when all is well. aside: what was moved away; backup: what took its place."""

    how: Literal["fresh", "existing", "backup"]
    note: str = ""
    aside: Path | None = None
    backup: Path | None = None


def prepare(folder: Path, source: str, key: bytes | None, wall_ns: Callable[[], int]) -> Opened:
    """Sees to it that `folder` holds a whole store. source, key: for the audit row of a restored one.

    Raises StoreDamaged; ConfigurationError for a folder that cannot be written, a newer schema or another program's file.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BACKUPS).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make {folder}: {error.strerror}; give a writable --state-dir") from error
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"{folder} is not writable; give a writable --state-dir")
    for left_behind in (folder / BACKUPS).glob(".headrace-*"):
        left_behind.unlink(missing_ok=True)
    if not path.exists():
        return _restore(folder, f"{path} is gone", source, key, wall_ns) if _backups(folder) else _make(path)
    try:
        return _check(path)
    except Damaged as damage:
        return _restore(folder, str(damage), source, key, wall_ns)


def _check(path: Path) -> Opened:
    with closing(connect(path)) as connection:
        check_whole(connection, path)
        if check_schema(connection, path):
            return Opened("existing")
    if _backups(path.parent):
        raise Damaged(f"{path} is empty")
    return _make(path)


def _make(path: Path) -> Opened:
    # Audit rows name people: the file is its owner's alone, and its -wal and -shm take after it.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(connect(path)) as connection:
        create_schema(connection, path, uuid.uuid4().hex, GENESIS)
    _sync_folder(path.parent)
    return Opened("fresh")


def _backups(folder: Path) -> list[Path]:
    """Newest first: a larger revision is newer."""
    return sorted((folder / BACKUPS).glob("headrace-*.db"), reverse=True)


def _restore(folder: Path, damage: str, source: str, key: bytes | None, wall_ns: Callable[[], int]) -> Opened:
    path = folder / FILE
    copy = folder / f"{FILE}.restoring"
    backup = next((backup for backup in _backups(folder) if _copied(backup, copy)), None)
    if backup is None:
        raise StoreDamaged(
            f"{damage}. No backup in {folder / BACKUPS} is whole. Nothing can be changed: put a good copy in place of {path}, "
            "or move it away to begin afresh"
        )
    when = rfc3339(wall_ns()).replace(":", "").replace("-", "")
    aside = path.with_name(f"{FILE}.damaged-{when}") if path.exists() else None
    with closing(Database(copy, source, key, wall_ns=wall_ns)) as database:
        evidence = {"damage": damage, "moved_to": aside.name if aside else None, "backup": backup.name, "revision": database.revision()}
        database.advance(RESTORE_GAP)
        database.commit((), [AuditEntry(RESTORED, "", "headrace", "the store was damaged or gone", evidence=evidence)], None)
    # The file before its log: a log without its file is never taken for a store.
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{FILE}.damaged-{when}{suffix}"))
    _sync_file(copy)
    copy.rename(path)
    _sync_folder(folder)
    note = f"{damage}; restored from {backup.name}: changes made after it are lost"
    if aside:
        note += f"; the damaged file is {aside.name}"
    return Opened("backup", note, aside, backup)


def _copied(backup: Path, copy: Path) -> bool:
    """Whether `copy` is now a whole store, taken from the backup."""
    for suffix in ("", "-wal", "-shm"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    try:
        shutil.copyfile(backup, copy)
        copy.chmod(0o600)
        with closing(connect(copy)) as connection:
            check_whole(connection, copy)
            return check_schema(connection, copy)
    except (OSError, Damaged):
        return False


def back_up(folder: Path, source: str) -> Path:
    """Writes a copy of the store as it is now, and removes all but the newest three. Raises Unavailable, InsufficientStorage."""
    with closing(Database(folder / FILE, source)) as database:
        target = folder / BACKUPS / f"headrace-{database.revision():020d}.db"
        hidden = target.with_name(f".{target.name}.{os.getpid()}")
        hidden.unlink(missing_ok=True)
        try:
            database.vacuum_into(hidden)
            hidden.chmod(0o600)
            _sync_file(hidden)
            hidden.rename(target)
        except OSError as error:
            raise Unavailable(f"cannot write the backup {target}: {error.strerror}") from error
        finally:
            hidden.unlink(missing_ok=True)
    for old in _backups(folder)[KEEP_BACKUPS:]:
        old.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return target


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["BACKUPS", "FILE", "KEEP_BACKUPS", "RESTORED", "RESTORE_GAP", "Opened", "StoreDamaged", "back_up", "prepare"]
