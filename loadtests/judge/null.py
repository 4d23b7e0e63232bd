"""False alarms: a version against itself, looked at all the time."""

import math

import numpy as np
import numpy.typing as npt

from loadtests.judge.tables import Bound, Floats, Ints, Scale, Table, at_most, first_crossing, percent, seeded
from serve.routing.experiment_statistics import PairSums, Stratum, add_pair, difference_interval
from serve.routing.judge.errors import log_evidence
from serve.routing.judge.settings import ErrorSettings

Bools = npt.NDArray[np.bool_]

ALPHA = 0.01
RAMP = (0.01, 0.05, 0.25, 0.50)
SETTINGS = ErrorSettings(alpha=ALPHA, margin=0.0)

DAYS = 4
REQUESTS_A_DAY = 400_000
CHUNK = 250


def swinging_rate(time: Floats) -> Floats:
    """Error rate at a time in days: .05 % at night, .5 % by day, tenfold, smooth in its logarithm."""
    return 0.0005 * np.exp(math.log(10) * (0.5 - 0.5 * np.cos(2 * np.pi * time)))


def ramp_step(time: Floats) -> Ints:
    """Index of the ramp's step: equal parts of the rollout."""
    return np.minimum((time / DAYS * len(RAMP)).astype(np.int64), len(RAMP) - 1)


def _error_times(rng: np.random.Generator, runs: int) -> Floats:
    # As many errors in each run, so that runs stack; their times have the density of the rate (thinning), ascending.
    hours = (np.arange(24 * DAYS) + 0.5) / 24
    expected = int(swinging_rate(hours).mean() * REQUESTS_A_DAY * DAYS)
    times: list[Floats] = []
    for _ in range(runs):
        drawn = rng.random(expected * 3) * DAYS
        kept = drawn[rng.random(drawn.size) * 0.005 < swinging_rate(drawn)][:expected]
        times.append(np.sort(kept))
    n = min(len(t) for t in times)
    return np.stack([t[:n] for t in times])


def counts_by_step(step: Ints, is_candidate: Bools) -> tuple[Ints, Ints]:
    """(candidate, stable) errors so far in each step of the ramp, after each error. Shapes (runs, errors) -> (runs, errors, steps)."""
    in_step = step[..., None] == np.arange(len(RAMP))
    return np.cumsum(in_step & is_candidate[..., None], axis=1), np.cumsum(in_step & ~is_candidate[..., None], axis=1)


def alarm_curve(at: Ints, looks: Ints) -> list[float]:
    """Share of runs that had alarmed by each of these looks."""
    return [float(((at >= 0) & (at < look)).mean()) for look in looks]


