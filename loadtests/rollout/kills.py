"""Case kills: kill -9 of the worker and of the whole service at random moments of rollouts; what comes back must be of one piece."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from loadtests import payloads
from loadtests.judge.tables import Bound, Table
from loadtests.rollout import models
from loadtests.rollout.bench import ENDED, Bench
from loadtests.rollout.load import Wrk
from loadtests.rollout.service import Service
from loadtests.rollout.wire import HttpPipeline, ask_all
from serve.client.admin import AdminClient
from serve.routing.rollout_state import RolloutState, wanted_traffic
from serve.store.recovery import FILE
from serve.store.sqlite import SqliteStore

SEED = 20261122
MODEL = "m"
SHADOW = {"sample": 5000, "seconds": 0.3, "requests": 5}
STEPS = [{"weight": weight, "seconds": 0.3, "requests": 5} for weight in (500, 2500, 5000)]
# The latest moment of a kill after a start and after a resume: a rollout takes somewhat less than the first.
LONGEST_S, LONGEST_RESUMED_S = 2.5, 1.2
# Rows of the worker that was killed are no younger than this after the signal; a new one takes longer to come up.
LAST_WORDS_NS = 60_000_000
N_ASKED = 60
TRIES = 40


@dataclass(frozen=True)
class Round:
    """One kill. before: phase as last written, with the candidate's weight and shadow sample in basis points. faults: what does not fit.

    deaths: of the attempt, before.
    """

    way: str
    moment_s: float
    away_s: float
    before: str
    before_bp: int
    shadow_bp: int
    deaths: int
    after: str
    after_bp: int
    faults: tuple[str, ...]


def kills_case(bench: Bench) -> list[Table]:
    """kill -9 of the worker and of the service at random moments of rollouts."""
    plan = [("worker", bench.sized(30, 4)), ("service", bench.sized(10, 2))]
    draw = random.Random(SEED)
    found: list[Round] = []
    with bench.service("kills", {MODEL: {"kinds": {models.STABLE: "stable", models.COPY: "copy"}, "loaded": (models.STABLE,)}}) as service:
        for way, n in plan:
            for _ in range(n):
                found.append(_round(service, draw, way))
                bench.say(str(found[-1]))
    return [_table(found)]


def _round(service: Service, draw: random.Random, way: str) -> Round:
    with Wrk(service, [MODEL], models.rows(16), connections=8), service.admin() as admin:
        rollout, is_resumed = _under_way(admin)
        deaths = int(admin.rollout(rollout)["deaths"])
        moment_s = draw.uniform(0.0, LONGEST_RESUMED_S if is_resumed else LONGEST_S)
        time.sleep(moment_s)
        killed_ns, began = time.time_ns(), time.monotonic()
        if way == "worker":
            service.kill_worker()
        else:
            service.kill()
        away_s = time.monotonic() - began
    with service.admin() as admin:
        rows = [row for row in admin.all_audit() if _ns(row) <= killed_ns + LAST_WORDS_NS]
        before, before_bp, shadow_bp = _standing(rows, rollout)
        shown, weights, faults = _consistent(service, admin, rollout)
        after_bp = weights.get(shown["candidate"], 0)
        faults += _transition(before, before_bp + shadow_bp, deaths, shown, after_bp)
    return Round(way, moment_s, away_s, before, before_bp, shadow_bp, deaths, str(shown["phase"]), after_bp, tuple(faults))


def _under_way(admin: AdminClient) -> tuple[str, bool]:
    """A rollout that goes on, and whether it was resumed after a death."""
    former = admin.rollouts(MODEL)
    if former and former[-1]["phase"] == "paused":
        return str(admin.command(former[-1]["id"], "resume")["id"]), True
    if former and former[-1]["phase"] not in ENDED:
        return str(former[-1]["id"]), False
    plan = admin.traffic(MODEL)["plan"]
    stable = max(plan["variants"], key=lambda variant: int(variant["weight"]))["version"]
    candidate = models.COPY if stable == models.STABLE else models.STABLE
    return str(admin.start_rollout(MODEL, {"to": candidate, "stable": stable, "shadow": SHADOW, "steps": STEPS})["id"]), False


def _standing(rows: Sequence[Mapping[str, Any]], rollout: str) -> tuple[str, int, int]:
    """Phase, and the candidate's weight and sample in basis points, by the last audit row of the rollout."""
    after = [row["data"]["after"] for row in rows if row.get("subject") == rollout and "phase" in (row["data"]["after"] or ())]
    if not after:
        return "pending", 0, 0
    return str(after[-1]["phase"]), int(after[-1]["candidate_bp"] or 0), int(after[-1]["shadow_bp"] or 0)


def _transition(before: str, traffic_bp: int, deaths: int, shown: Mapping[str, Any], after_bp: int) -> list[str]:
    """What a death may lead to."""
    phase = shown["phase"]
    if before in ENDED and phase != before:
        return [f"it had ended as {before} and is {phase}"]
    if before in ENDED or traffic_bp == 0:
        return []
    wanted = "rolled_back" if deaths else "paused"
    faults = [] if phase == wanted else [f"the worker died at {before}, {traffic_bp} bp, after {deaths} deaths: {phase}, not {wanted}"]
    if phase == "paused" and shown["pause_reason"] != "worker_died":
        faults.append(f"paused because of {shown['pause_reason']}")
    return faults + ([f"the candidate has {after_bp} bp after a death"] if after_bp else [])


