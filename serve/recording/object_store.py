"""Sealed files as whole objects, which S3, GCS and Azure show at once or not at all, by way of fsspec."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.fs as pafs

from serve.errors import Unavailable
from serve.recording.store_port import StoredFile, changed_elsewhere


class ObjectStore:
    """Objects below a prefix of a file system of fsspec's. `filesystem` is what DuckDB registers to read `location`."""

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self.filesystem = filesystem
        self._base = root.rstrip("/")
        self._url = url.rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectStore({self._url})"

    @property
    def url(self) -> str:
        return self._url

    @property
    def root(self) -> Path | None:
        return None

    def list(self, folder: str) -> list[StoredFile]:
        base = self._at(folder)
        with self._driver_errors(), suppress(FileNotFoundError):
            self.filesystem.invalidate_cache()      # others write here too
            found = cast("dict[str, dict[str, Any]]", self.filesystem.find(base, detail=True))
            files = [StoredFile(f"{folder}/{name[len(base):].lstrip('/')}", int(entry["size"])) for name, entry in found.items()]
            return sorted((file for file in files if "/." not in file.path), key=lambda file: file.path)
        return []

    def size(self, path: str) -> int:
        with self._driver_errors():
            self.filesystem.invalidate_cache()
            return int(self.filesystem.size(self._at(path)))

    def read(self, path: str) -> bytes:
        with self._driver_errors():
            return bytes(self.filesystem.cat_file(self._at(path)))

    def open(self, path: str) -> IO[bytes]:
        with self._driver_errors():
            return cast("IO[bytes]", self.filesystem.open(self._at(path), "rb"))

    def write(self, path: str, content: bytes) -> None:
        with self._driver_errors():
            self.filesystem.pipe_file(self._at(path), content)

    def append(self, path: str, content: bytes, after: int | None = None) -> None:
        try:
            before = self.read(path)
        except FileNotFoundError:
            before = b""
        if after not in (None, len(before)):
            raise changed_elsewhere(f"{self._url}/{path}", len(before), after)
        self.write(path, before + content)

    def adopt(self, source: Path, path: str) -> None:
        with self._driver_errors():
            self.filesystem.put_file(str(source), self._at(path))
        n_bytes = source.stat().st_size
        if (stored := self.size(path)) != n_bytes:
            raise Unavailable(f"{self._url}/{path} holds {stored} bytes after {n_bytes} were put there; it is tried again")
        source.unlink()

    def delete(self, path: str) -> None:
        with self._driver_errors(), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._at(path))

    def location(self, path: str) -> str:
        return str(self.filesystem.unstrip_protocol(self._at(path)))

    def arrow(self) -> tuple[pafs.FileSystem, str]:
        return pafs.PyFileSystem(pafs.FSSpecHandler(self.filesystem)), self._base

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"

    @contextmanager
    def _driver_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            raise
        except Exception as error:      # each driver has its own: botocore's, aiohttp's, google's, azure's
            raise Unavailable(f"{self._url}: {type(error).__name__}: {error}") from error


__all__ = ["ObjectStore"]
