"""The whole judge, as the server asks it: a version against itself through a rollout, and other judges' misses."""

import math
from collections.abc import Iterator

import numpy as np

from loadtests.judge.null import RAMP
from loadtests.judge.runtimes import cumulative
from loadtests.judge.tables import Bound, Floats, Scale, Table, at_most, percent, seeded
from serve.routing.judge.judgement import Judgement, Verdict
from serve.routing.judge.observations import ArmCounts, Delta, Progress, RunCounts, Stratum
from serve.routing.judge.settings import JudgeSettings, OutputSettings
from serve.routing.judge.state import empty, fold
from serve.routing.judge.verdict import judge

LOOKS_A_STEP = 10
REQUESTS_A_LOOK = 10_000
CLASSES = 10
# log2 of rows -> share of the runs: a small arm's requests wait for fewer companions.
SIZES = {"stable": {0: 0.1, 2: 0.3, 4: 0.6}, "candidate": {0: 0.8, 2: 0.2, 4: 0.0}}

SETTINGS = JudgeSettings(outputs=OutputSettings(output="label", kind="class"))


def _run_counts(arm: str, n: int, rng: np.random.Generator) -> RunCounts:
    runs = {}
    for size, of_all in SIZES[arm].items():
        cells = np.maximum(np.diff(cumulative(1 + size), prepend=0.0), 0)
        if of_all:
            runs[size] = tuple(rng.multinomial(int(n * of_all / (1 << size)), cells).tolist())
    return RunCounts(runs)


def _longest_streak(n: int, errors: int, rng: np.random.Generator) -> int:
    # Exact when every failure stands alone, and errors are rare: the longest run of neighbours among so many positions.
    positions = np.sort(rng.choice(n, size=errors, replace=False)) if errors else np.empty(0, dtype=np.int64)
    longest = run = int(errors > 0)
    for gap in np.diff(positions):
        run = run + 1 if gap == 1 else 1
        longest = max(longest, run)
    return longest


def _arm(n: int, errors: int, mix: Floats, rng: np.random.Generator) -> ArmCounts:
    return ArmCounts(n, errors, dict(enumerate(rng.multinomial(n, mix).tolist())))


def _looks(rng: np.random.Generator) -> Iterator[tuple[Delta, Progress]]:
    # A day is a step long; error rate and mix of classes swing with it.
    streak = 0
    for look in range(LOOKS_A_STEP * len(RAMP)):
        step, at = divmod(look, LOOKS_A_STEP)
        phase = 0.5 - 0.5 * math.cos(2 * math.pi * look / LOOKS_A_STEP)
        rate = 0.0005 * 10**phase
        mix = np.exp(-0.3 * phase * np.arange(CLASSES))
        mix /= mix.sum()
        ours = int(rng.binomial(REQUESTS_A_LOOK, RAMP[step]))
        errors = [int(rng.binomial(n, rate)) for n in (REQUESTS_A_LOOK - ours, ours)]
        streak = max(streak, _longest_streak(ours, errors[1], rng))
        stratum = Stratum(
            step + 1, RAMP[step], _arm(REQUESTS_A_LOOK - ours, errors[0], mix, rng), _arm(ours, errors[1], mix, rng),
            (REQUESTS_A_LOOK - ours, ours),
        )
        delta = Delta(
            (stratum,), _run_counts("stable", REQUESTS_A_LOOK - ours, rng), _run_counts("candidate", ours, rng),
            streak=streak, failing_units=errors[1],
        )
        is_last = step == len(RAMP) - 1
        yield delta, Progress(step, is_last, 20.0 * (at + 1), (at + 1) * ours, 200.0, 500)


def one_rollout(rng: np.random.Generator) -> list[Judgement]:
    """The judgements of one rollout of a version against itself, up to the first that ends it."""
    state, said = empty(), []
    for delta, progress in _looks(rng):
        state = fold(state, SETTINGS, delta)
        said.append(judge(state, SETTINGS, progress))
        if said[-1].verdict in (Verdict.ROLLBACK, Verdict.PROMOTE):
            break
    return said


