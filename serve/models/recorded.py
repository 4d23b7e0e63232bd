"""What the sections `recording:` and `monitoring:` mean for a graph: which tensors are kept, and whether every name is there. Pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from serve.errors import ConfigurationError
from serve.monitors import MonitoringSpec
from serve.records import SMALL_TENSOR_BYTES, RecordedTensor, RecordingSpec, Redaction
from serve.types import TensorSpec

# Bytes of an element. Those of BYTES are as long as a client makes them.
_ITEM_BYTES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}
_REDACTIONS: Mapping[str, tuple[str, ...]] = {"BYTES": ("drop", "mask", "hash"), "BOOL": ("drop", "mask")}


def recorded_tensors(
    spec: RecordingSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int
) -> tuple[RecordedTensor, ...]:
    """The tensors that the table keeps, inputs first, in the model's order.

    max_batch_size: rows; 0: a request is one row, with the tensors whole. Where `spec` names tensors these are kept without a limit, and no
    others. Else a tensor of a fixed size is kept when a row of it has at most SMALL_TENSOR_BYTES, and one whose size is known only at run
    time (a dynamic dimension, BYTES) is kept in the rows where it has at most that.
    """
    kept = [*_kept("in", spec.inputs, inputs, max_batch_size > 0), *_kept("out", spec.outputs, outputs, max_batch_size > 0)]
    return tuple(kept)


def check_recording(
    spec: RecordingSpec | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int, where: str
) -> None:
    """Raises ConfigurationError for a tensor that the graph does not have, a column that is not kept, an action that does not fit it."""
    if spec is None:
        return
    check_known("recording.inputs", spec.inputs or (), inputs, where)
    check_known("recording.outputs", spec.outputs or (), outputs, where)
    kept = {tensor.column: tensor for tensor in recorded_tensors(spec, inputs, outputs, max_batch_size)}
    for redaction in spec.redact:
        if redaction.column.startswith(("in_", "out_")):
            _check_redaction(redaction, kept, where)


def check_monitoring(spec: MonitoringSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], where: str) -> None:
    """Raises ConfigurationError for an input or output that the graph does not have."""
    check_known("monitoring.features", spec.features, inputs, where)
    check_known("monitoring.embeddings", spec.embeddings, [*inputs, *outputs], where)
    check_known("monitoring.prediction", [spec.prediction] if spec.prediction else (), outputs, where)
    check_known("monitoring.scores", [spec.scores] if spec.scores else (), outputs, where)


def check_known(key: str, named: Collection[str], specs: Sequence[TensorSpec], where: str) -> None:
    """Raises ConfigurationError for a name that is none of `specs`."""
    unknown = sorted(set(named) - {spec.name for spec in specs})
    if unknown:
        found = ", ".join(repr(spec.name) for spec in specs)
        raise ConfigurationError(f"{where}: {key} names {unknown[0]!r}, which the model does not have; it has {found}")


def _check_redaction(redaction: Redaction, kept: Mapping[str, RecordedTensor], where: str) -> None:
    column = redaction.column
    tensor = kept.get(column)
    if tensor is None:
        known = ", ".join(kept) or "none"
        raise ConfigurationError(f"{where}: recording.redact names {column!r}, which is not recorded; recorded are {known}")
    # A hash of a number hides nothing: all numbers are soon tried.
    allowed = _REDACTIONS.get(tensor.datatype, ("drop", "mask", "bucket"))
    if redaction.action not in allowed:
        raise ConfigurationError(f"{where}: recording.redact.{column} = {redaction.action}: {tensor.datatype} has {', '.join(allowed)}")


def _kept(kind: Literal["in", "out"], named: tuple[str, ...] | None, specs: Sequence[TensorSpec], is_batched: bool) -> list[RecordedTensor]:
    kept = []
    for index, spec in enumerate(specs):
        shape = spec.shape[1:] if is_batched else spec.shape
        if named is not None:
            if spec.name in named:
                kept.append(RecordedTensor(kind, spec.name, spec.datatype, shape, index, 0))
        elif _may_be_small(spec.datatype, shape):
            kept.append(RecordedTensor(kind, spec.name, spec.datatype, shape, index, SMALL_TENSOR_BYTES))
    return kept


def _may_be_small(datatype: str, shape: tuple[int, ...]) -> bool:
    n_least = math.prod(max(size, 0) for size in shape)
    return n_least * _ITEM_BYTES.get(datatype, 0) <= SMALL_TENSOR_BYTES


__all__ = ["check_known", "check_monitoring", "check_recording", "recorded_tensors"]
