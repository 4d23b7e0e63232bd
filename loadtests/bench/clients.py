"""The load clients, wrk and h2load, as functions that return what they claim to have done."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.processes import pinned

SCRIPT = Path(__file__).with_name("post.lua")
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
LONGEST_RUN_SECONDS = 300

TOTALS = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
# The time beside it has two decimals only.
RATE = re.compile(r"finished in \S+, ([\d.]+) req/s")


@dataclass(frozen=True)
class Claim:
    """What a client says of one run. p99_ms is None where the client cannot tell."""

    completed: int
    failed: int
    seconds: float
    p99_ms: float | None = None

    @property
    def rate(self) -> float:
        return self.completed / self.seconds


def run_client(cores: str, command: list[str]) -> str:
    """Run a client on its cores. Raises RuntimeError with its words when it fails."""
    done = subprocess.run(pinned(cores, command), capture_output=True, text=True, timeout=LONGEST_RUN_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def h2load(port: int, body: Path, requests: int, connections: int, streams: int, *, cores: str, threads: int = 1) -> Claim:
    """Make exactly `requests` gRPC calls over HTTP/2, `streams` at a time on each connection."""
    # No client has more in flight than there are requests.
    connections = min(connections, requests)
    output = run_client(cores, [
        "h2load", "-n", str(requests), "-c", str(connections), "-m", str(streams), "-t", str(min(threads, connections)),
        "-w", "24", "-W", "24", "-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers",
        f"http://127.0.0.1:{port}{GRPC_PATH}",
    ])
    return read_h2load(output)


def read_h2load(output: str) -> Claim:
    """Read h2load's summary. Raises ValueError when it is not one."""
    totals, rate = TOTALS.search(output), RATE.search(output)
    if totals is None or rate is None or not float(rate[1]):
        raise ValueError(f"not a summary of h2load: {output[-500:]}")
    done, succeeded, failed, errored, timeout = map(int, totals.groups())
    return Claim(succeeded, failed + errored + timeout, done / float(rate[1]))


def wrk(url: str, body: Path, seconds: float, connections: int, *, cores: str, headers: Mapping[str, str] | None = None) -> Claim:
    """POST the body over `connections` keep-alive HTTP/1.1 connections, one request at a time on each, for about `seconds`."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    # wrk counts whole seconds.
    output = run_client(cores, [
        "wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "-s", str(SCRIPT), url,
        "--", str(body), *(part for pair in fields.items() for part in pair),
    ])
    return read_wrk(output)


def read_wrk(output: str) -> Claim:
    """Read the line of JSON that post.lua prints last. Raises ValueError when it is missing."""
    line = output.strip().rpartition("\n")[2]
    if not line.startswith("{"):
        raise ValueError(f"not a summary of post.lua: {output[-500:]}")
    found = json.loads(line)
    return Claim(found["requests"] - found["failed"], found["failed"], found["seconds"], found["p99_ms"])
