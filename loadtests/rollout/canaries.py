"""Case canaries: three bad candidates are taken back by themselves while wrk and h2load run, and the evidence says why."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from loadtests.judge.tables import Bound, Table, figure
from loadtests.rollout import models
from loadtests.rollout.bench import Bench, generation_of, wait_for_end
from loadtests.rollout.load import Counters, H2load, Probe, Wrk, WrkSummary
from loadtests.rollout.service import Service
from loadtests.rollout.wire import Answer
from serve.client.admin import AdminClient

N_ROWS, BAD_SHARE = 64, 1 / 16
TIMEOUT_S = 90.0
HOLD_S = 10.0
STEPS = [{"weight": weight, "seconds": 2, "requests": 100} for weight in (100, 500, 2500, 5000)]
# A share of the 0.01 for outputs, as a plan has to name it; errors and latency give it up.
OUTPUTS_ROLL_BACK = {
    "errors": {"alpha": 0.004}, "latency": {"alpha": 0.002},
    "outputs": {"output": "y", "kind": "class", "action": "rollback", "alpha": 0.004},
}
OUTPUTS_HOLD = {"outputs": {"output": "y", "kind": "class"}}


@dataclass(frozen=True)
class Canary:
    """A candidate and the part of the judge's settings that its plan names. test: what is expected to trip. model: which is rolled out."""

    name: str
    model: str
    version: str
    test: str
    judge: Mapping[str, Any]
    is_held: bool = False


CANARIES = (
    Canary("errors: fails for 1 input in 16", "m", models.ERRORS, "errors", {}),
    Canary("slow: six times the arithmetic", "wide", models.SLOW, "latency", {}),
    Canary("shifted, outputs may roll back", "m", models.SHIFTED, "outputs", OUTPUTS_ROLL_BACK),
    Canary("shifted, defaults", "m", models.SHIFTED, "outputs", OUTPUTS_HOLD, is_held=True),
)
SERVED: dict[str, dict[str, Any]] = {
    "m": {"kinds": {models.STABLE: "stable", models.ERRORS: "errors", models.SHIFTED: "shifted"}},
    # A stable version whose runs take long enough for six times as long to be more than the judge's floor of 0.2 ms.
    "wide": {"kinds": {models.STABLE: "stable", models.SLOW: "slow"}, "width": 768, "layers": 2, "slow_depth": 6},
}


@dataclass(frozen=True)
class Outcome:
    """One rollout of a bad candidate, from outside and by the server's own counters. Times in seconds from the verdict's evidence."""

    shown: Mapping[str, Any]
    test: str
    sentence: str
    seconds: float              # from the first moment that the candidate had weight
    step: int
    candidate: int
    errors: int
    all_requests: int
    last_sent_s: float | None
    last_answer_s: float | None
    last_wrk_answer_s: float | None
    routed_after: int           # by the generations that took it away
    answers_after: int          # of the candidate, under such a generation, seen by wrk and the clocked client


def canaries_case(bench: Bench) -> list[Table]:
    """Three bad candidates under wrk and h2load: rolled back by themselves, after how much, and why."""
    rounds = bench.sized(5, 1)
    lines, sentences, bounds, series = [], [], [], {}
    with bench.service("canaries", SERVED) as service:
        for canary in CANARIES:
            outcomes = []
            for _ in range(1 if canary.is_held else rounds):
                outcomes.append(_one(service, canary))
                bench.say(f"{canary.name}: {outcomes[-1]}")
            lines.append(_line(canary, outcomes))
            sentences.append(f"{canary.name}: \"{outcomes[-1].sentence}\"")
            series[canary.name] = [vars_of(outcome) for outcome in outcomes]
            bounds += _bounds(canary, outcomes)
    headers = ["candidate", "ended", "by test", "s until the verdict", "step", "candidate's requests", "its errors", "requests in all",
               "ms from verdict to last request sent", "to last answer"]
    return [Table("Bad candidates under wrk and h2load", headers, lines, [
        f"Medians (and extremes) of {rounds} rollouts each, 1-5-25-50 % with steps of at least 2 s and 100 requests, no shadow stage.",
        "Of a candidate that errs its errors are the bad answers, of the others all of its answers.",
        "The last two columns count from the time that the evidence bears; below zero is before it. The routing is swapped once what is",
        "to be written down is composed; from then on the server routed nothing to the candidate, and what it answers was routed before.",
        "What the judge said:", *(f"{sentence}." for sentence in sentences),
    ], bounds, series)]


