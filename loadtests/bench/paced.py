"""gRPC calls at a pace, and the latency of each: h2load --rps with a log of every request.

Such a client has a limit of its own, well below what h2load does without a pace or a log: every connection gets its share of calls every
10 ms, and every answer is written down. Where it does not reach the rate that it was asked for, it waits for itself, and the latency that
it writes down is its own. So a rate is taken from its own peak, and a run whose pace was not held says nothing.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtests.bench.clients import GRPC_PATH, Claim, h2load, read_h2load, run_client
from loadtests.bench.servers import Machine

HELD = 0.97
PEAK_RUNS = 3


@dataclass(frozen=True)
class PacedLoad:
    """body: of the request, a gRPC frame. log: written over by each run."""

    machine: Machine
    port: int
    body: Path
    log: Path
    connections: int
    streams: int

    def send(self, rate: float, seconds: float) -> Claim:
        """One run at so many calls a second, evenly over the connections, with its p99."""
        self.log.unlink(missing_ok=True)
        claim = read_h2load(run_client(self.machine.client_cores, [
            "h2load", "-n", str(int(rate * seconds)), "-c", str(self.connections), "-m", str(self.streams), "-t", "1",
            "-w", "24", "-W", "24", "--rps", str(int(rate / self.connections)), "--log-file", str(self.log), "-d", str(self.body),
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{self.port}{GRPC_PATH}"]))
        return replace(claim, p99_ms=float(np.percentile(np.loadtxt(self.log, usecols=2), 99)) / 1000)

    def unpaced_peak(self, seconds: float) -> float:
        """Calls a second without a pace or a log: the median of some runs after a first one."""
        rates, n = [], 5_000
        for _ in range(PEAK_RUNS + 1):
            claim = h2load(self.port, self.body, n, self.connections, self.streams, cores=self.machine.client_cores)
            rates.append(claim.rate)
            n = int(claim.rate * seconds)
        return statistics.median(rates[1:])

    def peak(self, seconds: float) -> float:
        """Calls a second that are reached at a pace that is too much: the median of some runs."""
        asked = self.unpaced_peak(seconds)
        return statistics.median(self.send(asked, seconds).rate for _ in range(PEAK_RUNS))


def is_held(reached: float, asked: float) -> bool:
    """Whether a client kept its pace, by calls a second."""
    return reached >= HELD * asked


__all__ = ["HELD", "PacedLoad", "is_held"]
