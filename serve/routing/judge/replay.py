"""The judge over recorded predictions: what would it have done, and when? Pure: rows in, judgements out.

Recorded rows carry end-to-end times only, so run times are neither tested nor a guardrail of promotion here; an SLO is judged if set.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.routing.judge.buckets import N_BUCKETS, bucket_of
from serve.routing.judge.judgement import Judgement, Verdict
from serve.routing.judge.observations import ArmCounts, Delta, Progress, Stratum
from serve.routing.judge.settings import JudgeSettings
from serve.routing.judge.state import empty, fold
from serve.routing.judge.verdict import judge

_OK = frozenset({"ok", "success", "200", "0"})
_REFUSED = frozenset({"refused", "cancelled", "canceled", "429", "499", "503", "1", "8", "14"})


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded prediction. unit: its sticky key, "" for none. total_us: end to end, None if unknown.

    status: "ok", "error" or "refused", an HTTP status, or a gRPC code as a string: 200 and 0 are successes, 429, 499, 503 and gRPC's 1, 8
    and 14 refusals (counted as assigned, not judged), all else errors. out_class, out_value: the judged output, at most one of them.
    """

    ts_ns: int
    unit: str
    variant: str
    status: str
    total_us: float | None = None
    out_class: int | None = None
    out_value: float | None = None


@dataclass(slots=True)
class _Arm:
    """Counts of the present tick."""

    requests: int = 0
    errors: int = 0
    assigned: int = 0
    outputs: dict[int, int] = field(default_factory=dict)
    total_counts: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)

    def take(self) -> ArmCounts:
        return ArmCounts(self.requests, self.errors, self.outputs, tuple(self.total_counts))


@dataclass(slots=True)
class _Counter:
    """What the server would have counted: warm-up left out, each unit's first error, each unit's first output."""

    stable: str
    candidate: str
    warmup: int
    failed_units: set[str] = field(default_factory=set)
    seen_units: set[str] = field(default_factory=set)
    streak: int = 0
    longest: int = 0
    failing_units: int = 0
    n_candidate: int = 0
    arms: tuple[_Arm, _Arm] = field(default_factory=lambda: (_Arm(), _Arm()))

    def add(self, row: Row) -> None:
        arm = self.arms[row.variant == self.candidate]
        if not row.unit:
            arm.assigned += 1
        kind = _kind(row.status)
        if kind == "refused":
            return
        if self.warmup:
            self.warmup -= row.variant == self.candidate
            return
        arm.requests += 1
        self.n_candidate += row.variant == self.candidate
        if row.total_us is not None:
            arm.total_counts[bucket_of(round(row.total_us * 1000))] += 1
        if kind == "error":
            self._add_error(row, arm)
        else:
            if row.variant == self.candidate:
                self.streak = 0
            self._add_output(row, arm)

    def _add_error(self, row: Row, arm: _Arm) -> None:
        if row.unit in self.failed_units:
            return
        if row.unit:
            self.failed_units.add(row.unit)
        arm.errors += 1
        if row.variant == self.candidate:
            self.failing_units += 1
            self.streak += 1
            self.longest = max(self.longest, self.streak)

    def _add_output(self, row: Row, arm: _Arm) -> None:
        number = row.out_class if row.out_class is not None else float_bin(row.out_value) if row.out_value is not None else None
        if number is None or row.unit in self.seen_units:
            return
        if row.unit:
            self.seen_units.add(row.unit)
        arm.outputs[number] = arm.outputs.get(number, 0) + 1

    def take(self, share: float) -> Delta:
        """What was counted since the last take."""
        stable, candidate = self.arms
        stratum = Stratum(0, share, stable.take(), candidate.take(), (stable.assigned, candidate.assigned))
        delta = Delta(strata=(stratum,), streak=self.longest, failing_units=self.failing_units)
        self.arms, self.failing_units = (_Arm(), _Arm()), 0
        return delta