def vars_of(outcome: Outcome) -> dict[str, Any]:
    """For the JSON file."""
    return {name: value for name, value in ((n, getattr(outcome, n)) for n in Outcome.__dataclass_fields__) if name != "shown"}


def _line(canary: Canary, outcomes: Sequence[Outcome]) -> list[str]:
    ended = sorted({f"{o.shown['phase']}{' (verdict hold)' if canary.is_held else ''}" for o in outcomes})
    last = [o.last_sent_s for o in outcomes if o.last_sent_s is not None]
    answer = [max(filter(None, (o.last_answer_s, o.last_wrk_answer_s)), default=0.0) for o in outcomes]
    ms = [f"{1000 * _middle(last):.1f} (at most {1000 * max(last):.1f})" if last else "none seen",
          f"{1000 * _middle(answer):.1f} (at most {1000 * max(answer):.1f})"]
    return [
        canary.name, ", ".join(ended), ", ".join(sorted({o.test for o in outcomes})), _span([o.seconds for o in outcomes]),
        ", ".join(sorted({str(o.step) for o in outcomes})), _span([o.candidate for o in outcomes]), _span([o.errors for o in outcomes]),
        _span([o.all_requests for o in outcomes]), *(ms if not canary.is_held else ["", ""]),
    ]


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _span(values: Sequence[float]) -> str:
    def text(value: float) -> str:
        return figure(value) if isinstance(value, int) else f"{value:.2f}"
    return text(_middle(values)) + (f" ({text(min(values))} to {text(max(values))})" if len(values) > 1 else "")


def _bounds(canary: Canary, outcomes: Sequence[Outcome]) -> list[Bound]:
    if canary.is_held:
        n = sum(o.shown["verdict"] == "hold" and o.shown["phase"] == "stepping" and o.test == canary.test for o in outcomes)
        return [Bound(f"held, not rolled back: {canary.name}", n, least=len(outcomes))]
    n = sum(o.shown["phase"] == "rolled_back" and o.shown["verdict"] == "rollback" and o.test == canary.test for o in outcomes)
    return [
        Bound(f"rolled back by itself, by the test meant for it: {canary.name}", n, least=len(outcomes)),
        Bound(f"requests routed to the candidate after the swap: {canary.name}", sum(o.routed_after for o in outcomes), most=0),
        Bound(f"answers of the candidate under a later generation: {canary.name}", sum(o.answers_after for o in outcomes), most=0),
    ]


@contextmanager
def _load(service: Service, canary: Canary) -> Iterator[tuple[Wrk, Probe]]:
    """wrk with rows of which some are bad where that makes a difference, h2load and the clocked client with good ones."""
    rows = models.rows(N_ROWS, BAD_SHARE if canary.test == "errors" else 0.0)
    with ExitStack() as stack:
        wrk = stack.enter_context(Wrk(service, [canary.model], rows, keys=100_000))
        stack.enter_context(H2load(service, [canary.model], rows[1], requests=2_000))
        probe = stack.enter_context(Probe(service, canary.model, rows[1:3]))
        yield wrk, probe


def _one(service: Service, canary: Canary) -> Outcome:
    plan = {"to": canary.version, "shadow": None, "steps": STEPS, "judge": canary.judge}
    counters = Counters(service, canary.model, every_s=0.05)
    with service.admin() as admin, _load(service, canary) as (wrk, probe):
        time.sleep(1.0)
        before = generation_of(admin, canary.model)
        with counters.polled():
            rollout = admin.start_rollout(canary.model, plan)["id"]
            if canary.is_held:
                shown = _held(admin, rollout)
                evidence = admin.evidence(rollout)[-1]
                admin.command(rollout, "abort", "as expected")
            else:
                shown = wait_for_end(admin, rollout, TIMEOUT_S)
                evidence = next(e for e in admin.evidence(rollout) if e["judgement"]["verdict"] == "rollback")
            time.sleep(0.5)
        audit = [row for row in admin.all_audit() if row["subject"] == canary.model or row["subject"] == rollout]
    assert wrk.summary is not None
    counters.seen = {g: reading for g, reading in counters.seen.items() if g > before}
    return _outcome(canary, shown, evidence, audit, counters, wrk.summary, probe.answers)


