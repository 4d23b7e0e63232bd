"""Where baselines lie: beside the model (<model>/<version>/baseline.json), else in the state directory. Blocking; from any thread.

    STATE_DIR/monitoring/baselines/<model>/<version>.json         of a repository that is read only
    STATE_DIR/monitoring/baselines/<model>/<version>.auto.json    of the first rows, where nobody gave any

Of the first two the one that was made last counts; the third where there is none. A baseline belongs to one digest of the version: one of
another is refused, loudly, and the version is watched as if it had none.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from serve.errors import Conflict, HeadraceError, InvalidArgument
from serve.models.digest import BASELINE_FILE
from serve.monitoring.baseline import Baseline, baseline_of_json

_log = structlog.get_logger(__name__)

_AUTOMATIC = ".auto.json"

# A version's folder, where it has one: None of a .onnx file that was given by itself.
FolderOf = Callable[[str, str], Path | None]


def baselines_folder(state_dir: Path) -> Path:
    """Where baselines lie that cannot lie beside their model."""
    return state_dir / "monitoring" / "baselines"


class BaselineFiles:
    """folder: STATE_DIR/monitoring/baselines. folder_of: a version's folder in the repository."""

    def __init__(self, folder: Path, folder_of: FolderOf) -> None:
        self._folder = folder
        self._folder_of = folder_of
        self._lock = threading.Lock()
        # (model, version) -> what is wrong with its file, as it was said.
        self._said: dict[tuple[str, str], str] = {}
        self._stamps: dict[tuple[str, str], tuple[tuple[int, int] | None, ...]] = {}

    def find(self, model: str, version: str, digest: str) -> Baseline | None:
        """The version's baseline; None where there is none for this digest. What is wrong with a file is logged once."""
        found: list[Baseline] = []
        for path in self._places(model, version):
            if path.name.endswith(_AUTOMATIC) and found:
                break
            try:
                found.append(checked(read_baseline(path), model, version, digest))
            except FileNotFoundError:
                continue
            except (OSError, HeadraceError) as error:
                self._complain(model, version, path, str(error))
        return max(found, key=lambda one: one.created_ns, default=None)

    def find_changed(self, model: str, version: str, digest: str) -> Baseline | None:
        """As `find`, where a file is not what it was at the last call; None where none has changed."""
        stamps = tuple(_stamp(path) for path in self._places(model, version))
        if self._stamps.get((model, version)) == stamps:
            return None
        self._stamps[model, version] = stamps
        return self.find(model, version, digest)

    def save(self, baseline: Baseline, *, is_automatic: bool = False) -> Path:
        """Writes it whole, or not at all; returns where. Raises OSError."""
        *beside, own, automatic = self._places(baseline.model, baseline.version)
        content = baseline.to_json().encode()
        with self._lock:
            self._said.pop((baseline.model, baseline.version), None)
            for path in beside if not is_automatic else ():
                with contextlib.suppress(OSError):      # a repository that is read only is normal
                    write_whole(path, content)
                    return path
            last = automatic if is_automatic else own
            write_whole(last, content)
        return last

    def _places(self, model: str, version: str) -> list[Path]:
        """Beside the model where it has a folder, our own, and our own of what nobody asked for."""
        folder = self._folder_of(model, version)
        own = [self._folder / model / f"{version}.json", self._folder / model / f"{version}{_AUTOMATIC}"]
        return own if folder is None else [folder / BASELINE_FILE, *own]

    def _complain(self, model: str, version: str, path: Path, reason: str) -> None:
        if self._said.get((model, version)) != reason:
            self._said[model, version] = reason
            _log.error("a baseline cannot be used", model=model, version=version, file=str(path), reason=reason)


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def read_baseline(path: Path) -> Baseline:
    """Raises InvalidArgument for what is no baseline, OSError."""
    return baseline_of_json(path.read_bytes())


def checked(baseline: Baseline, model: str, version: str, digest: str) -> Baseline:
    """The baseline itself. Raises InvalidArgument for one of another version, Conflict for one of another digest."""
    if (baseline.model, baseline.version) != (model, version):
        raise InvalidArgument(
            f"the baseline is of version {baseline.version} of '{baseline.model}', not of version {version} of '{model}'")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", baseline.digest):
        raise InvalidArgument(f"the baseline's digest is {baseline.digest!r}; make it anew with `headrace monitor baseline {model}`")
    if baseline.digest != digest:
        raise Conflict(
            f"the baseline {baseline.id} was made of version {version} with digest {baseline.digest[:19]}, and the version's files have "
            f"{digest[:19]}: they were changed since. Make it anew with `headrace monitor baseline {model} --version {version}`")
    return baseline


def write_whole(path: Path, content: bytes) -> None:
    """A file that is there as a whole, or as it was. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Begins with what no digest of a version counts.
    unfinished = path.with_name(f".{BASELINE_FILE}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


__all__ = ["BaselineFiles", "FolderOf", "baselines_folder", "checked", "read_baseline", "write_whole"]
