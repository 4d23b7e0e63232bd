"""Recorded rows of a made-up classifier, as the recorder's thread has them."""

import numpy as np
import pyarrow as pa

from serve.recording.arrow_schema import journal_schema
from serve.records import RecordedTensor, RecordStreamSpec

DIGEST = "sha256:" + "ab" * 32
TENSORS = (
    RecordedTensor("in", "x", "FP32", (4,), 0), RecordedTensor("in", "colour", "BYTES", (1,), 1),
    RecordedTensor("out", "label", "INT64", (), 0), RecordedTensor("out", "scores", "FP32", (2,), 1),
)


def stream(version: str = "1", digest: str = DIGEST, **more: object) -> RecordStreamSpec:
    return RecordStreamSpec("digits", version, digest, TENSORS, **more)     # type: ignore[arg-type]


def rows(
    n: int, at_ns: int, seed: int = 0, shift: float = 0.0, variant: str = "1", spread_ns: int = 0, first_seq: int = 0,
    colours: tuple[bytes, ...] = (b"red", b"green"), missing: int = 0, failed: int = 0,
) -> pa.RecordBatch:
    """n rows, the first `failed` of them of failed requests. shift: of x[0], in standard deviations. missing: rows whose x[1] is NaN."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 4)).astype(np.float32)
    x[:, 0] += shift
    x[:missing, 1] = np.nan
    score = 1 / (1 + np.exp(-2 * x[:, 0].astype(np.float64)))
    scores = np.stack([1 - score, score], axis=1).astype(np.float32)
    label = (score >= 0.5).astype(np.int64)
    is_failed = np.arange(n) < failed

    def column(array: pa.Array) -> pa.Array:
        return pa.array([None if bad else value for bad, value in zip(is_failed.tolist(), array.to_pylist(), strict=True)], array.type) \
            if failed else array

    made = {
        "ts_ns": pa.array(at_ns + np.arange(n, dtype=np.int64) * (spread_ns // max(1, n))),
        "seq": pa.array(np.arange(n) + first_seq, pa.int64()), "row": pa.array(np.where(is_failed, -1, 0), pa.int32()),
        "request_id": pa.array([f"r{first_seq + i}" for i in range(n)]),
        "variant": pa.array([variant] * n),
        "in_x": column(pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)),
        "in_colour": column(pa.array([colours[i] for i in draw.integers(len(colours), size=n)], pa.binary())),
        "out_label": column(pa.array(label)), "out_scores": column(pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 2)),
    }
    schema = journal_schema(TENSORS)
    return pa.RecordBatch.from_arrays([made.get(name, pa.nulls(n, schema.field(name).type)) for name in schema.names], schema=schema)
