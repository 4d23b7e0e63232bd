"""p99 with every row recorded beside that with recording off, at shares of the peak."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from loadtests.bench.clients import Claim
from loadtests.bench.measure import Contender, Run, Spread, alternate, spread
from loadtests.bench.paced import PacedLoad, is_held
from loadtests.judge.tables import Bound, Table
from loadtests.records.service import Recorded
from loadtests.rollout.bench import Bench

CONNECTIONS, STREAMS = 16, 8
# The bound is on the first; the others show what comes nearer to the peak.
SHARES = (0.7, 0.85)
MOST = 1.15


@dataclass
class Latencies:
    """Runs at a pace of both servers, in rounds. peak: calls a second.

    void: rounds in which a client erred, or did not hold its pace without recording: it waited for itself. late: rounds in which it held it
    only without recording: the server was too slow then, and what it did counts.
    """

    before: str
    after: str
    peak: float = 0.0
    rounds: dict[float, list[tuple[Run, Run]]] = field(default_factory=lambda: {share: [] for share in SHARES})
    void: dict[float, int] = field(default_factory=lambda: dict.fromkeys(SHARES, 0))
    late: dict[float, int] = field(default_factory=lambda: dict.fromkeys(SHARES, 0))

    def measure(self, bench: Bench, services: Mapping[str, Recorded], rounds: int, seconds: float) -> None:
        """Some more rounds, on these servers; the first ever says where the peak is."""
        if not self.peak:
            self.peak = _load(services[self.before]).peak(seconds)
            bench.say(f"  {self.before}: {self.peak:,.0f}/s at most at a pace")
        for share in SHARES:
            contenders = [_contender(services[name], name, share * self.peak) for name in (self.before, self.after)]
            for before, after in zip(*(found.runs for found in alternate(contenders, rounds, seconds, bench.say).values()), strict=True):
                self.add(share, before, after)

    def add(self, share: float, before: Run, after: Run) -> None:
        """A round."""
        rate = share * self.peak
        if before.is_void or after.is_void or not is_held(before.rate, rate):
            self.void[share] += 1
        else:
            self.late[share] += not is_held(after.rate, rate)
            self.rounds[share].append((before, after))

    def ratios(self, share: float) -> list[float]:
        """p99 of the one over that of the other, in each round."""
        return [_p99(after) / _p99(before) for before, after in self.rounds[share]]

    def table(self, seconds: float) -> Table:
        """Where no round says anything the bound is missed."""
        ratio = statistics.median(self.ratios(SHARES[0]) or [math.inf])
        return Table("p99 at a share of the peak with recording off", [
            "calls a second", f"p99 ms {self.before}, median (quartiles)", f"p99 ms {self.after}", "over", "in one round",
            f"core busy, {self.before}", "rounds (late, void)",
        ], [self._line(share) for share in SHARES], [
            f"gRPC, {CONNECTIONS} connections x {STREAMS} calls at most, at a pace by h2load --rps, which gives each connection its",
            f"calls every 10 ms; alternating runs of {seconds:g} s on fresh sets of servers. The peak, {self.peak:,.0f} a second, is",
            "what this client reaches at a pace that is too much for it. A round is void when it did not hold its pace with",
            f"`{self.before}`, as it waits for itself then; late, and counted, when it did not with `{self.after}` alone.",
        ], [Bound(f"p99 at {SHARES[0]:.0%} of the peak, every row recorded over off, in one round", ratio, most=MOST)],
            {"peak": self.peak, "void": {str(share): n for share, n in self.void.items()},
             "rounds": {str(share): [[asdict(run) for run in pair] for pair in found] for share, found in self.rounds.items()}})

    def _line(self, share: float) -> list[str]:
        found, name = self.rounds[share], f"{share:.0%}: {share * self.peak:,.0f}"
        if not found:
            return [name, "", "", "", "", "", f"0 (0, {self.void[share]})"]
        before, after = (spread([_p99(runs[i]) for runs in found]) for i in (0, 1))
        busy = spread([run.rate * run.cpu_us / 1e6 for run, _ in found])
        return [name, _cell(before), _cell(after), f"{after.median / before.median:.2f}", _cell(spread(self.ratios(share))),
                f"{busy.median:.0%}", f"{len(found)} ({self.late[share]}, {self.void[share]})"]


def _load(service: Recorded) -> PacedLoad:
    return PacedLoad(service.machine, service.grpc_port, service.folder / "row.grpc", service.folder / "requests.tsv", CONNECTIONS, STREAMS)


def _contender(service: Recorded, name: str, rate: float) -> Contender:
    load = _load(service)

    def send(seconds: float) -> Claim:
        claim = load.send(rate, seconds)
        service.settle()
        return claim

    return Contender(name, send, service.server, service.successes)


def _p99(run: Run) -> float:
    assert run.p99_ms is not None
    return run.p99_ms


def _cell(found: Spread) -> str:
    return f"{found.median:.3f} ({found.q1:.3f} to {found.q3:.3f})"


__all__ = ["Latencies"]
