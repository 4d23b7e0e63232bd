"""Outputs that shift, shadows that disagree, and non-inferiority: how much data each needs."""

import math

import numpy as np

from loadtests.judge.detection import quantiles
from loadtests.judge.tables import Bound, Floats, Ints, Scale, Table, figure, first_crossing, percent, seeded
from serve.routing.judge.eprocess import log_less
from serve.routing.judge.outputs import log_evidence, psi_needed, stability_index
from serve.routing.judge.settings import OutputSettings
from serve.routing.judge.shadow import log_above, log_below

ALPHA = 0.01
SHARE = 0.10
GROUPS = 10

# PSI -> (median requests by the design, horizon in requests, requests between looks).
SHIFTS = {0.025: (27.5e3, 60_000, 200), 0.10: (4.1e3, 30_000, 50), 0.38: (0.7e3, 6_000, 10)}


def tilted(psi: float, groups: int = GROUPS) -> Floats:
    """Shares of equal groups after a tilt a_k ~ exp(s k) with this population stability index."""
    k = np.arange(groups) - (groups - 1) / 2
    low, high = 0.0, 2.0
    for _ in range(80):
        s = (low + high) / 2
        a = np.exp(s * k) / np.exp(s * k).sum()
        low, high = (s, high) if float(((a - 1 / groups) * np.log(a * groups)).sum()) < psi else (low, s)
    return np.asarray(np.exp(low * k) / np.exp(low * k).sum(), dtype=np.float64)


def _groups_floor(shifted: Floats) -> float:
    # Requests that the best test needs on average: ln(1/alpha) over the information that (arm, group) gives about the arm.
    even = np.full(shifted.size, 1 / shifted.size)
    mixed = SHARE * shifted + (1 - SHARE) * even
    gained = SHARE * (shifted * np.log(shifted / mixed)).sum() + (1 - SHARE) * (even * np.log(even / mixed)).sum()
    return float(math.log(1 / ALPHA) / gained)


