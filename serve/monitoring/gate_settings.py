"""What `headrace gate` asks of a candidate, as operators write it: gate.yaml, or flags over it.

`GateSettings` is the document; docs/gate.md says what it does, docs/schemas/gate-settings.schema.json is generated from here.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")

MAX_ROWS = 1_000_000
MAX_RUNS = 100_000
DEFAULT_DROP = 0.01
DEFAULT_RISE = 0.05

def _version_text(value: object) -> object:
    # YAML reads `stable: 1` as a number; a version is a name that happens to look like one.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Stable = Annotated[
    str, BeforeValidator(_version_text), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}, mode="validation"),
]
MetricName = Literal["accuracy", "f1", "auc", "mae"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Tolerance(BaseModel):
    """|a - b| <= atol + rtol |b|."""

    model_config = _STRICT
    atol: NotNegative = 1e-5
    rtol: NotNegative = 1e-3


class Agreement(BaseModel):
    """How often candidate and stable version must answer alike. A row agrees when each of its outputs does: the index of the largest of
    several floats is the same, one float differs by at most `spread` standard deviations of the stable version's, all else is equal.
    """

    model_config = _STRICT
    min: Share | None = Field(default=None, description="Share of the rows. Default 0.9 without labels; with labels it is only told.")
    spread: Positive = Field(default=0.1, description="Standard deviations of the stable version's values.")
    outputs: tuple[str, ...] = Field(default=(), description="Those that are compared. Default all that both versions have.")
    recorded: Share = Field(
        default=0.99, description="Share of the recorded answers of the very same stable version that replaying it must repeat."
    )


class LatencyLimits(BaseModel):
    """Time of a run of the model with its batch, without queue and network; candidate and stable version take turns."""

    model_config = _STRICT
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, description="Rows. Default 1, 8 and the largest batch."
    )
    runs: Annotated[int, Field(ge=10, le=MAX_RUNS)] = Field(default=500, description="Of each version and batch size, at most.")
    seconds: Positive = Field(default=20.0, description="For one batch size, both versions together, at most.")
    max_median_ratio: Positive | None = Field(default=1.25, description="Of the candidate's median to the stable version's; null: none.")
    max_p99_ratio: Positive | None = Field(default=None, description="The same of the 99th percentile. Wants 437 runs by default.")
    slack_ms: NotNegative = Field(
        default=0.05, description="Slower by at most this is within both ratios: nobody waits for it."
    )
    max_median_ms: Positive | None = Field(default=None, description="Of the candidate, at each batch size.")
    max_p99_ms: Positive | None = Field(default=None, description="Of the candidate, at each batch size. Wants 368 runs by default.")


class MetricLimits(BaseModel):
    """Of one metric on labelled rows. accuracy, f1 (macro) and auc want min and max_drop, mae wants max and max_rise."""

    model_config = _STRICT
    min: Finite | None = Field(default=None, description="At least.")
    max: Finite | None = Field(default=None, description="At most.")
    max_drop: NotNegative | None = Field(default=None, description="Below the stable version by at most this. Default 0.01; null: none.")
    max_rise: NotNegative | None = Field(
        default=None, description="More than the stable version by at most this share of the stable version's. Default 0.05; null: none."
    )


class GateSettings(BaseModel):
    """Everything has a default. A limit passes when the whole confidence interval keeps it, fails when none of the interval does, and is
    undecided in between: then there are not enough data.
    """

    model_config = _STRICT
    stable: Stable | None = Field(
        default=None,
        description="Version or label to compare with. Default label `stable`, else the highest other version; `none`: no comparison.",
    )
    rows: Annotated[int, Field(ge=1, le=MAX_ROWS)] = Field(default=10_000, description="Replayed at most, drawn by hash.")
    min_rows: Annotated[int, Field(ge=1)] = Field(default=100, description="Fewer are not enough data, whatever they say.")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(default=0.95, description="Of each interval.")
    decide_by: Literal["interval", "estimate"] = Field(
        default="interval", description="estimate: a limit passes or fails by the estimate alone, for data sets that are the whole truth."
    )
    allow_schema_change: bool = Field(default=False, description="A candidate with other inputs or outputs is no failure by itself.")
    max_not_finite: Share = Field(default=0.0, description="Share of the rows with NaN or infinity in an output.")
    max_failed: Share = Field(default=0.0, description="Share of the rows that the stable version answers and the candidate does not.")
    tolerance: Tolerance = Field(default=Tolerance(), description="Between answers to the same row, asked again and in other batches.")
    agreement: Agreement = Agreement()
    latency: LatencyLimits | None = Field(default=LatencyLimits(), description="null: not measured.")
    metrics: Mapping[MetricName, MetricLimits] | None = Field(
        default=None,
        description="By metric, where rows have labels. Default accuracy or, for numbers, mae, with its default limit.",
    )
    positive: str = Field(default="", description="Class whose score auc is about. Default monitoring.positive of model.yaml, or the last.")

    @field_validator("metrics")
    @classmethod
    def _compared_by_default(cls, metrics: Mapping[MetricName, MetricLimits] | None) -> Mapping[MetricName, MetricLimits] | None:
        # An absolute limit does not switch the comparison with the stable version off; null does. The report says which limits held.
        return None if metrics is None else {name: _with_default(name, limits) for name, limits in metrics.items()}

    @model_validator(mode="after")
    def _runs_bound_p99(self) -> Self:
        times = self.latency
        if times is None:
            return self
        # Both sides of a ratio share the error.
        for name, limit, each in (("max_p99_ms", times.max_p99_ms, 1), ("max_p99_ratio", times.max_p99_ratio, 2)):
            least = math.ceil(math.log((1 - self.confidence) / 2 / each) / math.log(0.99))
            if limit is not None and times.runs < least:
                raise ValueError(f"latency.runs: {times.runs:,} are too few for latency.{name}; at least {least:,} bound a 99th percentile "
                                 f"at confidence {self.confidence:g}: give more, or leave the limit out")
        return self

    @model_validator(mode="after")
    def _limits_fit_their_metric(self) -> Self:
        for name, limits in (self.metrics or {}).items():
            wrong = ("min", "max_drop") if name == "mae" else ("max", "max_rise")
            given = [key for key in wrong if getattr(limits, key) is not None]
            if given:
                rest = "max and max_rise" if name == "mae" else "min and max_drop"
                raise ValueError(f"metrics.{name}.{given[0]}: {name} is limited by {rest}")
        return self


def default_metrics(is_classification: bool) -> dict[MetricName, MetricLimits]:
    """What labelled rows are held against where the settings name no metric."""
    name: MetricName = "accuracy" if is_classification else "mae"
    return {name: _with_default(name, MetricLimits())}


def _with_default(name: MetricName, limits: MetricLimits) -> MetricLimits:
    """With the default limit against the stable version where none is given; null is given."""
    key, default = ("max_rise", DEFAULT_RISE) if name == "mae" else ("max_drop", DEFAULT_DROP)
    return limits if key in limits.model_fields_set else limits.model_copy(update={key: default})


__all__ = ["Agreement", "GateSettings", "LatencyLimits", "MetricLimits", "MetricName", "Tolerance", "default_metrics"]
