"""The cases: which contenders meet under which load, and what the ratios should reach."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadtests import payloads
from loadtests.bench import loads, models
from loadtests.bench.measure import Contender, Ratio, Summary, alternate, ratio
from loadtests.bench.servers import Machine, build_floor, expected, floor, headrace, peer, peer_python

PEER_NAMES = ("mlserver", "litserve", "bentoml")
MIB = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What a case is given: how long and how often, where the floor's source is (None: no floor), which peers are installed."""

    machine: Machine
    rounds: int
    seconds: float
    floor_source: Path | None
    memory_requests: tuple[int, int]
    say: Callable[[str], None]

    def alternate(self, contenders: list[Contender]) -> dict[str, Summary]:
        """Measure the contenders in alternating runs."""
        return alternate(contenders, self.rounds, self.seconds, self.say)


@dataclass(frozen=True)
class Table:
    """A result: summaries, ratios, notes, and facts that are not runs."""

    title: str
    summaries: Mapping[str, Summary]
    ratios: tuple[Ratio, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)


def write_body(plan: Plan, name: str, body: bytes) -> Path:
    """Write what a client sends."""
    path = plan.machine.folder / name
    path.write_bytes(body)
    return path


def grpc_body(plan: Plan, model: models.BenchModel) -> Path:
    """Write a gRPC frame with one row."""
    return write_body(plan, f"{model.name}.grpc", payloads.grpc_frame(payloads.grpc_message(model.name, "x", model.rows())))


def floor_case(plan: Plan) -> Iterator[Table]:
    """gRPC ModelInfer, 64-64-10 MLP, one row a call, beside the floor program."""
    model = models.mlp(plan.machine.folder, "mlp", (64, 64, 10))
    body = grpc_body(plan, model)
    program = build_floor(plan.floor_source, plan.machine.folder) if plan.floor_source else None
    with ExitStack() as stack:
        ours = stack.enter_context(headrace(plan.machine, [model]))
        floors = {mode: stack.enter_context(floor(plan.machine, program, model, mode)) for mode in ("thread", "inline", "spin") if program}
        for connections, streams in ((4, 16), (64, 1), (1, 1)):
            contenders = [loads.grpc_contender("headrace", plan.machine, ours, body, connections, streams)]
            contenders += [
                loads.floor_contender(f"floor {mode}", plan.machine, server, port, body, connections, streams)
                for mode, (server, port) in floors.items() if mode != "spin" or connections == 1
            ]
            found = plan.alternate(contenders)
            ratios = []
            if program and connections == 1:
                ratios.append(ratio("rate over floor thread", found["headrace"], found["floor thread"], 1.3, by="rate"))
            elif program:
                ratios.append(ratio("over floor inline", found["headrace"], found["floor inline"], 0.8))
            yield Table(f"gRPC ModelInfer, 64-64-10 MLP, {connections} connections x {streams} calls", found, tuple(ratios))


def json_case(plan: Plan) -> Iterator[Table]:
    """HTTP JSON, 64-64-10 MLP, one row a request, 64 connections, beside MLServer, LitServe and BentoML and our own gRPC."""
    model = models.mlp(plan.machine.folder, "mlp", (64, 64, 10))
    row = model.rows()
    body = payloads.json_body("x", row)
    ours_body, grpc = write_body(plan, "mlp.json", body), grpc_body(plan, model)
    right = expected(model, row)
    notes = [f"{name} is not installed (loadtests/peers/setup.sh)" for name in PEER_NAMES if not peer_python(name).exists()]
    with ExitStack() as stack:
        ours = stack.enter_context(headrace(plan.machine, [model]))
        contenders = [
            loads.http_contender("headrace", plan.machine, ours, model, ours_body, 64),
            loads.grpc_contender("headrace gRPC", plan.machine, ours, grpc, 64, 1),
        ]
        for name in PEER_NAMES:
            if not peer_python(name).exists():
                continue
            sent = body if name == "mlserver" else payloads.plain_json("x", row)
            other = stack.enter_context(peer(plan.machine, name, model, sent))
            np.testing.assert_allclose(other.answer(), right.ravel(), rtol=1e-4, atol=1e-5, err_msg=f"{name} answers something else")
            other.server.pause()
            contenders.append(loads.peer_contender(plan.machine, other, write_body(plan, f"{name}.json", sent), 64))
        found = plan.alternate(contenders)
    ratios = [ratio("over our gRPC at 64 x 1", found["headrace"], found["headrace gRPC"], 0.7)]
    if "mlserver" in found:
        ratios.append(ratio("over MLServer", found["headrace"], found["mlserver"], 25))
    yield Table("HTTP JSON, 64-64-10 MLP, 64 connections", found, tuple(ratios), tuple(notes))


