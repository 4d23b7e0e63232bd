"""The counters that survive the worker: which rows were numbered, and what became of them. And the number of an epoch.

`<epoch>.page` is 4096 bytes, mapped and shared; 64-bit words in this machine's order:

     0  magic               4  rows appended to journals               10  1: closed in order
     1  format              5..8  rows dropped by I/O threads:         11  journal of the newest append, 0: none
     2  epoch                     ring_full, too_large, blocked,       12  bytes of that journal after it
     3  rows numbered             memory                               13  word 4 after it
                            9  rows dropped by the recorder: disk_budget

The I/O threads add to 3 and 5..8, the recorder alone writes the others. Words 11 to 13 are written before an append: of a worker killed
between the append and its count, they tell which of the two happened. What is neither appended nor dropped is lost. Exact after a kill of
the process; after a power cut the page is as old as its last write-back, and the journals say more.
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from serve.errors import ConfigurationError
from serve.recording.layout import JOURNALS, JournalName, journal_name, page_epoch
from serve.recording.local_store import sync_folder

PAGE_BYTES = 4096
MAGIC = 0x4547415052445248
FORMAT = 1

# Reasons of words 5 to 9.
DROPS = ("ring_full", "too_large", "blocked", "memory", "disk_budget")

_EPOCH, _ASSIGNED, _APPENDED, _DROPPED, _BUDGET, _CLEAN, _JOURNAL, _JOURNAL_BYTES, _APPENDED_AFTER = 2, 3, 4, 5, 9, 10, 11, 12, 13
_WORDS = 14
_EPOCH_FILE = "epoch"
_UNFINISHED = ".page.tmp"


@dataclass(frozen=True, slots=True)
class PageNumbers:
    """Rows of one epoch. dropped: by reason, all of DROPS. is_clean: the worker ended in order."""

    epoch: int
    assigned: int
    appended: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    is_clean: bool = False

    @property
    def lost(self) -> int:
        """Rows that were numbered and are nowhere: in the rings, or on their way to a journal, when the worker died."""
        return max(0, self.assigned - self.appended - sum(self.dropped.values()))


class RecordPage:
    """The page of this epoch. buffer: for the NativeRecorder, valid as long as anybody holds it.

    The file is locked until `release`, or the end of the process: others see by it that journals of this epoch may be open. Raises
    ConfigurationError when it cannot be made.
    """

    def __init__(self, home: Path, epoch: int) -> None:
        self.epoch = epoch
        path = home / f"{epoch}.page"
        try:
            with _alone(home):
                self._fd, self._map = _make(path)
        except OSError as error:
            raise ConfigurationError(f"cannot make {path}: {error.strerror}; give a writable --state-dir with room") from error
        self.buffer = memoryview(self._map)
        self._words = self.buffer.cast("Q")

    def numbers(self) -> PageNumbers:
        """As they are now."""
        return _numbers(self._words)

    def begin_append(self, journal: int, n_bytes: int, rows: int) -> None:
        """Rows are about to be appended to a journal, which has n_bytes afterwards."""
        self._words[_JOURNAL] = 0
        self._words[_JOURNAL_BYTES] = n_bytes
        self._words[_APPENDED_AFTER] = self._words[_APPENDED] + rows
        self._words[_JOURNAL] = journal

    def end_append(self) -> None:
        """They were."""
        self._words[_APPENDED] = self._words[_APPENDED_AFTER]

    def take_back(self, rows: int) -> None:
        """Rows that had been appended are in no journal any more."""
        self._words[_JOURNAL] = 0
        self._words[_APPENDED] -= rows

    def drop(self, rows: int) -> None:
        """Rows for which the disk budget had no room."""
        self._words[_BUDGET] += rows

    def close_cleanly(self) -> None:
        """The numbers are final. Raises OSError when that is not surely on the disk."""
        self._words[_CLEAN] = 1
        self._map.flush()

    def release(self) -> None:
        """No journal of this epoch is open any more, of labels neither."""
        # The mapping has the file open as well: to close it here would not unlock it.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


def _make(path: Path) -> tuple[int, mmap.mmap]:
    """A whole page under its name, and locked from when it has one: whoever seals takes a page that nobody locks for that of a dead worker.

    Its caller is alone in the folder. What a killed start left of an unfinished page is written over. Raises OSError.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    unfinished = path.with_name(_UNFINISHED)
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)      # of the inode, which keeps it under its later name
        # Written, not only made long: a page without a block of its own is SIGBUS when the disk is full.
        os.write(fd, struct.pack("=3Q", MAGIC, FORMAT, int(path.stem)).ljust(PAGE_BYTES, b"\0"))
        os.fsync(fd)
        mapped = mmap.mmap(fd, PAGE_BYTES, mmap.MAP_SHARED)
        unfinished.replace(path)
        sync_folder(path.parent)
    except OSError:
        for name in (unfinished, path):     # while it is locked: else it is read as that of a start of which nothing is known
            name.unlink(missing_ok=True)
        os.close(fd)
        raise
    return fd, mapped


