"""Case split: who is sent where, seen from outside: shares, stickiness, what moves, and that nobody gets what has weight 0."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from loadtests import payloads
from loadtests.judge.tables import Bound, Table
from loadtests.rollout.assignment import assigned
from loadtests.rollout.bench import Bench, generation_of
from loadtests.rollout.load import H2load, Probe, Wrk, until
from loadtests.rollout.models import rows
from loadtests.rollout.service import Service, split
from loadtests.rollout.wire import GrpcPipeline, HttpPipeline, ask_all
from serve.client.admin import AdminClient

SALT = "bench"
SHARES = (100, 1000, 5000)
STICKY = {"header": "x-user-id"}
# A ramp of two candidates beside a stable version: from, to.
RAMPS = (
    ({"1": 9800, "2": 100, "3": 100}, {"1": 9000, "2": 500, "3": 500}),
    ({"1": 8000, "2": 1000, "3": 1000}, {"1": 7000, "2": 1000, "3": 2000}),
    ({"1": 6000, "2": 3000, "3": 1000}, {"1": 1000, "2": 3000, "3": 6000}),
)
Weights = Mapping[str, int]


def put(admin: AdminClient, weights: Weights) -> int:
    """Put a sticky plan in force; its generation."""
    return int(admin.set_traffic("m", split(weights, sticky=STICKY, salt=SALT), generation_of(admin, "m"))["generation"])


def over_grpc(service: Service, keys: Sequence[str], generation: int) -> list[str]:
    """Version of each key by the header of its answer. Raises ValueError for an answer that is no success or of another generation."""
    frame = payloads.grpc_frame(payloads.grpc_message("m", "x", rows(1)))
    return _versions(partial(GrpcPipeline, service.grpc_port, frame), keys, generation)


def over_http(service: Service, keys: Sequence[str], generation: int) -> list[str]:
    """The same over HTTP."""
    body = payloads.json_body("x", rows(1))
    return _versions(partial(HttpPipeline, service.http_port, "/v2/models/m/infer", body), keys, generation)


def _versions(connect: "partial[GrpcPipeline] | partial[HttpPipeline]", keys: Sequence[str], generation: int) -> list[str]:
    answers = ask_all(connect, keys)
    wrong = [answer for answer in answers if (answer.status, answer.generation, answer.variant) != (200, generation, answer.version)]
    if wrong:
        raise ValueError(f"{len(wrong)} answers are not of generation {generation}, or no successes: {wrong[0]}")
    return [answer.version for answer in answers]


def split_case(bench: Bench) -> list[Table]:
    """Shares, stickiness and moves of 100,000 keys; weight 0 and abort under load."""
    keys = [f"user-{i}" for i in range(bench.sized(100_000, 5_000))]
    kinds = {"1": "stable", "2": "copy", "3": "copy"}
    with bench.service("split", {"m": {"kinds": kinds, "loaded": ("1", "2", "3")}}) as service:
        with service.admin() as admin:
            shares, by_share = _shares(bench, service, admin, keys)
            moves = _moves(bench, service, admin, keys, by_share)
        stays = _stays(bench, service, keys, by_share[SHARES[-1]])
        zero = _zero(bench, service)
    moves = replace(moves, rows=[*moves.rows, ["restart of the server at 50 %", str(stays), "0", ""]],
                    bounds=[*moves.bounds, Bound("keys with another arm after a restart", stays, most=0)])
    return [shares, moves, zero]


def binomial_interval(n: int, p: float, level: float) -> tuple[int, int]:
    """The equal-tailed interval of a binomial count, as scipy.stats.binom.interval gives it."""
    k = np.arange(n + 1)
    choose = np.concatenate([[0.0], np.cumsum(np.log((n - k[:-1]) / (k[:-1] + 1)))])
    cumulative = np.cumsum(np.exp(choose + k * np.log(p) + (n - k) * np.log1p(-p)))
    tail = (1 - level) / 2
    return int(np.searchsorted(cumulative, tail)), int(np.searchsorted(cumulative, 1 - tail))


def _shares(bench: Bench, service: Service, admin: AdminClient, keys: Sequence[str]) -> tuple[Table, dict[int, list[str]]]:
    lines, bounds, found = [], [], {}
    few = keys[: len(keys) // 5]
    for share in SHARES:
        weights = {"1": 10_000 - share, "2": share}
        generation = put(admin, weights)
        began = time.monotonic()
        found[share] = over_grpc(service, keys, generation)
        bench.say(f"{share / 100:g} %: {len(keys) / (time.monotonic() - began):,.0f} gRPC calls a second")
        http = over_http(service, few, generation)
        n, (low, high) = found[share].count("2"), binomial_interval(len(keys), share / 10_000, 0.999)
        n_other = sum(a != assigned(weights, SALT, key) for a, key in zip(found[share], keys, strict=True))
        n_http = sum(a != b for a, b in zip(http, found[share], strict=False))
        lines.append([f"{share / 100:g} %", f"{n:,}", f"{low:,.0f} to {high:,.0f}", str(n_other), f"{n_http} of {len(few):,}"])
        bounds += [
            Bound(f"keys of {len(keys):,} at {share / 100:g} %", n, low, high),
            Bound(f"keys at {share / 100:g} % that went elsewhere than PyPI's xxhash says, gRPC", n_other, most=0),
            Bound(f"keys at {share / 100:g} % with another arm over HTTP", n_http, most=0),
        ]
    table = Table(f"Who gets the candidate: {len(keys):,} sticky keys, asked over gRPC",
                  ["weight", "keys on the candidate", "99.9 % of the binomial", "elsewhere than computed", "other arm over HTTP"], lines,
                  ["The arm is what x-headrace-variant of each answer says; the key is in metadata x-user-id."], bounds)
    return table, found


def _moves(bench: Bench, service: Service, admin: AdminClient, keys: Sequence[str], by_share: Mapping[int, list[str]]) -> Table:
    lines, bounds = [], []
    for low, high in pairwise(SHARES):
        before, after = by_share[low], by_share[high]
        moved = sum(a != b for a, b in zip(before, after, strict=True))
        must = [assigned({"1": 10_000 - w, "2": w}, SALT, key) for w in (low, high) for key in keys]
        least = sum(a != b for a, b in zip(must[: len(keys)], must[len(keys):], strict=True))
        back = sum((a, b) == ("2", "1") for a, b in zip(before, after, strict=True))
        lines.append([f"two arms, {low / 100:g} to {high / 100:g} %", f"{moved:,}", f"{least:,}", f"{moved / least:.3f}"])
        bounds += [Bound(f"moved keys over computed ones, {low / 100:g} to {high / 100:g} %", moved - least, 0, 0),
                   Bound(f"keys that moved back, {low / 100:g} to {high / 100:g} %", back, most=0)]
    for old, new in RAMPS:
        arms = [over_grpc(service, keys, put(admin, weights)) for weights in (old, new)]
        moved = sum(a != b for a, b in zip(*arms, strict=True))
        floor = sum(abs(old[v] - new[v]) for v in old) / 2 / 10_000 * len(keys)
        name = f"three arms, {'/'.join(f'{w / 100:g}' for w in old.values())} to {'/'.join(f'{w / 100:g}' for w in new.values())}"
        lines.append([name, f"{moved:,}", f"{floor:,.0f}", f"{moved / floor:.3f}"])
        bounds.append(Bound(f"moved over the least possible, {name}", moved / floor, most=1.25))
        bench.say(lines[-1][0])
    return Table("Who moves when weights change", ["change", "keys that moved", "have to move", "ratio"], lines, [
        "Two arms: have to move is counted key by key with PyPI's xxhash. Three arms: the total variation of the weights."], bounds)


def _stays(bench: Bench, service: Service, keys: Sequence[str], before: list[str]) -> int:
    """How many keys have another arm after a restart."""
    with service.admin() as admin:
        generation = put(admin, {"1": 10_000 - SHARES[-1], "2": SHARES[-1]})
    service.restart()
    n = sum(a != b for a, b in zip(before, over_grpc(service, keys, generation), strict=True))
    bench.say(f"after a restart {n} keys have another arm")
    return n


def _zero(bench: Bench, service: Service) -> Table:
    """Take the candidate away while everybody asks, by weight 0 and by aborting its rollout."""
    turns = bench.sized(20, 3)
    late: dict[str, int] = {"weight 0": 0, "abort": 0}
    asked: dict[str, int] = {"weight 0": 0, "abort": 0}
    generations: set[int] = set()
    x = rows(16)
    with (service.admin() as admin, Wrk(service, ["m"], x, keys=100_000) as wrk, H2load(service, ["m"], x[0]) as h2load,
          Probe(service, "m", x) as probe):
        for turn in range(2 * turns):
            way = "weight 0" if turn < turns else "abort"
            taken = _take_away(admin, probe, way)
            generations.add(generation_of(admin, "m"))
            returned = time.time_ns()
            time.sleep(0.15)
            probe_answers = [answer for answer in list(probe.answers) if answer.sent_ns > returned]
            late[way] += sum(answer.version == "2" for answer in probe_answers)
            asked[way] += len(probe_answers)
            bench.say(f"{way}: {taken:.4f} s to return, {late[way]} answers of the candidate afterwards")
    assert wrk.summary is not None
    misrouted = sum(arm.n for arm in wrk.summary.arms if arm.generation in generations and arm.version == "2")
    failed = sum(answer.status != 200 for answer in probe.answers) + wrk.summary.requests - wrk.summary.count(status=200) + h2load.failed
    lines = [[way, str(turns), f"{asked[way]:,}", str(late[way])] for way in late]
    bounds = [Bound(f"candidate's answers to requests sent after {way} returned", n, most=0) for way, n in late.items()]
    bounds += [Bound("candidate's answers under a generation that gives it nothing, wrk", misrouted, most=0),
               Bound("answers that were no success", failed, most=0)]
    headers = ["by", "times", "requests sent afterwards by the clocked client", "of them answered by the candidate"]
    return Table("Taking the candidate away under load", headers, lines, [
        f"Beside it: wrk {wrk.summary.requests:,} requests, h2load {h2load.succeeded:,} calls. The candidate had 50 % before."], bounds)


def _take_away(admin: AdminClient, probe: Probe, way: str) -> float:
    """Give the candidate half of the requests, wait until it answers, take it away. Seconds that the last call took."""
    before = len(probe.answers)

    def is_used() -> bool:
        return any(answer.version == "2" for answer in list(probe.answers)[before:])

    if way == "weight 0":
        put(admin, {"1": 5000, "2": 5000})
        until(is_used, 20)
        began = time.monotonic()
        put(admin, {"1": 10_000, "2": 0})
        return time.monotonic() - began
    rollout = admin.start_rollout("m", {"to": "2", "stable": "1", "shadow": None, "steps": [{"weight": 5000, "seconds": 60}]})["id"]
    until(is_used, 20)
    began = time.monotonic()
    admin.command(rollout, "abort")
    return time.monotonic() - began


__all__ = ["binomial_interval", "split_case"]
