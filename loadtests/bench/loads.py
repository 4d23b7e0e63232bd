"""Loads: what one run does to one server, as contenders of loadtests/bench/measure.py."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from loadtests.bench.clients import Claim, h2load, wrk
from loadtests.bench.measure import Contender, Measured
from loadtests.bench.models import BenchModel
from loadtests.bench.processes import pinned
from loadtests.bench.servers import Headrace, Machine, Peer

CALIBRATION_REQUESTS = 500
CALIBRATION_SECONDS = 0.2

Headers = Mapping[str, str]


class GrpcLoad:
    """h2load with as many calls as fill the time: an exact number, so that the server's counter can be held against it."""

    def __init__(self, machine: Machine, port: int, body: Path, connections: int, streams: int) -> None:
        self.machine, self.port, self.body, self.connections, self.streams = machine, port, body, connections, streams
        self.rate: float | None = None

    def send(self, requests: int) -> Claim:
        """Make that many calls."""
        cores, threads = self.machine.client_cores, self.machine.client_threads
        return h2load(self.port, self.body, requests, self.connections, self.streams, cores=cores, threads=threads)

    def __call__(self, seconds: float) -> Claim:
        n = CALIBRATION_REQUESTS
        while self.rate is None:
            claim = self.send(n)
            if claim.seconds >= CALIBRATION_SECONDS or claim.failed:
                self.rate = claim.rate
            n *= 4
        claim = self.send(max(int(self.rate * seconds), self.connections * self.streams))
        self.rate = claim.rate or self.rate
        return claim


def http_load(machine: Machine, url: str, body: Path, connections: int, headers: Headers | None = None) -> Callable[[float], Claim]:
    """Return a load of wrk."""
    def load(seconds: float) -> Claim:
        return wrk(url, body, seconds, connections, cores=machine.client_cores, headers=headers)
    return load


def grpc_contender(name: str, machine: Machine, server: Headrace, body: Path, connections: int, streams: int) -> Contender:
    """Return our server under gRPC calls."""
    return Contender(name, GrpcLoad(machine, server.grpc_port, body, connections, streams), server.server, server.successes)


def floor_contender(name: str, machine: Machine, server: Measured, port: int, body: Path, connections: int, streams: int) -> Contender:
    """Return the floor program under gRPC calls; it counts nothing."""
    return Contender(name, GrpcLoad(machine, port, body, connections, streams), server)


def http_contender(
    name: str, machine: Machine, server: Headrace, model: BenchModel, body: Path, connections: int, headers: Headers | None = None,
) -> Contender:
    """Return our server under HTTP requests; wrk leaves up to one on each connection when it stops."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model.name}/infer"
    load = http_load(machine, url, body, connections, headers)
    return Contender(name, load, server.server, server.successes, overshoot=connections)


def peer_contender(machine: Machine, found: Peer, body: Path, connections: int) -> Contender:
    """Return another server under HTTP requests, paused while others are measured."""
    load = http_load(machine, found.url, body, connections)
    return Contender(found.name, load, found.server, pause=found.server.pause, resume=found.server.resume)


class RawOnnxRuntime:
    """ONNX Runtime alone, in rows: a program that is its own client."""

    def __init__(self, machine: Machine, model: BenchModel, batch: int) -> None:
        self.machine, self.model, self.batch = machine, model, batch
        self.spent = 0.0

    def cpu_seconds(self) -> float:
        """Return CPU time of the runs so far, their warm-up and start left out."""
        return self.spent

    def __call__(self, seconds: float) -> Claim:
        program = [sys.executable, "-m", "loadtests.bench.raw_ort"]
        command = [*program, str(self.model.path), str(self.batch), str(seconds), self.machine.device]
        done = subprocess.run(pinned(self.machine.server_cores, command), capture_output=True, text=True, timeout=seconds + 120, check=True)
        found = json.loads(done.stdout)
        self.spent += found["cpu_seconds"]
        return Claim(found["rows"], 0, found["seconds"])
