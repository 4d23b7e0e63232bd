"""Which versions killed a worker: remembered on disk, because the worker cannot tell any more.

    <state>/loading/<model>@<version>@<pid>     exists and is locked while that worker loads the version
    <state>/failed/<model>@<version>            the worker died while loading it; stays until somebody asks for the version again

A mark whose lock is free belongs to a worker that is gone (the kernel drops a lock with its process), so the marks of a worker that
still runs, during a hand-over, are left alone. Two loads may run at once: when more than one mark is left behind, none is known to be
guilty, and the versions are suspects, to be loaded one at a time, where a second crash leaves a single mark.
"""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from serve.errors import ConfigurationError, Unavailable

DIED_WHILE_LOADING = "the worker died while loading it"


class CrashMarks:
    """Marks in `directory`, which is made if need be. Blocking: every method may wait for the disk."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._loading = directory / "loading"
        self._failed = directory / "failed"
        self._suspects: frozenset[tuple[str, str]] = frozenset()

    @property
    def suspects(self) -> frozenset[tuple[str, str]]:
        """(model, version) of the versions of which one killed the worker before, as `recover` found them."""
        return self._suspects

    def recover(self) -> None:
        """Judges the marks that dead workers left. Called once, before anything is loaded.

        Raises ConfigurationError when the directory cannot be written, OSError when the disk fails.
        """
        for folder in (self._loading, self._failed):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(f"cannot make {folder}: {error.strerror}; give a writable --state-dir") from error
        if not os.access(self._loading, os.W_OK):
            raise ConfigurationError(f"{self._loading} is not writable; give a writable --state-dir")
        abandoned = [path for path in self._loading.glob("[!.]*@*@*") if _is_abandoned(path)]
        found = {(model, version) for model, version, _ in (path.name.split("@") for path in abandoned)}
        if len(found) == 1:
            [(model, version)] = found
            (self._failed / f"{model}@{version}").touch()
            _sync_folder(self._failed)
        else:
            self._suspects = frozenset(found)
        for path in abandoned:
            path.unlink(missing_ok=True)

    def failed(self, model: str) -> frozenset[str]:
        """Versions of `model` that killed a worker. Raises OSError."""
        return frozenset(path.name.removeprefix(f"{model}@") for path in self._failed.glob(f"{model}@*"))

    def clear(self, model: str, version: str) -> None:
        """Forgets that a version killed a worker: somebody asked for it again. Raises OSError."""
        (self._failed / f"{model}@{version}").unlink(missing_ok=True)

    def abandon(self) -> None:
        """The worker ends because it was told to: what it is loading now is not to blame. Nothing may be loaded after this."""
        for path in self._loading.glob(f"[!.]*@*@{os.getpid()}"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def loading(self, model: str, version: str) -> Iterator[None]:
        """Marks a version for as long as the block runs. Raises Unavailable when the mark cannot be written."""
        name = f"{model}@{version}@{os.getpid()}"
        try:
            descriptor = self._write_mark(name)
        except OSError as error:
            raise Unavailable(f"cannot write the crash mark in {self._loading}: {error.strerror}; give a writable --state-dir") from error
        try:
            yield
        finally:
            (self._loading / name).unlink(missing_ok=True)
            os.close(descriptor)

    def _write_mark(self, name: str) -> int:
        # Locked before it has its final name: another worker's recover() never sees it unlocked.
        hidden = self._loading / f".{name}"
        descriptor = os.open(hidden, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(descriptor)
            hidden.rename(self._loading / name)
            _sync_folder(self._loading)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _is_abandoned(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["DIED_WHILE_LOADING", "CrashMarks"]
