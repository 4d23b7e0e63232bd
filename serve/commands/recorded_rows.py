"""Recorded predictions as rows of the judge's replay: JSON Lines, or Parquet where pyarrow is installed.

Columns: ts_ns, unit, variant, status, and where they are known total_us and one of out_class and out_value. Others are passed over.
"""

import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serve.errors import ConfigurationError
from serve.routing.judge.replay import Row

COLUMNS = ("ts_ns", "unit", "variant", "status", "total_us", "out_class", "out_value")

_PARQUET_MAGIC = b"PAR1"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file in its order; "-" is standard input. Raises ConfigurationError for what cannot be read, with the row's number."""
    try:
        if str(path) == "-":
            yield from _rows(_json_lines(sys.stdin))
        elif _is_parquet(path):
            yield from _rows(_parquet(path))
        else:
            with path.open(encoding="utf-8") as lines:
                yield from _rows(_json_lines(lines))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def row_of(value: Mapping[str, Any]) -> Row:
    """One row. Raises ValueError."""
    for name in ("ts_ns", "variant", "status"):
        if value.get(name) is None:
            raise ValueError(f"{name} is missing")
    out_class, out_value = value.get("out_class"), value.get("out_value")
    if out_class is not None and out_value is not None:
        raise ValueError("out_class and out_value are both there; a row has one judged output")
    return Row(
        ts_ns=_integer("ts_ns", value["ts_ns"]), unit=_text("unit", value.get("unit")), variant=_text("variant", value["variant"]),
        status=_text("status", value["status"]), total_us=_number("total_us", value.get("total_us")),
        out_class=None if out_class is None else _integer("out_class", out_class), out_value=_number("out_value", out_value))


def _rows(values: Iterable[Any]) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"row {number}: {type(value).__name__} instead of an object")
        try:
            yield row_of(value)
        except ValueError as error:
            raise ConfigurationError(f"row {number}: {error}") from error


def _json_lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigurationError(f"line {number}: no JSON: {error}") from error


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def _parquet(path: Path) -> Iterator[Any]:
    try:
        # By name: it is optional, and has no types.
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigurationError(f"{path} is Parquet: install pyarrow to read it, or write it as JSON Lines") from error
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
    except arrow.ArrowException as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _integer(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name} is {value!r}; want a whole number")


def _number(name: str, value: object) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return None if value is None else float(value)
    raise ValueError(f"{name} is {value!r}; want a number")


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{name} is {value!r}; want text")
