"""Sealed files that a query opens, and what is said where one of them is not there any more."""

import contextlib
from collections.abc import Iterator

import duckdb

from serve.errors import InvalidArgument, Unavailable
from serve.recording.manifest_file import list_replicas, read_manifest
from serve.recording.store_port import RecordsStore


class SealedFiles:
    """The sealed files that a query may open, and what it tells of them. paths: in the store."""

    def __init__(self, store: RecordsStore) -> None:
        self._store = store
        self.paths: set[str] = set()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """DuckDB's and Arrow's errors as ours."""
        try:
            yield
        except (duckdb.Error, FileNotFoundError) as error:
            # DuckDB takes a file that is not there for a pattern, and that for one that is not allowed: it calls it a permission.
            may_be_gone = isinstance(error, duckdb.IOException | duckdb.PermissionException) or "No such file" in str(error)
            missing = next(filter(self._is_gone, sorted(self.paths)), None) if may_be_gone else None
            if missing is not None:
                raise gone(self._store, missing) from error
            if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException | FileNotFoundError):
                raise Unavailable(str(error)) from error
            raise InvalidArgument(str(error)) from error

    def _is_gone(self, path: str) -> bool:
        try:
            self._store.size(path)
        except FileNotFoundError:
            return True
        return False


def gone(store: RecordsStore, path: str) -> Unavailable:
    """What to say of a sealed file of a snapshot that is not there. Raises as the store."""
    if any(path in read_manifest(store, replica).parts for replica in list_replicas(store)):
        return Unavailable(f"{store.url}/{path} is gone, though its manifest names it: run `headrace records verify`, which counts what is "
                           "missing; --from and --to-time can leave its hour out")
    return Unavailable(f"{store.url}/{path} was purged or compacted meanwhile: ask again")


__all__ = ["SealedFiles", "gone"]