def _first_flags(shifted: Floats, runs: int, horizon: int, step: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    # Requests until the evidence alone trips, and until the production rule (evidence and size of the shift) does; -1: not in time.
    cells = np.concatenate([SHARE * shifted, (1 - SHARE) / shifted.size * np.ones(shifted.size)])
    settings = OutputSettings(output="any", alpha=ALPHA)
    evidence, both = [], []
    for first in range(0, runs, 100):
        counts = np.cumsum(rng.multinomial(step, cells, size=(min(100, runs - first), horizon // step)), axis=1)
        ours, theirs = counts[..., : shifted.size], counts[..., shifted.size :]
        log_e = log_evidence(ours[..., None], theirs[..., None], [SHARE])
        is_large = stability_index(ours, theirs) >= psi_needed(shifted.size, ours.sum(axis=-1), theirs.sum(axis=-1), settings)
        evidence.append(first_crossing(log_e, 1 / ALPHA))
        both.append(first_crossing(np.where(is_large, log_e, -np.inf), 1 / ALPHA))
    stacked = [np.concatenate(parts) for parts in (evidence, both)]
    return tuple(np.where(at < 0, -1, (at + 1) * step) for at in stacked)  # type: ignore[return-value]


def outputs(scale: Scale) -> list[Table]:
    """Outputs: requests until a shift of the distribution is flagged, and how often none is."""
    rows, bounds = [], []
    runs = scale.runs // 2
    for i, (psi, (reference, horizon, step)) in enumerate(SHIFTS.items()):
        shifted = tilted(psi)
        evidence, both = _first_flags(shifted, runs, horizon, step, seeded(20, i))
        (n, n90), (m, _) = quantiles(evidence), quantiles(both)
        rows.append([
            f"PSI {psi:g}", figure(n), figure(reference), f"{n / reference:.2f}", figure(n90), figure(_groups_floor(shifted)),
            f"{percent(float((evidence >= 0).mean()))} in {figure(horizon)}", figure(m),
        ])
        bounds.append(Bound(f"PSI {psi:g}: requests over the reference", n / reference, most=1.15))
        scale.say(f"PSI {psi:g}: {figure(n)} requests")
    wrong, _ = _first_flags(np.full(GROUPS, 1 / GROUPS), runs, 20_000, 50, seeded(21))
    rate = float((wrong >= 0).mean())
    rows.append(["no shift", "", "", "", "", "", f"{percent(rate)} in 20k, allowed {percent(ALPHA)}", ""])
    bounds.append(Bound("false flags without a shift", rate, most=ALPHA))
    return [
        Table(
            "Requests until a shift of the outputs is flagged",
            ["", "evidence alone, median", "reference", "ours / reference", "p90", "information floor", "flagged",
             "with the floor of PSI .1, median"],
            rows,
            [
                f"{runs:,} runs, {percent(SHARE)} share, alpha {ALPHA:g}.",
                f"{GROUPS} groups of equal share on the stable version, tilted exponentially on the candidate.",
                "The reference does not say how its outputs were shifted.",
                "The last column is the production rule: evidence over the limit, and a measured PSI over .1 and over what chance gives.",
                "A shift under the floor is seen and let be.",
            ],
            bounds,
        )
    ]


def shadow(scale: Scale) -> list[Table]:
    """Shadows: compared pairs until too much disagreement is flagged, or none of it lets a stage pass."""
    allowed, true = 0.01, 0.02
    divergence = true * math.log(true / allowed) + (1 - true) * math.log((1 - true) / (1 - allowed))
    floor = math.log(1 / ALPHA) / divergence
    runs = scale.runs // 2
    pairs = _pairs_to_flag(true, allowed, runs, 300, seeded(22))
    wrong = _pairs_to_flag(allowed, allowed, runs, 300, seeded(23))
    median, p90 = quantiles(pairs)
    rate = float((wrong >= 0).mean())
    none = next(n for n in range(1, 2_000) if float(log_below(0, n, allowed)) >= math.log(20))
    return [
        Table(
            "Shadow pairs until disagreement is judged",
            ["", "ours", "reference"],
            [
                ["2 % disagree where 1 % is allowed: pairs until flagged, median", figure(median), f"information floor {figure(floor)}"],
                ["the same, p90", figure(p90), ""],
                ["1 % disagree: flagged wrongly within 300 disagreements", percent(rate), f"allowed {percent(ALPHA)}"],
                ["none disagrees: pairs until under 1 % is shown at .05", str(none), "298 to 492"],
            ],
            [f"{runs:,} runs, looked at after every disagreement; alpha {ALPHA:g}."],
            [
                Bound("pairs until flagged over the information floor", median / floor, most=1.5),
                Bound("shadow: false flags", rate, most=ALPHA),
                Bound("pairs without disagreement", none, 298, 492),
            ],
        )
    ]


def _pairs_to_flag(true: float, allowed: float, runs: int, disagreements: int, rng: np.random.Generator) -> Ints:
    # The evidence rises at a disagreement and falls between: looking there is looking everywhere.
    found = np.full(runs, -1, dtype=np.int64)
    counts = np.arange(1, disagreements + 1)
    for first in range(0, runs, 100):
        pairs = np.cumsum(rng.geometric(true, size=(min(100, runs - first), disagreements)), axis=1)
        at = first_crossing(log_above(np.broadcast_to(counts, pairs.shape), pairs, allowed), 1 / ALPHA)
        is_found = np.flatnonzero(at >= 0)
        found[first + is_found] = pairs[is_found, at[is_found]]
    return found


# (share, margin of non-inferiority) -> ln(1/alpha)/KL at alpha .05: section 2.7 of the design.
MARGINS = {(0.10, 2.0): 115, (0.10, 1.5): 363, (0.10, 1.25): 1260, (0.50, 2.0): 51, (0.50, 1.5): 147, (0.50, 1.25): 482}


def promotion(scale: Scale) -> list[Table]:
    """Promotion: errors of both arms until an equal candidate is shown not to be worse by the margin."""
    rows = []
    runs = scale.runs // 4
    for i, ((at_share, margin), floor) in enumerate(MARGINS.items()):
        rng = seeded(24, i)
        parts = []
        for first in range(0, runs, 100):
            ours = np.cumsum(rng.random((min(100, runs - first), floor * 6)) < at_share, axis=1)
            theirs = np.arange(1, floor * 6 + 1) - ours
            parts.append(first_crossing(log_less(ours[..., None], theirs[..., None], [at_share], ratio=margin), 20))
        at = np.concatenate(parts)
        median, p90 = quantiles(np.where(at < 0, -1, at + 1))
        rows.append([f"{percent(at_share)}, margin {margin:g} times", figure(median), figure(p90), figure(floor), f"{median / floor:.2f}"])
    return [
        Table(
            "Errors until an equal candidate may be promoted",
            ["candidate's share, margin", "errors of both arms, median", "p90", "information floor", "ours / floor"],
            rows,
            [
                f"{runs:,} runs at equal error rates, alpha .05.",
                "With few errors the absolute margin passes earlier; it is not simulated here.",
            ],
        )
    ]


__all__ = ["outputs", "promotion", "shadow", "tilted"]
