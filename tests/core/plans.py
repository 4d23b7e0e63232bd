"""Plans for tests: specs in a line, versions to route to, and what an assignment must be, in plain Python."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from onnx import helper, numpy_helper

from serve._core.batcher import InstancePool
from serve._core.engine import NativeVersion
from serve.traffic import Arm, RoutingSpec
from tests.core import onnx_models
from tests.core.loopback import version

WHOLE = 2**53
GATE, VARIANT, HOLDOUT = 1, 2, 3
Weights = dict[str, int]


def spec_of(weights: Weights, *, generation: int = 1, salt: str = "salt", stable: str = "", **options: Any) -> RoutingSpec:
    """weights: version -> basis points; the arms are named v<version>."""
    arms = tuple(Arm(f"v{number}", number, weight) for number, weight in weights.items())
    return RoutingSpec(generation, salt, arms, stable or arms[0].name, **options)


def position(seed: int, key: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(key, seed)) >> 11


def assigned(spec: RoutingSpec, key: bytes) -> str:
    """The arm of a key, from the definitions."""
    seeds = {purpose: xxhash.xxh3_64_intdigest(spec.salt.encode(), purpose) for purpose in (GATE, VARIANT, HOLDOUT)}
    if position(seeds[GATE], key) * 10_000 >= spec.coverage_bp * WHOLE:
        return "outside"
    if position(seeds[HOLDOUT], key) * 10_000 < spec.holdout_bp * WHOLE:
        return "holdout"
    arms = sorted(spec.arms, key=lambda arm: int(arm.version))
    if len(arms) == 1:
        return arms[0].name
    if len(arms) == 2:
        return arms[1 if position(seeds[VARIANT], key) < arms[1].weight * WHOLE // 10_000 else 0].name
    own = {arm.name: xxhash.xxh3_64_intdigest(arm.version.encode(), seeds[VARIANT]) for arm in arms}
    return min((-math.log((position(own[arm.name], key) + 1) / WHOLE) / arm.weight, arm.name) for arm in arms if arm.weight)[1]


def looks_up(path: Path, size: int) -> Path:
    """x FP32 [batch, 1] -> y FP32 [batch, 1]: y = x for whole numbers from 0 to size - 1; everything else fails the run."""
    table = numpy_helper.from_array(np.arange(size, dtype=np.float32), "table")
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=onnx_models.ONNX_TYPES["INT64"]), helper.make_node("Gather", ["table", "i"], ["y"])]
    x, y = (onnx_models.info(name, "FP32", ["batch", 1]) for name in "xy")
    return onnx_models.save(path, nodes, [x], [y], [table])


def lookups(folder: Path, pool: InstancePool, sizes: dict[str, int], **options: Any) -> dict[str, NativeVersion]:
    """version -> a version of model m that looks_up in a table of so many."""
    return {number: version(looks_up(folder / f"{number}.onnx", size), pool, "m", number, **{"warm": {"x": (1,)}, **options})
            for number, size in sizes.items()}
