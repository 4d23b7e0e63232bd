"""A repository of small models for gates: versions that are as good, better, worse, and wrong in one way each."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper, numpy_helper

from tests.core import onnx_models
from tests.core.onnx_models import info

WIDTH, CLASSES = 8, 3
Array = npt.NDArray[Any]

WEIGHTS: Array = np.random.default_rng(1).normal(size=(WIDTH, CLASSES)).astype(np.float32)


def rows(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Inputs [n, WIDTH], and the classes that WEIGHTS would say but for noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, WIDTH)).astype(np.float32)
    return x, (x @ WEIGHTS + random.normal(0, 0.3, (n, CLASSES))).argmax(axis=1)


def classifier(path: Path, weights: Array = WEIGHTS, *more: NodeProto, score: str = "scores") -> Path:
    """x FP32 [n, WIDTH] → label INT64 [n], scores FP32 [n, CLASSES]. more: nodes between `raw` and `scores`, in their place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["raw"]), *(more or (helper.make_node("Identity", ["raw"], [score]),)),
             helper.make_node("ArgMax", [score], ["label"], axis=1, keepdims=0)]
    return onnx_models.save(
        path, nodes, [info("x", "FP32", ["n", WIDTH])], [info("label", "INT64", ["n"]), info(score, "FP32", ["n", CLASSES])],
        [numpy_helper.from_array(weights.astype(np.float32), "w"), numpy_helper.from_array(np.array([0], np.int64), "first")])


def regressor(path: Path, weights: Array) -> Path:
    """x FP32 [n, WIDTH] → y FP32 [n, 1]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return onnx_models.save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [info("x", "FP32", ["n", WIDTH])],
                            [info("y", "FP32", ["n", 1])], [numpy_helper.from_array(weights.astype(np.float32), "w")])


def write_repository(root: Path) -> Path:
    """classes: 1 stable; 2 as good; 3 worse; 4 not finite; 5 another output; 6 depends on its batch; 7 fails for some rows."""
    random = np.random.default_rng(2)
    model = root / "classes"
    classifier(model / "1" / "model.onnx")
    classifier(model / "2" / "model.onnx", WEIGHTS + random.normal(0, 0.01, WEIGHTS.shape))
    classifier(model / "3" / "model.onnx", WEIGHTS + random.normal(0, 1.0, WEIGHTS.shape))
    classifier(model / "4" / "model.onnx", WEIGHTS, helper.make_node("Log", ["raw"], ["scores"]))
    classifier(model / "5" / "model.onnx", WEIGHTS, score="probabilities")
    classifier(model / "6" / "model.onnx", WEIGHTS, helper.make_node("ReduceMean", ["raw", "first"], ["mean"], keepdims=1),
               helper.make_node("Sub", ["raw", "mean"], ["scores"]))
    _failing(model / "7" / "model.onnx")
    (model / "model.yaml").write_text("max_batch_size: 16\nversion_policy: all\nlabels: {stable: 1}\n")
    regressor(root / "numbers" / "1" / "model.onnx", WEIGHTS[:, :1])
    regressor(root / "numbers" / "2" / "model.onnx", WEIGHTS[:, :1] + 0.5)
    return root


def failing_over(path: Path, most: int) -> Path:
    """As `classifier`, but a batch of more than `most` rows fails."""
    one_row = helper.make_node("Gather", ["row", "index"], ["nothing"], axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["raw"]), helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"]), helper.make_node("Greater", ["n", "most"], ["is_over"]),
        helper.make_node("Cast", ["is_over"], ["index"], to=7), one_row, helper.make_node("Add", ["raw", "nothing"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    return onnx_models.save(
        path, nodes, [info("x", "FP32", ["n", WIDTH])], [info("label", "INT64", ["n"]), info("scores", "FP32", ["n", CLASSES])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array(0, np.int64), "zero"),
         numpy_helper.from_array(np.array(most, np.int64), "most"), numpy_helper.from_array(np.zeros((1, CLASSES), np.float32), "row")])


def _failing(path: Path) -> None:
    """Fails where the first element of a row is over 2: it becomes an index that there is not."""
    path.parent.mkdir(parents=True)
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["column"], axis=1),
        helper.make_node("Greater", ["column", "two"], ["is_over"]), helper.make_node("Cast", ["is_over"], ["index"], to=7),
        helper.make_node("Gather", ["one_row", "index"], ["nothing"], axis=0), helper.make_node("MatMul", ["x", "w"], ["raw"]),
        helper.make_node("Add", ["raw", "nothing"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    onnx_models.save(
        path, nodes, [info("x", "FP32", ["n", WIDTH])], [info("label", "INT64", ["n"]), info("scores", "FP32", ["n", CLASSES])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array(0, np.int64), "zero"),
         numpy_helper.from_array(np.array(2, np.float32), "two"), numpy_helper.from_array(np.zeros((1, CLASSES), np.float32), "one_row")])
