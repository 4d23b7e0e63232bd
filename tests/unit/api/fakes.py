"""A repository that needs no model: two versions of `digits`, one model that failed, one that loads on demand."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.errors import NotFound, Unavailable
from serve.types import (
    BatchStatistics,
    Duration,
    Histogram,
    IndexEntry,
    ModelDescription,
    TensorSpec,
    VersionState,
    VersionStatistics,
)

DIGITS = ModelDescription(
    name="digits", version="2", versions=("1", "2"), labels={"stable": "1", "canary": "2"},
    inputs=(TensorSpec("x", "FP32", (-1, 64)),), outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("scores", "FP32", (-1, 10))),
    max_batch_size=64, digest="sha256:" + "2" * 64, provenance={"git_revision": "0f1e2d3"},
)
STATISTICS = VersionStatistics(
    name="digits", version="2", last_inference_ms=1_700_000_000_123, inference_count=12, execution_count=5,
    success=Duration(9, 9_000_500), fail=Duration(1, 100_000), queue=Duration(9, 1_000_000), compute_input=Duration(9, 200_000),
    compute_infer=Duration(9, 3_000_000), compute_output=Duration(9, 300_000),
    batch_stats=(BatchStatistics(4, Duration(2, 20), Duration(2, 40), Duration(2, 60)),),
    queue_depth=3, in_flight=4, rejected={"queue_full": 2, "deadline": 1, "cancelled": 5, "invalid": 7, "failed": 1},
    stages={("http", "run"): Histogram((0.00001, 0.0001, 0.001), (1, 2, 3, 4), 0.5)},
    batch_sizes=Histogram((1.0, 2.0, 4.0), (1, 0, 4, 0), 12.0),
)


def unknown(name: str, version: str) -> NotFound:
    return NotFound(f"Request for unknown model: '{name}' is not found" if not version else
                    f"Request for unknown model: '{name}' version {version} is not found")


class FakeModels:
    """Fulfils serve.api.ports.Models and remembers what was asked to load and unload."""

    def __init__(self) -> None:
        self.ready = True
        self.calls: list[tuple[str, ...]] = []
        self.failure: Exception | None = None

    async def index(self, ready_only: bool) -> Sequence[IndexEntry]:
        self._maybe_fail()
        entries = [
            IndexEntry("broken", "1", VersionState.UNAVAILABLE, "model.onnx is not an ONNX model"),
            IndexEntry("digits", "1", VersionState.READY),
            IndexEntry("digits", "2", VersionState.READY),
            IndexEntry("later", "", VersionState.UNKNOWN),
        ]
        return [entry for entry in entries if entry.state is VersionState.READY or not ready_only]

    def describe(self, name: str, version: str) -> ModelDescription:
        self._maybe_fail()
        resolved = self._resolve(name, version)
        if name != "digits":
            raise Unavailable(f"'{name}' is not ready")
        return ModelDescription(
            name=DIGITS.name, version=resolved, versions=DIGITS.versions, labels=DIGITS.labels, inputs=DIGITS.inputs,
            outputs=DIGITS.outputs, max_batch_size=DIGITS.max_batch_size, digest=DIGITS.digest, provenance=DIGITS.provenance)

    def config(self, name: str, version: str) -> Mapping[str, Any]:
        self.describe(name, version)
        return {
            "name": "digits", "platform": "onnxruntime_onnx", "backend": "onnxruntime", "max_batch_size": 64,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}],
            "output": [
                {"name": "label", "data_type": "TYPE_INT64", "dims": [1]}, {"name": "scores", "data_type": "TYPE_FP32", "dims": [10]},
            ],
            "dynamic_batching": {},
        }

    def is_ready(self, name: str, version: str) -> bool:
        self._maybe_fail()
        self._resolve(name, version)
        return name == "digits"

    def statistics(self, name: str, version: str) -> Sequence[VersionStatistics]:
        if name:
            self._resolve(name, version)
        first = VersionStatistics(name="digits", version="1")
        return [s for s in (first, STATISTICS) if not version or s.version == self._resolve(name, version)]

    async def load(self, name: str, override: str | None) -> None:
        self._maybe_fail()
        if name == "broken":
            raise Unavailable("failed to load 'broken': model.onnx is not an ONNX model")
        self._resolve(name, "")
        self.calls.append(("load", name) if override is None else ("load", name, override))

    async def unload(self, name: str) -> None:
        self._resolve(name, "")
        self.calls.append(("unload", name))

    def server_ready(self) -> bool:
        return self.ready

    def _maybe_fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _resolve(self, name: str, version: str) -> str:
        versions = {"digits": ("2", "1"), "broken": ("1",), "later": ("1",), "sl/ash": ("1",)}.get(name)
        if versions is None:
            raise unknown(name, "")
        resolved = DIGITS.labels.get(version, version) or versions[0]
        if resolved not in versions:
            raise unknown(name, version)
        return resolved
