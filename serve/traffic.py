"""Traffic as values: what routing decides, what models publish with it, and what the native threads count of it.

Weights and shares are basis points (1/100 of a percent, 0 to 10,000) unless a field says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WHOLE_BP = 10_000

# Arms that every plan has beside its variants: requests that no draw has assigned. None of them reaches the judge.
EXPLICIT = "explicit"  # the request named a version or label
FORCED = "forced"  # an override matched
OUTSIDE = "outside"  # not in the segment, or not in the covered share
HOLDOUT = "holdout"  # kept on stable
SPECIAL_ARMS = (EXPLICIT, FORCED, OUTSIDE, HOLDOUT)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a request carries a value: a header (gRPC: metadata; lower case) or a request parameter."""

    kind: Literal["header", "parameter"]
    name: str


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant: a version and the share of the drawn requests that it gets."""

    name: str
    version: str
    weight: int


@dataclass(frozen=True, slots=True)
class Override:
    """Requests whose source says `value` go to `version`."""

    source: Source
    value: str
    version: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Only requests whose source says one of the values are drawn; others go to stable, as arm `outside`."""

    source: Source
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompareRule:
    """When two answers of one output disagree.

    argmax: the index of the largest value of a row differs. tolerance: any |a - b| > atol + rtol |a|, a the primary's. top_k: the sets of
    the k largest of a row overlap (Jaccard) less than min_overlap. exact: any byte differs.
    """

    output: str
    rule: Literal["argmax", "tolerance", "top_k", "exact"]
    atol: float = 0.0
    rtol: float = 0.0
    k: int = 0
    min_overlap: float = 0.0


@dataclass(frozen=True, slots=True)
class Shadow:
    """A share of the requests that other versions answered is run again on `version`, and the answers are compared.

    sample_bp: of the drawn requests. rules: () is the default for each output that both versions have: argmax for floats with a last
    dimension of more than 1 and rank 2 or more, tolerance (atol 1e-5, rtol 1e-3) for other floats, exact for the rest.
    """

    version: str
    sample_bp: int
    rules: tuple[CompareRule, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedOutput:
    """The output whose distribution is watched, in the first row of each answer.

    class: bin = argmax over the last dimension. integer: bin = the value, 0 to 65,535, else clipped. float: bin = the first value's
    bfloat16 prefix in ascending order (65,536 bins, 0.8 % wide). text: bin = XXH3-64 modulo 1,024.
    """

    output: str
    kind: Literal["class", "integer", "float", "text"]


@dataclass(frozen=True, slots=True)
class JudgeCounting:
    """What is counted for a judge. candidate, stable: names of arms; candidate "" counts every variant (an experiment), without warm-up,
    outputs and streaks. rollout: whose units are remembered across generations.

    warmup: answers of the candidate before anything of either arm is counted as judged. check_finite: a NaN or infinity in a float output
    is an error.
    """

    rollout: str
    stable: str
    candidate: str
    warmup: int = 0
    output: JudgedOutput | None = None
    check_finite: bool = True


@dataclass(frozen=True, slots=True)
class RoutingSpec:
    """One model's traffic, complete and checked: every version that it names serves. Equal specs route and count alike."""

    generation: int
    salt: str
    arms: tuple[Arm, ...]
    stable: str  # name of the arm for what is not drawn
    sticky: Source | None = None
    overrides: tuple[Override, ...] = ()
    segment: Segment | None = None
    coverage_bp: int = WHOLE_BP
    holdout_bp: int = 0
    shadows: tuple[Shadow, ...] = ()
    counting: JudgeCounting | None = None

    def versions(self) -> frozenset[str]:
        """Every version that requests may reach through it."""
        return frozenset([a.version for a in self.arms] + [o.version for o in self.overrides] + [s.version for s in self.shadows])


@dataclass(frozen=True, slots=True)
class ArmReading:
    """What one arm has counted under one generation, since it came into force.

    assigned: sent there; keyed: of those, by their sticky key. success, errors, refused: how they ended; an error is a run that failed or
    was still running at the deadline, or an answer that is not finite; refused: the queue was full, the deadline passed in the queue, the
    client left. judged, judged_errors: completed after the warm-up; with a sticky key judged_errors counts each unit's first error of
    the rollout only. outputs: bin -> judged answers in it (JudgedOutput); with a sticky key each unit's first. total_counts: answers
    by time from first byte to socket, the buckets of `histogram_bounds`.
    """

    name: str
    version: str
    assigned: int = 0
    keyed: int = 0
    success: int = 0
    errors: int = 0
    refused: int = 0
    judged: int = 0
    judged_errors: int = 0
    outputs: Mapping[int, int] = field(default_factory=dict)
    total_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowReading:
    """What became of the requests that were sampled for one shadow version under one generation.

    disagreement: sum over compared pairs of the share of rows that disagree, each in [0, 1]. failed: the shadow failed where the primary
    answered (also in `compared`, with disagreement 1). dropped: reason -> pairs never compared: "capacity" (no room among those that wait),
    "late" (waited too long), "primary" (the primary failed), "gone" (the version was taken away, the server stopped).
    """

    version: str
    sampled: int = 0
    compared: int = 0
    disagreement: float = 0.0
    failed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlanReading:
    """One look at the counters of one generation of a model. Cumulative.

    streak: failures of the candidate in a row now, longest: the longest since the plan came into force (units that failed before neither
    add to it nor break it). is_final: nothing will be counted any more.
    """

    model: str
    generation: int
    arms: tuple[ArmReading, ...]
    shadows: tuple[ShadowReading, ...] = ()
    streak: int = 0
    longest_streak: int = 0
    warmup_left: int = 0
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class RunReading:
    """Runs of one version since it was loaded. Durations by the buckets of `histogram_bounds`, cumulative.

    runs: log2 of rows, rounded up -> counts of run times (ONNX Runtime alone). waits: of the oldest request of each run, from the queue to
    its start.
    """

    model: str
    version: str
    runs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    waits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OutcomeTally:
    """Values of one metric that feedback brought for one arm's answers, one of each unit: how many, their sum, the sum of their squares.

    hits: values other than 0.
    """

    n: int = 0
    total: float = 0.0
    squares: float = 0.0
    hits: int = 0


@dataclass(frozen=True, slots=True)
class OutcomeReading:
    """What feedback says of the answers that were given under one generation, by one metric. Cumulative, over restarts too: a label that
    comes late counts where its answer was given. arms: name -> tally.
    """

    generation: int
    name: str
    arms: Mapping[str, OutcomeTally] = field(default_factory=dict)
