"""The repository that the tests under tests/integration and tests/conformance serve: small models whose answers are obvious."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from serve.demo import normalise
from tests.core import onnx_models

MLP_SIZES = (64, 64, 10)
CLASS_LABELS = ("zero", "one", "two", "three")
# Longer than any test: what is queued there is there until it is cancelled, expires, or finds company.
WAIT_US = 60_000_000


def write_repository(root: Path) -> None:
    """
    identity_<datatype>   y = x [batch, width]
    two_by_two            several inputs and outputs
    exclaim, normalise    BYTES
    mlp                   x FP32 [batch, 64] → y [batch, 10]
    fixed                 y = x FP32 [3], not batched
    scores                y = x FP32 [batch, 4], with names of its classes
    scaled                versions 1, 2 and 3: y = version * x; labels stable → 1, canary → 3
    waits                 y = x [batch]: a batch is run when it has two rows, or after a minute
    slow                  a Loop of `trips` [1] matrix products: takes as long as it is told to
    """
    for datatype in onnx_models.ONNX_TYPES:
        onnx_models.identity(_version(root, f"identity_{datatype.lower()}"), datatype, ("batch", "width"))
    onnx_models.two_by_two(_version(root, "two_by_two"))
    onnx_models.exclaim(_version(root, "exclaim"))
    onnx_models.mlp(_version(root, "mlp"), MLP_SIZES)
    onnx_models.identity(_version(root, "fixed"), "FP32", (3,))
    _version(root, "normalise").write_bytes(normalise.build())
    onnx_models.identity(_version(root, "scores"), "FP32", ("batch", 4))
    _configure(root, "scores", {"class_labels": {"y": list(CLASS_LABELS)}})
    for factor in (1, 2, 3):
        scaled(_version(root, "scaled", factor), factor)
    _configure(root, "scaled", {"version_policy": "all", "labels": {"stable": "1", "canary": "3"}})
    onnx_models.identity(_version(root, "waits"), "FP32", ("batch",))
    _configure(root, "waits", {"max_queue_delay_us": WAIT_US, "preferred_batch_sizes": [2]})
    slow(_version(root, "slow"))


def _version(root: Path, name: str, version: int = 1) -> Path:
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    return folder / "model.onnx"


def _configure(root: Path, name: str, config: dict[str, object]) -> None:
    (root / name / "model.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def scaled(path: Path, factor: float) -> Path:
    """y = factor * x, FP32 [batch, 2]."""
    x, y = (onnx_models.info(name, "FP32", ["batch", 2]) for name in "xy")
    return onnx_models.single_node(path, "Mul", [x], [y], [numpy_helper.from_array(np.array(factor, np.float32), "factor")])


def slow(path: Path) -> Path:
    """trips INT64 [1] → y FP32 [64, 64]: the identity matrix, multiplied by itself so many times, and a few hundred more.

    The few hundred are what the server measures when it warms the model up: too long to be run on an I/O thread.
    """
    def value(name: str, kind: int, shape: list[int]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    matrix = numpy_helper.from_array(np.eye(64, dtype=np.float32), "matrix")
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep_going"], ["still"]), helper.make_node("MatMul", ["at", "matrix"], ["next"])], "body",
        [value("trip", TensorProto.INT64, []), value("keep_going", TensorProto.BOOL, []), value("at", TensorProto.FLOAT, [64, 64])],
        [value("still", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, [64, 64])])
    nodes = [helper.make_node("Add", ["trips", "least"], ["all"]), helper.make_node("Squeeze", ["all"], ["count"]),
             helper.make_node("Loop", ["count", "always", "matrix"], ["y"], body=body)]
    return onnx_models.save(path, nodes, [onnx_models.info("trips", "INT64", [1])], [onnx_models.info("y", "FP32", [64, 64])],
                            [matrix, numpy_helper.from_array(np.array(True), "always"), numpy_helper.from_array(np.array([300]), "least")])