def compute_case(plan: Plan) -> Iterator[Table]:
    """A compute-bound model, 128 calls in flight, beside ONNX Runtime alone at batch 64 on the same core, in rows."""
    model = models.mlp(plan.machine.folder, "wide", (512, 2048, 2048, 10))
    body = grpc_body(plan, model)
    raw = loads.RawOnnxRuntime(plan.machine, model, 64)
    with headrace(plan.machine, [model]) as ours:
        found = plan.alternate([
            loads.grpc_contender("headrace", plan.machine, ours, body, 8, 16),
            Contender("ONNX Runtime, batch 64", raw, raw),
        ])
    ratios = (ratio("rows over raw ONNX Runtime", found["headrace"], found["ONNX Runtime, batch 64"], 0.85),)
    yield Table("512-2048-2048-10 MLP, 128 calls in flight, rows a second", found, ratios)


def images_case(plan: Plan) -> Iterator[Table]:
    """602 KB images into a GlobalAveragePool, binary HTTP and gRPC: bytes received a second."""
    model = models.pool(plan.machine.folder, "pool")
    row = model.rows()
    body, header_bytes = payloads.binary_body("x", row)
    http, grpc = write_body(plan, "pool.bin", body), grpc_body(plan, model)
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(header_bytes)}
    with headrace(plan.machine, [model]) as ours:
        found = plan.alternate([
            loads.http_contender("headrace HTTP binary", plan.machine, ours, model, http, 8, headers),
            loads.grpc_contender("headrace gRPC", plan.machine, ours, grpc, 4, 2),
        ])
    facts = {f"{name}, GB/s received": summary.rate.median * row.nbytes / 1e9 for name, summary in found.items()}
    notes = ("User-space copies of tensor bytes (HTTP/1.1 one, HTTP/2 two) are counted by a test in a debug build.",)
    yield Table("224x224x3 float32 images (602 KB), 8 in flight", found, notes=notes, facts=facts)


def memory_case(plan: Plan) -> Iterator[Table]:
    """Resident size of the worker after many requests against its size after a tenth of them."""
    model = models.mlp(plan.machine.folder, "mlp", (64, 64, 10))
    early, late = plan.memory_requests
    with headrace(plan.machine, [model]) as ours:
        load = loads.GrpcLoad(plan.machine, ours.grpc_port, grpc_body(plan, model), 4, 16)
        load.send(early)
        first = ours.server.rss_bytes()
        plan.say(f"  {early:,} requests: {first / MIB:.1f} MiB")
        load.send(late - early)
        last = ours.server.rss_bytes()
        plan.say(f"  {late:,} requests: {last / MIB:.1f} MiB")
        counted = ours.successes()
    if counted != late:
        raise ValueError(f"the server counted {counted} successes, {late} were sent")
    facts = {f"MiB after {early:,}": first / MIB, f"MiB after {late:,}": last / MIB, "MiB grown": (last - first) / MIB}
    grown = Ratio("MiB of growth left under the limit of 2", 2 - (last - first) / MIB, 0, "rate", last - first <= 2 * MIB)
    yield Table("Resident size of the worker, gRPC, 4 connections x 16 calls", {}, (grown,), facts=facts)


CASES: Mapping[str, Callable[[Plan], Iterator[Table]]] = {
    "floor": floor_case, "json": json_case, "compute": compute_case, "images": images_case, "memory": memory_case,
}
