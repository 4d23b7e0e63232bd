"""Recorded rows of a small classifier, and what they are recorded as, for tests of baselines, cells and drift."""

from typing import Any

import numpy as np
import pyarrow as pa

from serve.monitoring.baseline import Baseline
from serve.monitoring.baseline_build import build_baseline
from serve.monitors import MonitoringSpec
from serve.records import RecordedTensor

TENSORS = (
    RecordedTensor("in", "x", "FP32", (4,), 0), RecordedTensor("in", "colour", "BYTES", (1,), 1),
    RecordedTensor("in", "v", "FP32", (16,), 2),
    RecordedTensor("out", "label", "INT64", (1,), 0), RecordedTensor("out", "scores", "FP32", (3,), 1),
)
SPEC = MonitoringSpec(embeddings=("v",), min_rows=300)


def lists(values: Any) -> pa.FixedSizeListArray:
    """A matrix as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def rows(n: int, seed: int = 0, shift: float = 0.0, colours: tuple[str, ...] = ("red", "green", "blue")) -> tuple[pa.Table, list[int]]:
    """(rows, true classes). shift: of every x and v in standard deviations."""
    stream = np.random.default_rng(seed)
    x = stream.normal(shift, 1, (n, 4)).astype(np.float32)
    logits = x[:, :3] * 1.5
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = (stream.random(n)[:, None] > np.cumsum(scores, axis=1)).sum(axis=1).clip(max=2)
    table = pa.table({
        "seq": pa.array(np.arange(n)), "in_x": lists(x), "in_colour": pa.array(stream.choice(colours, n).tolist()).cast(pa.binary()),
        "in_v": lists(stream.normal(shift, 1, (n, 16)).astype(np.float32)),
        "out_label": pa.array(scores.argmax(axis=1).astype(np.int64)), "out_scores": lists(scores.astype(np.float32)),
    })
    return table, true.tolist()


def baseline(n: int = 4000, seed: int = 1, *, labelled: bool = True, spec: MonitoringSpec = SPEC) -> Baseline:
    """Of n such rows."""
    table, true = rows(n, seed)
    return build_baseline(table, TENSORS, spec, model="m", version="1", digest="sha256:" + "0" * 64, source="training", created_ns=1,
                          labels=true if labelled else None)