def z_alarms(ours: Ints, n_ours: Floats | float, theirs: Ints, n_theirs: Floats | float, critical: float) -> Bools:
    """Whether the pooled two-proportion z test finds the candidate worse. Arrays broadcast; False while an arm has nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (ours + theirs) / (n_ours + n_theirs)
        z = (ours / n_ours - theirs / n_theirs) / np.sqrt(pooled * (1 - pooled) * (1 / n_ours + 1 / n_theirs))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0) >= critical


def ramp(scale: Scale) -> list[Table]:
    """False rollbacks of the error test through a ramp and a tenfold daily swing of the error rate."""
    rng, runs = seeded(10), scale.runs * 5 // 2
    ours_at, naive_at, n_errors = [], [], 0
    for first in range(0, runs, CHUNK):
        times = _error_times(rng, min(CHUNK, runs - first))
        step = ramp_step(times)
        is_candidate = rng.random(times.shape) < np.asarray(RAMP)[step]
        candidate, stable = counts_by_step(step, is_candidate)
        ours_at.append(first_crossing(log_evidence(candidate, stable, RAMP, SETTINGS), 1 / ALPHA))
        naive_at.append(_naive_ramp(times, is_candidate))
        n_errors = times.shape[1]
        if first % (CHUNK * 4) == 0:
            scale.say(f"{first + times.shape[0]:,} ramps of {times.shape[1]:,} errors")
    ours, naive = np.concatenate(ours_at), np.concatenate(naive_at)
    looks = np.unique(np.geomspace(1, n_errors, 60).astype(np.int64))
    wrong = int((ours >= 0).sum())
    rate = wrong / runs
    return [
        Table(
            "False rollbacks under a ramp and a daily swing",
            ["", "false rollbacks", "allowed"],
            [
                ["error test, looked at after every error", at_most(wrong, runs), percent(ALPHA)],
                ["z test at the same level, same looks, for comparison", percent(float((naive >= 0).mean())), ""],
            ],
            [
                f"{runs:,} rollouts of a version against itself, a day at each of {', '.join(percent(w) for w in RAMP)}.",
                f"The error rate swings between .05 % and .5 % each day; about {n_errors:,} errors each. No published reference was found.",
                "The z test pools all requests so far, one-sided at .01, from 30 errors on.",
                "It errs because it is asked again and again, and because arms that grew at other hours have met other error rates.",
            ],
            [Bound("false rollbacks of the error test", rate, most=ALPHA)],
            {"looks": looks.tolist(), "ours": alarm_curve(ours, looks), "z": alarm_curve(naive, looks), "alpha": ALPHA},
        )
    ]


def _naive_ramp(times: Floats, is_candidate: Bools) -> Ints:
    # Requests so far in each arm follow from the time alone: traffic is even over the day.
    length = DAYS / len(RAMP)
    inside = np.clip(times[..., None] - length * np.arange(len(RAMP)), 0, length) * REQUESTS_A_DAY
    n_ours, n_all = (inside * np.asarray(RAMP)).sum(axis=-1), times * REQUESTS_A_DAY
    ours = np.cumsum(is_candidate, axis=1, dtype=np.int64)
    alarms = z_alarms(ours, n_ours, np.arange(1, times.shape[1] + 1) - ours, n_all - n_ours, 2.326)
    alarms[:, :29] = False  # its normal law wants some errors
    return np.where(alarms.any(axis=1), alarms.argmax(axis=1), -1)


USERS = 10_000
REQUESTS_A_USER = 50
# share of users that fail, chance that a request of theirs fails; the design's figures: z test at 5 % once, e-process on errors, on first
# errors.
CLUSTERS = {
    "2 % of users fail half of 50 requests": (0.02, 0.5, 0.72, 0.247, 0.0033),
    "10 % of users fail 5 % of 50 requests": (0.10, 0.05, 0.25, 0.045, 0.0033),
}


def _user_errors(rng: np.random.Generator, runs: int, failing: float, chance: float) -> tuple[Ints, Floats]:
    # (user, time) of each error, sorted by time; runs are cut to the shortest.
    users = int(USERS * failing)
    parts: list[tuple[Ints, Floats]] = []
    for _ in range(runs):
        user = np.repeat(np.arange(users), rng.binomial(REQUESTS_A_USER, chance, users))
        time = rng.random(user.size)
        order = np.argsort(time)
        parts.append((user[order], time[order]))
    n = min(user.size for user, _ in parts)
    return np.stack([user[:n] for user, _ in parts]), np.stack([time[:n] for _, time in parts])


def _is_first(user: Ints) -> Bools:
    firsts = np.zeros(user.shape, dtype=bool)
    for row, users in zip(firsts, user, strict=True):
        row[np.unique(users, return_index=True)[1]] = True
    return firsts


def _clustered_runs(scale: Scale, key: int, failing: float, chance: float, at_share: float | None) -> dict[str, float]:
    # at_share None: through the ramp, in which a user moves over once the share has passed their position, and never back.
    rng = seeded(11, key)
    wrong = {"errors": 0, "firsts": 0, "z": 0}
    for first in range(0, scale.runs, CHUNK):
        n = min(CHUNK, scale.runs - first)
        user, time = _user_errors(rng, n, failing, chance)
        position = np.take_along_axis(rng.random((n, int(USERS * failing))), user, axis=1)
        step = ramp_step(time * DAYS) if at_share is None else np.zeros(user.shape, dtype=np.int64)
        shares = np.asarray(RAMP if at_share is None else (at_share,))
        is_candidate = position < shares[step]
        in_step = step[..., None] == np.arange(shares.size)
        for name, counts in (("errors", np.ones(user.shape, dtype=bool)), ("firsts", _is_first(user))):
            ours = np.cumsum(in_step & (counts & is_candidate)[..., None], axis=1)
            theirs = np.cumsum(in_step & (counts & ~is_candidate)[..., None], axis=1)
            wrong[name] += int((first_crossing(log_evidence(ours, theirs, shares, SETTINGS), 1 / ALPHA) >= 0).sum())
        if at_share is not None:
            bad = is_candidate.sum(axis=1)
            requests = USERS * REQUESTS_A_USER
            both = [z_alarms(a, requests * w, b, requests * (1 - w), 1.96)  # two sides of 5 %
                    for a, b, w in ((bad, user.shape[1] - bad, at_share), (user.shape[1] - bad, bad, 1 - at_share))]
            wrong["z"] += int((both[0] | both[1]).sum())
    return {name: count / scale.runs for name, count in wrong.items()}


def clustered(scale: Scale) -> list[Table]:
    """False rollbacks when errors come in clusters: sticky users, some of whom fail again and again."""
    rows, bounds = [], []
    for i, (name, (failing, chance, z_reference, errors_reference, firsts_reference)) in enumerate(CLUSTERS.items()):
        for at_share in (0.10, None):
            found = _clustered_runs(scale, 2 * i + (at_share is None), failing, chance, at_share)
            where = "ramp" if at_share is None else percent(at_share)
            firsts = round(found["firsts"] * scale.runs)
            rows.append([
                f"{name}, {where}", at_most(firsts, scale.runs), percent(firsts_reference),
                percent(found["errors"]), percent(errors_reference),
                percent(found["z"]) if at_share is not None else "", percent(z_reference) if at_share is not None else "",
            ])
            bounds.append(Bound(f"{name}, {where}: false rollbacks by first errors", found["firsts"], most=ALPHA))
            scale.say(f"{rows[-1][0]}: {rows[-1][1]}")
    return [
        Table(
            "False rollbacks under clustered errors",
            ["", "first error of each user (ours)", "reference", "every error counted", "reference", "z test once at 5 %",
             "reference"],
            rows,
            [
                f"{scale.runs:,} rollouts of a version against itself, {USERS:,} sticky users of {REQUESTS_A_USER} requests.",
                f"Alpha {ALPHA:g}, looked at after every error; ramp: the same steps as above.",
                "The references do not state share and number of users, so that the last four columns show an order of magnitude.",
                "Counting every error takes requests for units although users are drawn: a few users in one arm look like a bad version.",
            ],
            bounds,
        )
    ]


# looks -> (published, the design's own run)
PEEKS = {
    1: (0.05, 0.051), 2: (0.083, 0.083), 5: (0.142, 0.143), 10: (0.193, 0.194), 20: (0.248, 0.247), 50: (0.320, 0.319), 100: (0.374, 0.377),
}


def peeking(scale: Scale) -> list[Table]:
    """What looking again and again does to a fixed-size test, and to a confidence sequence."""
    rng = seeded(12)
    runs = max(scale.runs, 200)
    sums = np.cumsum(rng.standard_normal((runs, 100)), axis=1)
    z = np.abs(sums) / np.sqrt(np.arange(1, 101))
    rows = [[str(looks), percent(float((z[:, :looks] > 1.959964).any(axis=1).mean())), percent(published), percent(design)]
            for looks, (published, design) in PEEKS.items()]
    daily = float((z[:, :30] > 1.959964).any(axis=1).mean())
    sequence = _daily_sequence(runs)
    rows += [["30 daily", percent(daily), "29.4 %", "28.4 %"], ["30 daily, our confidence sequence", percent(sequence), "1.6 %", ""]]
    return [
        Table(
            "Peeking, for context",
            ["looks", "false alarms at nominal 5 %", "published", "design"],
            rows,
            [
                f"{runs:,} runs of no difference. z test by number of looks: Armitage, McPherson and Rowe, JRSS A 1969.",
                "30 daily looks: README of the package ville.",
                "The last line is the asymptotic confidence sequence of experiments, 1,000 units a day with 10 % hits.",
            ],
            [Bound("false alarms of the confidence sequence in 30 looks", sequence, most=0.05)],
        )
    ]


def _daily_sequence(runs: int) -> float:
    rng = seeded(13)
    wrong = 0
    for _ in range(runs):
        sums, n, hits = PairSums(), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
        for _ in range(30):
            second = int(rng.binomial(1000, 0.5))
            day = np.array([1000 - second, second])
            bad = rng.binomial(day, 0.1)
            sums = add_pair(sums, Stratum((5000, 5000), tuple(day.tolist()), tuple(bad.tolist())), 1, 0, (n.tolist(), hits.tolist()))
            n, hits = n + day, hits + bad
            found = difference_interval(sums, 0.05)
            if found is not None and not found[1] <= 0 <= found[2]:
                wrong += 1
                break
    return wrong / runs


__all__ = ["ALPHA", "RAMP", "clustered", "peeking", "ramp"]
