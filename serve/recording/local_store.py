"""Sealed files in a folder: a temporary name, fsync, rename, fsync of the folder."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pyarrow.fs as pafs

from serve.errors import ConfigurationError
from serve.recording.store_port import StoredFile, changed_elsewhere

# Of files that are being written; hidden, so never listed.
_UNFINISHED = ".unfinished-"


class LocalStore:
    """Files in a folder. Raises ConfigurationError when the folder cannot be made."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        try:
            _make_folder(self._root)
        except OSError as error:
            raise ConfigurationError(f"cannot make the records directory {self._root}: {error.strerror}; give another --records") from error

    def __repr__(self) -> str:
        return f"LocalStore({self._root})"

    @property
    def url(self) -> str:
        return str(self._root)

    @property
    def root(self) -> Path | None:
        return self._root

    def list(self, folder: str) -> list[StoredFile]:
        return sorted(_walk(self._root / folder, folder), key=lambda file: file.path)

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def open(self, path: str) -> IO[bytes]:
        return (self._root / path).open("rb")

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        _make_folder(target.parent)
        with _unfinished(target) as hidden:
            with hidden.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(target)
            sync_folder(target.parent)

    def append(self, path: str, content: bytes, after: int | None = None) -> None:
        target = self._root / path
        is_new = not target.exists()
        if is_new and after:
            raise changed_elsewhere(str(target), 0, after)
        _make_folder(target.parent)
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if after not in (None, before):
                raise changed_elsewhere(str(target), before, after)
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):     # half a line would swallow the next one
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(target.parent)

    def adopt(self, source: Path, path: str) -> None:
        target = self._root / path
        _make_folder(target.parent)
        sync_file(source)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(source, target)
        sync_folder(target.parent)

    def _copy(self, source: Path, target: Path) -> None:
        with _unfinished(target) as hidden:
            shutil.copyfile(source, hidden)
            sync_file(hidden)
            hidden.replace(target)
        source.unlink()

    def delete(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def location(self, path: str) -> str:
        return str(self._root / path)

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self._root)

    def sweep(self, before_ns: int) -> None:
        """Removes what processes that died were writing. before_ns: since the epoch; what was touched later may still be in the making."""
        for path in self._root.rglob(f"{_UNFINISHED}*"):
            with suppress(FileNotFoundError):       # finished after all
                if path.stat().st_mtime_ns < before_ns:
                    path.unlink()


def sync_file(path: Path) -> None:
    """fsync of a file's content. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """fsync of a folder: names that were made, renamed or removed in it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """With its parents; each new name is durable."""
    if folder.is_dir():
        return
    if folder != folder.parent:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _walk(folder: Path, path: str) -> Iterator[StoredFile]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        below = f"{path}/{entry.name}"
        with suppress(FileNotFoundError):       # deleted while we look
            status = entry.stat()
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(folder / entry.name, below)
            else:
                yield StoredFile(below, status.st_size)


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    hidden = target.with_name(f"{_UNFINISHED}{secrets.token_hex(6)}-{target.name}")
    try:
        yield hidden
    finally:
        hidden.unlink(missing_ok=True)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest):]


__all__ = ["LocalStore", "sync_file", "sync_folder"]
