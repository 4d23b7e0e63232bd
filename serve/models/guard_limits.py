"""What a version's inputs may be, as plain numbers, and packed for the native check (`serve._core.guard`)."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serve._core.guard import NativeGuard
from serve.errors import InvalidArgument
from serve.types import TensorSpec

# Bytes of the categories that a refusal names.
MAX_SHOWN = 160

# Limits of 16-bit floats are kept as FP32.
_LIMIT_TYPES: Mapping[str, type[np.generic]] = {
    "FP16": np.float32, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8, "UINT16": np.uint16,
    "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
}
_NO_CATEGORIES = ("FP16", "BF16", "FP32", "FP64")

Number = int | float


@dataclass(frozen=True, slots=True)
class InputLimits:
    """One input's, element by element of a row in row-major order, or one entry for all elements alike.

    low, high: the smallest and the largest value that is allowed; None or NaN: any. may_miss: whether NaN is let through, () never; an
    element without limits lets it through. categories: the values that are allowed, integers or bytes; None: any. () checks nothing.
    """

    low: Sequence[Number | None] = ()
    high: Sequence[Number | None] = ()
    may_miss: Sequence[bool] = ()
    categories: Sequence[Collection[int] | Collection[bytes] | None] = ()


@dataclass(frozen=True, slots=True)
class _Packed:
    n_limits: int
    low: bytes = b""
    high: bytes = b""
    may_miss: bytes = b""
    categories: tuple[Any, ...] = ()
    shown: tuple[bytes, ...] = ()


def native_guard(
    inputs: Sequence[TensorSpec], max_batch_size: int, limits: Mapping[str, InputLimits], reject: Collection[Literal["range", "category"]]
) -> NativeGuard | None:
    """The check of what `reject` names; None when there is nothing to check. limits: by input; one that the model lacks is left out.

    Raises InvalidArgument for limits that do not fit their input.
    """
    packed = {}
    for spec in inputs:
        given = limits.get(spec.name)
        if given is not None and (one := _pack(spec, max_batch_size > 0, given, reject)) is not None:
            packed[spec.name] = one
    return NativeGuard(tuple(inputs), packed) if packed else None


def _pack(spec: TensorSpec, is_batched: bool, limits: InputLimits, reject: Collection[str]) -> _Packed | None:
    ranges = "range" in reject and (len(limits.low) or len(limits.high)) > 0
    categories = "category" in reject and len(limits.categories) > 0
    if not ranges and not categories:
        return None
    sizes = {len(one) for one in (limits.low, limits.high) if ranges} | ({len(limits.categories)} if categories else set())
    row = spec.shape[1:] if is_batched else spec.shape
    elements = -1 if any(size < 0 for size in row) else math.prod(row)
    if len(sizes) != 1 or not sizes <= {1, elements}:
        wanted = "1, as rows differ in size" if elements < 0 else f"1 or {elements}"
        got = " and ".join(map(str, sorted(sizes)))
        raise InvalidArgument(f"limits of input {spec.name!r} are for {got} elements of a row; want {wanted}")
    n_limits = sizes.pop()
    low, high, may_miss = _ranges(spec, limits, n_limits) if ranges else (b"", b"", b"")
    sets = tuple(_category_set(spec, values) for values in limits.categories) if categories else ()
    return _Packed(n_limits, low, high, may_miss, sets, tuple(b"" if one is None else _shown(one) for one in sets))


def _ranges(spec: TensorSpec, limits: InputLimits, n_limits: int) -> tuple[bytes, bytes, bytes]:
    kind = _LIMIT_TYPES.get(spec.datatype)
    if kind is None:
        raise InvalidArgument(f"input {spec.name!r} is {spec.datatype}, which has no range; give categories")
    given = list(limits.may_miss) or [False] * n_limits
    if len(given) != n_limits:
        raise InvalidArgument(f"limits of input {spec.name!r}: may_miss has {len(given)} entries, low {n_limits}")
    is_free = [_is_none(low) and _is_none(high) for low, high in zip(limits.low, limits.high, strict=True)]
    may_miss = bytes(missing or free for missing, free in zip(given, is_free, strict=True))
    return _bounds(limits.low, kind, -1).tobytes(), _bounds(limits.high, kind, 1).tobytes(), may_miss


def _is_none(value: Number | None) -> bool:
    return value is None or math.isnan(value)


def _bounds(values: Sequence[Number | None], kind: type[np.generic], side: Literal[-1, 1]) -> npt.NDArray[Any]:
    """In the input's datatype, rounded outwards (side): a value that is inside as a number stays inside."""
    if not issubclass(kind, np.integer):
        wide = np.array([side * math.inf if value is None or math.isnan(value) else value for value in values], np.float64)
        with np.errstate(over="ignore"):        # what is too large for the datatype is no limit in it
            narrow = wide.astype(kind)
            is_inward = narrow > wide if side < 0 else narrow < wide
            outward = np.nextafter(narrow, np.asarray(side * np.inf, kind))
        return np.where(is_inward, outward, narrow)
    info = np.iinfo(kind)
    last = info.max if side > 0 else info.min
    return np.array([_whole(value, side, info.min, info.max, last) for value in values], kind)


def _whole(value: Number | None, side: int, least: int, most: int, last: int) -> int:
    if value is None or math.isnan(value) or math.isinf(value):
        return last
    # A range that lies outside of the datatype lets nothing through: clipped to its edge it lets one value through, which nobody sends.
    return min(max(math.floor(value) if side > 0 else math.ceil(value), least), most)


def _category_set(spec: TensorSpec, values: Collection[int] | Collection[bytes] | None) -> frozenset[Any] | None:
    if values is None:
        return None
    if spec.datatype in _NO_CATEGORIES:
        raise InvalidArgument(f"input {spec.name!r} is {spec.datatype}, which has no categories; give a range")
    wanted = bytes if spec.datatype == "BYTES" else int
    wrong = [value for value in values if not isinstance(value, wanted)]
    if wrong:
        raise InvalidArgument(f"category {wrong[0]!r} of input {spec.name!r}: {spec.datatype} has {wanted.__name__}")
    return frozenset(values)


def _shown(values: frozenset[Any]) -> bytes:
    """The categories as a refusal names them, NUL-terminated."""
    texts = [value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(int(value)) for value in sorted(values)]
    said, length = [], 0
    for text in texts:
        length += len(text.encode()) + 2
        if length > MAX_SHOWN:
            break
        said.append(text)
    more = len(texts) - len(said)
    return ", ".join([*said, *([f"and {more} more" if said else f"{more} values"] if more else [])]).replace("\0", "\\0").encode() + b"\0"


__all__ = ["InputLimits", "native_guard"]
