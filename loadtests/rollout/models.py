"""The versions that the cases roll out: a stable one, a copy of it, and three bad candidates.

All take x FP32 [N, 64] and answer y FP32 [N, 10]. The first value of a row says whether the erring candidate fails for it; no version lets
it change an answer, so that nothing else tells such a row from others.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from loadtests.payloads import FloatRows

N_INPUTS, N_OUTPUTS, HIDDEN = 64, 10, 64
# Rows whose first value is this or more are those that the erring candidate cannot answer.
BAD_VALUE = 2.0

STABLE, COPY, ERRORS, SLOW, SHIFTED = "1", "2", "3", "4", "5"
OPSET, IR_VERSION = 17, 9

Nodes = list[onnx.NodeProto]
Weights = list[onnx.TensorProto]


def _mlp(x: str, y: str, sizes: tuple[int, ...], seed: int, first_row: float = 1.0) -> tuple[Nodes, Weights]:
    """Gemm, Relu, ..., Gemm from x to y. first_row: factor of the weights behind the first input; 0 leaves it out of the answer."""
    random = np.random.default_rng(seed)
    nodes, weights, at = Nodes(), Weights(), x
    last = len(sizes) - 2
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        matrix = (random.standard_normal((n_in, n_out)) / n_in**0.5).astype(np.float32)
        if layer == 0:
            matrix[0] *= first_row
        weights += [numpy_helper.from_array(matrix, f"{y}_w{layer}"), numpy_helper.from_array(np.zeros(n_out, np.float32), f"{y}_b{layer}")]
        out = y if layer == last else f"{y}_g{layer}"
        nodes.append(helper.make_node("Gemm", [at, f"{y}_w{layer}", f"{y}_b{layer}"], [out]))
        if layer != last:
            nodes.append(helper.make_node("Relu", [out], [f"{y}_r{layer}"]))
            at = f"{y}_r{layer}"
    return nodes, weights


def _save(path: Path, nodes: Nodes, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes, path.parent.name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", N_INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", N_OUTPUTS])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _errors() -> tuple[Nodes, Weights]:
    """table[x[:, 0] cut to a whole number], of two zeros: an index of 2 or more is out of range and fails the run."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1), helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["nothing"]), helper.make_node("Add", ["a", "nothing"], ["y"]),
    ]
    return nodes, [numpy_helper.from_array(np.array([0], np.int64), "zero"), numpy_helper.from_array(np.zeros(2, np.float32), "table")]


def _slow(width: int, depth: int) -> tuple[Nodes, Weights]:
    """The same answer after `depth` more hidden layers."""
    nodes, weights = _mlp("x", "more", (N_INPUTS, *[width] * depth, N_OUTPUTS), 5)
    nodes += [helper.make_node("Mul", ["more", "none"], ["nothing"]), helper.make_node("Add", ["a", "nothing"], ["y"])]
    return nodes, [*weights, numpy_helper.from_array(np.array(0, np.float32), "none")]


def _shifted() -> tuple[Nodes, Weights]:
    """One class in ten gets a bonus."""
    bonus = np.zeros(N_OUTPUTS, np.float32)
    bonus[3] = 1.0
    return [helper.make_node("Add", ["a", "bonus"], ["y"])], [numpy_helper.from_array(bonus, "bonus")]


def write_model(root: Path, name: str, kinds: Mapping[str, str], *, width: int = HIDDEN, layers: int = 1, slow_depth: int = 4,
                loaded: tuple[str, ...] = (STABLE,)) -> None:
    """ROOT/NAME with a version for each of `kinds` (version -> stable, copy, errors, slow, shifted).

    layers: hidden layers of the stable version, `width` wide. slow_depth: further ones of a slow version. loaded: at the start.
    """
    for version, kind in kinds.items():
        nodes, weights = _mlp("x", "a", (N_INPUTS, *[width] * layers, N_OUTPUTS), 1, first_row=0.0)
        if kind == "errors":
            more, extra = _errors()
        elif kind == "slow":
            more, extra = _slow(width, slow_depth)
        elif kind == "shifted":
            more, extra = _shifted()
        else:
            more, extra = [helper.make_node("Identity", ["a"], ["y"])], []
        _save(root / name / version / "model.onnx", nodes + more, weights + extra)
    policy = {"version_policy": {"specific": [int(version) for version in loaded]}}
    (root / name / "model.yaml").write_text(yaml.safe_dump(policy))


def rows(n: int, bad_share: float = 0.0) -> FloatRows:
    """n rows, standard normal but for the first value: 0, and BAD_VALUE in a share of them, evenly spread. Shape (n, 64)."""
    values = np.random.default_rng(7).standard_normal((n, N_INPUTS)).astype(np.float32)
    n_bad = round(n * bad_share)
    values[:, 0] = 0.0
    if n_bad:
        values[:: n // n_bad][:n_bad, 0] = BAD_VALUE
    return values


__all__ = ["BAD_VALUE", "COPY", "ERRORS", "SHIFTED", "SLOW", "STABLE", "rows", "write_model"]
