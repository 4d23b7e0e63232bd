"""Small ONNX models for tests, and the numpy side of tensors: (shape, bytes) as the core takes and gives them."""

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serve._core.ort import Session
from serve.models.runtime import start_runtime

Array = np.ndarray[Any, Any]
Wire = tuple[tuple[int, ...], bytes]

ONNX_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16,
}
NUMPY_TYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_, "BF16": ml_dtypes.bfloat16,
}
Dims = Sequence[int | str | None]


def session(path: Path, **options: Any) -> Session:
    """A session of the model, with ONNX Runtime loaded as every test loads it."""
    start_runtime("cpu")
    return Session(str(path), **options)


def info(name: str, datatype: str, dims: Dims | None) -> onnx.ValueInfoProto:
    """An input or output; a string is a symbolic dimension, None an unnamed dynamic one, dims=None no shape at all."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], dims)


def save(path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
         initializers: Sequence[onnx.TensorProto] = (), *, opset: int = 20, external: bool = False,
         metadata: dict[str, str] | None = None, functions: Sequence[onnx.FunctionProto] = ()) -> Path:
    """Write the model and return its path; external puts the weights into weights.bin beside it."""
    graph = helper.make_graph(list(nodes), "graph of a test", list(inputs), list(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)],
                              ir_version=10, producer_name="tests", functions=list(functions))
    model.model_version = 7
    model.doc_string = "made for a test"
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    if external:
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save_model(model, path)
    return path


def identity(path: Path, datatype: str = "FP32", dims: Dims = ("batch", 3)) -> Path:
    """y = x."""
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [info("x", datatype, dims)], [info("y", datatype, dims)])


def mlp_weights(sizes: Sequence[int]) -> list[tuple[Array, Array]]:
    """(weights [in, out], bias [out]) of each layer, float32, always the same."""
    random = np.random.default_rng(7)
    return [((random.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32), random.standard_normal(b).astype(np.float32))
            for a, b in itertools.pairwise(sizes)]


def mlp(path: Path, sizes: Sequence[int] = (64, 64, 10), *, external: bool = False) -> Path:
    """x [batch, sizes[0]] → Gemm, Relu, …, Gemm → y [batch, sizes[-1]], float32."""
    nodes, initializers, at = [], [], "x"
    layers = mlp_weights(sizes)
    for i, (weights, bias) in enumerate(layers):
        initializers += [numpy_helper.from_array(weights, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        last = i == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], ["y" if last else f"g{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i}"]))
            at = f"r{i}"
    return save(path, nodes, [info("x", "FP32", ["batch", sizes[0]])], [info("y", "FP32", ["batch", sizes[-1]])], initializers,
                external=external)


def mlp_in_numpy(x: Array, sizes: Sequence[int] = (64, 64, 10)) -> Array:
    """What mlp computes, in float64."""
    layers = mlp_weights(sizes)
    at = x.astype(np.float64)
    for i, (weights, bias) in enumerate(layers):
        at = at @ weights.astype(np.float64) + bias
        if i < len(layers) - 1:
            at = np.maximum(at, 0.0)
    return at


def two_by_two(path: Path) -> Path:
    """a [n, 2] FP32, b [n, 2, 3] INT64 → doubled_a FP32 [n, 2], negated_b INT64 [n, 2, 3], sum FP32 [n]."""
    nodes = [
        helper.make_node("Add", ["a", "a"], ["doubled_a"]),
        helper.make_node("Neg", ["b"], ["negated_b"]),
        helper.make_node("ReduceSum", ["a", "last"], ["sum"], keepdims=0),
    ]
    return save(path, nodes, [info("a", "FP32", ["n", 2]), info("b", "INT64", ["n", 2, 3])],
                [info("doubled_a", "FP32", ["n", 2]), info("negated_b", "INT64", ["n", 2, 3]), info("sum", "FP32", ["n"])],
                [numpy_helper.from_array(np.array([-1], np.int64), "last")])


def exclaim(path: Path, dims: Dims = ("n", 2)) -> Path:
    """y = x with "!" behind each element, BYTES."""
    return save(path, [helper.make_node("StringConcat", ["x", "suffix"], ["y"])], [info("x", "BYTES", dims)], [info("y", "BYTES", dims)],
                [numpy_helper.from_array(np.array(b"!", np.object_), "suffix")])


def single_node(path: Path, operator: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
                initializers: Sequence[onnx.TensorProto] = (), **attributes: Any) -> Path:
    """A graph of one node over the inputs and then the initializers."""
    names = [value.name for value in inputs] + [tensor.name for tensor in initializers]
    node = helper.make_node(operator, names, [value.name for value in outputs], **attributes)
    return save(path, [node], inputs, outputs, initializers)


def to_wire(array: Array) -> Wire:
    """(shape, bytes) of an array; object arrays are BYTES elements, each behind its uint32 length."""
    if array.dtype == np.object_:
        return array.shape, b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
    return array.shape, np.ascontiguousarray(array).tobytes()


def from_wire(datatype: str, shape: Sequence[int], content: bytes) -> Array:
    """The array of an answer's tensor."""
    if datatype != "BYTES":
        return np.frombuffer(content, NUMPY_TYPES[datatype]).reshape(shape)
    elements, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        elements.append(content[at + 4:at + 4 + length])
        at += 4 + length
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def random_array(datatype: str, shape: Sequence[int], seed: int = 0) -> Array:
    """Arbitrary values of a datatype, the same for the same arguments."""
    random = np.random.default_rng(seed)
    if datatype == "BYTES":
        array = np.empty(int(np.prod(shape)), np.object_)
        array[:] = [random.bytes(int(random.integers(0, 9))) for _ in array]
        return array.reshape(shape)
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    kind = NUMPY_TYPES[datatype]
    if datatype.startswith(("FP", "BF")):
        return random.standard_normal(shape).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
