"""All that the judge remembers of a rollout, as a value: folded from what was counted, stored as JSON, and judged whenever asked.

Most tests are functions of counts per share, so folds commute and a restart loses nothing that was saved. Two parts depend on the order of
looks, and so keep their result and not only counts: the groups of outputs and thresholds of run times, frozen once, and the e-values of
run times, whose bets are placed before each block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from serve.routing.judge.errors import is_candidates_own, recent_log_e
from serve.routing.judge.latency import RunTests, fold_runs
from serve.routing.judge.observations import Delta, ShadowCounts, Stratum
from serve.routing.judge.outcome import OutcomeTotals, add_outcome
from serve.routing.judge.outputs import Groups, freeze
from serve.routing.judge.settings import JudgeSettings
from serve.routing.judge.strata import StratumTotals, add_stratum

FORMAT = 1


@dataclass(frozen=True, slots=True)
class JudgeState:
    """What all folds so far add up to. Counts of a rollout, from its first request.

    total_counts: answers by end-to-end time, (stable, candidate). calibration: stable answers by bin until groups are frozen. shadow,
    failing_units: summed. streak: the longest; growing: what it has grown by since `recent`, the CUSUM of
    `errors.recent_log_e`, was last at or under 0; own_streak: the most that was while the errors pointed at the candidate.
    """

    generation: int = 0
    strata: tuple[StratumTotals, ...] = ()
    total_counts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    calibration: Mapping[int, int] = field(default_factory=dict)
    groups: Groups | None = None
    runs: RunTests = field(default_factory=RunTests)
    waits: RunTests = field(default_factory=RunTests)
    shadow: ShadowCounts = field(default_factory=ShadowCounts)
    streak: int = 0
    growing: int = 0
    own_streak: int = 0
    recent: float = 0.0
    failing_units: int = 0
    outcomes: tuple[OutcomeTotals, ...] = ()

    def as_document(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        document: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return {"format": FORMAT, **document}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "JudgeState":
        """The inverse of as_document. Raises ValueError for another format or a document that is not one."""
        if document.get("format") != FORMAT:
            raise ValueError(f"the judge's state has format {document.get('format')}; this version reads {FORMAT}")
        return _adapter().validate_python({key: value for key, value in document.items() if key != "format"})


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[JudgeState]:
    return TypeAdapter(JudgeState)


def empty() -> JudgeState:
    """A rollout of which nothing was counted."""
    return JudgeState()


def fold(state: JudgeState, settings: JudgeSettings, delta: Delta) -> JudgeState:
    """The state with one more span counted.

    Raises ValueError for histograms of another shape, and for a share outside (0, 1) under which both arms were counted.
    """
    strata = state.strata
    recent = state.recent
    for stratum in delta.strata:
        if not 0 < stratum.share < 1:
            _refuse_counts(stratum)
            continue
        strata = add_stratum(strata, _totals(stratum, state.groups))
        recent = recent_log_e(recent, stratum.stable.errors, stratum.candidate.errors, stratum.share)
    growing = state.growing + max(0, delta.streak - state.streak) if recent > 0 else 0
    calibration, groups = _calibrate(state, settings, delta)
    outcomes = state.outcomes
    for counts in delta.outcomes:
        outcomes = add_outcome(outcomes, OutcomeTotals(counts.name, counts.share, counts.stable, counts.candidate))
    return JudgeState(
        generation=max([state.generation, *(stratum.generation for stratum in delta.strata)]),
        strata=strata,
        total_counts=_add_totals(state, delta),
        calibration=calibration,
        groups=groups,
        runs=fold_runs(state.runs, delta.stable_runs.runs, delta.candidate_runs.runs, settings.latency),
        waits=fold_runs(state.waits, {0: delta.stable_runs.waits}, {0: delta.candidate_runs.waits}, settings.waits),
        shadow=_add_shadow(state.shadow, delta.shadow),
        streak=max(state.streak, delta.streak),
        growing=growing,
        own_streak=max(state.own_streak, growing) if is_candidates_own(recent) else state.own_streak,
        recent=recent,
        failing_units=state.failing_units + delta.failing_units,
        outcomes=outcomes,
    )


def _refuse_counts(stratum: Stratum) -> None:
    """With all requests on one arm there is nothing to compare; the other arm has nothing to count."""
    idle = stratum.candidate if stratum.share <= 0 else stratum.stable
    if idle.requests or not 0 <= stratum.share <= 1:
        where = f"generation {stratum.generation} has a candidate share of {stratum.share:g}"
        raise ValueError(f"{where} and {idle.requests} requests on the arm without one")


def _totals(stratum: Stratum, groups: Groups | None) -> StratumTotals:
    stable, candidate = stratum.stable, stratum.candidate
    pairs = () if groups is None else tuple(zip(groups.count(stable.outputs), groups.count(candidate.outputs), strict=True))
    return StratumTotals(
        share=stratum.share,
        generation=stratum.generation,
        requests=(stable.requests, candidate.requests),
        errors=(stable.errors, candidate.errors),
        assigned=stratum.assigned,
        groups=pairs if any(a or b for a, b in pairs) else (),
    )


def _calibrate(state: JudgeState, settings: JudgeSettings, delta: Delta) -> tuple[Mapping[int, int], Groups | None]:
    """Until the groups freeze, answers of both arms only serve the calibration: those of this span too."""
    if state.groups is not None or settings.outputs.output is None:
        return {}, state.groups
    calibration = dict(state.calibration)
    for stratum in delta.strata:
        for value, n in stratum.stable.outputs.items():
            calibration[value] = calibration.get(value, 0) + n
    groups = freeze(calibration, settings.outputs)
    return (calibration, None) if groups is None else ({}, groups)


def _add_totals(state: JudgeState, delta: Delta) -> tuple[tuple[int, ...], tuple[int, ...]]:
    stable, candidate = state.total_counts
    for stratum in delta.strata:
        stable = _add_histogram(stable, stratum.stable.total_counts)
        candidate = _add_histogram(candidate, stratum.candidate.total_counts)
    return stable, candidate


def _add_histogram(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        return tuple(a or b)
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _add_shadow(a: ShadowCounts, b: ShadowCounts) -> ShadowCounts:
    return replace(
        a,
        sampled=a.sampled + b.sampled,
        compared=a.compared + b.compared,
        disagreement=a.disagreement + b.disagreement,
        failed=a.failed + b.failed,
        dropped=a.dropped + b.dropped,
        primary_failed=a.primary_failed + b.primary_failed,
    )


__all__ = ["FORMAT", "JudgeState", "empty", "fold"]
