"""Case cost: what recording every row takes, of throughput, CPU time and latency, beside the same server with recording off."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import payloads
from loadtests.bench.clients import Claim
from loadtests.bench.loads import GrpcLoad
from loadtests.bench.measure import Contender, Run, Spread, Summary, alternate, spread, summarise
from loadtests.bench.processes import Server
from loadtests.judge.tables import Bound, Table
from loadtests.records.others import others_table
from loadtests.records.paced import Latencies
from loadtests.records.service import MODEL, Recorded, recorded
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import until

CONNECTIONS, STREAMS = 4, 16
OFF, DEFERRED, SEALED, SAMPLED = "off", "recorded, sealing deferred", "recorded and sealed", "1 % recorded"
_ROOM = ("--record-disk-budget-bytes", str(64 << 30))
FLAGS = {OFF: (), DEFERRED: ("--record-seal", "86400", "--record-seal-bytes", str(16 << 30), *_ROOM),
         SEALED: ("--record-seal", "1", *_ROOM), SAMPLED: ("--record-seal", "86400")}
NATIVE = ("io", "instance")
COMPARED = (OFF, DEFERRED, SAMPLED)
# What differs by percents is compared on several sets of fresh servers, as where a process's code and data happen to lie alone is worth
# as much, and in short runs, as a shared machine's pace changes from one second to the next.
SETS, SLICES = 3, 4


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
                        total += int((task / "schedstat").read_text().split()[0])       # ns
        if not total:
            raise RuntimeError("no CPU time in /proc/PID/task/*/schedstat: a kernel without scheduler statistics?")
        return total / 1e9


@dataclass
class Books:
    """Of all servers of the case: rows that were dropped, and rows of which nobody knows."""

    dropped: int = 0
    missing: int = 0

    def add(self, service: Recorded) -> None:
        """Once what is under way has had its time."""
        with suppress(TimeoutError):
            until(lambda: not service.under_way(), 5)
        self.missing += service.under_way()
        self.dropped += int(service.recording()["dropped"])


def cost_case(bench: Bench) -> list[Table]:
    """Every row recorded, and 1 % of them, against recording off; one core for the whole server."""
    rounds, seconds, books = bench.sized(9, 1), 2.0 if not bench.is_quick else 0.5, Books()
    with ExitStack() as stack:
        services = {name: stack.enter_context(recorded(bench, name, *flags)) for name, flags in FLAGS.items()}
        whole = alternate([_whole(name, service) for name, service in services.items()], rounds, seconds, bench.say)
        for service in services.values():
            books.add(service)
    native, latencies = _finely(bench, rounds, seconds, books)
    off = whole[OFF].cpu_us.median
    others = others_table(bench, whole[DEFERRED].cpu_us.median - off, whole[SEALED].cpu_us.median - off)
    paced = latencies.table(max(seconds, 1.0))
    return [_whole_table(whole, rounds, seconds, books), _native_table(native, seconds / SLICES), paced, others]


def _finely(bench: Bench, rounds: int, seconds: float, books: Books) -> tuple[dict[str, Summary], Latencies]:
    """What differs by percents, on several sets of servers: CPU time of the data plane, and p99."""
    runs: dict[str, list[Run]] = {name: [] for name in COMPARED}
    latencies = Latencies(OFF, DEFERRED)
    n_sets = bench.sized(SETS, 1)
    for n in range(n_sets):
        bench.say(f"servers {n + 1} of {n_sets}")
        own = replace(bench, machine=replace(bench.machine, folder=bench.machine.folder / f"set-{n}"))
        with ExitStack() as stack:
            services = {name: stack.enter_context(recorded(own, name, *FLAGS[name])) for name in COMPARED}
            natives = [_native(name, service) for name, service in services.items()]
            found = alternate(natives, rounds * SLICES, seconds / SLICES, bench.say)
            for name, summary in found.items():
                runs[name] += summary.runs
            latencies.measure(bench, services, rounds, max(seconds, 1.0))
            for service in services.values():
                books.add(service)
        shutil.rmtree(own.machine.folder)               # some gigabytes
    return {name: summarise(name, made) for name, made in runs.items()}, latencies


def _load(service: Recorded) -> GrpcLoad:
    body = service.folder / "row.grpc"
    body.write_bytes(payloads.grpc_frame(payloads.grpc_message(MODEL, "x", models.rows(1))))
    return GrpcLoad(service.machine, service.grpc_port, body, CONNECTIONS, STREAMS)


def _whole(name: str, service: Recorded) -> Contender:
    """The server with everything that it starts. What it does later is done at a lower priority, and belongs to the run all the same."""
    load = _load(service)

    def send(seconds: float) -> Claim:
        claim = load(seconds)
        if name == SEALED:
            until(lambda: not service.journals(), 120)
        elif name != OFF:
            service.settle()
        return claim

    return Contender(name, send, service.server, service.successes)


def _native(name: str, service: Recorded) -> Contender:
    load = _load(service)

    def send(seconds: float) -> Claim:
        claim = load(seconds)
        service.settle()            # else it is written while another server is measured
        return claim

    return Contender(name, send, DataPlane(service.server), service.successes)


def _pairs(before: Summary, after: Summary, of: Callable[[Run], float]) -> Spread:
    return spread([of(b) / of(a) for a, b in zip(before.runs, after.runs, strict=True) if not (a.is_void or b.is_void)])


def _cell(found: Spread, digits: int = 2) -> str:
    return f"{found.median:,.{digits}f} ({found.q1:,.{digits}f} to {found.q3:,.{digits}f})"


def _whole_table(found: dict[str, Summary], rounds: int, seconds: float, books: Books) -> Table:
    off = found[OFF]
    lines = [[name, _cell(one.rate, 0), f"{one.rate.median / off.rate.median:.3f}", _cell(one.cpu_us),
              f"{off.cpu_us.median / one.cpu_us.median:.3f}"] for name, one in found.items()]
    return Table("Throughput of the whole server on one core, with every row recorded", [
        "", "requests a second, median (quartiles)", "over off", "CPU us a request, supervisor, worker and keeper", "off over it"], lines, [
        f"gRPC, {CONNECTIONS} connections x {STREAMS} calls, 64-64-10 MLP, one row a request; {rounds} alternating runs of {seconds:g} s,",
        "four servers, each on the one core. CPU time of `recorded and sealed` is taken once every row of the run lies in Parquet: at",
        "nice 19 sealing gives way to requests, so that requests a second say little of it."], [
        Bound("off over CPU, sealing deferred", off.cpu_us.median / found[DEFERRED].cpu_us.median, least=0.80),
        Bound("off over CPU, sealed in the steady state", off.cpu_us.median / found[SEALED].cpu_us.median, least=0.60),
        Bound("rows sampled less stored less dropped, of all servers here and below", books.missing, most=0),
        Bound("rows dropped, of all servers here and below", books.dropped, most=0),
    ], {name: one.as_json() for name, one in found.items()})


def _native_table(found: dict[str, Summary], seconds: float) -> Table:
    off = found[OFF]
    pairs = {name: _pairs(off, one, lambda run: run.cpu_us) for name, one in found.items()}
    lines = [[name, _cell(one.cpu_us, 3), f"{one.cpu_us.median / off.cpu_us.median:.3f}",
              _cell(pairs[name], 3)] for name, one in found.items()]
    return Table("CPU time of the data plane's threads", ["", "CPU us a request, median (quartiles)", "over off", "in one round"], lines, [
        f"CPU time of the threads `io` and `instance` alone; {off.n_runs} alternating runs of {seconds:g} s, on fresh sets of",
        "servers."], [
        Bound("CPU of the data plane, every row recorded over off, in one round", pairs[DEFERRED].median, most=1.05),
        Bound("CPU of the data plane, 1 % recorded over off, in one round", pairs[SAMPLED].median, most=1.02),
    ], {name: one.as_json() for name, one in found.items()})


__all__ = ["cost_case"]