def same_version(scale: Scale) -> list[Table]:
    """A version against itself through the whole judge: every test at its defaults, batches of unequal sizes, a daily swing."""
    rng, runs = seeded(40), 2 * scale.slow_runs
    ends: dict[str, int] = {"rollback": 0, "promote": 0, "neither": 0}
    held = looks = 0
    causes: dict[str, int] = {}
    for run in range(runs):
        said = one_rollout(rng)
        last = said[-1].verdict.value
        ends[last if last in ends else "neither"] += 1
        looks += len(said)
        held += sum(j.verdict is Verdict.HOLD for j in said)
        for finding in said[-1].findings:
            if finding.is_tripped and finding.action == "rollback":
                causes[finding.test] = causes.get(finding.test, 0) + 1
        if run % 50 == 49:
            scale.say(f"{run + 1:,} rollouts through the whole judge: {ends}")
    wrong = ends["rollback"] / runs
    return [
        Table(
            "A version against itself through the whole judge",
            ["", "share", "allowed"],
            [
                ["rolled back", at_most(ends["rollback"], runs), percent(SETTINGS.rollback_alpha)],
                ["promoted by the end", percent(ends["promote"] / runs), ""],
                ["looks that held", percent(held / looks), ""],
            ],
            [
                f"{runs:,} rollouts at default settings.",
                f"{LOOKS_A_STEP} looks of {REQUESTS_A_LOOK:,} requests at each of {', '.join(percent(w) for w in RAMP)}.",
                f"Errors (.05 to .5 %) and the mix of output classes swing with a day of {LOOKS_A_STEP} looks.",
                "The candidate runs in smaller batches, and a batch's time grows with its size.",
                "The rollouts that were not promoted had too few errors to show non-inferiority at the end, and would have gone on.",
                f"What tripped in the false rollbacks: {', '.join(f'{test} {n}' for test, n in causes.items()) or 'nothing'}.",
            ],
            [Bound("false rollbacks of the whole judge", wrong, most=SETTINGS.rollback_alpha)],
        )
    ]


# What other judges passed: (points of the candidate, points of the baseline, wanted, what it is). Per minute, equal traffic.
FIXTURES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Verdict, str]] = {
    "kayenta#426": ((0, 1, 2, 1, 0, 0), (0,) * 6, Verdict.HOLD, "errors a minute; Kayenta: Pass"),
    "spinnaker#6278": ((1,) * 7 + (0,) * 3, (0,) * 10, Verdict.HOLD, "7 of 10 points over all that the baseline showed; Kayenta: Pass"),
    "kayenta#799": ((1, 4, 2, 3, 1), (0,) * 5, Verdict.ROLLBACK, "errors a minute, none on the baseline; Kayenta: Pass or NODATA"),
}
REQUESTS_A_POINT = 100


def judged(candidate: tuple[int, ...], baseline: tuple[int, ...], requests: int = REQUESTS_A_POINT) -> Judgement:
    """The verdict at default settings after points of errors a minute in each arm, at equal shares; the first that is final ends it."""
    settings, state = JudgeSettings(), empty()
    said = judge(state, settings, Progress(0, False, 0.0, 0, 60.0, 500))
    for minute, (bad, expected) in enumerate(zip(candidate, baseline, strict=True), 1):
        stratum = Stratum(1, 0.5, ArmCounts(requests, expected), ArmCounts(requests, bad), (requests, requests))
        state = fold(state, settings, Delta((stratum,), streak=min(bad, 1), failing_units=bad))
        said = judge(state, settings, Progress(0, False, 60.0 * minute, requests * minute, 60.0, 500))
        if said.verdict is Verdict.ROLLBACK:
            break
    return said


def fixtures(scale: Scale) -> list[Table]:
    """Misses that users of Kayenta reported, before the whole judge."""
    rows, bounds = [], []
    for name, (candidate, baseline, wanted, what) in FIXTURES.items():
        said = judged(candidate, baseline)
        evidence = next(finding.e_value for finding in said.findings if finding.test == "errors")
        rows.append([name, what, wanted.value, said.verdict.value, f"{evidence or 0:.3g}", said.why])
        bounds.append(Bound(f"{name}: {said.verdict.value}, wanted {wanted.value}", float(said.verdict is wanted), least=1.0))
        scale.say(f"{name}: {said.verdict.value}")
    return [
        Table(
            "Misses of another judge",
            ["issue", "data", "wanted", "verdict", "evidence", "why"],
            rows,
            [
                f"Default settings, {REQUESTS_A_POINT} requests a minute and arm, a look a minute.",
                "Failures stand alone: the points say nothing of their order, so the fast path for failures in a row is left out.",
            ],
            bounds,
        )
    ]


__all__ = ["fixtures", "judged", "one_rollout", "same_version"]
