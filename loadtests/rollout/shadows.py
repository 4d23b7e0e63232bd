"""Case shadow: what a 1 % shadow costs the primary at 70 % of the peak, how much of it is run, and that what is dropped is counted."""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtests import payloads
from loadtests.bench.clients import h2load
from loadtests.bench.measure import spread
from loadtests.bench.paced import PacedLoad
from loadtests.judge.tables import Bound, Table
from loadtests.rollout import models
from loadtests.rollout.bench import Bench, generation_of
from loadtests.rollout.load import until
from loadtests.rollout.service import Service, split
from serve.client.admin import AdminClient

MODEL = "m"
CONNECTIONS, STREAMS = 16, 8
SHARE_OF_PEAK, SAMPLE_BP, MOST = 0.7, 100, 1.05
# A version of which a row takes long enough that the server, not the client, is what is full.
SERVED = {MODEL: {"kinds": {models.STABLE: "stable", models.COPY: "copy"}, "width": 512, "layers": 2,
                  "loaded": (models.STABLE, models.COPY)}}


def shadow_case(bench: Bench) -> list[Table]:
    """A 1 % shadow at 70 % of the peak, and at saturation."""
    rounds, seconds = bench.sized(9, 2), 2.0 if not bench.is_quick else 0.5
    with bench.service("shadow", SERVED) as service, service.admin() as admin:
        body = service.folder / "row.grpc"
        body.write_bytes(payloads.grpc_frame(payloads.grpc_message(MODEL, "x", models.rows(1))))
        _put(admin, 0)
        load = PacedLoad(service.machine, service.grpc_port, body, service.folder / "requests.tsv", CONNECTIONS, STREAMS)
        peak = load.unpaced_peak(seconds)
        bench.say(f"peak {peak:,.0f} a second")
        at_ease = _at_ease(bench, load, admin, peak * SHARE_OF_PEAK, rounds, seconds)
        full = _full(bench, service, admin, body, peak, seconds)
    return [at_ease, full]


def _put(admin: AdminClient, sample_bp: int) -> int:
    shadows = [{"version": models.COPY, "sample": sample_bp}] if sample_bp else []
    plan = split({models.STABLE: 10_000}, salt="bench", shadows=shadows)
    return int(admin.set_traffic(MODEL, plan, generation_of(admin, MODEL))["generation"])


def _shadow(admin: AdminClient, generation: int) -> dict[str, Any]:
    """Counters of the shadow under a generation, once nothing is on its way any more."""
    found: dict[str, Any] = {}

    def is_settled() -> bool:
        reading = next(one for one in admin.counters(MODEL) if one["generation"] == generation)
        found.update(reading["shadows"][0])
        return _missing(found) == 0

    try:
        until(is_settled, 5)
    except TimeoutError:
        found["unsettled"] = True       # the bound on the sum tells
    return found


def _at_ease(bench: Bench, load: PacedLoad, admin: AdminClient, rate: float, rounds: int, seconds: float) -> Table:
    p99: dict[int, list[float]] = {0: [], SAMPLE_BP: []}
    reached: list[float] = []
    sampled = compared = sent = 0
    load.send(rate, min(seconds, 1.0))
    for turn in range(rounds):
        for sample in ((0, SAMPLE_BP) if turn % 2 else (SAMPLE_BP, 0)):
            generation = _put(admin, sample)
            run = load.send(rate, seconds)
            assert run.p99_ms is not None
            p99[sample].append(run.p99_ms)
            reached.append(run.rate)
            if sample:
                shadow = _shadow(admin, generation)
                sampled, compared, sent = sampled + shadow["sampled"], compared + shadow["compared"], sent + run.completed
            bench.say(f"{turn + 1}/{rounds} sample {sample} bp: {run.rate:,.0f}/s, p99 {run.p99_ms:.3f} ms")
    without, with_it = spread(p99[0]), spread(p99[SAMPLE_BP])
    ratio = with_it.median / without.median
    pairs = spread([b / a for a, b in zip(p99[0], p99[SAMPLE_BP], strict=True)])
    lines = [
        ["p99 without, ms", f"{without.median:.3f} ({without.q1:.3f} to {without.q3:.3f})"],
        ["p99 with, ms", f"{with_it.median:.3f} ({with_it.q1:.3f} to {with_it.q3:.3f})"],
        ["ratio in one round", f"{pairs.median:.3f} ({pairs.q1:.3f} to {pairs.q3:.3f})"],
        ["sampled of all", f"{sampled:,} of {sent:,}"], ["run and compared", f"{compared:,} ({compared / max(sampled, 1):.2%})"],
    ]
    title = f"A shadow of {SAMPLE_BP / 100:g} % at {100 * SHARE_OF_PEAK:.0f} % of the peak"
    return Table(title, ["", "median (quartiles)"], lines, [
        f"gRPC, {CONNECTIONS} connections, {rate:,.0f} requests a second by h2load --rps (reached: {statistics.median(reached):,.0f});",
        f"{rounds} alternating runs of {seconds:g} s with and without the shadow; p99 over all requests of a run."], [
        Bound("shadows run and compared, of those sampled", compared / max(sampled, 1), least=0.95),
        Bound("shadows sampled", sampled, least=1),
        Bound("p99 with the shadow over p99 without", ratio, most=MOST),
    ], {"p99_ms": {str(sample): values for sample, values in p99.items()}})


def _full(bench: Bench, service: Service, admin: AdminClient, body: Path, peak: float, seconds: float) -> Table:
    lines, found = [], []
    for sample in (SAMPLE_BP, 10_000):
        before = service.successes()
        generation = _put(admin, sample)
        claim = h2load(service.grpc_port, body, int(peak * seconds), 64, 32, cores=service.machine.client_cores)
        time.sleep(0.2)
        shadow = _shadow(admin, generation)
        found.append((shadow, claim, before))
        dropped = ", ".join(f"{reason} {n:,}" for reason, n in shadow["dropped"].items() if n) or "none"
        lines.append([f"{sample / 100:g} %", f"{claim.completed:,} ({claim.rate:,.0f} a second)", f"{shadow['sampled']:,}",
                      f"{shadow['compared']:,}", dropped])
        bench.say(str(lines[-1]))
    off = sum(abs(_missing(shadow)) for shadow, _, _ in found)
    return Table("Shadows at saturation", ["sample", "requests", "sampled", "compared", "dropped, by reason"], lines, [
        "gRPC, 64 connections x 32 calls without a pace. Every sampled request is either compared or dropped, and counted so."], [
        Bound("sampled less compared less dropped", off, most=0),
        Bound("dropped at 100 %", sum(found[-1][0]["dropped"].values()), least=1),
        Bound("primary requests that failed", sum(claim.failed for _, claim, _ in found), most=0),
    ])


def _missing(shadow: Mapping[str, Any]) -> int:
    return int(shadow["sampled"] - shadow["compared"] - sum(shadow["dropped"].values()))


__all__ = ["shadow_case"]
