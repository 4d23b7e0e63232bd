"""Journals with rows that can be told apart, and what the sealed files say of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serve.recording.arrow_schema import LABELS_JOURNAL, journal_schema
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.journal_writer import JournalWriter
from serve.recording.layout import HOUR_NS, JournalName
from serve.recording.manifest import Part
from serve.recording.store_port import RecordsStore
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor

TENSORS = (
    RecordedTensor("in", "x", "FP32", (4,), 0), RecordedTensor("in", "text", "BYTES", (1,), 1),
    RecordedTensor("out", "y", "INT64", (1,), 0), RecordedTensor("out", "tokens", "FP32", (-1,), 1),
)
HOUR = 500_000          # 2027-01-15 08:00 UTC
START_NS = HOUR * HOUR_NS


def header(
    journal: int, *, table: str = "records", epoch: int = 1, replica: str = "r", model: str = "m",
    tensors: tuple[RecordedTensor, ...] = TENSORS, retention_days: int | None = None,
) -> StreamHeader:
    if table == "labels":
        return StreamHeader(table="labels", replica=replica, epoch=epoch, journal=journal, created_ns=START_NS)
    return StreamHeader(
        table="records", replica=replica, epoch=epoch, journal=journal, model=model, version="1", digest="sha256:00", tensors=tensors,
        created_ns=START_NS, retention_days=retention_days)


def records(seqs: Iterable[int], ts_ns: Iterable[int], tensors: tuple[RecordedTensor, ...] = TENSORS) -> pa.RecordBatch:
    """Rows of TENSORS whose values follow from their seq."""
    seq, at = np.array(list(seqs), np.int64), np.array(list(ts_ns), np.int64)
    n = len(seq)
    columns = {
        "ts_ns": at, "seq": seq, "batch_id": seq // 4, "row": np.zeros(n, np.int32), "request_id": [f"id-{one}" for one in seq],
        "variant": ["stable"] * n, "trace_id": pa.nulls(n, pa.string()), "protocol": np.zeros(n, np.uint8),
        "status": np.full(n, 200, np.int16), "error": np.zeros(n, np.int8),
        "generation": np.zeros(n, np.int64), "unit": pa.nulls(n, pa.uint64()),
        "queue_us": np.zeros(n, np.int32), "compute_us": np.zeros(n, np.int32), "total_us": np.full(n, 5, np.int32),
        "tags": [b"k\0v%d\0" % one for one in seq],
        "in_x": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(seq, 4).astype(np.float32) + np.tile(np.arange(4), n) / 4), 4),
        "in_text": [b"\xff%d" % one for one in seq], "out_y": seq * 2, "out_tokens": [[float(one)] * (one % 3) for one in seq],
    }
    schema = journal_schema(tensors)
    return pa.RecordBatch.from_arrays([pa.array(columns[one.name]).cast(one.type) for one in schema], schema=schema)


def labels(seqs: Iterable[int], ts_ns: Iterable[int], models: Iterable[str]) -> pa.RecordBatch:
    seq = list(seqs)
    return pa.RecordBatch.from_pylist([
        {"ts_ns": at, "seq": one, "request_id": f"id-{one}", "row": 0, "model": model, "name": "label", "value": float(one)}
        for one, at, model in zip(seq, ts_ns, models, strict=True)
    ], schema=LABELS_JOURNAL)


def write_journal(home: Home, head: StreamHeader, batches: Iterable[pa.RecordBatch], *, closed: bool = True) -> Path:
    """closed: as the recorder closes it; else as a worker that died leaves it."""
    schema = LABELS_JOURNAL if head.table == "labels" else journal_schema(head.tensors)
    writer = JournalWriter(SystemFiles(), home.journals, head, schema)
    for batch in batches:
        writer.append(batch)
    if closed:
        writer.end()
        writer.sync()
        writer.publish()
    return home.file(JournalName(head.epoch, head.journal, "journal" if closed else "open"))


def simple_journal(home: Home, number: int, seqs: Iterable[int], *, epoch: int = 1, at_ns: int = START_NS, closed: bool = True) -> Path:
    """Rows a millisecond apart, in frames of up to 10."""
    seq = list(seqs)
    frames = [seq[i : i + 10] for i in range(0, len(seq), 10)]
    batches = [records(frame, [at_ns + one * 1_000_000 for one in frame]) for frame in frames]
    return write_journal(home, header(number, epoch=epoch), batches, closed=closed)


def read_parts(store: RecordsStore, parts: Iterable[Part]) -> list[pa.Table]:
    tables = []
    for part in parts:
        with store.open(part.path) as file:
            tables.append(pq.read_table(file))
    return tables


def seqs_in(store: RecordsStore, parts: Iterable[Part]) -> list[int]:
    """Every row's seq, sorted."""
    return sorted(seq for table in read_parts(store, parts) for seq in table["seq"].to_pylist())
