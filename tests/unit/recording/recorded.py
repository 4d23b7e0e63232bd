"""A records directory as the recorder and the keeper leave it: two models, two versions with other schemas, sealed and journalled rows,
shadows, failures, labels; made with their own writers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serve.recording.arrow_schema import LABELS_JOURNAL, journal_schema
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.journal_writer import JournalWriter
from serve.recording.layout import JOURNALS, journal_name
from serve.recording.manifest_file import Manifest
from serve.recording.sealing import Sealer
from serve.recording.stores import RecordsStore, open_store
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor

HOST = "tests"
REPLICA = "r-0"
HOUR_NS = 3_600_000_000_000
# 2026-01-01T10:00:00Z
T0 = 1_767_261_600_000_000_000

X = RecordedTensor("in", "x", "FP32", (2, 2), 0)
WORD = RecordedTensor("in", "word", "BYTES", (1,), 1)
LABEL = RecordedTensor("out", "label", "INT64", (), 0)
SCORES = RecordedTensor("out", "scores", "FP32", (3,), 1)

DIGITS_1 = (X, LABEL)
DIGITS_2 = (X, WORD, RecordedTensor("out", "label", "INT32", (), 0), SCORES)
TEXT = (RecordedTensor("in", "tokens", "INT64", (-1,), 0), RecordedTensor("in", "grid", "FP64", (-1, -1), 1),
        RecordedTensor("out", "words", "BYTES", (2,), 0), RecordedTensor("out", "half", "FP16", (), 1))


@dataclass
class Recorder:
    """One replica: what it journals and seals. seq is counted for it."""

    store: RecordsStore
    home: Path
    replica: str = REPLICA
    epoch: int = 1
    host: str = HOST
    next_seq: int = 0
    next_journal: int = 1

    def __post_init__(self) -> None:
        self.manifest = Manifest(self.store, self.replica)
        self.manifest.begin(self.host, str(self.home), T0, Home(self.home).identity())

    def journal(
        self, model: str, version: str, tensors: tuple[RecordedTensor, ...], rows: Iterable[dict[str, Any]], *, is_batched: bool = True,
    ) -> Path:
        """A closed journal of rows that get their seq."""
        filled = [{**_DEFAULTS, "request_id": f"{model}-{self.next_seq + i}", **row, "seq": row.get("seq", self.next_seq + i)}
                  for i, row in enumerate(rows)]
        self.next_seq += len(filled)
        header = self._header(
            "records", model=model, version=version, digest=f"sha256:{model}{version}", tensors=tensors, is_batched=is_batched)
        return self._write(header, pa.RecordBatch.from_pylist(filled, journal_schema(tensors)))

    def labels(self, rows: Sequence[dict[str, Any]]) -> Path:
        """A closed journal of labels."""
        filled = [{"ts_ns": T0 + i, "seq": i, "row": 0, "name": "label", "model": "digits", **row} for i, row in enumerate(rows)]
        return self._write(self._header("labels"), pa.RecordBatch.from_pylist(filled, LABELS_JOURNAL))

    def seal(self, journal: Path) -> None:
        """As the keeper does it."""
        name = journal_name(journal.name)
        assert name is not None
        Sealer(self.store, self.manifest, Home(self.home), None).seal(name, T0)

    def end(self, dropped: int = 0, lost: int = 0) -> None:
        """The epoch is over and accounted for; drops took numbers of their own."""
        self.manifest.append({
            "type": "epoch", "epoch": self.epoch, "assigned": self.next_seq, "appended": self.next_seq - dropped - lost,
            "dropped": {"ring_full": dropped}, "lost": lost, "torn_rows": 0, "bad_rows": 0, "at_ns": T0})

    def _header(self, table: Any, **of: Any) -> StreamHeader:
        self.next_journal += 1
        return StreamHeader(table=table, replica=self.replica, epoch=self.epoch, journal=self.next_journal - 1, created_ns=T0, **of)

    def _write(self, header: StreamHeader, batch: pa.RecordBatch) -> Path:
        folder = self.home / JOURNALS
        writer = JournalWriter(SystemFiles(), folder, header, batch.schema)
        writer.append(batch)
        writer.sync()
        writer.end()
        writer.publish()
        return folder / f"{header.epoch}-{header.journal}.journal"


_DEFAULTS: dict[str, Any] = {
    "ts_ns": T0, "batch_id": 1, "row": 0, "variant": "stable", "trace_id": None, "protocol": 0, "status": 200, "error": 0, "generation": 3,
    "unit": None, "queue_us": 10, "compute_us": 1500, "total_us": 2000, "tags": None,
}
FAILED = {"row": -1, "status": 503, "error": 10, "batch_id": 0, "compute_us": 0}


def image(i: int) -> list[float]:
    """The four numbers of `x` in a row."""
    return [float(np.float32(v)) for v in (i, 0.1, float("nan") if i == 1 else 2.5, -1.0)]


def write_records(root: str, home: Path, host: str = HOST) -> Recorder:
    """digits: version 1 sealed (10 rows in two hours, two of them one request, one shadow), version 2 sealed (3 rows, one failed) and
    journalled (2 rows); text: 3 rows, journalled. Labels: 3 sealed, 1 journalled. Two rows were dropped.
    """
    recorder = Recorder(open_store(root), home, host=host)
    recorder.seal(recorder.journal("digits", "1", DIGITS_1, [
        *({"ts_ns": T0 + i, "in_x": image(i), "out_label": i} for i in range(4)),
        *({"ts_ns": T0 + 10, "request_id": "pair", "row": row, "in_x": image(row), "out_label": row, "tags": b"tenant\0a\0"}
          for row in range(2)),
        {"ts_ns": T0 + 11, "request_id": "digits-0", "variant": "shadow", "in_x": image(0), "out_label": 9},
        *({"ts_ns": T0 + HOUR_NS + i, "in_x": image(i), "out_label": i, "protocol": 1} for i in range(3))]))
    recorder.seal(recorder.journal("digits", "2", DIGITS_2, [
        {"ts_ns": T0 + HOUR_NS + 100, "in_x": image(0), "in_word": b"caf\xc3\xa9", "out_label": 7, "out_scores": [0.1, 0.2, 0.7]},
        {"ts_ns": T0 + HOUR_NS + 101, "in_x": None, "in_word": b"\xff\x00a", "out_label": 8, "out_scores": [0.5, 0.25, 0.25]},
        {"ts_ns": T0 + HOUR_NS + 102, **FAILED}]))
    recorder.next_seq += 2
    recorder.journal("digits", "2", DIGITS_2, [
        {"ts_ns": T0 + 2 * HOUR_NS + i, "in_x": image(i), "in_word": b"w", "out_label": i, "out_scores": [1, 0, 0]} for i in range(2)])
    recorder.journal("text", "1", TEXT, [
        {"ts_ns": T0 + i, "in_tokens": list(range(i)), "in_grid": {"data": [0.5] * 2 * i, "shape": [2, i]}, "out_words": [b"a", b"\xfe"],
         "out_half": np.float16(0.5)} for i in range(3)])
    recorder.seal(recorder.labels([
        {"request_id": "digits-0", "value": 0.0}, {"request_id": "digits-1", "value": 5.0}, {"request_id": "digits-1", "value": 1.0}]))
    recorder.labels([{"request_id": "pair", "row": 1, "text": "one", "seq": 3}])
    return recorder
