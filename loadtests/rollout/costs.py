"""Case cost: CPU time of a request that a plan with a sticky key routes, against one of a model without a plan."""

from collections.abc import Callable
from pathlib import Path

from loadtests import payloads
from loadtests.bench.clients import GRPC_PATH, Claim, read_h2load, run_client
from loadtests.bench.loads import GrpcLoad, http_load
from loadtests.bench.measure import Contender, Spread, Summary, alternate, spread
from loadtests.judge.tables import Bound, Table
from loadtests.rollout import models
from loadtests.rollout.bench import Bench
from loadtests.rollout.service import Service, split

KEY = "x-user-id: user-4711"
PLAIN, ROUTED = "plain", "routed"
MOST = 1.05


class KeyedLoad(GrpcLoad):
    """h2load with a key in metadata."""

    def send(self, requests: int) -> Claim:
        connections = min(self.connections, requests)
        return read_h2load(run_client(self.machine.client_cores, [
            "h2load", "-n", str(requests), "-c", str(connections), "-m", str(self.streams), "-t", "1", "-w", "24", "-W", "24",
            "-d", str(self.body), "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", KEY,
            f"http://127.0.0.1:{self.port}{GRPC_PATH}"]))


def cost_case(bench: Bench) -> list[Table]:
    """CPU time a request with a plan and a sticky key against plain."""
    rounds, seconds = bench.sized(15, 2), 2.0 if not bench.is_quick else 0.5
    kinds = {models.STABLE: "stable", models.COPY: "copy"}
    served = {name: {"kinds": kinds, "loaded": (models.STABLE,)} for name in (PLAIN, ROUTED)}
    lines, bounds, series = [], [], {}
    with bench.service("cost", served) as service:
        with service.admin() as admin:
            plan = split({models.STABLE: 9000, models.COPY: 1000}, sticky={"header": "x-user-id"}, salt="bench")
            admin.set_traffic(ROUTED, plan, 0)
        for name, contender in _loads(service):
            found = alternate([contender(PLAIN), contender(ROUTED)], rounds, seconds, bench.say)
            plain, routed = found[PLAIN], found[ROUTED]
            ratio = routed.cpu_us.median / plain.cpu_us.median
            paired = _paired(plain, routed)
            lines.append([name, _cell(plain), _cell(routed), f"{ratio:.3f}", f"{paired.median:.3f} ({paired.q1:.3f} to {paired.q3:.3f})",
                          f"{routed.rate.median / plain.rate.median:.3f}"])
            bounds.append(Bound(f"CPU a request, routed over plain, {name}", ratio, most=MOST))
            series[name] = {side: found[side].as_json() for side in (PLAIN, ROUTED)}
    headers = ["load", "plain: CPU us a request, median (quartiles)", "routed", "ratio of medians",
               "ratio in one round, median (quartiles)", "requests a second, routed over plain"]
    return [Table("CPU time a request: a plan with a sticky key", headers, lines, [
        f"utime + stime of the server's processes, {rounds} alternating runs of {seconds:g} s; one server, a model without and one with a",
        "plan (two versions, 90 and 10 %, sticky by header). The same header is sent to both; it is one user's, so that all requests of a",
        "run go to one version, as without a plan. A run whose requests the server's own counter does not bear out is void.",
    ], bounds, series)]


def _loads(service: Service) -> list[tuple[str, Callable[[str], Contender]]]:
    machine, row = service.machine, models.rows(1)

    def successes(model: str) -> int:
        return sum(count for (name, _), count in service.statistics().items() if name == model)

    def grpc(connections: int, streams: int) -> Callable[[str], Contender]:
        def contender(model: str) -> Contender:
            body = _write(service.folder / f"{model}.grpc", payloads.grpc_frame(payloads.grpc_message(model, "x", row)))
            load = KeyedLoad(machine, service.grpc_port, body, connections, streams)
            return Contender(model, load, service.server, lambda: successes(model))
        return contender

    def http(model: str) -> Contender:
        body = _write(service.folder / f"{model}.json", payloads.json_body("x", row))
        name, _, value = KEY.partition(": ")
        load = http_load(machine, f"http://127.0.0.1:{service.http_port}/v2/models/{model}/infer", body, 64, {name: value})
        return Contender(model, load, service.server, lambda: successes(model), overshoot=64)

    return [("gRPC 4 x 16", grpc(4, 16)), ("gRPC 64 x 1", grpc(64, 1)), ("HTTP JSON, 64 connections", http)]


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _paired(plain: Summary, routed: Summary) -> Spread:
    """Ratios of the runs of one round, where neither is void."""
    pairs = zip(plain.runs, routed.runs, strict=True)
    return spread([after.cpu_us / before.cpu_us for before, after in pairs if not (before.is_void or after.is_void)])


def _cell(summary: Summary) -> str:
    void = f", {summary.n_void} void" if summary.n_void else ""
    return f"{summary.cpu_us.median:.2f} ({summary.cpu_us.q1:.2f} to {summary.cpu_us.q3:.2f}{void})"


__all__ = ["cost_case"]
