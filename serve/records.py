"""Recording as values: what is kept of a model's predictions, and what a recorded row is made of.

A row of the table `records` is one row of one prediction, and is named by (replica, epoch, seq). Bytes, rows and shares as the fields say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve.monitors import MonitoringSpec
from serve.traffic import Source

# What a tensor may take in a row of the table unless model.yaml names it: larger ones are left out.
SMALL_TENSOR_BYTES = 4096
# The variant of rows that a shadow answered.
SHADOW = "shadow"

# What is done when the ring has no room. drop: the answer goes out, the row is lost and counted. block: the finished answer waits for room,
# for at most `block_timeout_ms`. fail-closed: room is reserved before the run; without it the request is refused with 503.
Policy = Literal["drop", "block", "fail-closed"]


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is done to a column (`request_id`, `in_text`, `out_scores`, `tags`) before anything of it reaches a disk.

    drop: null. mask: text becomes `***`, a number null. hash: HMAC-SHA-256 of the bytes under the server's key, 32 hex digits. bucket: a
    number becomes the lower bound of its bucket, from `bounds`, ascending; below the first: -inf.
    """

    column: str
    action: Literal["drop", "mask", "hash", "bucket"]
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordingSpec:
    """A model's `recording:`. sampling: share of the requests, by their ids. inputs, outputs: names that are kept whatever their size;
    None: all of at most SMALL_TENSOR_BYTES a row, () none. tags: name -> where a request carries it. retention_days: None: the server's.
    """

    sampling: float = 1.0
    policy: Policy = "drop"
    block_timeout_ms: int = 1000
    inputs: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    redact: tuple[Redaction, ...] = ()
    tags: Mapping[str, Source] = field(default_factory=dict)
    retention_days: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedTensor:
    """An input or output in the table. shape: of one row (of the whole tensor where the model is not batched), -1 where dynamic. index: in
    the model's inputs or outputs. max_row_bytes: a row with more is recorded without it; 0: whatever it takes.
    """

    kind: Literal["in", "out"]
    name: str
    datatype: str
    shape: tuple[int, ...]
    index: int
    max_row_bytes: int = SMALL_TENSOR_BYTES

    @property
    def column(self) -> str:
        """Its name in the table."""
        return f"{self.kind}_{self.name}"


@dataclass(frozen=True, slots=True)
class RecordStreamSpec:
    """What one version's rows look like; immutable for as long as the version is loaded. Versions with equal specs share a stream.

    digest: sha256:<hex> of the version's files. provenance: what model.yaml says of where the version comes from. tensors: inputs first, in
    the model's order; only those that are kept. monitoring: what is watched of them. is_batched: a row is one of a batch; else it is a
    whole request, and a tensor's shape is that of the whole tensor.
    """

    model: str
    version: str
    digest: str
    tensors: tuple[RecordedTensor, ...]
    spec: RecordingSpec = RecordingSpec()
    provenance: Mapping[str, str] = field(default_factory=dict)
    monitoring: MonitoringSpec = field(default_factory=MonitoringSpec)
    is_batched: bool = True


@dataclass(frozen=True, slots=True)
class StreamReading:
    """Rows of one stream since the worker began. sampled = written + sum(dropped), and written = appended + what is on its way.

    dropped: by reason: ring_full, too_large (a record over an eighth of a ring), blocked (the wait for room ended), memory.
    refused: requests that fail-closed sent away; they are not sampled. left_out: tensors over their max_row_bytes.
    malformed: records, and tensors of others, that were not what the stream says, which became failed rows and nulls: a defect of ours.
    """

    model: str
    version: str
    sampled: int = 0
    written: int = 0
    appended: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: int = 0
    left_out: int = 0
    malformed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What became true of a prediction, as a client says it: of the row `row` of the request `request_id`.

    name: of what is told, where a model has several. label_ts_ns: when the truth was known, wall clock, by the client. One of value, text
    and reward says it.
    """

    request_id: str
    row: int = 0
    name: str = "label"
    value: float | None = None
    text: str | None = None
    reward: float | None = None
    label_ts_ns: int | None = None


__all__ = [
    "SHADOW", "SMALL_TENSOR_BYTES", "Label", "Policy", "RecordStreamSpec", "RecordedTensor", "RecordingSpec", "Redaction", "StreamReading",
]
