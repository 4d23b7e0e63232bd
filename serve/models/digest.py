"""One immutable name of a version: the SHA-256 of what is in it, whatever it is called and wherever it lies.

    digest = "sha256:" + hex(SHA-256 of one line a file, in the order of the names' UTF-8 bytes)
    line   = name NUL size NUL hex(SHA-256 of its content) LF

The files of a version are those of its folder at any depth, self-tests included, under their path in the folder, and the label files that
the configuration names in the model's folder, as "../<path>". Left out: `baseline.json`, which names the digest itself, with what begins
with ".baseline.json", and what begins with "..", which is how Kubernetes names its own links. A .onnx file given by itself is one file,
`model.onnx`.
"""

import hashlib
import os
import pathlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from serve.errors import ConfigurationError, Unavailable
from serve.models.names import is_version
from serve.models.repository import MAX_STAMP_DEPTH, MODEL_FILE

BASELINE_FILE = "baseline.json"
PREFIX = "sha256:"
# A file that changed so recently may change again without another mtime: its hash is not kept. Coarser than any clock of a file system.
RACY_NS = 2_000_000_000
MAX_CACHED = 4096

_Key = tuple[str, int, int, int]        # path, size, mtime_ns, inode


class VersionDigests:
    """Hashes of files, kept by what `stat` says of them. Of any thread. wall_ns: the wall clock."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        self._lock = threading.Lock()
        self._hashes: OrderedDict[_Key, str] = OrderedDict()

    def digest(self, model_file: pathlib.Path, label_files: Sequence[pathlib.Path] = ()) -> str:
        """Of the version with this .onnx file. Blocks; reads what it has not read before.

        Raises ConfigurationError for folders without end, Unavailable for a file that is being written, OSError.
        """
        whole = hashlib.sha256()
        for name, path in version_files(model_file, label_files):
            size, content = self._file(path)
            whole.update(name + b"\0%d\0" % size + content.encode() + b"\n")
        return PREFIX + whole.hexdigest()

    def _file(self, path: pathlib.Path) -> tuple[int, str]:
        """Size and hash of one file."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino)
            with self._lock:
                known = self._hashes.get(key)
            if known is not None:
                return status.st_size, known
            found = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
            raise Unavailable(f"{path} was changed while it was read; load the model again when it is written")
        if self._wall_ns() - status.st_mtime_ns > RACY_NS:
            with self._lock:
                self._hashes[key] = found
                while len(self._hashes) > MAX_CACHED:
                    self._hashes.popitem(last=False)
        return status.st_size, found


def version_files(model_file: pathlib.Path, label_files: Sequence[pathlib.Path] = ()) -> list[tuple[bytes, pathlib.Path]]:
    """(name, path) of what makes up a version, by name. Raises ConfigurationError, OSError."""
    if model_file.name != MODEL_FILE or not is_version(model_file.parent.name):
        return [(MODEL_FILE.encode(), model_file)]
    folder = model_file.parent
    files = [(path.relative_to(folder), path) for path in _walk(folder, MAX_STAMP_DEPTH)]
    labels = {path for path in label_files if folder not in path.parents}
    files += [(".." / path.relative_to(folder.parent), path) for path in labels]
    return sorted((os.fsencode(name.as_posix()), path) for name, path in files)


def _walk(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    if depth == 0:
        raise ConfigurationError(f"{folder}: more than {MAX_STAMP_DEPTH} folders deep in a version; is there a loop of links?")
    is_top = depth == MAX_STAMP_DEPTH
    for name in os.listdir(folder):
        path = folder / name
        if name.startswith("..") or (is_top and (name == BASELINE_FILE or name.startswith(f".{BASELINE_FILE}"))):
            continue
        if path.is_dir():
            yield from _walk(path, depth - 1)
        else:
            yield path


__all__ = ["BASELINE_FILE", "VersionDigests", "version_files"]
