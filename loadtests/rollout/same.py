"""Case same: A/A. A version is rolled out against its copy, under load; none of it may be taken back."""

import statistics
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from loadtests.judge.tables import Bound, Table
from loadtests.rollout import models
from loadtests.rollout.bench import ENDED, Bench, wait_for_end
from loadtests.rollout.load import H2load, Wrk
from loadtests.rollout.service import Service

N_MODELS, ROUNDS = 8, 5
STICKY = {"header": "x-user-id"}
STEPS = [{"weight": weight, "seconds": 2, "requests": 20} for weight in (100, 500, 2500, 5000)]
# A stage that does not end pauses the rollout then, with the judge's reason.
STAGE_TIMEOUT_S = 40.0
LONGEST_S = 4 * STAGE_TIMEOUT_S + 30


@dataclass(frozen=True)
class Ended:
    """One rollout. holds: tests that were tripped while the judge said hold, "" for evidence under its limit; with how many judgements."""

    model: str
    is_sticky: bool
    phase: str
    seconds: float
    why: str
    holds: Mapping[str, int]


def same_case(bench: Bench) -> list[Table]:
    """A/A: 40 rollouts of a version against its copy under load, half of them sticky."""
    n_models, rounds = bench.sized(N_MODELS, 2), bench.sized(ROUNDS, 1)
    names = [f"m{at}" for at in range(n_models)]
    served: dict[str, dict[str, Any]] = {
        name: {"kinds": {models.STABLE: "stable", models.COPY: "copy"}, "loaded": (models.STABLE,)} for name in names}
    found: list[Ended] = []
    errors: list[BaseException] = []
    x = models.rows(64)
    with bench.service("same", served) as service, ExitStack() as load:
        wrk = load.enter_context(Wrk(service, names, x, keys=100_000, connections=32))
        h2load = load.enter_context(H2load(service, names[1::2], x[0], requests=2_000))
        threads = [threading.Thread(target=_rounds, args=(bench, service, name, at % 2 == 0, rounds, found, errors), daemon=True)
                   for at, name in enumerate(names)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(rounds * LONGEST_S)
    if errors:
        raise errors[0]
    assert wrk.summary is not None
    n_failed = wrk.summary.requests - wrk.summary.count(status=200) + wrk.summary.failed + h2load.failed
    return [_table(found, n_models * rounds, wrk.summary.requests + h2load.succeeded, wrk.summary.seconds, n_failed)]


def _rounds(
    bench: Bench, service: Service, model: str, is_sticky: bool, rounds: int, found: list[Ended], errors: list[BaseException],
) -> None:
    try:
        stable, candidate = models.STABLE, models.COPY
        with service.admin() as admin:
            for _ in range(rounds):
                plan = {"to": candidate, "stable": stable, "shadow": None, "steps": STEPS, "step_timeout_seconds": STAGE_TIMEOUT_S,
                        "sticky": STICKY if is_sticky else None}
                rollout = admin.start_rollout(model, plan)["id"]
                shown = wait_for_end(admin, rollout, LONGEST_S, ("paused",))
                holds = _holds(admin.evidence(rollout))
                found.append(Ended(model, is_sticky, shown["phase"], shown["total_elapsed_s"], shown["why"], holds))
                bench.say(f"{rollout}: {found[-1]}")
                if shown["phase"] not in ENDED:
                    admin.command(rollout, "abort", "held")
                if shown["phase"] == "succeeded":
                    stable, candidate = candidate, stable
    except BaseException as error:      # noqa: BLE001  raised by the case
        errors.append(error)


def _holds(evidence: list[dict[str, Any]]) -> dict[str, int]:
    holds: Counter[str] = Counter()
    for judged in evidence:
        judgement = judged["judgement"]
        if judgement["verdict"] == "hold":
            tripped = {f["test"] for f in judgement["findings"] if f["is_tripped"] and f["action"] == "hold"}
            holds[", ".join(sorted(tripped)) or "suspicion"] += 1
    return dict(holds)


def _table(found: list[Ended], wanted: int, n_requests: int, seconds: float, n_failed: int) -> Table:
    lines = []
    for is_sticky in (True, False):
        group = [one for one in found if one.is_sticky is is_sticky]
        phases = Counter(one.phase for one in group)
        holds: Counter[str] = Counter()
        for one in group:
            holds.update(one.holds.keys())
        lines.append([
            "by x-user-id" if is_sticky else "each request by itself", str(len(group)), str(phases["succeeded"]),
            str(phases["rolled_back"]), str(phases["paused"]), ", ".join(f"{test}: {n}" for test, n in holds.most_common()) or "none",
            f"{statistics.median(one.seconds for one in group):.1f} ({min(one.seconds for one in group):.1f} to "
            f"{max(one.seconds for one in group):.1f})" if group else "",
        ])
    whys = sorted({f"{one.model}: {one.why}" for one in found if one.phase != "succeeded"})
    headers = ["drawn", "rollouts", "promoted", "rolled back", "stopped by a hold", "held for a while by", "s"]
    return Table(
        "A/A: a version against its copy", headers, lines,
        [f"Steps 1-5-25-50 % of at least 2 s; {len({one.model for one in found})} models at the same time, {n_requests:,} requests by",
         f"wrk and h2load in {seconds:.0f} s.",
         "A rollout that is held for a while goes on when the reason is gone; progress: a step had no judged answers yet.", *whys],
        [Bound("A/A rollouts that ended", len(found), least=wanted),
         Bound("A/A rollouts that were rolled back or failed", sum(one.phase in ("rolled_back", "failed") for one in found), most=0),
         Bound("A/A answers that were no success", n_failed, most=0)],
        {"rollouts": [{name: getattr(one, name) for name in Ended.__dataclass_fields__} for one in found]})


__all__ = ["same_case"]
