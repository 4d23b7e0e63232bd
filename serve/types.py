"""Values that the layers hand to each other. Frozen, no behaviour beyond their own consistency."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    datatype: OIP name (FP32, INT64, BYTES, ...). shape: -1 for a dynamic dimension, the batch dimension included.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def short_digest(digest: str) -> str:
    """Enough of sha256:<hex> for people: 12 hex digits."""
    return digest.partition(":")[2][:12]


class VersionState(StrEnum):
    """State of a model version, in the repository extension's words."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index. version is "" for a model of which no version is known; reason says why not READY."""

    name: str
    version: str
    state: VersionState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What /v2/models/{m} tells. versions: the ready ones, ascending; version: the one described.

    digest: of the version's files, sha256:<hex>. provenance: what the model's configuration says of where it comes from.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    labels: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    platform: str = "onnxruntime_onnx"
    digest: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Duration:
    """How often, and how long together, in nanoseconds."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Executions of one batch size (rows)."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class Histogram:
    """Log-bucketed counts. bounds: upper bounds, ascending, len(counts) - 1 of them (the last bucket is open); sum in the same unit."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """Counters of one version since it was loaded, as the statistics extension and the metrics want them.

    inference_count counts rows, execution_count runs of the model, the durations requests. stages: (protocol, stage) -> seconds;
    protocol is "http" or "grpc", stage is receive, queue, gather, run, scatter, send or total. rejected: reason -> requests
    (queue_full, deadline, cancelled, invalid, failed).
    """

    name: str
    version: str
    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()
    batch_stats: tuple[BatchStatistics, ...] = ()
    queue_depth: int = 0
    in_flight: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[tuple[str, str], Histogram] = field(default_factory=dict)
    batch_sizes: Histogram = Histogram((), (0,), 0.0)
