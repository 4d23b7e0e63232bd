"""What every client script shares: it runs its checks against the server named on the command line and prints one line of JSON for each.

These scripts run in environments of their own (tools/client_venvs.sh), so they import nothing of this repository but what lies beside them.
A check is a function `check_<what>`; it passes when it returns.
"""

import asyncio
import inspect
import json
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHECK_S = 20.0

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_, "BF16": bfloat16,
}


def addresses() -> dict[str, str]:
    """http, grpc, ...: "host:port"; repository: the server's folder of models."""
    return dict(json.loads(sys.argv[1]))


def run(module: dict[str, Any], *arguments: Any) -> None:
    """Calls every check of a module's globals with the arguments; a coroutine function gets an event loop of its own.

    A check_only_<protocol>_<what> is for scripts that are started with that protocol.
    """
    protocol = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, check in [(name, value) for name, value in module.items() if name.startswith("check_")]:
        if name.startswith("check_only_") and name.split("_")[2] != protocol:
            continue
        result: dict[str, Any] = {"check": name, "error": None}
        try:
            _call(check, arguments)
        except Exception:
            result["error"] = traceback.format_exc()
        print(json.dumps(result), flush=True)


def _call(check: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if inspect.iscoroutinefunction(check):
        asyncio.run(asyncio.wait_for(check(*arguments), CHECK_S))
    else:
        check(*arguments)


def values(datatype: str, shape: tuple[int, ...] = (2, 3)) -> "np.ndarray[Any, Any]":
    """An array of a datatype with its extremes in it; six elements."""
    if datatype == "BYTES":
        flat: Any = np.array([b"", b"a", "gr\u00fc\u00df".encode(), b"\x00\xff\xfe", b"x" * 300, b"\n"], np.object_)
    elif datatype == "BOOL":
        flat = np.array([True, False, False, True, True, False])
    elif datatype.startswith(("FP", "BF")):
        flat = np.array([0.0, -0.0, 1.5, -2.25, np.inf, 3.0e-3]).astype(NUMPY_TYPES[datatype])
    else:
        limits = np.iinfo(NUMPY_TYPES[datatype])
        flat = np.array([limits.min, limits.max, 0, 1, 2, 100], NUMPY_TYPES[datatype])
    return flat.reshape(shape)


def packable() -> "np.ndarray[Any, Any]":
    """FP32 [1, 32768] of few values in no order: compression pays, and not so well that it looks like a bomb."""
    return np.random.default_rng(3).integers(0, 8, (1, 32768)).astype(np.float32)


def same(one: Any, other: Any) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    if one.dtype == np.object_ or other.dtype == np.object_:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def raised(call: Callable[[], Any]) -> Exception:
    """What a call raises, which it must."""
    try:
        result = call()
    except Exception as error:
        return error
    raise AssertionError(f"nothing was raised, but {result!r} returned")


async def raised_by(awaitable: Any) -> Exception:
    """What an awaitable raises, which it must."""
    try:
        result = await awaitable
    except Exception as error:
        return error
    raise AssertionError(f"nothing was raised, but {result!r} returned")


def write_model(name: str, source: str = "scaled") -> Path:
    """A copy of a model under another name, on the server's disk but not loaded. Its folder."""
    folder = Path(addresses()["repository"]) / name
    shutil.copytree(folder.parent / source, folder)
    return folder


def break_model(folder: Path) -> None:
    """No version of it can be loaded any more."""
    for path in folder.glob("*/model.onnx"):
        path.write_bytes(b"this is no model")
