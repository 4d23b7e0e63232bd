"""Alternating runs and what may be said of them: medians, quartiles, and ratios by the rules of docs/measuring.md.

Every ratio is of two figures taken in alternating runs. A throughput threshold applies to requests a second when the interquartile
range of both sides is under 5 % of the median, else to the CPU time of the server per completed request. A run in which the server's
own success counter does not bear out the client's claim is void.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from loadtests.bench.clients import Claim

STEADY = 0.05
LEAST_RUNS_FOR_A_RANGE = 5
COUNTER_SECONDS = 2.0


class Measured(Protocol):
    """What CPU time and counters are read from: a server, or a program that is its own client."""

    def cpu_seconds(self) -> float: ...


@dataclass(frozen=True)
class Contender:
    """One line of a table. load(seconds) makes one run; successes() is the server's own count, None where it has none.

    overshoot: requests that may be in flight, and so counted by the server alone, when the client stops.
    idle: what to do around the runs of the others, for servers that burn CPU while they have nothing to do.
    """

    name: str
    load: Callable[[float], Claim]
    server: Measured
    successes: Callable[[], int] | None = None
    overshoot: int = 0
    pause: Callable[[], None] | None = None
    resume: Callable[[], None] | None = None


@dataclass(frozen=True)
class Run:
    """One run. cpu_us: CPU time of the server per completed request, in microseconds."""

    rate: float
    cpu_us: float
    completed: int
    failed: int
    counted: int | None
    is_void: bool
    p99_ms: float | None


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float

    @property
    def relative_range(self) -> float:
        """Interquartile range over median."""
        return (self.q3 - self.q1) / self.median if self.median else float("inf")


@dataclass(frozen=True)
class Summary:
    """All runs of a contender; spreads are over the runs that are not void."""

    name: str
    rate: Spread
    cpu_us: Spread
    p99_ms: float | None
    n_runs: int
    n_void: int
    runs: tuple[Run, ...]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """ours over theirs, and whether it reaches the least that it should."""

    name: str
    value: float
    least: float
    by: Literal["rate", "cpu"]
    is_met: bool


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles. Raises ValueError without values: no data is never a result."""
    if not values:
        raise ValueError("every run was void")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3)


def settled_count(contender: Contender, before: int, claimed: int) -> int:
    """Return what the server counted since `before`; its counters may trail the last answer by a moment."""
    assert contender.successes is not None
    end = time.monotonic() + COUNTER_SECONDS
    while (counted := contender.successes() - before) < claimed and time.monotonic() < end:
        time.sleep(0.02)
    return counted


def measure_run(contender: Contender, seconds: float) -> Run:
    """Make one run and hold the client's claim against the server's counter."""
    before = contender.successes() if contender.successes else None
    cpu = contender.server.cpu_seconds()
    claim = contender.load(seconds)
    cpu = contender.server.cpu_seconds() - cpu
    counted = None if before is None else settled_count(contender, before, claim.completed)
    is_borne_out = counted is None or 0 <= counted - claim.completed <= contender.overshoot
    return Run(
        claim.rate, cpu * 1e6 / max(claim.completed, 1), claim.completed, claim.failed, counted,
        is_void=bool(claim.failed) or not claim.completed or not is_borne_out, p99_ms=claim.p99_ms,
    )


def alternate(contenders: Sequence[Contender], rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Summary]:
    """Run every contender once a round, starting each round with another one; one warm-up round is not counted."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for contender in contenders:
        if contender.pause:
            contender.pause()
    for turn in range(-1, rounds):
        start = turn % len(contenders)
        for contender in [*contenders[start:], *contenders[:start]]:
            if contender.resume:
                contender.resume()
            run = measure_run(contender, seconds if turn >= 0 else min(seconds, 1.0))
            if contender.pause:
                contender.pause()
            if turn >= 0:
                runs[contender.name].append(run)
                note = f"  VOID: {run.completed} claimed, {run.failed} failed, {run.counted} counted" if run.is_void else ""
                say(f"  {turn + 1}/{rounds} {contender.name:<28} {run.rate:>10,.0f}/s {run.cpu_us:>9.2f} us{note}")
    return {name: summarise(name, made) for name, made in runs.items()}


def summarise(name: str, runs: Sequence[Run]) -> Summary:
    """Return the summary of a contender's runs. Raises ValueError when all are void."""
    good = [run for run in runs if not run.is_void]
    try:
        rate, cpu_us = spread([run.rate for run in good]), spread([run.cpu_us for run in good])
    except ValueError as error:
        raise ValueError(f"{name}: {error}: {runs}") from error
    p99 = [run.p99_ms for run in good if run.p99_ms is not None]
    return Summary(name, rate, cpu_us, statistics.median(p99) if p99 else None, len(good), len(runs) - len(good), tuple(runs))


def ratio(name: str, ours: Summary, theirs: Summary, least: float, by: Literal["auto", "rate"] = "auto") -> Ratio:
    """Return ours over theirs. by="rate" for latency-bound loads, where CPU time says nothing."""
    is_steady = all(side.rate.relative_range < STEADY and side.n_runs >= LEAST_RUNS_FOR_A_RANGE for side in (ours, theirs))
    if by == "rate" or is_steady or not ours.cpu_us.median:
        value, chosen = ours.rate.median / theirs.rate.median, "rate"
    else:
        value, chosen = theirs.cpu_us.median / ours.cpu_us.median, "cpu"
    return Ratio(name, value, least, "rate" if chosen == "rate" else "cpu", value >= least)
