"""A routing plan as operators write it: JSON or YAML, checked as a whole, nothing half-applied.

`RoutingPlan` is the document, `compile_plan` the value that the native threads are built from. The JSON Schema of the document is
docs/schemas/routing-plan.schema.json, generated from here.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from serve.traffic import SPECIAL_ARMS, WHOLE_BP, Arm, CompareRule, JudgeCounting, Override, RoutingSpec, Segment, Shadow, Source

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")

MAX_VARIANTS = 16
MAX_OVERRIDES = 64
MAX_SHADOWS = 4


def _version_text(value: object) -> object:
    # YAML reads `to: 2` as a number; a version is a name that happens to look like one.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_VERSION_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}, {"type": "integer", "minimum": 1}], "description": "A version's number."
}
Version = Annotated[
    str, BeforeValidator(_version_text), Field(pattern=r"^[1-9][0-9]{0,17}$"), WithJsonSchema(_VERSION_SCHEMA, mode="validation")
]
BasisPoints = Annotated[int, Field(ge=0, le=WHOLE_BP, description="1/100 of a percent.")]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
ParameterName = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
ArmName = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]


class VariantDoc(BaseModel):
    """An arm of the plan. Weight 0 means no request at all; keep an arm at 0 rather than remove it, so that no other unit moves.

    Two variants divide the units by `u < w`, more by rendezvous: going from two to more draws everybody anew. List them all from the start.
    """

    model_config = _STRICT
    version: Version
    weight: BasisPoints
    name: ArmName = Field(default="", description="Default, and where it is empty: the version.")


class SourceDoc(BaseModel):
    """Where the request carries a value: a header (gRPC metadata) or a parameter, one of them."""

    model_config = _STRICT
    header: HeaderName | None = None
    parameter: ParameterName | None = None

    @model_validator(mode="after")
    def _one(self) -> "SourceDoc":
        if (self.header is None) == (self.parameter is None):
            raise ValueError("give one of header and parameter")
        return self

    def source(self) -> Source:
        if self.header is not None:
            return Source("header", self.header.lower())
        assert self.parameter is not None
        return Source("parameter", self.parameter)


class OverrideDoc(SourceDoc):
    """Requests that carry `value` go to `version`, whatever the weights."""

    value: Text
    version: Version


class SegmentDoc(SourceDoc):
    """Only requests that carry one of `values` are drawn; others go to the stable variant."""

    values: Annotated[tuple[Text, ...], Field(min_length=1, max_length=256, strict=False)]


class CompareDoc(BaseModel):
    """When two answers of one output disagree; see `rule`."""

    model_config = _STRICT
    output: Text
    rule: Literal["argmax", "tolerance", "top_k", "exact"]
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    k: Annotated[int, Field(ge=0, le=1000)] = 0
    min_overlap: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _complete(self) -> "CompareDoc":
        if self.rule == "top_k" and (self.k < 1 or self.min_overlap == 0):
            raise ValueError("top_k wants k of 1 or more and min_overlap over 0")
        for rule, names in (("tolerance", ("atol", "rtol")), ("top_k", ("k", "min_overlap"))):
            unused = [name for name in names if getattr(self, name) != 0] if self.rule != rule else []
            if unused:
                raise ValueError(f"{unused[0]} belongs to the rule {rule}; this one is {self.rule}")
        return self


def _one_rule_each(rules: tuple[CompareDoc, ...]) -> tuple[CompareDoc, ...]:
    outputs = [rule.output for rule in rules]
    for output in outputs:
        if outputs.count(output) > 1:
            raise ValueError(f"output {output} is given twice")
    return rules


Compare = Annotated[tuple[CompareDoc, ...], Field(max_length=128, strict=False), AfterValidator(_one_rule_each)]


class ShadowDoc(BaseModel):
    """`sample` of the requests are run again on `version`; the answer is compared and never returned."""

    model_config = _STRICT
    version: Version
    sample: Annotated[int, Field(ge=1, le=WHOLE_BP, description="Basis points of the requests.")]
    compare: Compare = ()


class RoutingPlan(BaseModel):
    """How one model's requests are split. Weights sum to 10,000. An explicit version or label in a request always wins."""

    model_config = _STRICT
    variants: Annotated[tuple[VariantDoc, ...], Field(min_length=1, max_length=MAX_VARIANTS, strict=False)]
    sticky: SourceDoc | None = None
    overrides: Annotated[tuple[OverrideDoc, ...], Field(max_length=MAX_OVERRIDES, strict=False)] = ()
    segment: SegmentDoc | None = None
    coverage: Annotated[BasisPoints, Field(description="Share of the units that are drawn; the others go to stable.")] = WHOLE_BP
    holdout: Annotated[BasisPoints, Field(description="Share of the units that stay on stable, whatever the weights.")] = 0
    shadows: Annotated[tuple[ShadowDoc, ...], Field(max_length=MAX_SHADOWS, strict=False)] = ()
    salt: Annotated[str | None, Field(min_length=1, max_length=128, description="Default: drawn once, then kept.")] = None

    @model_validator(mode="after")
    def _adds_up(self) -> "RoutingPlan":
        total = sum(variant.weight for variant in self.variants)
        if total != WHOLE_BP:
            raise ValueError(f"the weights sum to {total} basis points; want {WHOLE_BP}")
        names = [name_of(variant) for variant in self.variants]
        for what, values in (("version", [v.version for v in self.variants]), ("name", names)):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"variants: {what} {', '.join(repeated)} is given twice")
        reserved = sorted(set(names) & set(SPECIAL_ARMS))
        if reserved:
            raise ValueError(f"variants: the name {reserved[0]} is kept for requests that are not drawn")
        shadowed = [shadow.version for shadow in self.shadows]
        if len(shadowed) != len(set(shadowed)):
            raise ValueError("shadows: a version is given twice")
        sampled = sum(shadow.sample for shadow in self.shadows)
        if sampled > WHOLE_BP:
            raise ValueError(f"shadows: the samples sum to {sampled} basis points, over {WHOLE_BP}; a request has one shadow at most")
        return self

    @model_validator(mode="after")
    def _unambiguous(self) -> "RoutingPlan":
        check_overrides(self.overrides)
        return self