def _held(admin: AdminClient, rollout: str) -> dict[str, Any]:
    """The rollout when it has held for a while without being taken back."""
    end = time.monotonic() + TIMEOUT_S
    held_since = None
    while time.monotonic() < end:
        shown = admin.rollout(rollout)
        findings = (shown["judgement"] or {}).get("findings", ())
        is_tripped = any(f["test"] == "outputs" and f["is_tripped"] for f in findings)
        held_since = (held_since or time.monotonic()) if is_tripped and shown["verdict"] == "hold" else None
        if (shown["phase"] != "stepping" and shown["phase"] not in ("pending", "warming")) or (
                held_since is not None and time.monotonic() - held_since > HOLD_S):
            return shown
        time.sleep(0.1)
    return admin.rollout(rollout)


def _outcome(
    canary: Canary, shown: Mapping[str, Any], evidence: Mapping[str, Any], audit: Sequence[Mapping[str, Any]], counters: Counters,
    wrk: WrkSummary, answers: Sequence[Answer],
) -> Outcome:
    said_ns = _ns(evidence["time"])
    tripped = [f for f in evidence["judgement"]["findings"] if f["is_tripped"] and f["test"] != "progress"]
    wanted = "hold" if canary.is_held else "rollback"
    finding = next((f for f in tripped if f["action"] == wanted), {"test": "none", "sentence": evidence["judgement"]["why"]})
    given = [_ns(row["time"]) for row in audit if row["type"].endswith("traffic.set") and _weight(row, canary.version) > 0
             and shown["id"] in str(row["data"].get("reason", row))]
    later = shown["generation"] + canary.is_held      # the generation that took it away
    used = [g for g in counters.seen if g < later]
    candidate = sum(_arm(counters.seen[g], canary.version, "assigned") for g in used)
    mine = [answer for answer in answers if answer.version == canary.version]
    arms = [arm for arm in wrk.arms if arm.version == canary.version]
    return Outcome(
        shown={key: shown[key] for key in ("id", "phase", "verdict", "step", "generation")},
        test=finding["test"], sentence=finding["sentence"],
        seconds=(said_ns - min(given)) / 1e9 if given else 0.0, step=evidence["step"], candidate=candidate,
        errors=sum(_arm(counters.seen[g], canary.version, "errors") for g in used),
        all_requests=sum(arm["assigned"] for g in used for arm in counters.seen[g]["arms"]),
        last_sent_s=max(((a.sent_ns - said_ns) / 1e9 for a in mine), default=None),
        last_answer_s=max(((a.received_ns - said_ns) / 1e9 for a in mine), default=None),
        last_wrk_answer_s=max(((arm.last_ns - said_ns) / 1e9 for arm in arms), default=None),
        routed_after=sum(_arm(reading, canary.version, "assigned") for g, reading in counters.seen.items() if g >= later),
        answers_after=sum(a.generation >= later for a in mine) + sum(arm.n for arm in arms if arm.generation >= later),
    )


def _arm(reading: Mapping[str, Any], version: str, name: str) -> int:
    return sum(arm[name] for arm in reading["arms"] if arm["version"] == version and arm["name"] == version)


def _weight(row: Mapping[str, Any], version: str) -> int:
    after = row["data"].get("after") or {}
    return sum(variant["weight"] for variant in after.get("variants", ()) if variant["version"] == version)


def _ns(time_text: str) -> int:
    return int(datetime.fromisoformat(time_text).timestamp() * 1e6) * 1000


__all__ = ["canaries_case"]
