"""An experiment (A/B/n) as operators write it: JSON or YAML, checked as a whole.

`ExperimentPlan` is the document; `to_plan` makes the routing plan that carries it out. Variants, sticky key, segment and coverage mean what
they mean in a routing plan. docs/experiments.md says what the read-out is worth under each choice.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from serve.routing.plan import MAX_VARIANTS, BasisPoints, RoutingPlan, SegmentDoc, SourceDoc, VariantDoc, name_of
from serve.traffic import SPECIAL_ARMS, WHOLE_BP

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")

# Built-in outcomes whose values belong to pairs of answers, or to some answers only (docs/feedback.md).
NOT_BY_UNIT = ("auc", "f1")
MAX_UPDATES = 1_000
MAX_SECONDS = 366 * 86_400.0

# "errors": requests that failed. "latency_slo": requests that failed or took longer than `slo_ms`. "outcome:NAME": hits of a fed-back
# outcome.
Metric = Annotated[str, Field(pattern=r"^(errors|latency_slo|outcome:[A-Za-z0-9][A-Za-z0-9._-]{0,63})$")]


class FixedAllocation(BaseModel):
    """The weights stay as the variants give them."""

    model_config = _STRICT
    kind: Literal["fixed"] = "fixed"


class ThompsonAllocation(BaseModel):
    """Every `update_seconds` each variant's weight follows its probability of being the best, never below `floor`."""

    model_config = _STRICT
    kind: Literal["thompson"]
    floor: Annotated[int, Field(ge=500, le=WHOLE_BP, description="Basis points that every variant keeps.")] = 500
    update_seconds: Annotated[float, Field(ge=10, le=86_400, allow_inf_nan=False)] = 300.0
    metric: Metric | None = Field(default=None, description="Default: the plan's primary metric.")


Allocation = Annotated[FixedAllocation | ThompsonAllocation, Field(discriminator="kind")]


