"""Case changes: thousands of changes of the plan under full load; every request is answered, by who has to answer it, and counted once."""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.judge.tables import Bound, Table
from loadtests.rollout import models
from loadtests.rollout.assignment import assigned
from loadtests.rollout.bench import Bench
from loadtests.rollout.load import Counters, H2load, Probe, Wrk, WrkSummary, until
from loadtests.rollout.service import split
from loadtests.rollout.wire import Answer
from serve.client.admin import AdminClient

SALT, SEED, MODEL = "bench", 20261122, "m"
STICKY = {"header": "x-user-id"}
VERSIONS = ("1", "2", "3")
LONGEST_S = 240.0
# The server keeps the last counts of 32 generations that are over.
LOOK_EVERY = 12


@dataclass
class Changes:
    """What was put in force. weights: by generation. returned: (time in ns, generation) of each change; took_s: each call."""

    weights: dict[int, Mapping[str, int]] = field(default_factory=dict)
    returned: list[tuple[int, int]] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)


def changes_case(bench: Bench) -> list[Table]:
    """10,000 changes of the plan under full load: nothing lost, nothing misrouted, everything counted."""
    wanted, longest_s = bench.sized(10_000, 300), LONGEST_S / bench.sized(1, 20)
    served = {MODEL: {"kinds": dict.fromkeys(VERSIONS, "copy"), "loaded": VERSIONS}}
    draw, made, x = random.Random(SEED), Changes(), models.rows(32)
    with bench.service("changes", served) as service, service.admin() as admin:
        counters = Counters(service, MODEL)
        _change(admin, draw, made)
        with (Wrk(service, [MODEL], x, keys=100_000) as wrk, H2load(service, [MODEL], x[0]) as h2load,
              Probe(service, MODEL, x[:4]) as probe):
            began = time.monotonic()
            while len(made.returned) < wanted and time.monotonic() - began < longest_s:
                _change(admin, draw, made)
                if len(made.returned) % LOOK_EVERY == 0:
                    counters.note(admin.counters(MODEL))
            seconds = time.monotonic() - began
            bench.say(f"{len(made.returned):,} changes in {seconds:.1f} s")
        assert wrk.summary is not None
        until(lambda: _is_settled(admin, counters), 20, lambda: "requests of an old generation do not end")
    clients = {"wrk": wrk.summary.requests, "h2load": h2load.succeeded + h2load.failed, "clocked client": len(probe.answers)}
    failed = (wrk.summary.requests - wrk.summary.count(status=200) + wrk.summary.failed + h2load.failed
              + sum(answer.status != 200 for answer in probe.answers))
    return [_table(wanted, seconds, made, counters, clients, failed, wrk.summary, probe.answers)]


def _change(admin: AdminClient, draw: random.Random, made: Changes) -> None:
    """The next plan: any weights, one of three times one arm at 0."""
    first, second = sorted(draw.randint(0, 10_000) for _ in range(2))
    values = [first, second - first, 10_000 - second]
    if draw.random() < 1 / 3:
        values = [values[0] + values[1], 0, values[2]]
    weights = dict(zip(VERSIONS, values, strict=True))
    began, generation = time.monotonic(), made.returned[-1][1] if made.returned else 0
    # Known before it is in force: an answer may be faster than the call's.
    made.weights[generation + 1] = weights
    found = int(admin.set_traffic(MODEL, split(weights, sticky=STICKY, salt=SALT), generation)["generation"])
    if found != generation + 1:
        raise ValueError(f"the change of generation {generation} is generation {found}")
    made.took_s.append(time.monotonic() - began)
    made.returned.append((time.time_ns(), found))


def _is_settled(admin: AdminClient, counters: Counters) -> bool:
    readings = admin.counters(MODEL)
    counters.note(readings)
    return all(reading["is_final"] for reading in readings[:-1])


def too_old(answers: Sequence[Answer], returned: Sequence[tuple[int, int]]) -> int:
    """Answers of a generation that had been replaced, for whoever asked for it, before the request was sent."""
    at, newest, n = 0, 0, 0
    for answer in sorted(answers, key=lambda one: one.sent_ns):
        while at < len(returned) and returned[at][0] < answer.sent_ns:
            newest = returned[at][1]
            at += 1
        n += answer.generation < newest
    return n


def _table(
    wanted: int, seconds: float, made: Changes, counters: Counters, clients: Mapping[str, int], failed: int, wrk: WrkSummary,
    answers: Sequence[Answer],
) -> Table:
    # Requests without a key are drawn one by one; what must hold of them is that no arm with weight 0 answers.
    nobodys = sum(arm.n for arm in wrk.arms if not made.weights.get(arm.generation, {}).get(arm.version))
    elsewhere = sum(assigned(made.weights[a.generation], SALT, a.key) != a.version for a in answers)
    arms = [arm for reading in counters.seen.values() for arm in reading["arms"]]
    counted, assigned_to = sum(arm["success"] for arm in arms), sum(arm["assigned"] for arm in arms)
    answered = sum(clients.values())
    unseen = [g for g in made.weights if g not in counters.seen]
    n, took = len(made.returned), sorted(made.took_s)
    lines = [
        ["changes of the plan", f"{n:,} in {seconds:.1f} s ({n / seconds:,.0f} a second)"],
        ["until a change's call returned",
         f"median {1000 * statistics.median(took):.1f} ms, 99 % within {1000 * took[int(n * 0.99)]:.1f} ms"],
        ["requests", ", ".join(f"{name} {count:,}" for name, count in clients.items()) + f" ({answered / seconds:,.0f} a second)"],
        ["counted by the arms of all generations", f"{counted:,} successes of {assigned_to:,} assigned"],
    ]
    notes = [
        "Three versions, a plan with a sticky key, random weights, one plan in three with an arm at 0. wrk leaves up to one request on",
        "each of its 16 connections when it stops: those are counted by the server alone. The clocked client knows its keys: where each",
        "had to go by the generation that its answer names is computed with PyPI's xxhash.",
    ]
    if n < wanted:
        notes.append(f"{wanted:,} changes do not fit into {seconds:.0f} s here: each is a durable commit (SQLite, synchronous FULL).")
    return Table("Changing the plan under full load", ["", ""], lines, notes, [
        Bound("requests that were no success", failed, most=0),
        Bound("answers by an arm that has weight 0 in the answer's own generation, wrk", nobodys, most=0),
        Bound("answers elsewhere than computed from the key and the answer's generation", elsewhere, most=0),
        Bound("answers of a generation that was replaced before the request was sent", too_old(answers, made.returned), most=0),
        Bound("generations whose counts were not seen", len(unseen), most=0),
        Bound("counted successes less answered requests", counted - answered, 0, 16),
        Bound("changes a second", n / seconds, least=1),
    ])


__all__ = ["changes_case", "too_old"]
