"""What the recorder does to a disk, as one small object: tests give one that fails, fills up or is slow."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from serve.recording.local_store import sync_folder

Bytes = bytes | memoryview


class Files(Protocol):
    """Every method raises OSError. Descriptors are numbers of this process."""

    def create(self, path: Path) -> int:
        """A new, empty file, to be read and written; EEXIST when there is one. Readable by its owner and group."""

    def pwritev(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        """Bytes written, which may be fewer than given."""

    def write_direct(self, fd: int, data: memoryview, offset: int) -> int:
        """Past the page cache; memory, length and offset of whole blocks. Bytes written; EINVAL where that cannot be done."""

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes: ...

    def truncate(self, fd: int, n_bytes: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def close(self, fd: int) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def sync_folder(self, path: Path) -> None:
        """fsync: names that were made, renamed or removed in it."""


class SystemFiles:
    """The operating system's."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def pwritev(self, fd: int, pieces: Sequence[Bytes], offset: int) -> int:
        return os.pwritev(fd, pieces, offset)

    def write_direct(self, fd: int, data: memoryview, offset: int) -> int:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        try:
            return os.pwrite(fd, data, offset)
        finally:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        return os.pread(fd, n_bytes, offset)

    def truncate(self, fd: int, n_bytes: int) -> None:
        os.ftruncate(fd, n_bytes)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def sync_folder(self, path: Path) -> None:
        sync_folder(path)


__all__ = ["Bytes", "Files", "SystemFiles"]
