"""Labels in files: CSV with a head, JSON lines, Parquet. Read in chunks, so that a file may be larger than the memory."""

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from serve.errors import ConfigurationError

KEYS = ("request_id", "row", "label", "reward", "name", "time")

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Items as the client takes them. done, of: of the file, in its own measure."""

    items: list[Item]
    done: int
    of: int


def value_of(text: str) -> Any:
    """A label as people type it: JSON's numbers, true, false and quoted texts are those; all else is a text."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, bool | int | float | str) else text


def chunks_of(path: Path, size: int) -> Iterator[Chunk]:
    """By the file's ending. Raises ConfigurationError for another ending, a file that cannot be read, and a row that is none."""
    readers: Mapping[str, Callable[[Path, int], Iterator[Chunk]]] = {
        ".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(f"{path}: labels are read from {', '.join(readers)}, not {path.suffix or 'a file without an ending'}")
    try:
        yield from reader(path, size)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _csv(path: Path, size: int) -> Iterator[Chunk]:
    of = path.stat().st_size
    done = 0

    def counted() -> Iterator[str]:
        nonlocal done
        for line in file:
            done += len(line.encode())
            yield line

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(counted())
        _check_names(path, rows.fieldnames or ())
        items: list[Item] = []
        for row in rows:
            if None in row or None in row.values():
                raise ConfigurationError(f"{path}, line {rows.line_num}: has other cells than the head, {', '.join(rows.fieldnames or ())}")
            items.append(_from_text(path, rows.line_num, row))
            if len(items) == size:
                yield Chunk(items, done, of)
                items = []
        yield Chunk(items, of, of)


def _from_text(path: Path, line: int, row: Mapping[str, str]) -> Item:
    found: Item = {key: text for key, text in row.items() if text}
    try:
        if "row" in found:
            found["row"] = int(found["row"])
        if "reward" in found:
            found["reward"] = float(found["reward"])
    except ValueError as error:
        raise ConfigurationError(f"{path}, line {line}: {error}") from error
    if "label" in found:
        found["label"] = value_of(found["label"])
    if found.get("time", "").isdecimal():
        found["time"] = int(found["time"])
    return found


def _jsonl(path: Path, size: int) -> Iterator[Chunk]:
    of = path.stat().st_size
    items: list[Item] = []
    done = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            done += len(line)
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ConfigurationError(f"{path}, line {number}: {error}") from error
            if not isinstance(item, dict):
                raise ConfigurationError(f"{path}, line {number}: want a JSON object, got {type(item).__name__}")
            items.append(item)
            if len(items) == size:
                yield Chunk(items, done, of)
                items = []
    yield Chunk(items, of, of)


def _parquet(path: Path, size: int) -> Iterator[Chunk]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError(f"{path}: Parquet needs pyarrow: pip install 'headrace[records]'") from error
    try:
        with pq.ParquetFile(path) as file:
            _check_names(path, file.schema_arrow.names)
            done, of = 0, file.metadata.num_rows
            for batch in file.iter_batches(size):
                done += batch.num_rows
                yield Chunk([_from_values(row) for row in batch.to_pylist()], done, of)
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _from_values(row: Mapping[str, Any]) -> Item:
    found = {key: value for key, value in row.items() if value is not None}
    if isinstance(time := found.get("time"), datetime):
        found["time"] = time.isoformat() if time.tzinfo else f"{time.isoformat()}Z"
    return found


def _check_names(path: Path, names: Collection[str]) -> None:
    unknown = [name for name in names if name not in KEYS]
    if unknown or "request_id" not in names:
        what = f"unknown column {unknown[0]!r}" if unknown else "no column request_id"
        raise ConfigurationError(f"{path}: {what}; columns are {', '.join(KEYS)}: request_id, and label or reward, must be there")


__all__ = ["KEYS", "Chunk", "chunks_of", "value_of"]
