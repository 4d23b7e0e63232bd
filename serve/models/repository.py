"""From PATH arguments to models: which there are, which versions each has, where their files lie.

    model.onnx                                  one model, under its stem, version 1
    <model>/{model.yaml | config.pbtxt}         one model ...
    <model>/<version>/model.onnx                ... with its versions, external data files beside model.onnx
    <repository>/<model>/...                    any other folder: a repository of such folders

Pure over a `Listing`; `disk.py` has the real one. Deterministic: entries are taken in sorted order.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve.errors import ConfigurationError
from serve.models.names import MODEL_NAME_RULE, is_ignored, is_model_name, is_version
from serve.models.policy import ascending

MODEL_FILE = "model.onnx"
MODEL_YAML = "model.yaml"
CONFIG_PBTXT = "config.pbtxt"
SELF_TESTS = "tests"
# External data may lie in folders below the version's; deeper than this is no model but a loop of links.
MAX_STAMP_DEPTH = 8


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Identity of a file's content, as cheap as it can be had. mtime_ns: wall time of the last change."""

    path: str
    size: int
    mtime_ns: int


class Listing(Protocol):
    """What a scan needs of a file system. Links are followed. Any of these may raise OSError."""

    def names(self, folder: pathlib.Path) -> Sequence[str]:
        """Entries of a folder, in any order."""

    def is_folder(self, path: pathlib.Path) -> bool: ...

    def is_file(self, path: pathlib.Path) -> bool: ...

    def stamp(self, file: pathlib.Path) -> FileStamp: ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on disk. path: its folder, or the .onnx file. versions: version -> .onnx file, ascending.

    config_path: model.yaml, else config.pbtxt, else None. ignored: numeric folders that are no version, each with the reason.
    """

    name: str
    path: pathlib.Path
    versions: Mapping[str, pathlib.Path]
    config_path: pathlib.Path | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scan:
    """models: by name. problems: what cannot be served, by model name or PATH, with a text for the operator."""

    models: Mapping[str, ModelSource]
    problems: Mapping[str, str]


def scan(paths: Sequence[pathlib.Path], listing: Listing) -> Scan:
    """All models under `paths`. Never raises for what it finds: one broken folder must not hide the others."""
    models: dict[str, ModelSource] = {}
    problems: dict[str, str] = {}
    for path in paths:
        try:
            for source in _sources(path, listing, problems):
                _add(source, models, problems)
        except (ConfigurationError, OSError) as error:
            problems[str(path)] = str(error)
    ordered = {name: models[name] for name in sorted(models) if name not in problems}
    return Scan(ordered, problems)


def scan_strictly(paths: Sequence[pathlib.Path], listing: Listing) -> Scan:
    """As `scan`, for the start of the server: raises ConfigurationError with every problem."""
    found = scan(paths, listing)
    if found.problems:
        raise ConfigurationError("; ".join(found.problems.values()))
    return found


def version_stamp(model_file: pathlib.Path, listing: Listing) -> tuple[FileStamp, ...]:
    """Identity of everything that makes up this version: model.onnx and what lies beside it, self-tests and baseline included.

    A model.onnx given as PATH by itself stands for itself only: its neighbours are other models.
    """
    if model_file.name != MODEL_FILE or not is_version(model_file.parent.name):
        return (listing.stamp(model_file),)
    return tuple(_stamps(model_file.parent, listing, MAX_STAMP_DEPTH))


def _stamps(folder: pathlib.Path, listing: Listing, depth: int) -> Iterator[FileStamp]:
    if depth == 0:
        raise ConfigurationError(f"{folder}: more than {MAX_STAMP_DEPTH} folders deep in a version; is there a loop of links?")
    for name in sorted(listing.names(folder)):
        path = folder / name
        if listing.is_folder(path):
            yield from _stamps(path, listing, depth - 1)
        else:
            yield listing.stamp(path)


def _add(source: ModelSource, models: dict[str, ModelSource], problems: dict[str, str]) -> None:
    first = models.setdefault(source.name, source)
    if first is not source:
        problems[source.name] = f"model '{source.name}' is in {first.path} and in {source.path}: rename one or leave one out"


def _sources(path: pathlib.Path, listing: Listing, problems: dict[str, str]) -> Iterator[ModelSource]:
    if listing.is_file(path):
        yield _single_file(path)
    elif not listing.is_folder(path):
        raise ConfigurationError(f"{path}: no such file or folder; give a .onnx file, a model's folder or a folder of models")
    elif _is_model(path, listing):
        yield _model_folder(path, listing)
    else:
        yield from _repository(path, listing, problems)


def _repository(path: pathlib.Path, listing: Listing, problems: dict[str, str]) -> Iterator[ModelSource]:
    n_found = 0
    entries = [name for name in sorted(listing.names(path)) if not is_ignored(name)]
    for name in entries:
        folder = path / name
        try:
            if listing.is_folder(folder) and _is_model(folder, listing):
                n_found += 1
                yield _model_folder(folder, listing)
        except (ConfigurationError, OSError) as error:
            problems[name] = str(error)
    stray = [name for name in entries if name.endswith(".onnx") and listing.is_file(path / name)]
    if stray and not n_found:
        raise ConfigurationError(
            f"{path}: no model folder in it, but {stray[0]}; give that file itself, or move it to {path}/<model>/1/{MODEL_FILE}"
        )


def _single_file(path: pathlib.Path) -> ModelSource:
    if path.suffix != ".onnx":
        raise ConfigurationError(f"{path}: not a .onnx file; give a .onnx file, a model's folder or a folder of models")
    return ModelSource(_checked_name(path.stem, path), path, {"1": path})


def _is_model(folder: pathlib.Path, listing: Listing) -> bool:
    if listing.is_file(folder / MODEL_YAML) or listing.is_file(folder / CONFIG_PBTXT):
        return True
    return any(is_version(name) and listing.is_file(folder / name / MODEL_FILE) for name in listing.names(folder))


def _model_folder(folder: pathlib.Path, listing: Listing) -> ModelSource:
    name = _checked_name(folder.name, folder)
    versions: list[str] = []
    ignored: list[str] = []
    for entry in sorted(listing.names(folder)):
        if not (entry.isascii() and entry.isdigit() and listing.is_folder(folder / entry)):
            continue
        if not is_version(entry):
            ignored.append(f"{entry} is not a positive integer without leading zeros")
        elif not listing.is_file(folder / entry / MODEL_FILE):
            ignored.append(f"{entry} has no {MODEL_FILE}")
        else:
            versions.append(entry)
    # model.yaml says more than config.pbtxt can, so a folder that serves another server as well may have both.
    config = next((folder / file for file in (MODEL_YAML, CONFIG_PBTXT) if listing.is_file(folder / file)), None)
    return ModelSource(name, folder, {v: folder / v / MODEL_FILE for v in ascending(versions)}, config, tuple(ignored))


def _checked_name(name: str, path: pathlib.Path) -> str:
    if not is_model_name(name):
        raise ConfigurationError(f"{path}: '{name}' cannot be a model's name, which is {MODEL_NAME_RULE}")
    return name


__all__ = ["FileStamp", "Listing", "ModelSource", "Scan", "scan", "scan_strictly", "version_stamp"]
