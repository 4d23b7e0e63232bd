"""Arrays and Arrow tables as recorded rows, and windows of them through the code that watches a running server."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitoring.cells import Cells
from serve.monitoring.observer import Observer
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor

DIGEST = "sha256:" + "0" * 64


def lists(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """A matrix as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def tensors_of(rows: pa.Table) -> list[RecordedTensor]:
    """Each column as a tensor: text BYTES, lists FP32 of their length, whole numbers INT64, other numbers FP32."""
    found = []
    for index, field in enumerate(rows.schema):
        kind, name = field.name.split("_", 1)
        shape = (field.type.list_size,) if pa.types.is_fixed_size_list(field.type) else (1,)
        is_text, is_whole = pa.types.is_string(field.type), pa.types.is_integer(field.type)
        datatype = "BYTES" if is_text else "INT64" if is_whole else "FP32"
        found.append(RecordedTensor("in" if kind == "in" else "out", name, datatype, shape, index))
    return found


def baseline_of(rows: pa.Table, spec: MonitoringSpec, labels: list[object] | None = None, chunk_rows: int = 0) -> Baseline:
    """Of rows with columns in_* and out_*."""
    return build_baseline(rows, tensors_of(rows), spec, model="bench", version="1", digest=DIGEST, source="training", created_ns=0,
                          labels=labels, chunk_rows=chunk_rows)


def windows(baseline: Baseline, rows: pa.Table, size: int) -> Iterator[Cells]:
    """Cells of each `size` rows."""
    observer = Observer(baseline, embedding_stride=1)
    for at in range(0, rows.num_rows - size + 1, size):
        cells = baseline.cells()
        observer.observe(rows.slice(at, size), cells)
        yield cells


def classified(inputs: Mapping[str, pa.Array], predicted: pa.Array, positive: npt.NDArray[np.float64]) -> pa.Table:
    """Rows of a binary classifier with the probability of its second class."""
    scores = np.stack([1 - positive, positive], axis=1).astype(np.float32)
    return pa.table({**{f"in_{name}": column for name, column in inputs.items()}, "out_label": predicted, "out_scores": lists(scores)})


__all__ = ["baseline_of", "classified", "lists", "tensors_of", "windows"]
