"""One way to write a JSON value: keys sorted, no spaces, ASCII, numbers as Python's json writes them (shortest that reads back equal)."""

import json
import math
from collections.abc import Mapping
from typing import Any

from serve.errors import InvalidArgument

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, check_circular=True)


def canonical(value: Any) -> str:
    """Raises InvalidArgument for what JSON cannot say: NaN, infinities, keys that are not text, foreign objects."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"not JSON: {error}; give objects, arrays, text, finite numbers, booleans and null") from error


def plain(value: Any) -> Any:
    """The value with everything that JSON cannot say written out: evidence must never be what makes a rollback fail.

    Infinities and NaN become the texts "Infinity", "-Infinity" and "NaN"; sets become sorted arrays; keys become text.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=canonical)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


__all__ = ["canonical", "plain"]
