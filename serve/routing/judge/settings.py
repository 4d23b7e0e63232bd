"""Every number of the judge, with its default. docs/judge.md explains them; they come from section 2.8 of the design's `rollout.md`.

An `alpha` is the probability that the test ever trips in a rollout in which its null hypothesis is true, however often it is looked at; its
limit is 1 / alpha. Shares and margins are plain fractions: 0.1 is 10 %.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid")

Action = Literal["rollback", "hold", "none"]
Alpha = Annotated[float, Field(gt=0, le=0.5, description="Probability of a false alarm in a whole rollout.")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Margin = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=1, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class StreakSettings(BaseModel):
    """The fast path: failures of the candidate in a row, with none of its successes between them."""

    model_config = _STRICT
    length: Annotated[int, Field(ge=2, le=1000)] = 5
    max_stable_error_share: Annotated[Fraction, Field(description="Above it stable fails too often for a streak to tell.")] = 0.05
    alpha: Annotated[Alpha, Field(description="Bound on candidate requests x share^length; longer rollouts want longer streaks.")] = 0.0001


class ErrorSettings(BaseModel):
    """Errors of the candidate against errors of the stable version."""

    model_config = _STRICT
    action: Action = "rollback"
    alpha: Alpha = 0.006
    margin: Annotated[Margin, Field(description="The candidate may have up to 1 + margin times the stable error rate.")] = 0.0
    min_failing_units: Annotated[Count, Field(description="Distinct units that must have failed, unless the fast path trips.")] = 3
    noninferiority_ratio: Annotated[Ratio, Field(description="Promotion: error rate under this multiple of the stable one, or")] = 1.5
    noninferiority_absolute: Annotated[Fraction, Field(description="under this share of all answers.")] = 0.001
    streak: StreakSettings | None = StreakSettings()


class LatencySettings(BaseModel):
    """Run times of batches of like size: the share of runs that are slow, by the stable version's own quantiles.

    A run is slow when it takes more than the stable version's quantile x (1 + slack) + floor_seconds.
    """

    model_config = _STRICT
    action: Action = "rollback"
    alpha: Alpha = 0.004
    margin: Annotated[Margin, Field(description="Slow runs may be up to 1 + margin times as frequent as the stable version's.")] = 0.10
    quantiles: Annotated[tuple[Fraction, ...], Field(min_length=1, max_length=8, strict=False)] = (0.5, 0.9, 0.99)
    effect_floor: Annotated[float, Field(ge=0, lt=1, description="So many more of all runs must be slow for an action.")] = 0.01
    slack: Margin = 0.25
    floor_seconds: Seconds = 0.0002
    calibration_runs: Annotated[int, Field(ge=20, le=1_000_000, description="Stable runs per size of batch behind the thresholds.")] = 200
    warmup_runs: Annotated[Count, Field(description="First runs of the candidate that are left out.")] = 20
    noninferiority_ratio: Annotated[Ratio, Field(description="Promotion: slow runs under this multiple of the stable share, or")] = 1.25
    noninferiority_absolute: Annotated[Fraction, Field(description="at most this much more of all runs.")] = 0.02


class WaitSettings(LatencySettings):
    """Waits of requests for their run, as one more histogram.

    They depend on capacity and on the arm's share, so they only hold, and only when they are long.
    """

    action: Action = "hold"
    alpha: Alpha = 0.01
    slack: Margin = 1.0
    floor_seconds: Seconds = 0.01


class SloSettings(BaseModel):
    """The candidate's own end-to-end time: `quantile` of its answers within `seconds`."""

    model_config = _STRICT
    quantile: Fraction
    seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
    action: Action = "hold"
    alpha: Alpha = 0.01


class OutputSettings(BaseModel):
    """The distribution of one output. Without `output` nothing is watched."""

    model_config = _STRICT
    output: Name | None = None
    kind: Annotated[Literal["class", "ordered"] | None, Field(description="Default: class if 64 values or fewer were seen.")] = None
    action: Action = "hold"
    alpha: Alpha = 0.01
    psi_floor: Annotated[float, Field(ge=0, le=10, description="Population stability index under which a shift is not worth a hold.")] = 0.1
    calibration_answers: Annotated[int, Field(ge=50, le=1_000_000, description="Stable answers that the groups are frozen from.")] = 1000


