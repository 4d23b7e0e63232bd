"""The models of these tests. Each shows one behaviour, for as long as a test tells it to."""

from pathlib import Path

import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.core import onnx_models

WAIT_US = 60_000_000


def place(root: Path, name: str, version: int = 1, **config: object) -> Path:
    """Where the model file of a version goes; config: its model.yaml."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if config:
        (root / name / "model.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "model.onnx"


def quick(root: Path, name: str = "quick", version: int = 1, factor: float = 2.0, **config: object) -> None:
    """y = factor * x, FP32 [batch, width]: short enough to be run by the I/O thread."""
    onnx_models.single_node(
        place(root, name, version, **config), "Mul", [onnx_models.info("x", "FP32", ["batch", "width"])],
        [onnx_models.info("y", "FP32", ["batch", "width"])], [numpy_helper.from_array(np.array(factor, np.float32), "factor")])


def waiting(root: Path, name: str = "waiting", rows: int = 2, **config: object) -> None:
    """y = x, FP32 [batch]: a batch runs when so many rows are there, else after a minute; what waits is queued, for sure."""
    onnx_models.identity(place(root, name, max_queue_delay_us=WAIT_US, preferred_batch_sizes=[rows], **config), "FP32", ("batch",))


def echo(root: Path, name: str = "echo", values: int = 1 << 18) -> None:
    """n FP32 [1] → y FP32 [values], all of them n: a small question with an answer of 1 MB."""
    onnx_models.single_node(place(root, name), "Expand", [onnx_models.info("n", "FP32", [1])], [onnx_models.info("y", "FP32", [values])],
                            [numpy_helper.from_array(np.array([values], np.int64), "shape")])


def _loop(path: Path, count: str, inputs: list[object], outputs: list[object], nodes: list[object], initializers: list[object]) -> None:
    matrix = numpy_helper.from_array(np.eye(64, dtype=np.float32), "matrix")
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep_going"], ["still"]), helper.make_node("MatMul", ["at", "matrix"], ["next"])], "body",
        [helper.make_tensor_value_info("trip", TensorProto.INT64, []), helper.make_tensor_value_info("keep_going", TensorProto.BOOL, []),
         helper.make_tensor_value_info("at", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64])])
    loop = helper.make_node("Loop", [count, "always", "matrix"], ["at_last"], body=body)
    always = numpy_helper.from_array(np.array(True), "always")
    onnx_models.save(path, [*nodes, loop], inputs, outputs, [matrix, always, *initializers])        # type: ignore[list-item]


def busy(root: Path, name: str = "busy", at_least: int = 100, **config: object) -> None:
    """trips INT64 [1] → trips: after so many products of matrices, about 10 us each on one core. Not batched.

    at_least: products of a request for less, so that the warm-up finds it too long for the I/O thread to run.
    """
    nodes = [helper.make_node("Squeeze", ["trips"], ["wanted"]), helper.make_node("Max", ["wanted", "at_least"], ["count"]),
             helper.make_node("ReduceSum", ["at_last"], ["sum"], keepdims=0), helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
             helper.make_node("Cast", ["nothing"], ["nothing_whole"], to=TensorProto.INT64),
             helper.make_node("Add", ["trips", "nothing_whole"], ["y"])]
    _loop(place(root, name, **config), "count", [onnx_models.info("trips", "INT64", [1])], [onnx_models.info("y", "INT64", [1])], nodes,
          [numpy_helper.from_array(np.array(0, np.float32), "zero"), numpy_helper.from_array(np.array(at_least, np.int64), "at_least")])


def tardy(root: Path, name: str = "tardy", trips: int = 10_000_000) -> None:
    """x FP32 [1] → y: every run, that of the warm-up too, takes minutes. What loads it is loading, for sure."""
    nodes = [helper.make_node("ReduceSum", ["at_last"], ["sum"], keepdims=0), helper.make_node("Add", ["x", "sum"], ["y"])]
    _loop(place(root, name), "trips", [onnx_models.info("x", "FP32", [1])], [onnx_models.info("y", "FP32", [1])], nodes,
          [numpy_helper.from_array(np.array(trips, np.int64), "trips")])
