"""A rollout as operators write it: JSON or YAML, checked as a whole before anything happens.

`RolloutPlan` is the document; docs/rollouts.md says what it does, docs/schemas/rollout-plan.schema.json is generated from here. By default
there is a shadow stage, then 1, 5, 25 and 50 percent, then everything; each stage takes at least 60 s and 500 requests.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from serve.errors import Unprocessable
from serve.routing.documents import read_document, validated
from serve.routing.judge.settings import JudgeSettings
from serve.routing.plan import MAX_OVERRIDES, Compare, OverrideDoc, SegmentDoc, SourceDoc, Version, check_overrides
from serve.traffic import WHOLE_BP

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")

MAX_STEPS = 64
MAX_SECONDS = 30 * 86_400.0
MAX_REQUESTS = 10**12
DEFAULT_SECONDS = 60.0
DEFAULT_REQUESTS = 500
DEFAULT_STEP_TIMEOUT_SECONDS = 1_800.0
DEFAULT_WEIGHTS = (100, 500, 2_500, 5_000)
DEFAULT_SAMPLE = 1_000

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]

# RFC 3339, section 5.6; datetime.fromisoformat reads more than that.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _instant(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not _RFC3339.fullmatch(value):
        raise ValueError(f"{value!r} is not a time by RFC 3339 with its zone, for example 2026-12-01T09:30:00Z")
    # Digits beyond microseconds are legal and decide nothing.
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", value.upper()))


Instant = Annotated[AwareDatetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]


class _Stage(BaseModel):
    """What a stage wants before it is left: both minima, no hold by the judge, and its pause."""

    model_config = _STRICT
    seconds: Seconds | None = Field(default=DEFAULT_SECONDS, description="At least so long; null: no minimum.")
    requests: Annotated[int, Field(ge=1, le=MAX_REQUESTS)] | None = Field(
        default=DEFAULT_REQUESTS, description="At least so many answers of the candidate (shadow stage: compared pairs); null: none."
    )
    pause: bool = Field(default=False, description="A manual gate: when the stage is done it waits for `promote` or `resume`.")
    pause_seconds: Seconds | None = Field(default=None, description="When the stage is done it waits so long.")

    @model_validator(mode="after")
    def _ends(self) -> "_Stage":
        if self.seconds is None and self.requests is None and not self.pause:
            raise ValueError("give seconds, requests or pause: without one of them nothing is awaited")
        if self.pause and self.pause_seconds is not None:
            raise ValueError("give pause (until somebody promotes) or pause_seconds (by itself), not both")
        return self


class Step(_Stage):
    """`weight` of the requests go to the candidate."""

    weight: Annotated[int, Field(ge=1, le=WHOLE_BP - 1, description="Basis points of the requests.")]


class ShadowStage(_Stage):
    """The candidate has weight 0; `sample` of the requests are run again on it, and the answers are compared."""

    sample: Annotated[int, Field(ge=1, le=WHOLE_BP, description="Basis points of the requests.")] = DEFAULT_SAMPLE
    compare: Compare = ()


class Holdback(BaseModel):
    """After the last step `weight` of the requests stay on the stable version for `seconds`, so that the judge goes on with a control."""

    model_config = _STRICT
    weight: Annotated[int, Field(ge=1, le=WHOLE_BP // 2, description="Basis points that stay on the stable version.")]
    seconds: Seconds


class RolloutPlan(BaseModel):
    """From the stable version to `to`: a shadow stage, steps of rising weight, then everything."""

    model_config = _STRICT
    to: Version
    stable: Version | None = Field(default=None, description="Default: the version that answers now.")
    steps: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS, strict=False)] = tuple(Step(weight=weight) for weight in DEFAULT_WEIGHTS)
    shadow: ShadowStage | None = Field(default=ShadowStage(), description="Before the steps; null: none.")
    sticky: SourceDoc | None = None
    overrides: Annotated[tuple[OverrideDoc, ...], Field(max_length=MAX_OVERRIDES, strict=False)] = ()
    segment: SegmentDoc | None = None
    salt: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(default=None, description="Default: drawn once, then kept.")
    judge: JudgeSettings = JudgeSettings()
    start_at: Instant | None = Field(default=None, description="RFC 3339 with its zone; default: at once.")
    step_timeout_seconds: Seconds = DEFAULT_STEP_TIMEOUT_SECONDS
    on_timeout: Literal["hold", "rollback", "promote"] = Field(
        default="hold", description="When a stage took step_timeout_seconds; promote goes to the next step, never to 100 percent."
    )
    holdback: Holdback | None = None
    dry_run: bool = Field(default=False, description="Judge what the traffic in force shows, change nothing.")
    allow_schema_change: bool = Field(default=False, description="Take a candidate with other inputs or outputs than the stable version.")
    require_gate: bool = Field(
        default=False, description="Start only where a passing report of `headrace gate` is stored for the candidate's files as they are."
    )
    gate_max_age_seconds: Seconds | None = Field(default=None, description="With require_gate: how old that report may be.")

    @model_validator(mode="after")
    def _climbs(self) -> "RolloutPlan":
        if not self.steps and self.shadow is None:
            raise ValueError("give steps, shadow or both: without them nothing is judged")
        for at, (lower, higher) in enumerate(zip(self.steps, self.steps[1:], strict=False)):
            if higher.weight <= lower.weight:
                raise ValueError(f"steps.{at + 1}.weight: {higher.weight} does not exceed the {lower.weight} before it; weights ascend")
        if self.holdback and self.steps and self.steps[-1].weight > WHOLE_BP - self.holdback.weight:
            raise ValueError(
                f"holdback.weight: {self.holdback.weight} on stable would put the candidate below its last step, {self.steps[-1].weight}"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> "RolloutPlan":
        if self.to == self.stable:
            raise ValueError(f"to: version {self.to} is the stable version itself")
        check_overrides(self.overrides)
        named: list[tuple[str, _Stage]] = [(f"steps.{at}", step) for at, step in enumerate(self.steps)]
        for path, stage in [*named, *([("shadow", self.shadow)] if self.shadow else [])]:
            if stage.seconds is not None and stage.seconds >= self.step_timeout_seconds:
                raise ValueError(
                    f"{path}.seconds: {stage.seconds:g} is not below step_timeout_seconds, {self.step_timeout_seconds:g}: never done"
                )
        return self


def load_rollout_plan(text: str, to: str | None = None) -> RolloutPlan:
    """The plan that `text` (JSON or YAML) states. to: the candidate where the text leaves it to the caller.

    Raises Unprocessable; its message names each wrong or unknown field by its path.
    """
    return rollout_plan(read_document(text), to)


def rollout_plan(document: Mapping[str, Any], to: str | None = None) -> RolloutPlan:
    """As load_rollout_plan, of a document that was read already."""
    if to is not None:
        if "to" in document and str(document["to"]) != to:
            raise Unprocessable(f"to: the plan says version {document['to']}, the command version {to}")
        document = {**document, "to": to}
    return validated(RolloutPlan, document)


__all__ = ["Holdback", "RolloutPlan", "ShadowStage", "Step", "load_rollout_plan", "rollout_plan"]
