"""Case cost: what recording every row takes, of throughput, CPU time and latency, beside the same server with recording off."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtests import payloads
from loadtests.bench.clients import GRPC_PATH, Claim, read_h2load, run_client
from loadtests.bench.loads import GrpcLoad
from loadtests.bench.measure import Contender, Spread, Summary, alternate, spread
from loadtests.bench.processes import TICKS, Server
from loadtests.judge.tables import Bound, Table
from loadtests.records.others import others_table
from loadtests.records.service import MODEL, Recorded, recorded
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import until

CONNECTIONS, STREAMS = 4, 16
SHARE_OF_PEAK = 0.7
OFF, DEFERRED, SEALED, SAMPLED = "off", "recorded, sealing deferred", "recorded and sealed", "1 % recorded"
FLAGS = {OFF: (), DEFERRED: ("--record-seal", "86400", "--record-seal-bytes", str(16 << 30)), SEALED: ("--record-seal", "1"),
         SAMPLED: ("--record-seal", "86400")}
NATIVE = ("io", "instance")
# Pairs of servers whose p99 is compared: where a process's code and data happen to lie alone moves it.
PAIRS = 3


@dataclass(frozen=True)
class DataPlane:
    """CPU time of a server's native threads alone."""

    server: Server

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.server.tree():
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    if (task / "comm").read_text().strip() in NATIVE:
                        fields = (task / "stat").read_text().rpartition(")")[2].split()
                        total += int(fields[11]) + int(fields[12])
        return total / TICKS


def cost_case(bench: Bench) -> list[Table]:
    """Every row recorded, and 1 % of them, against recording off; one core for the whole server."""
    rounds, seconds = bench.sized(9, 1), 2.0 if not bench.is_quick else 0.5
    with ExitStack() as stack:
        services = {name: stack.enter_context(recorded(bench, name, *flags)) for name, flags in FLAGS.items()}
        whole = alternate([_whole(name, service) for name, service in services.items()], rounds, seconds, bench.say)
        native = alternate([_native(name, service) for name, service in services.items() if name != SEALED], rounds, seconds, bench.say)
        checked = [_checked(service) for name, service in services.items() if name != OFF]
    paced = _paced_table(bench, whole[OFF].rate.median * SHARE_OF_PEAK, rounds, seconds)
    off = whole[OFF].cpu_us.median
    others = others_table(bench, whole[DEFERRED].cpu_us.median - off, whole[SEALED].cpu_us.median - off)
    return [_whole_table(whole, rounds, seconds, checked), _native_table(native, rounds, seconds), paced, others]


def _load(service: Recorded) -> GrpcLoad:
    body = service.folder / "row.grpc"
    body.write_bytes(payloads.grpc_frame(payloads.grpc_message(MODEL, "x", models.rows(1))))
    return GrpcLoad(service.machine, service.grpc_port, body, CONNECTIONS, STREAMS)


def _whole(name: str, service: Recorded) -> Contender:
    """The server with everything that it starts. Sealing runs at nice 19, behind the load: its CPU time is that of the rows of the run."""
    load = _load(service)

    def send(seconds: float) -> Claim:
        claim = load(seconds)
        if name == SEALED:
            until(lambda: not service.journals(), 120)
        return claim

    return Contender(name, send, service.server, service.successes)


def _native(name: str, service: Recorded) -> Contender:
    return Contender(name, _load(service), DataPlane(service.server), service.successes)


def _checked(service: Recorded) -> tuple[str, int, int]:
    """(name, requests answered, rows sampled less rows stored and dropped, once those under way have had their time)."""
    def missing() -> int:
        facts = service.recording()
        return int(facts["sampled"] - facts["appended"] - facts["dropped"])

    with suppress(TimeoutError):
        until(lambda: not missing(), 5)
    return service.name, service.successes(), missing()


def _pairs(before: Summary, after: Summary, of: Callable[[object], float]) -> Spread:
    return spread([of(b) / of(a) for a, b in zip(before.runs, after.runs, strict=True) if not (a.is_void or b.is_void)])


def _cell(found: Spread, digits: int = 2) -> str:
    return f"{found.median:,.{digits}f} ({found.q1:,.{digits}f} to {found.q3:,.{digits}f})"


