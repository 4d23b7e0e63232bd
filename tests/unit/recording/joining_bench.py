"""A keeper's joining job over journals and sealed files that tests write, at a time that they say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from serve.monitors import MonitoringSpec
from serve.recording.arrow_schema import LABELS_JOURNAL, journal_schema
from serve.recording.files import SystemFiles
from serve.recording.home import Home
from serve.recording.jobs import Keeping
from serve.recording.join_specs import monitoring_message
from serve.recording.joined_rows import JoinedRows
from serve.recording.joining import JoiningJob
from serve.recording.journal_writer import JournalWriter
from serve.recording.layout import JournalName
from serve.recording.manifest_file import Manifest
from serve.recording.sealing import Sealer
from serve.recording.stores import open_store
from serve.recording.stream_header import StreamHeader
from serve.records import RecordedTensor

S = 1_000_000_000
HOUR = 3600 * S
NOW = 1_767_268_800 * S     # 2026-01-01T12:00:00Z

TENSORS = (RecordedTensor("in", "x", "FP32", (2,), 0), RecordedTensor("out", "label", "INT64", (), 0),
           RecordedTensor("out", "scores", "FP32", (2,), 1))
_DEFAULTS: dict[str, Any] = {
    "batch_id": 1, "row": 0, "variant": "1", "trace_id": None, "protocol": 0, "status": 200, "error": 0, "generation": 3, "unit": None,
    "queue_us": 10, "compute_us": 1500, "total_us": 2000, "tags": None, "in_x": [1.0, 2.0],
}


def uuid7(ts_ns: int, n: int = 0) -> str:
    """A request id that says when its request came."""
    digits = f"{ts_ns // 1_000_000:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-{n:012x}"


@dataclass
class Sink:
    """Remembers what it was given."""

    taken: list[JoinedRows] = field(default_factory=list)

    def take(self, rows: JoinedRows) -> None:
        self.taken.append(rows)


@dataclass
class JoiningBench:
    """One replica's home and its job. now_ns: of the next run."""

    folder: Path
    replica: str = "r-0"
    url: str = ""
    now_ns: int = NOW
    spec: MonitoringSpec = field(default_factory=MonitoringSpec)
    sink: Sink = field(default_factory=Sink)
    next_seq: int = 0
    next_label: int = 0
    next_journal: int = 1
    epoch: int = 1

    def __post_init__(self) -> None:
        self.store = open_store(self.url or str(self.folder / "records"))
        self.home = Home(self.folder / f"home-{self.replica}")
        self.restart()

    def restart(self) -> None:
        """A new keeper over what is on the disk."""
        manifest = Manifest(self.store, self.replica)
        manifest.begin("host", str(self.home.path), 0, self.home.identity())
        self.sealer = Sealer(self.store, manifest, self.home, None)
        self.job = JoiningJob(Keeping(self.store, manifest, self.home, self.replica, None), [self.sink])

    def predict(self, rows: Sequence[dict[str, Any]], version: str = "1", tensors: tuple[RecordedTensor, ...] = TENSORS) -> None:
        """A closed journal of predictions of model m; ids and times where rows say none. out_scores from out_label."""
        filled = []
        for row in rows:
            at = row.get("ts_ns", self.now_ns)
            base = {**_DEFAULTS, "ts_ns": at, "seq": self.next_seq, "request_id": uuid7(at, self.next_seq), **row}
            if "out_label" in row:
                base.setdefault("out_scores", [0.9, 0.1] if row["out_label"] == 0 else [0.2, 0.8])
            filled.append(base)
            self.next_seq += 1
        header = self._header("records", model="m", version=version, digest="sha256:00", tensors=tensors)
        schema = journal_schema(tensors)
        self._write(header, pa.RecordBatch.from_pylist(filled, schema))

    def label(self, *rows: dict[str, Any], model: str = "m") -> None:
        """A closed journal of labels of one model, as they came now."""
        filled = []
        for row in rows:
            filled.append({"ts_ns": self.now_ns, "row": 0, "name": "label", "model": model, "seq": self.next_label, **row})
            self.next_label += 1
        self._write(self._header("labels", model=model), pa.RecordBatch.from_pylist(filled, LABELS_JOURNAL))

    def seal(self) -> None:
        """All journals."""
        for name in self.sealer.due(self.now_ns):
            self.sealer.seal(name, self.now_ns)

    def run(self, is_told: bool = True) -> list[dict[str, Any]]:
        """is_told: what the spec of every model is."""
        for model in ("m", "another") if is_told else ():
            self.job.tell(monitoring_message(model, self.spec))
        return self.job.run(self.now_ns)

    def tallies(self, messages: Sequence[dict[str, Any]]) -> dict[tuple[int, str, str], tuple[int, float]]:
        """(generation, variant, metric) -> (n, total) of `outcomes` messages."""
        return {(one["generation"], one["variant"], one["name"]): (one["n"], round(one["total"], 9))
                for message in messages if message["type"] == "outcomes" for one in message["readings"]}

    def counts(self, messages: Sequence[dict[str, Any]], model: str = "m") -> dict[str, int]:
        """What the feedback message counts, without zeros."""
        (found,) = [message for message in messages if message["type"] == "feedback"]
        counts = {**found["models"].get(model, {}), "waiting": found["waiting"]}
        return {name: n for name, n in counts.items() if n}

    def _header(self, table: Any, **of: Any) -> StreamHeader:
        self.next_journal += 1
        return StreamHeader(table=table, replica=self.replica, epoch=self.epoch, journal=self.next_journal - 1, created_ns=NOW, **of)

    def _write(self, header: StreamHeader, batch: pa.RecordBatch) -> None:
        writer = JournalWriter(SystemFiles(), self.home.journals, header, batch.schema)
        writer.append(batch)
        writer.end()
        writer.sync()
        writer.publish()
        assert self.home.file(JournalName(self.epoch, header.journal, "journal")).exists()


def predicted(bench: JoiningBench, n: int = 6, **changes: Any) -> None:
    bench.predict([{"out_label": i % 2, **changes} for i in range(n)])


def truth(n: int, ts_ns: int = NOW, **changes: Any) -> dict[str, Any]:
    return {"request_id": uuid7(ts_ns, n), "value": float(n % 2), **changes}


__all__ = ["HOUR", "NOW", "TENSORS", "JoiningBench", "Sink", "predicted", "truth", "uuid7"]
