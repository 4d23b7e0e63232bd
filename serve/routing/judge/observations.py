"""What the judge is told: counts, by arm and by generation, since it was last told."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """requests: judged answers, errors: judged errors (each unit's first under a sticky key). outputs: bin -> answers.

    total_counts: answers by end-to-end time, in the buckets of the histogram.
    """

    requests: int = 0
    errors: int = 0
    outputs: Mapping[int, int] = field(default_factory=dict)
    total_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stratum:
    """One generation's counts. share: the candidate's share of what the two arms were assigned, as set: w_c / (w_c + w_s), in (0, 1).

    assigned: requests drawn one by one to (stable, candidate), judged or not; for the sample-ratio test. Requests with a sticky key stay
    out: the draw was their owner's, and one busy owner would look like a mismatch.
    """

    generation: int
    share: float
    stable: ArmCounts = ArmCounts()
    candidate: ArmCounts = ArmCounts()
    assigned: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Runs of one version. runs: log2 of a batch's rows -> counts by histogram bucket of run time; waits: of each run's oldest request."""

    runs: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    waits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """Compared pairs. disagreement: sum of D in [0, 1]; failed: pairs in which the shadow failed and the primary answered.

    primary_failed: sampled requests whose primary failed; sampled, dropped: for the record.
    """

    sampled: int = 0
    compared: int = 0
    disagreement: float = 0.0
    failed: int = 0
    dropped: int = 0
    primary_failed: int = 0


@dataclass(frozen=True, slots=True)
class OutcomeSums:
    """Values of one arm's answers that feedback brought: how many, their sum and their sum of squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """One outcome metric by its name in the settings, of answers given under one share of the candidate, in (0, 1). One value per unit."""

    name: str
    share: float
    stable: OutcomeSums = OutcomeSums()
    candidate: OutcomeSums = OutcomeSums()


@dataclass(frozen=True, slots=True)
class Delta:
    """Everything counted since the last one. Both arms' parts are of the same span of time.

    streak: the longest run of candidate failures seen so far, cumulative. failing_units: distinct units (requests, without a sticky key)
    that failed on the candidate, in this span.
    """

    strata: tuple[Stratum, ...] = ()
    stable_runs: RunCounts = RunCounts()
    candidate_runs: RunCounts = RunCounts()
    shadow: ShadowCounts = ShadowCounts()
    streak: int = 0
    failing_units: int = 0
    outcomes: tuple[OutcomeCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the rollout stands. elapsed_s, candidate_requests: in this step; is_last_step: the next step is 100 %.

    needed_s, needed_requests: what the step asks for. is_shadow_stage: the candidate has weight 0 and only shadows are compared.
    """

    step: int
    is_last_step: bool
    elapsed_s: float
    candidate_requests: int
    needed_s: float
    needed_requests: int
    is_shadow_stage: bool = False