class RatioSettings(BaseModel):
    """Sample-ratio mismatch: requests that were assigned against the share that was set."""

    model_config = _STRICT
    action: Action = "hold"
    alpha: Alpha = 0.01
    concentration: Annotated[float, Field(gt=0, le=1e9, description="Pseudo-requests of the prior around the set share.")] = 10_000.0


class ShadowSettings(BaseModel):
    """Shadow pairs: how much they disagree, and failures where the primary answered."""

    model_config = _STRICT
    action: Action = "hold"
    alpha: Alpha = 0.01
    max_disagreement: Fraction = 0.01
    failures_action: Action = "hold"
    failures_alpha: Alpha = 0.01


class OutcomeSettings(BaseModel):
    """A metric that arrives later as feedback: a number per answer in [low, high]."""

    model_config = _STRICT
    name: Name
    worse: Literal["higher", "lower"]
    low: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False, description="How much worse the mean may be, in its own unit.")] = 0.0
    promote_margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Promotion: the mean is shown to be worse by less than this; null: labels are not waited for."
    )
    action: Action = "hold"
    alpha: Alpha = 0.01
    min_values: Annotated[int, Field(ge=10, description="Of each arm, before the test says anything.")] = 100

    @model_validator(mode="after")
    def _ordered(self) -> "OutcomeSettings":
        if not self.low < self.high:
            raise ValueError(f"outcome {self.name}: low is {self.low}, high {self.high}; want low < high")
        return self


class JudgeSettings(BaseModel):
    """What the judge tests, at which level, and what each test may do.

    The levels of all tests whose action is `rollback` add up to at most rollback_alpha: a plan that lets outputs, ratio, shadow, waits, an
    SLO or an outcome roll back gives them a share, by lowering others' alpha or raising rollback_alpha.
    """

    model_config = _STRICT
    rollback_alpha: Alpha = 0.01
    promote_alpha: Annotated[Alpha, Field(description="Of each guardrail; all must hold, so none is corrected for the others.")] = 0.05
    suspicion_alpha: Annotated[
        Alpha | None, Field(description="Evidence over 1 / this, though under the limit, holds the step; null: never.")
    ] = 0.2
    warmup_requests: Annotated[Count, Field(description="Candidate answers before anything is judged.")] = 50
    errors: ErrorSettings = ErrorSettings()
    latency: LatencySettings = LatencySettings()
    waits: WaitSettings = WaitSettings()
    slo: SloSettings | None = None
    outputs: OutputSettings = OutputSettings()
    ratio: RatioSettings = RatioSettings()
    shadow: ShadowSettings = ShadowSettings()
    outcomes: Annotated[tuple[OutcomeSettings, ...], Field(max_length=16, strict=False)] = ()

    @model_validator(mode="after")
    def _within_budget(self) -> "JudgeSettings":
        shares = self.rollback_shares()
        total = sum(shares.values())
        if total > self.rollback_alpha * (1 + 1e-9):
            listed = ", ".join(f"{name} {alpha:g}" for name, alpha in shares.items())
            raise ValueError(
                f"tests that may roll back have levels that sum to {total:g} ({listed}); rollback_alpha is {self.rollback_alpha:g}: "
                "lower their alpha, raise rollback_alpha, or let one of them hold"
            )
        names = [outcome.name for outcome in self.outcomes]
        if len(names) != len(set(names)):
            raise ValueError("outcomes: a name is given twice")
        return self

    def rollback_shares(self) -> dict[str, float]:
        """Test -> its alpha, of those that may roll back."""
        tests: list[tuple[str, Action, float]] = [
            ("errors", self.errors.action, self.errors.alpha),
            ("latency", self.latency.action, self.latency.alpha),
            ("waits", self.waits.action, self.waits.alpha),
            ("outputs", self.outputs.action, self.outputs.alpha),
            ("ratio", self.ratio.action, self.ratio.alpha),
            ("shadow", self.shadow.action, self.shadow.alpha),
            ("shadow failures", self.shadow.failures_action, self.shadow.failures_alpha),
        ]
        if self.slo is not None:
            tests.append(("slo", self.slo.action, self.slo.alpha))
        tests += [(f"outcome {o.name}", o.action, o.alpha) for o in self.outcomes]
        return {name: alpha for name, action, alpha in tests if action == "rollback"}


__all__ = [
    "Action", "ErrorSettings", "JudgeSettings", "LatencySettings", "OutcomeSettings", "OutputSettings", "RatioSettings", "ShadowSettings",
    "SloSettings", "StreakSettings", "WaitSettings",
]
