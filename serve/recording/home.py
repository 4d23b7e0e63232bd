"""A replica's home as its keeper sees it: journals that wait to be sealed, the pages of epochs, and a folder for files in the making.

    STATE_DIR/records/   id   keeper.lock   <epoch>.page   journals/   staging/

One process at a time keeps a home: it holds the lock of `keeper.lock`, which the kernel drops with the process.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from serve.errors import ConfigurationError
from serve.recording.layout import JOURNALS, STAGING, JournalName, journal_name, page_epoch
from serve.recording.local_store import sync_folder

_LOCK = "keeper.lock"
_IDENTITY = "id"


@dataclass(frozen=True, slots=True)
class HomeBytes:
    """unsealed: journals that are open or wait. bad: kept for what could not be read of them. staging: files in the making."""

    unsealed: int
    bad: int
    staging: int

    @property
    def total(self) -> int:
        return self.unsealed + self.bad + self.staging


class Home:
    """Makes its folders. Raises ConfigurationError when it cannot; OSError of every method."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.journals = self.path / JOURNALS
        self.staging = self.path / STAGING
        try:
            for folder in (self.journals, self.staging):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make {error.filename}: {error.strerror}; give a writable --state-dir") from error

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Whether this process keeps the home for as long as the block runs: false when another one does."""
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def identity(self) -> str:
        """Of this folder, for good: what tells it from another one of the same path and the same replica."""
        path = self.path / _IDENTITY
        with suppress(FileNotFoundError):
            return path.read_text("ascii").strip()
        unfinished = self.path / f".{_IDENTITY}.tmp"
        unfinished.write_text(f"{uuid.uuid4().hex}\n", "ascii")
        unfinished.replace(path)
        sync_folder(self.path)
        return path.read_text("ascii").strip()

    def all_journals(self) -> list[JournalName]:
        """All journals, in the order in which they were begun."""
        names = [name for file in os.listdir(self.journals) if (name := journal_name(file))]
        return sorted(names, key=lambda name: name.key)

    def file(self, name: JournalName) -> Path:
        return self.journals / name.file

    def closed(self, epoch: int | None) -> list[JournalName]:
        """Journals that nobody appends to any more: they were closed, or their worker is gone. epoch: as of `has_ended`."""
        names = self.all_journals()
        ended = {open_in: self.has_ended(open_in, epoch) for open_in in {name.epoch for name in names if name.state == "open"}}
        return [name for name in names if name.state == "journal" or (name.state == "open" and ended[name.epoch])]

    def has_ended(self, epoch: int, current: int | None) -> bool:
        """Whether the worker of an epoch is gone. current: the epoch that runs, None when none should."""
        return (current is None or epoch < current) and not self._is_live(epoch)

    def _is_live(self, epoch: int) -> bool:
        # A worker holds the lock of its page. Of an earlier epoch one may still run, draining.
        with suppress(FileNotFoundError):
            return _is_locked(self.page(epoch))
        return False

    def close(self, name: JournalName) -> JournalName:
        """A journal that its worker left open, called closed."""
        closed = JournalName(name.epoch, name.number, "journal")
        self.file(name).rename(self.file(closed))
        sync_folder(self.journals)
        return closed

    def finish(self, name: JournalName, *, is_bad: bool) -> None:
        """A sealed journal goes; one that could not be read throughout stays, under another name."""
        if is_bad:
            self.file(name).rename(self.file(JournalName(name.epoch, name.number, "bad")))
        else:
            self.file(name).unlink(missing_ok=True)
        sync_folder(self.journals)

    def page(self, epoch: int) -> Path:
        return self.path / f"{epoch}.page"

    def ended_epochs(self, current: int | None) -> list[int]:
        """Epochs that have a page and no worker any more, the earliest first. current: as of `has_ended`."""
        epochs = [epoch for path in self.path.glob("*.page") if (epoch := page_epoch(path)) is not None]
        return sorted(epoch for epoch in epochs if self.has_ended(epoch, current))

    def n_bytes(self) -> HomeBytes:
        """What is on the disk now."""
        sizes = {"open": 0, "journal": 0, "bad": 0}
        for name in self.all_journals():
            with suppress(FileNotFoundError):       # renamed while we look
                sizes[name.state] += self.file(name).stat().st_size
        staging = sum(path.stat().st_size for path in self.staging.iterdir())
        return HomeBytes(sizes["open"] + sizes["journal"], sizes["bad"], staging)

    def sweep(self) -> None:
        """Empties `staging` of what a process that died was making. For the one that holds the lock."""
        for path in self.staging.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def is_kept(path: Path) -> bool:
    """Whether a process keeps the home at `path`, which need not be one."""
    with suppress(OSError):
        return _is_locked(path / _LOCK)
    return False


def _is_locked(path: Path) -> bool:
    """By another process. Raises OSError where it cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


__all__ = ["Home", "HomeBytes", "is_kept"]
