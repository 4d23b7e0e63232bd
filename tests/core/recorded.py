"""A server in this process whose requests are recorded, and what came of them as plain rows."""

from pathlib import Path
from typing import Any

import numpy as np

from serve._core.engine import NativeVersion
from serve._core.recorder import NativeRecorder
from serve._core.routing_plan import NativePlan
from serve.models.recorded import recorded_tensors
from serve.recording.columns import batches_of
from serve.records import RecordingSpec, RecordStreamSpec, StreamReading
from serve.traffic import RoutingSpec
from tests.core.loopback import Loopback, version

RING = 1 << 20
ASSIGNED, DROPPED = 3, 5
Array = np.ndarray[Any, Any]


class Recorded(Loopback):
    """Model m, whose versions are recorded as `spec` says. Nobody drains the rings but `rows`."""

    def __init__(self, folder: Path, *, ring_bytes: int = RING, io_threads: int = 1, **options: Any) -> None:
        self.page = bytearray(4096)
        self.recorder = NativeRecorder(io_threads, ring_bytes, self.page)
        super().__init__(io_threads=io_threads, recorder=self.recorder, **options)
        self.folder = folder
        self.versions: dict[str, NativeVersion] = {}

    def add(self, path: Path, number: str = "1", spec: RecordingSpec | None = None, **options: Any) -> int:
        """A version more; its stream. It is published with what `publish` says next."""
        native = version(path, self.pool, "m", number, **options)
        spec = spec or RecordingSpec()
        tensors = recorded_tensors(spec, native.inputs, native.outputs, native.max_batch_size)
        stream = self.recorder.open_stream(RecordStreamSpec("m", number, f"sha256:{number}", tensors, spec))
        native.record(self.recorder, stream)
        self.versions[number] = native
        self.publish()
        return stream

    def publish(self, spec: RoutingSpec | None = None) -> None:
        plan = NativePlan("m", spec, {v: self.versions[v] for v in sorted(spec.versions())}, None, -1) if spec is not None else None
        self.table.publish({"m": (dict(self.versions), self.versions[min(self.versions)], plan)})

    def rows(self, stream: int = 0) -> list[dict[str, Any]]:
        """Everything of the stream that was recorded since the last look, by the journal's columns."""
        found: list[dict[str, Any]] = []
        while stream in self.recorder.drain(1 << 30):
            block = self.recorder.blocks(stream).take()
            assert block is not None
            for batch in batches_of(self.recorder.spec(stream).tensors, [block.records]):
                found.extend(batch.to_pylist())
        return found

    def word(self, index: int) -> int:
        """Of the page."""
        return int.from_bytes(self.page[8 * index:8 * index + 8], "little")

    def reading(self, stream: int = 0) -> StreamReading:
        return self.recorder.reading(stream)