def check_overrides(overrides: tuple[OverrideDoc, ...]) -> None:
    """Raises ValueError when one value of one source is sent to two places."""
    seen: set[tuple[Source, str]] = set()
    for override in overrides:
        key = (override.source(), override.value)
        if key in seen:
            raise ValueError(f"overrides: {key[0].kind} {key[0].name} = {override.value} is given twice")
        seen.add(key)


def name_of(variant: VariantDoc) -> str:
    """Name of the variant's arm."""
    return variant.name or variant.version


def compile_plan(plan: RoutingPlan, generation: int, *, stable: str | None = None, counting: JudgeCounting | None = None) -> RoutingSpec:
    """stable: name of the arm for requests that are not drawn (default: the first variant). Raises ValueError: no salt, no such arm."""
    arms = tuple(Arm(name_of(v), v.version, v.weight) for v in plan.variants)
    stable = stable or arms[0].name
    if plan.salt is None:
        raise ValueError("a plan in force has a salt")
    if stable not in {arm.name for arm in arms}:
        raise ValueError(f"no variant is named {stable}")
    return RoutingSpec(
        generation=generation,
        salt=plan.salt,
        arms=arms,
        stable=stable,
        sticky=plan.sticky.source() if plan.sticky else None,
        overrides=tuple(Override(o.source(), o.value, o.version) for o in plan.overrides),
        segment=Segment(plan.segment.source(), plan.segment.values) if plan.segment else None,
        coverage_bp=plan.coverage,
        holdout_bp=plan.holdout,
        shadows=tuple(
            Shadow(s.version, s.sample, tuple(CompareRule(**c.model_dump()) for c in s.compare)) for s in plan.shadows
        ),
        counting=counting,
    )


__all__ = [
    "Compare", "CompareDoc", "OverrideDoc", "RoutingPlan", "SegmentDoc", "ShadowDoc", "SourceDoc", "VariantDoc", "Version",
    "check_overrides", "compile_plan", "name_of",
]
