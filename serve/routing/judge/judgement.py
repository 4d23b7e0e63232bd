"""What the judge says: a verdict, and the evidence for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class Verdict(StrEnum):
    """In order of precedence: the first that any finding asks for wins."""

    ROLLBACK = "rollback"
    HOLD = "hold"
    PROMOTE = "promote"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class Finding:
    """One test's state. e_value: evidence against "the candidate is no worse"; tripped when it has reached limit (1 / alpha).

    action: what it asks for when tripped. estimate and interval: of the quantity that the test is about, in its own unit (ratio, share,
    seconds), None while there is nothing to say. counts: the integers that it rests on. thresholds: what was frozen, and margins.
    sentence: one plain sentence for people.
    """

    test: Literal["errors", "streak", "latency", "wait", "slo", "outputs", "shadow", "ratio", "promotion", "progress", "outcome"]
    action: Literal["rollback", "hold", "none"]
    is_tripped: bool
    sentence: str
    e_value: float | None = None
    limit: float | None = None
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """verdict, why in one sentence, and every finding, tripped or not. generation: the newest that was counted.

    step_done: minimum time and samples of the step are reached and nothing holds: the step may be left.
    """

    verdict: Verdict
    why: str
    findings: tuple[Finding, ...]
    generation: int = 0
    step_done: bool = False
