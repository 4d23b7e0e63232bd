"""What sealing, compaction and queries need of wherever sealed files and manifests are kept.

What `write` and `adopt` return from is whole and durable, and a reader sees the old file or the new one, never a part. Paths are relative,
with `/`; names that begin with a dot are nobody's and never listed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pyarrow.fs as pafs

from serve.errors import Unavailable


@dataclass(frozen=True, slots=True)
class StoredFile:
    """path: relative to the store. n_bytes: its size."""

    path: str
    n_bytes: int


class RecordsStore(Protocol):
    """root: the folder, None when it is no folder of this machine.

    Every method blocks. Raises FileNotFoundError for what is not there, OSError when the disk or the store fails, Unavailable where a
    driver has an error of its own.
    """

    @property
    def url(self) -> str: ...

    @property
    def root(self) -> Path | None: ...

    def list(self, folder: str) -> list[StoredFile]:
        """All files below a folder, by path; none when there is no such folder."""
        ...

    def size(self, path: str) -> int:
        """Of a file, in bytes."""
        ...

    def read(self, path: str) -> bytes:
        """A whole file."""
        ...

    def open(self, path: str) -> IO[bytes]:
        """A seekable file to read, as pyarrow takes it."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Makes or replaces a file."""
        ...

    def append(self, path: str, content: bytes, after: int | None = None) -> None:
        """Adds to a file, which is made when it is not there. One process appends to a file.

        after: the bytes that it should have before. Raises Unavailable when it has not, and changes nothing: somebody else was at it.
        """
        ...

    def adopt(self, source: Path, path: str) -> None:
        """Moves a local file here; `source` is gone afterwards. Replaces what is there."""
        ...

    def delete(self, path: str) -> None:
        """Nothing happens when it is not there."""
        ...

    def location(self, path: str) -> str:
        """What DuckDB calls it: an absolute path, or a URL of a file system that is registered with the connection."""
        ...

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        """For pyarrow.dataset: the file system, and the root in it."""
        ...


def changed_elsewhere(where: str, n_bytes: int, after: int) -> Unavailable:
    """What `append` raises."""
    return Unavailable(f"{where} has {n_bytes} bytes, not the {after} that were written: somebody else was at it; nothing is added")


__all__ = ["RecordsStore", "StoredFile", "changed_elsewhere"]
