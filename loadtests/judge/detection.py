"""How many requests, and how many bad answers, until a worse candidate is rolled back."""

from dataclasses import dataclass

import numpy as np

from loadtests.judge.tables import Bound, Ints, Scale, Table, figure, first_crossing, percent, seeded
from serve.routing.judge.eprocess import information_floor
from serve.routing.judge.errors import log_evidence
from serve.routing.judge.settings import ErrorSettings

ALPHA = 0.01
BASE_RATE = 0.001
TOLERANCE = 0.15

# (share of the candidate, ratio of error rates) -> median errors of both arms, their 90th percentile, median requests: section 2.1 of the
# design.
REFERENCE: dict[tuple[float, float], tuple[int, int, float]] = {
    (0.05, 2): (299, 647, 285e3), (0.05, 3): (96, 205, 87e3), (0.05, 5): (35, 79, 29e3), (0.05, 10): (13, 28, 9.0e3),
    (0.10, 2): (172, 360, 156e3), (0.10, 3): (56, 126, 47e3), (0.10, 5): (22, 49, 16e3), (0.10, 10): (11, 19, 5.8e3),
    (0.50, 2): (89, 180, 59e3), (0.50, 3): (36, 71, 18e3), (0.50, 5): (21, 36, 7.0e3), (0.50, 10): (14, 21, 2.5e3),
}


SERIES = ("share", "ratio", "requests", "requests_p90", "reference", "bad", "bad_p90")


@dataclass(frozen=True, slots=True)
class Stops:
    """Of each run: errors of both arms and of the candidate when it was rolled back, and the requests until then; -1: not within the
    horizon.
    """

    errors: Ints
    candidate_errors: Ints
    requests: Ints


def simulate(share: float, ratio: float, runs: int, rng: np.random.Generator, base_rate: float = BASE_RATE, alpha: float = ALPHA) -> Stops:
    """Error by error: whose it is, drawn by its law, and how many requests came before it. Looked at after every error."""
    p = share * ratio / (share * ratio + 1 - share)
    error_rate = base_rate * (share * ratio + 1 - share)
    block = int(2 * information_floor(share, ratio, alpha)) + 20
    settings = ErrorSettings(alpha=alpha, margin=0.0)
    stops = Stops(*(np.full(runs, -1, dtype=np.int64) for _ in range(3)))
    running = np.arange(runs)
    counted = np.zeros(runs, dtype=np.int64)  # the candidate's errors, of the runs still running
    for n_before in range(0, 50 * block, block):
        ours = counted[:, None] + np.cumsum(rng.random((running.size, block)) < p, axis=1)
        n_errors = n_before + np.arange(1, block + 1)
        at = first_crossing(log_evidence(ours[..., None], (n_errors - ours)[..., None], [share], settings), 1 / alpha)
        is_found = at >= 0
        found, at = running[is_found], at[is_found]
        stops.errors[found] = n_errors[at]
        stops.candidate_errors[found] = ours[is_found, at]
        stops.requests[found] = n_errors[at] + rng.negative_binomial(n_errors[at], error_rate)
        running, counted = running[~is_found], ours[~is_found, -1]
        if not running.size:
            break
    return stops


def quantiles(values: Ints) -> tuple[float, float]:
    """(median, 90th percentile), runs that never stopped being the longest; nan where that many never stopped."""
    ordered = np.sort(np.where(values < 0, np.inf, values.astype(np.float64)))
    median, p90 = (float(ordered[min(int(q * ordered.size), ordered.size - 1)]) for q in (0.5, 0.9))
    return tuple(v if np.isfinite(v) else float("nan") for v in (median, p90))  # type: ignore[return-value]


def errors(scale: Scale) -> list[Table]:
    """Errors: requests to roll back, and bad answers served before it."""
    rows, served, bounds = [], [], []
    series: dict[str, list[float]] = {name: [] for name in SERIES}
    for i, ((share, ratio), (median_errors, p90_errors, reference)) in enumerate(REFERENCE.items()):
        stops = simulate(share, ratio, scale.runs, seeded(1, i))
        (n_errors, n_errors90), (n, n90), (bad, bad90) = map(quantiles, (stops.errors, stops.requests, stops.candidate_errors))
        name = f"{percent(share)}, {ratio:g} times"
        rows.append([
            name, figure(n), figure(reference), f"{n / reference:.2f}", figure(n90), f"{n_errors:.0f} ({n_errors90:.0f})",
            f"{median_errors} ({p90_errors})", f"{information_floor(share, ratio, ALPHA):.0f}",
        ])
        expected = quantiles(np.where(stops.requests < 0, -1, (stops.requests * share * BASE_RATE).round().astype(np.int64)))
        served.append([name, f"{bad:.0f}", f"{bad90:.0f}", f"{expected[0]:.0f}", f"{n * share:,.0f}"])
        bounds.append(Bound(f"{name}: requests over the reference", n / reference, 1 - TOLERANCE, 1 + TOLERANCE))
        for key, value in zip(series, (share, ratio, n, n90, reference, bad, bad90), strict=True):
            series[key].append(value)
        scale.say(f"{name}: {figure(n)} requests")
    requests = Table(
        "Requests until an erring candidate is rolled back",
        ["candidate's share, error ratio", "requests, median", "reference", "ours / reference", "p90", "errors, median (p90)", "reference",
         "information floor"],
        rows,
        [
            f"{scale.runs:,} runs a cell; error rate of the stable version {percent(BASE_RATE)}.",
            f"The error test alone at alpha {ALPHA:g}, looked at after every error, without floor, fast path or warm-up.",
            "Errors are those of both arms.",
            "The information floor is ln(1/alpha) / KL(p(r) || share): what the best test that knows r needs on average.",
        ],
        bounds,
        series,
    )
    bad_answers = Table(
        "Bad answers served before the abort",
        ["candidate's share, error ratio", "median", "p90", "the stable version would have served", "candidate's requests, median"],
        served,
        ["The candidate's errors up to the verdict, in the runs above."],
        series=series,
    )
    return [requests, bad_answers]


def slow_answers(scale: Scale) -> list[Table]:
    """Latency as an error-like stream: the share of answers over the 99th percentile doubles."""
    stops = simulate(0.10, 2.0, scale.runs, seeded(2), base_rate=0.01)
    (events, events90), (n, n90) = quantiles(stops.errors), quantiles(stops.requests)
    return [
        Table(
            "Requests until a doubled share of slow answers is flagged: the stream alone",
            ["", "ours, median", "p90", "reference"],
            [
                ["slow answers of both arms", f"{events:.0f}", f"{events90:.0f}", "172"],
                ["requests", figure(n), figure(n90), "about 16k"],
            ],
            [
                f"{scale.runs:,} runs; 10 % share, 1 % of the stable version's answers are over the threshold, 2 % of the candidate's.",
                f"Alpha {ALPHA:g}, no margin.",
            ],
            [
                Bound("slow answers over the reference", events / 172, 1 - TOLERANCE, 1 + TOLERANCE),
                Bound("requests over the reference", n / 16e3, 1 - TOLERANCE, 1 + TOLERANCE),
            ],
        )
    ]


__all__ = ["ALPHA", "BASE_RATE", "errors", "quantiles", "simulate", "slow_answers"]
