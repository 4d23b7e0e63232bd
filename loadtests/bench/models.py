"""The models that the benches serve, written with the onnx package: seeded weights, float32, dynamic batch dimension."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.payloads import FloatRows

OPSET = 17
IR_VERSION = 9


@dataclass(frozen=True)
class BenchModel:
    """A model file with one input `x` [N, ...] and one output `y` [N, ...]; its name is its stem."""

    path: Path
    input_shape: tuple[int, ...]
    n_outputs: int

    @property
    def name(self) -> str:
        return self.path.stem

    def rows(self, n: int = 1, seed: int = 7) -> FloatRows:
        """Return n rows of input, uniform in [0, 1)."""
        return np.random.default_rng(seed).random((n, *self.input_shape), dtype=np.float32)


def write(path: Path, nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto], x: Sequence[int], y: Sequence[int]) -> None:
    """Write a checked model with input x [N, *x] and output y [N, *y]."""
    graph = helper.make_graph(
        list(nodes), path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *x])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *y])],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def mlp(folder: Path, name: str, sizes: Sequence[int]) -> BenchModel:
    """Write a multi-layer perceptron with ReLU between its layers, e.g. sizes 64, 64, 10."""
    random = np.random.default_rng(1)
    nodes, weights, value = [], [], "x"
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        last = layer == len(sizes) - 2
        weights.append(numpy_helper.from_array((random.standard_normal((n_in, n_out)) / n_in**0.5).astype(np.float32), f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(n_out, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], ["y" if last else f"h{layer}"]))
        value = f"h{layer}"
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"r{layer}"]))
            value = f"r{layer}"
    path = folder / f"{name}.onnx"
    write(path, nodes, weights, [sizes[0]], [sizes[-1]])
    return BenchModel(path, (sizes[0],), sizes[-1])


def pool(folder: Path, name: str, side: int = 224) -> BenchModel:
    """Write a GlobalAveragePool over 3 x side x side images: almost no arithmetic behind a large body."""
    path = folder / f"{name}.onnx"
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    write(path, nodes, [], [3, side, side], [3])
    return BenchModel(path, (3, side, side), 3)