def _consistent(service: Service, admin: AdminClient, rollout: str) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """The rollout, the weights in force, and what of rollout, traffic, answers, store and audit does not agree. Of one moment."""
    body = payloads.json_body("x", models.rows(1))
    shown: dict[str, Any] = {}
    for _ in range(TRIES):
        shown, traffic = admin.rollout(rollout), admin.traffic(MODEL)
        answers = ask_all(partial(HttpPipeline, service.http_port, f"/v2/models/{MODEL}/infer", body), [""] * N_ASKED, N_ASKED)
        stored = asyncio.run(_stored(service, rollout))
        again, traffic_again = admin.rollout(rollout), admin.traffic(MODEL)
        if (shown["phase"], shown["step"], traffic) == (again["phase"], again["step"], traffic_again):
            break
    else:
        raise TimeoutError(f"{rollout} does not stand still long enough to be looked at: {shown}")
    weights = {variant["version"]: int(variant["weight"]) for variant in traffic["plan"]["variants"]}
    faults = []
    wrong = [a for a in answers if a.status != 200 or a.generation != traffic["generation"] or not weights.get(a.version)]
    if wrong:
        faults.append(f"{len(wrong)} answers do not fit generation {traffic['generation']} with {weights}: {wrong[0]}")
    return shown, weights, faults + _compare(shown, traffic, weights, stored)


async def _stored(service: Service, rollout: str) -> dict[str, Any]:
    store = await SqliteStore.open_read_only(service.state_dir / FILE)
    try:
        kept, plan, report = await store.get("rollout", rollout), await store.get("traffic", MODEL), await store.verify_audit()
        head, _ = await store.audit_head()
        rows = await store.audit(max(0, head - 200), 200)
    finally:
        await store.close()
    return {"rollout": kept and kept.content, "traffic": plan and plan.content, "audit": report, "rows": rows}


def _compare(shown: Mapping[str, Any], traffic: Mapping[str, Any], weights: Mapping[str, int], stored: Mapping[str, Any]) -> list[str]:
    faults = [] if stored["audit"].is_intact else [f"the audit is broken: {stored['audit'].fault}"]
    state = RolloutState.from_document(stored["rollout"]["state"])
    if (state.phase, state.step, state.deaths) != (shown["phase"], shown["step"], shown["deaths"]):
        faults.append(f"the store has the rollout at {state.phase}, step {state.step}; the API says {shown['phase']}, {shown['step']}")
    kept = stored["traffic"] or {"generation": 0, "plan": None}
    if kept["plan"] is not None:
        in_store = {variant["version"]: variant["weight"] for variant in kept["plan"]["variants"]}
        if (in_store, kept["generation"]) != (dict(weights), traffic["generation"]):
            faults.append(f"the store has {in_store} at generation {kept['generation']}, in force is {weights} at {traffic['generation']}")
        written = [row["data"]["after"] for row in stored["rows"] if row["type"] == "dev.headrace.traffic.set"]
        if written and written[-1] != kept["plan"]:
            faults.append(f"the last plan in the audit is {written[-1]}, in the store {kept['plan']}")
    wanted = wanted_traffic(state)
    if wanted is not None and weights.get(state.candidate, 0) != wanted.candidate_bp:
        faults.append(f"the rollout is at {state.phase} and wants {wanted.candidate_bp} bp for the candidate; in force: {weights}")
    told = [row["data"]["after"]["phase"] for row in stored["rows"]
            if row.get("subject") == state.id and "phase" in (row["data"]["after"] or ())]
    if told and told[-1] != state.phase:
        faults.append(f"the last phase in the audit is {told[-1]}, in the store {state.phase}")
    return faults


def _ns(row: Mapping[str, Any]) -> int:
    return int(datetime.fromisoformat(row["time"]).timestamp() * 1e6) * 1000


def _table(found: Sequence[Round]) -> Table:
    lines = []
    groups = Counter((one.way, _moment(one), _end(one)) for one in found)
    for (way, moment, end), n in sorted(groups.items()):
        lines.append([way, moment, str(n), end])
    away = {way: statistics.median(one.away_s for one in found if one.way == way) for way in ("worker", "service")}
    n_weight = sum(one.before_bp > 0 and one.before not in ENDED for one in found)
    faults = [f"{one.way} at {one.moment_s:.2f} s: {fault}." for one in found for fault in one.faults]
    return Table(
        f"kill -9 at {len(found)} random moments of rollouts", ["killed", "when", "times", "came back as"], lines,
        [f"Moments: uniform in {LONGEST_S:g} s after a rollout's start, {LONGEST_RESUMED_S:g} s after a resume, seed {SEED}, under wrk.",
         f"Answers again after {away['worker']:.2f} s (worker) and {away['service']:.2f} s (service), medians. After each kill these had",
         f"to agree: the rollout, the plan in force, {N_ASKED} answers, the store's documents, the last rows of the audit, whose chain",
         "must be whole.", *faults],
        [Bound("kills after which something did not agree", sum(bool(one.faults) for one in found), most=0),
         Bound("kills while the candidate had weight", n_weight, least=1)],
        {"rounds": [{name: getattr(one, name) for name in Round.__dataclass_fields__} for one in found]})


def _moment(one: Round) -> str:
    if one.before in ENDED:
        return f"after it had ended ({one.before})"
    shadowed = f", shadow of {one.shadow_bp / 100:g} %" if one.shadow_bp else ""
    return f"{one.before}, candidate at {one.before_bp / 100:g} %{shadowed}" + (", resumed after a death" if one.deaths else "")


def _end(one: Round) -> str:
    return f"{one.after}, candidate at {one.after_bp / 100:g} %"


__all__ = ["kills_case"]