class ExperimentPlan(BaseModel):
    """Versions of one model beside each other for a period. Weights sum to 10,000; every variant has a share."""

    model_config = _STRICT
    variants: Annotated[tuple[VariantDoc, ...], Field(min_length=2, max_length=MAX_VARIANTS, strict=False)]
    control: Annotated[str, Field(description="Name of the variant that the others are compared with; default: the first.")] = ""
    sticky: SourceDoc | None = None
    segment: SegmentDoc | None = None
    coverage: Annotated[BasisPoints, Field(gt=0, description="Share of the units that take part; the others go to the control.")] = WHOLE_BP
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False, description="The period.")] | None = None
    units: Annotated[int, Field(ge=1, description="Ends when every variant has counted so many.")] | None = None
    start_at: Annotated[AwareDatetime, Field(strict=False, description="RFC 3339, with its offset; default: at once.")] | None = None
    allocation: Allocation = FixedAllocation()
    primary: Metric = "errors"
    slo_ms: Annotated[float, Field(ge=0.001, le=60_000)] | None = Field(default=None, description="First byte to answer, ms.")
    better: Literal["higher", "lower"] = Field(default="higher", description="Of an outcome. Of errors and slow answers: lower.")
    alpha: Annotated[float, Field(ge=0.0001, le=0.5, description="Chance of any false difference, over all looks and variants.")] = 0.05
    salt: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(default=None, description="Default: the experiment's id.")

    @model_validator(mode="after")
    def _adds_up(self) -> "ExperimentPlan":
        names = self.names()
        total = sum(self.weights())
        if total != WHOLE_BP:
            raise ValueError(f"the weights sum to {total} basis points; want {WHOLE_BP}")
        for what, values in (("version", [v.version for v in self.variants]), ("name", list(names))):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"variants: {what} {', '.join(repeated)} is given twice")
        if reserved := sorted(set(names) & set(SPECIAL_ARMS)):
            raise ValueError(f"variants: the name {reserved[0]} is kept for requests that are not drawn")
        if empty := [name_of(v) for v in self.variants if v.weight == 0]:
            raise ValueError(f"variants: {empty[0]} has weight 0 and cannot be compared: give it a share or remove it")
        if self.control and self.control not in names:
            raise ValueError(f"control: no variant is named {self.control}; the variants are {', '.join(names)}")
        if self.seconds is None and self.units is None:
            raise ValueError("an experiment ends: give seconds, units or both (then the first that is reached ends it)")
        return self

    @model_validator(mode="after")
    def _fits(self) -> "ExperimentPlan":
        metrics = self.metrics()
        if ("latency_slo" in metrics) != (self.slo_ms is not None):
            raise ValueError("slo_ms belongs to the metric latency_slo: give both or neither")
        if odd := [metric for metric in metrics if metric.removeprefix("outcome:") in NOT_BY_UNIT]:
            raise ValueError(f"{odd[0]} is no value of each unit, and those are what is compared; take accuracy, mae or another one")
        if self.sticky is not None and "latency_slo" in metrics:
            raise ValueError("latency_slo wants requests drawn one by one: those of one sticky unit are not independent of each other")
        if isinstance(self.allocation, ThompsonAllocation):
            self._check_thompson(self.allocation)
        return self

    def _check_thompson(self, allocation: ThompsonAllocation) -> None:
        if self.sticky is not None:
            raise ValueError("thompson wants requests drawn one by one: a sticky unit that comes back is not drawn with the new weights")
        if allocation.floor * len(self.variants) > WHOLE_BP:
            raise ValueError(f"allocation: {len(self.variants)} variants with a floor of {allocation.floor} exceed {WHOLE_BP} basis points")
        if min(self.weights()) < allocation.floor:
            raise ValueError(f"variants: weight {min(self.weights())} is under the floor of {allocation.floor}")
        if self.seconds is None:
            raise ValueError("thompson wants seconds: the number of its updates has to be bounded")
        if self.seconds / allocation.update_seconds > MAX_UPDATES:
            least = self.seconds / MAX_UPDATES
            raise ValueError(f"allocation: over {MAX_UPDATES:,} updates in {self.seconds:g} s; use an update_seconds of {least:g} or more")

    def names(self) -> tuple[str, ...]:
        """The variants' names, in the plan's order; everything counted by variant is in this order."""
        return tuple(name_of(variant) for variant in self.variants)

    def weights(self) -> tuple[int, ...]:
        """The variants' weights in basis points, in the plan's order."""
        return tuple(variant.weight for variant in self.variants)

    def control_index(self) -> int:
        """Position of the control among the variants."""
        return self.names().index(self.control) if self.control else 0

    def optimised(self) -> str:
        """The metric that the allocation follows; the primary one where nothing else is said."""
        return (self.allocation.metric if isinstance(self.allocation, ThompsonAllocation) else None) or self.primary

    def metrics(self) -> tuple[str, ...]:
        """What is counted: errors always, the primary metric, and what the allocation follows."""
        return tuple(dict.fromkeys(("errors", self.primary, self.optimised())))

    def is_lower_better(self, metric: str) -> bool:
        """Whether fewer hits of the metric are better."""
        return not metric.startswith("outcome:") or self.better == "lower"


def to_plan(plan: ExperimentPlan, experiment: str, weights: Sequence[int] | None = None) -> RoutingPlan:
    """The routing plan that carries the experiment out; compile it with the control as `stable`.

    experiment: the experiment's id, drawn at random: where the plan names no salt it salts the draw, so that two experiments never divide
    the units alike and a client cannot search for a key that lands in its favourite arm. weights: basis points in the plan's order instead
    of its own. Raises ValueError (pydantic's) when they do not sum to 10,000, and for a wrong number of them.
    """
    weights = plan.weights() if weights is None else weights
    variants = tuple(VariantDoc(version=v.version, weight=w, name=name_of(v)) for v, w in zip(plan.variants, weights, strict=True))
    salt = plan.salt or f"experiment {experiment}"[:128]
    return RoutingPlan(variants=variants, sticky=plan.sticky, segment=plan.segment, coverage=plan.coverage, salt=salt)


__all__ = ["ExperimentPlan", "FixedAllocation", "Metric", "ThompsonAllocation", "to_plan"]