def _whole_table(found: dict[str, Summary], rounds: int, seconds: float, checked: Sequence[tuple[str, int, int]]) -> Table:
    off = found[OFF]
    lines = [[name, _cell(one.rate, 0), f"{one.rate.median / off.rate.median:.3f}", _cell(one.cpu_us),
              f"{off.cpu_us.median / one.cpu_us.median:.3f}"] for name, one in found.items()]
    lost = sum(missing for _, _, missing in checked)
    return Table("Throughput of the whole server on one core, with every row recorded", [
        "", "requests a second, median (quartiles)", "over off", "CPU us a request, supervisor, worker and keeper", "off over it"], lines, [
        f"gRPC, {CONNECTIONS} connections x {STREAMS} calls, 64-64-10 MLP, one row a request; {rounds} alternating runs of {seconds:g} s,",
        "four servers, each on the one core. CPU time of `recorded and sealed` is taken once every row of the run lies in Parquet: at",
        "nice 19 sealing gives way to requests, so that requests a second say little of it."], [
        Bound("off over CPU, sealing deferred", off.cpu_us.median / found[DEFERRED].cpu_us.median, least=0.80),
        Bound("off over CPU, sealed in the steady state", off.cpu_us.median / found[SEALED].cpu_us.median, least=0.60),
        Bound("rows sampled less stored less dropped", lost, most=0),
    ], {name: one.as_json() for name, one in found.items()})


def _native_table(found: dict[str, Summary], rounds: int, seconds: float) -> Table:
    off = found[OFF]
    lines = [[name, _cell(one.cpu_us, 3), f"{one.cpu_us.median / off.cpu_us.median:.3f}",
              _cell(_pairs(off, one, lambda run: run.cpu_us), 3)] for name, one in found.items()]  # type: ignore[attr-defined]
    return Table("CPU time of the data plane's threads", ["", "CPU us a request, median (quartiles)", "over off", "in one round"], lines, [
        f"utime + stime of the threads `io` and `instance` alone; {rounds} alternating runs of {seconds:g} s."], [
        Bound("CPU of the data plane, every row recorded over off", found[DEFERRED].cpu_us.median / off.cpu_us.median, most=1.05),
        Bound("CPU of the data plane, 1 % recorded over off", found[SAMPLED].cpu_us.median / off.cpu_us.median, most=1.02),
    ], {name: one.as_json() for name, one in found.items()})


def _p99_ms(service: Recorded, rate: float, seconds: float) -> float:
    log = service.folder / "requests.tsv"
    log.unlink(missing_ok=True)
    read_h2load(run_client(service.machine.client_cores, [
        "h2load", "-n", str(int(rate * seconds)), "-c", "16", "-m", "8", "-t", "1", "-w", "24", "-W", "24",
        "--rps", str(int(rate / 16)), "--log-file", str(log), "-d", str(service.folder / "row.grpc"),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{service.grpc_port}{GRPC_PATH}"]))
    return float(np.percentile(np.loadtxt(log, usecols=2), 99)) / 1000


def _paced_table(bench: Bench, rate: float, rounds: int, seconds: float) -> Table:
    found: dict[str, list[float]] = {OFF: [], DEFERRED: []}
    n_pairs = bench.sized(PAIRS, 1)
    for pair in range(n_pairs):
        own = replace(bench, machine=replace(bench.machine, folder=bench.machine.folder / f"pair-{pair}"))
        with ExitStack() as stack:
            services = {name: stack.enter_context(recorded(own, name, *FLAGS[name])) for name in found}
            for service in services.values():
                _load(service)(seconds)
            for turn in range(rounds // n_pairs):
                for name in ((OFF, DEFERRED) if turn % 2 else (DEFERRED, OFF)):
                    found[name].append(_p99_ms(services[name], rate, seconds))
                    bench.say(f"pair {pair + 1}/{n_pairs} {name} at {rate:,.0f}/s: p99 {found[name][-1]:.3f} ms")
    ratio = statistics.median(found[DEFERRED]) / statistics.median(found[OFF])
    pairs = spread([b / a for a, b in zip(found[OFF], found[DEFERRED], strict=True)])
    lines = [[name, _cell(spread(values), 3)] for name, values in found.items()]
    return Table(f"p99 at {SHARE_OF_PEAK:.0%} of the peak with recording off", ["", "p99 ms, median (quartiles)"], lines, [
        f"gRPC, 16 connections, {rate:,.0f} requests a second by h2load --rps; {len(found[OFF])} alternating runs of {seconds:g} s, on",
        f"{n_pairs} pairs of servers. In one round the ratio was {pairs.median:.3f} ({pairs.q1:.3f} to {pairs.q3:.3f})."],
        [Bound("p99, every row recorded over off", ratio, most=1.15)], {"p99_ms": found})


__all__ = ["cost_case"]