def float_bin(value: float) -> int:
    """The bfloat16 prefix of a float in ascending order, 0 to 65,535, as the server bins outputs of floats.

    A value that no float32 holds is the infinity of its sign.
    """
    try:
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
    except OverflowError:
        (bits,) = struct.unpack("<I", struct.pack("<f", math.copysign(math.inf, value)))
    ordered = bits ^ 0xFFFFFFFF if bits & 0x80000000 else bits | 0x80000000
    return int(ordered >> 16)


def _kind(status: str) -> Literal["ok", "error", "refused"]:
    name = status.strip().lower()
    return "ok" if name in _OK else "refused" if name in _REFUSED else "error"


def replay(
    rows: Iterable[Row],
    settings: JudgeSettings,
    *,
    stable: str,
    candidate: str,
    share: float | None = None,
    needed_s: float = 60.0,
    needed_requests: int = 500,
    is_last_step: bool = True,
    tick_s: float = 1.0,
) -> Iterator[tuple[int, Judgement]]:
    """(ts_ns, judgement) at each tick of recorded time and at the end, as if all rows were of one step.

    rows: ascending by time; rows of other variants are passed over. share: the candidate's share as it was set, in (0, 1). None: it is
    estimated from all the rows first, which makes the error test approximate and leaves nothing for the sample-ratio test; every
    judgement's `why` says so. Raises ValueError: no row of one of the variants, a share outside (0, 1), rows out of order.
    """
    rows, caveat = (row for row in rows if row.variant in (stable, candidate)), ""
    if share is None:
        rows = list(rows)
        share = estimated_share(rows, stable=stable, candidate=candidate)
        settings = settings.model_copy(update={"ratio": settings.ratio.model_copy(update={"action": "none"})})
        caveat = f" (a share of {share:.3g} was estimated from the rows)"
    if not 0 < share < 1:
        raise ValueError(f"the candidate's share is {share:g}; want it between 0 and 1, neither included")
    settings = settings.model_copy(update={"latency": settings.latency.model_copy(update={"action": "none"})})
    counter, state, start = _Counter(stable, candidate, settings.warmup_requests), empty(), -1
    for now_ns in _ticks(rows, counter, max(1, round(tick_s * 1e9))):
        if start < 0:
            start = now_ns
            continue
        state = fold(state, settings, counter.take(share))
        progress = Progress(0, is_last_step, (now_ns - start) / 1e9, counter.n_candidate, needed_s, needed_requests)
        judgement = judge(state, settings, progress)
        yield now_ns, replace(judgement, why=judgement.why + caveat)
    if start < 0:
        raise ValueError(f"no row of variant {stable} or {candidate}")


def _ticks(rows: Iterable[Row], counter: _Counter, tick_ns: int) -> Iterator[int]:
    """Counts rows, and stops at the first one, at each tick of recorded time that rows came before, and after the last."""
    last = due = -1
    for row in rows:
        if last < 0:
            yield row.ts_ns
            due = row.ts_ns + tick_ns
        elif row.ts_ns < last:
            raise ValueError(f"row at {row.ts_ns} ns comes after one at {last} ns; sort the rows by ts_ns")
        while row.ts_ns >= due:
            yield due
            # Ticks without rows say nothing new; the next one is the last before this row.
            due += max(1, (row.ts_ns - due) // tick_ns) * tick_ns
        counter.add(row)
        last = row.ts_ns
    if last >= 0:
        yield last


def estimated_share(rows: Iterable[Row], *, stable: str, candidate: str) -> float:
    """The candidate's share of the rows of both. Raises ValueError when one has none."""
    n = {stable: 0, candidate: 0}
    for row in rows:
        if row.variant in n:
            n[row.variant] += 1
    for variant, rows_of_it in n.items():
        if not rows_of_it:
            raise ValueError(f"no row of variant {variant}: without both arms a share cannot be estimated")
    return n[candidate] / (n[stable] + n[candidate])


def first_action(judgements: Iterable[tuple[int, Judgement]]) -> tuple[int, Judgement] | None:
    """The first judgement on which a rollout acts for good: rollback or promote."""
    return next((found for found in judgements if found[1].verdict in (Verdict.ROLLBACK, Verdict.PROMOTE)), None)


__all__ = ["Row", "estimated_share", "first_action", "float_bin", "replay"]
