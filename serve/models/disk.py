"""The model repository on disk: the real listing, and what is read from a model's folder. Blocking."""

import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve import clock
from serve.errors import ConfigurationError
from serve.models.config import ModelConfig, parse_model_yaml
from serve.models.digest import VersionDigests
from serve.models.repository import MODEL_YAML, FileStamp, ModelSource, Scan, scan, scan_strictly, version_stamp
from serve.models.triton_config import read_config_pbtxt

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration, and the file or request that it came from, for errors."""

    config: ModelConfig
    origin: str


class DiskListing:
    """`repository.Listing` over the file system."""

    def names(self, folder: pathlib.Path) -> Sequence[str]:
        return os.listdir(folder)

    def is_folder(self, path: pathlib.Path) -> bool:
        return path.is_dir()

    def is_file(self, path: pathlib.Path) -> bool:
        return path.is_file()

    def stamp(self, file: pathlib.Path) -> FileStamp:
        status = file.stat()
        return FileStamp(str(file), status.st_size, status.st_mtime_ns)


class DiskRepository:
    """The models under PATH arguments. lenient: what of a config.pbtxt cannot be honoured is warned of instead of refused."""

    def __init__(self, paths: Sequence[str | pathlib.Path], *, lenient: bool = False) -> None:
        # Absolute but not resolved: a model keeps the name of the link that leads to it.
        self._paths = tuple(pathlib.Path(os.path.abspath(path)) for path in paths)
        self._lenient = lenient
        self._listing = DiskListing()
        self._digests = VersionDigests(clock.wall_ns)

    def scan(self) -> Scan:
        return scan(self._paths, self._listing)

    def scan_strictly(self) -> Scan:
        """Raises ConfigurationError with every problem."""
        found = scan_strictly(self._paths, self._listing)
        for source in found.models.values():
            for reason in source.ignored:
                _log.warning("%s: folder ignored: %s", source.path, reason)
        return found

    def stamp(self, model_file: pathlib.Path) -> tuple[FileStamp, ...]:
        """Identity of a version's files. Raises OSError, ConfigurationError."""
        return version_stamp(model_file, self._listing)

    def digest(self, model_file: pathlib.Path, label_files: Sequence[pathlib.Path]) -> str:
        """What the version is made of, in one name; see digest.py. Raises ConfigurationError, Unavailable, OSError."""
        return self._digests.digest(model_file, label_files)

    def configuration(self, source: ModelSource) -> Configured:
        """The model's configuration, or the default one. Raises ConfigurationError."""
        path = source.config_path
        if path is None:
            return Configured(ModelConfig(), str(source.path))
        text = _read(path)
        if path.name == MODEL_YAML:
            return Configured(parse_model_yaml(text, str(path)), str(path))
        return Configured(read_config_pbtxt(text, str(path), source.name, lenient=self._lenient), str(path))

    def class_labels(self, source: ModelSource, configured: Configured) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes by output, files read. Raises ConfigurationError."""
        return {
            output: _label_lines(source.path / labels, output, configured.origin) if isinstance(labels, str) else labels
            for output, labels in configured.config.class_labels.items()
        }


def _label_lines(path: pathlib.Path, output: str, where: str) -> tuple[str, ...]:
    try:
        lines = tuple(_read(path).splitlines())
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: class labels of output {output!r}: {error}") from error
    if not lines:
        raise ConfigurationError(f"{where}: class labels of output {output!r}: {path} is empty; write one name per line")
    return lines


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"cannot read {path}: byte {error.start} is not UTF-8") from error


__all__ = ["Configured", "DiskListing", "DiskRepository"]
