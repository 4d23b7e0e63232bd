"""`recording:` and `monitoring:` of model.yaml, and the values that the rest of the server knows them as."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from serve.models.config_base import Strict, TensorName
from serve.monitors import MonitoringSpec
from serve.records import Policy, RecordingSpec, Redaction
from serve.traffic import Source

# Ten years: longer than any law asks for, short enough to catch a number of seconds.
MAX_RETENTION_DAYS = 3_660
MAX_BUCKETS = 1_024
# Columns that tell of a client and are no tensor, and what can be done to them.
CLIENT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "tags": ("drop", "mask", "hash"), "trace_id": ("drop", "mask", "hash"), "unit": ("drop", "mask"),
}

HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
TagName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=31_622_400)]


class TagSource(Strict):
    """Where a request carries the value of a tag: a header (over gRPC: metadata) or a request parameter, one of them."""

    header: HeaderName | None = None
    parameter: Annotated[str, Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.header is None) == (self.parameter is None):
            raise ValueError("give one of header and parameter")
        return self

    def source(self) -> Source:
        """Headers are compared in lower case."""
        return Source("header", self.header.lower()) if self.header is not None else Source("parameter", self.parameter or "")


class BucketAction(Strict):
    """A number becomes the lower bound of its bucket."""

    bucket: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_BUCKETS)]

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(later <= earlier for earlier, later in itertools.pairwise(self.bucket)):
            raise ValueError(f"bucket = {list(self.bucket)}: give each bound once, ascending")
        return self


def _action_tag(value: object) -> str:
    return "as_word" if isinstance(value, str) else "as_bucket"


def _checked_column(value: str) -> str:
    if value == "request_id":
        raise ValueError("request_id is what labels find their rows by; have clients send ids that tell nothing")
    if value not in CLIENT_COLUMNS and not (value.startswith(("in_", "out_")) and value.partition("_")[2]):
        raise ValueError(f"a column is {', '.join(CLIENT_COLUMNS)}, in_<input> or out_<output>")
    return value


RedactAction = Annotated[
    Annotated[Literal["drop", "mask", "hash"], Tag("as_word")] | Annotated[BucketAction, Tag("as_bucket")], Discriminator(_action_tag)
]
Column = Annotated[str, AfterValidator(_checked_column)]


class RecordingSection(Strict):
    """What is kept of the model's predictions when the server runs with --records."""

    enabled: bool = Field(default=True, description="false: nothing of this model is recorded.")
    sampling: Annotated[float, Field(ge=0, le=1)] = Field(default=1.0, description="Share of the requests, by hash of their ids.")
    policy: Policy = Field(
        default="drop",
        description="When the ring has no room. drop: the row is lost and counted. block: the finished answer waits for room. "
        "fail-closed: the request is refused with 503 before it runs.",
    )
    block_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = Field(
        default=1000, description="Milliseconds that an answer waits under `policy: block`; then its rows are dropped and counted."
    )
    inputs: tuple[TensorName, ...] | None = Field(
        default=None, description="Inputs to keep, whatever their size; [] keeps none. Default all of at most 4096 bytes a row."
    )
    outputs: tuple[TensorName, ...] | None = Field(
        default=None, description="Outputs to keep, whatever their size; [] keeps none. Default all of at most 4096 bytes a row."
    )
    redact: Mapping[Column, RedactAction] = Field(
        default={},
        description="By column (tags, trace_id, unit, in_<input>, out_<output>), before anything reaches a disk: drop, mask, hash "
        "or {bucket: [<bound>, ...]}.",
    )
    tags: Annotated[Mapping[TagName, TagSource], Field(max_length=32)] = Field(
        default={}, description="By tag, where a request carries its value: {header: <name>} or {parameter: <name>}."
    )
    retention_days: Annotated[int, Field(ge=1, le=MAX_RETENTION_DAYS)] | None = Field(
        default=None, description="Days until rows are purged. Default the server's."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_unique("inputs", self.inputs)
        _check_unique("outputs", self.outputs)
        for column, action in self.redact.items():
            allowed = CLIENT_COLUMNS.get(column, ())
            if allowed and action not in allowed:
                raise ValueError(f"redact: {column!r} cannot be redacted like that; use {' or '.join(allowed)}")
        return self

    def spec(self) -> RecordingSpec | None:
        """As the recorder knows it; None: not recorded."""
        if not self.enabled:
            return None
        return RecordingSpec(
            sampling=self.sampling, policy=self.policy, block_timeout_ms=self.block_timeout_ms, inputs=self.inputs, outputs=self.outputs,
            redact=tuple(_redaction(column, action) for column, action in self.redact.items()),
            tags={name: tag.source() for name, tag in self.tags.items()}, retention_days=self.retention_days,
        )


class MonitoringSection(Strict):
    """What is watched of the model's recorded predictions."""

    enabled: bool = Field(default=True, description="false: nothing of this model is watched.")
    task: Literal["classification", "regression"] | None = Field(default=None, description="Default by the datatype of the prediction.")
    prediction: str = Field(
        default="",
        description="Output whose first value of a row is the prediction. Default the only output of one integer, text or number a row, "
        "else the largest of `scores`.",
    )
    scores: str = Field(default="", description="Output of class probabilities. Default a float output of more than one element a row.")
    classes: tuple[str, ...] = Field(default=(), description="Names of the classes, by index of `scores`.")
    positive: str = Field(default="", description="Class whose score is that of a binary model.")
    window_s: Seconds = Field(default=300.0, description="Seconds of a window of drift and performance.")
    min_rows: Annotated[int, Field(ge=1)] = Field(default=500, description="Rows of a window before anything is concluded from it.")
    alert_m: Annotated[int, Field(ge=1, le=1_000)] = Field(default=2, description="Windows of the last `alert_n` that raise an alert.")
    alert_n: Annotated[int, Field(ge=1, le=1_000)] = Field(default=3, description="Consecutive windows looked at.")
    fdr: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.01, description="Level of Benjamini-Hochberg over the features of a window.")
    min_psi: Annotated[float, Field(ge=0)] = Field(default=0.1, description="PSI below which there is no drift, whatever its p-value.")
    features: tuple[TensorName, ...] = Field(default=(), description="Inputs watched feature by feature. Default all.")
    embeddings: tuple[TensorName, ...] = Field(default=(), description="Inputs or outputs watched as vectors, by MMD.")
    reject: tuple[Literal["range", "category"], ...] = Field(
        default=(), description="Requests refused with 400 when a value is outside the baseline's range, or none of its categories."
    )
    metric: str = Field(default="", description="Performance metric that `min_metric` is about.")
    min_metric: float | None = Field(default=None, description="Performance below this raises an alert.")
    label_window_s: Seconds = Field(default=604_800.0, description="Seconds after its prediction that a label counts; later it is late.")
    outcomes: Annotated[Mapping[TagName, Annotated[str, Field(min_length=1, max_length=4_096)]], Field(max_length=32)] = Field(
        default={}, description="By name, an SQL expression over a row joined with its label; its mean feeds rollouts and experiments."
    )
    cooldown_s: Annotated[float, Field(ge=0, le=31_622_400)] = Field(default=3600.0, description="Seconds between two events of one kind.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.alert_m > self.alert_n:
            raise ValueError(f"alert_m = {self.alert_m}: at most alert_n, which is {self.alert_n}")
        for key in ("classes", "features", "embeddings", "reject"):
            _check_unique(key, getattr(self, key))
        if self.positive and self.classes and self.positive not in self.classes:
            raise ValueError(f"positive = {self.positive!r}: none of the classes, which are {', '.join(self.classes)}")
        return self

    def spec(self) -> MonitoringSpec:
        """As the monitors know it."""
        return MonitoringSpec(**self.model_dump())


def _check_unique(key: str, names: tuple[str, ...] | None) -> None:
    repeated = sorted({name for name in names or () if (names or ()).count(name) > 1})
    if repeated:
        raise ValueError(f"{key}: {repeated[0]!r} is named more than once")


def _redaction(column: str, action: "BucketAction | Literal['drop', 'mask', 'hash']") -> Redaction:
    return Redaction(column, "bucket", action.bucket) if isinstance(action, BucketAction) else Redaction(column, action)


__all__ = ["MonitoringSection", "RecordingSection"]