@contextmanager
def _alone(home: Path) -> Iterator[int]:
    """One start at a time numbers itself and makes its page. Yields the folder's descriptor. Raises OSError."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def read_page(path: Path) -> PageNumbers:
    """The numbers of a page whose worker has ended, with an append that it did not come to count.

    Raises OSError; ValueError for a file that is no page of this format.
    """
    content = path.read_bytes()
    words = memoryview(content[: _WORDS * 8]).cast("Q") if len(content) >= _WORDS * 8 else memoryview(bytes(_WORDS * 8)).cast("Q")
    if words[0] != MAGIC or words[1] != FORMAT:
        raise ValueError(f"{path} is no page of format {FORMAT}: it begins with {content[:16].hex()}")
    numbers = _numbers(words)
    if words[_JOURNAL] and words[_APPENDED_AFTER] > numbers.appended and _has(path.parent, words):
        return PageNumbers(numbers.epoch, numbers.assigned, words[_APPENDED_AFTER], numbers.dropped, numbers.is_clean)
    return numbers


def next_epoch(home: Path, known: int = 0) -> int:
    """One more than any epoch before, from 1; remembered on the disk before it is returned. Makes `home`.

    known: the highest that is known from elsewhere: the manifest outlives a lost state directory.
    Raises ConfigurationError when it cannot be kept, or what is kept is no number.
    """
    try:
        (home / JOURNALS).mkdir(parents=True, exist_ok=True)
        with _alone(home) as fd:
            epoch = max(known, _kept_epoch(home), _seen_epoch(home)) + 1
            _keep_epoch(home, epoch)
            os.fsync(fd)
    except OSError as error:
        raise ConfigurationError(f"cannot number this start in {home}: {error.strerror}; give a writable --state-dir with room") from error
    return epoch


def _numbers(words: memoryview) -> PageNumbers:
    dropped = {reason: words[_DROPPED + i] for i, reason in enumerate(DROPS)}
    return PageNumbers(words[_EPOCH], words[_ASSIGNED], words[_APPENDED], dropped, words[_CLEAN] == 1)


def _has(home: Path, words: memoryview) -> bool:
    """Whether the newest append's journal is as long as the append was to make it."""
    for state in ("open", "journal"):
        path = home / JOURNALS / JournalName(words[_EPOCH], words[_JOURNAL], state).file
        with suppress(FileNotFoundError):
            return path.stat().st_size >= int(words[_JOURNAL_BYTES])
    return False


def _kept_epoch(home: Path) -> int:
    path = home / _EPOCH_FILE
    try:
        text = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return 0
    if not text.isdigit():
        raise ConfigurationError(f"{path} holds {text[:40]!r}, not the number of a start; remove it to count on from the journals' numbers")
    return int(text)


def _seen_epoch(home: Path) -> int:
    """The highest in a file's name: should the epoch's file be gone, no name is given out twice."""
    journals = [name.epoch for path in (home / JOURNALS).iterdir() if (name := journal_name(path.name))]
    return max([page_epoch(path) or 0 for path in home.glob("*.page")] + journals, default=0)


def _keep_epoch(home: Path, epoch: int) -> None:
    unfinished = home / f".{_EPOCH_FILE}.tmp"
    with unfinished.open("w") as file:
        file.write(f"{epoch}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(home / _EPOCH_FILE)


__all__ = ["DROPS", "FORMAT", "MAGIC", "PAGE_BYTES", "PageNumbers", "RecordPage", "next_epoch", "read_page"]
