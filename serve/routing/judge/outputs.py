"""The distribution of one output: has the candidate's drifted from the stable version's?

The values are put into groups that are frozen from the stable version's first answers. Given that an answer falls into group k, it is the
candidate's with probability rho under H0 (both versions answer alike), whatever the mix of inputs at the time: the argument of
`eprocess` with "an answer in group k" for the event. So each group has a two-sided e-process M_k. Each answer moves one of them, by a
factor whose expectation given the past and the group is 1; hence their product is a martingale as well (a corollary of Lindon & Malek
2022), and so is their plain average, and the half-and-half mixture of the two:

    M = 1/2 prod_k M_k + 1/2 mean_k M_k.

The product is strong when many groups shift a little, the average when few of many shift: the others' products then only lose.

A shift is often what a new version is for, and with enough answers any shift is significant. So the test trips only when the shift is
also large: the population stability index (PSI) must be over a floor, and over what it would be by chance with so few answers:
chi^2_{B-1, 1-alpha} (1/n + 1/m) for B groups, n and m answers (Yurdakul & Naranjo, Statistical properties of the population stability
index, Journal of Risk Model Validation 14(4), 2020).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serve.routing.judge.eprocess import log_different
from serve.routing.judge.judgement import Finding
from serve.routing.judge.settings import OutputSettings
from serve.routing.judge.special import chi_square_quantile
from serve.routing.judge.strata import Pair, StratumTotals, add_pairs, shares
from serve.routing.judge.wording import count, exp_capped, number

Floats = npt.NDArray[np.float64]

MAX_CLASSES = 64
MAX_QUANTILES = 20


@dataclass(frozen=True, slots=True)
class Groups:
    """Frozen groups of bins; one of the two is set.

    classes: one group a bin, in this order, and one for the rest. edges: the last bins of all groups but the last, ascending.
    """

    classes: tuple[int, ...] = ()
    edges: tuple[int, ...] = ()

    @property
    def n_groups(self) -> int:
        return len(self.classes or self.edges) + 1

    def count(self, bins: Mapping[int, int]) -> tuple[int, ...]:
        """Answers by group, from answers by bin."""
        counts = [0] * self.n_groups
        if self.classes:
            index = {value: i for i, value in enumerate(self.classes)}
            for value, n in bins.items():
                counts[index.get(value, len(self.classes))] += n
        else:
            for i, n in zip(np.searchsorted(self.edges, list(bins)), bins.values(), strict=True):
                counts[int(i)] += n
        return tuple(counts)


def freeze(stable: Mapping[int, int], settings: OutputSettings) -> Groups | None:
    """Groups from the stable version's answers by bin; None while these are fewer than calibration_answers.

    Classes: the 63 given most, each a group, and the rest. Ordered: up to 20 groups of like count by quantiles. When to freeze depends
    on the stable version alone, so what comes after is a fresh sample.
    """
    n = sum(stable.values())
    if n < settings.calibration_answers:
        return None
    kind = settings.kind or ("class" if len(stable) <= MAX_CLASSES else "ordered")
    if kind == "class":
        ranked = sorted(stable, key=lambda value: (-stable[value], value))
        return Groups(classes=tuple(sorted(ranked[: MAX_CLASSES - 1])))
    values = sorted(stable)
    cumulative = np.cumsum([stable[value] for value in values])
    cuts = np.searchsorted(cumulative, n * np.arange(1, MAX_QUANTILES) / MAX_QUANTILES)
    edges = sorted({values[int(cut)] for cut in cuts if int(cut) < len(values) - 1})
    return Groups(edges=tuple(edges)) if edges else Groups(classes=tuple(values))


def log_evidence(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike) -> Floats:
    """ln M. Counts by group and stratum, shape (..., n_groups, n_strata); share (n_strata,). Shape (...)."""
    each = log_different(candidate, stable, share)
    top = each.max(axis=-1)
    mean = top + np.log(np.exp(each - top[..., None]).mean(axis=-1))
    return np.asarray(np.logaddexp(each.sum(axis=-1), mean) - math.log(2), dtype=np.float64)


def standardised(candidate: npt.ArrayLike, stable: npt.ArrayLike) -> Floats:
    """The stable answers by group as they would be with the candidate's mix of strata, scaled to the stable total. (..., G, S) -> (..., G).

    A rollout gives the candidate its answers late; comparing plain sums would show the inputs' drift over time as a shift of the candidate.
    """
    ones, zeros = np.asarray(candidate, dtype=np.float64), np.asarray(stable, dtype=np.float64)
    per_stratum = zeros.sum(axis=-2, keepdims=True)
    mix = (zeros / np.maximum(per_stratum, 1) * ones.sum(axis=-2, keepdims=True)).sum(axis=-1)
    scale = zeros.sum(axis=(-1, -2)) / np.maximum(mix.sum(axis=-1), 1e-300)
    return np.asarray(mix * scale[..., None], dtype=np.float64)


def stability_index(candidate: npt.ArrayLike, stable: npt.ArrayLike) -> Floats:
    """PSI of two histograms, shape (..., n_groups) -> (...), with half an answer added to each group so that empty ones count finitely."""
    a, e = (np.asarray(v, dtype=np.float64) + 0.5 for v in (candidate, stable))
    a, e = a / a.sum(axis=-1, keepdims=True), e / e.sum(axis=-1, keepdims=True)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=-1), dtype=np.float64)


def jensen_shannon(candidate: npt.ArrayLike, stable: npt.ArrayLike) -> Floats:
    """sqrt(JSD / ln 2) in [0, 1] of two histograms, shape (..., n_groups) -> (...). 0 while one is empty."""
    a, e = (np.asarray(v, dtype=np.float64) for v in (candidate, stable))
    is_empty = (a.sum(axis=-1) == 0) | (e.sum(axis=-1) == 0)
    a, e = (v / np.maximum(v.sum(axis=-1, keepdims=True), 1e-300) for v in (a, e))
    middle = (a + e) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = sum(np.where(v > 0, v * np.log(v / middle), 0.0).sum(axis=-1) / 2 for v in (a, e))
    return np.asarray(np.where(is_empty, 0.0, np.sqrt(np.maximum(divergence, 0.0) / math.log(2))), dtype=np.float64)


@lru_cache(maxsize=64)
def _critical(probability: float, freedom: int) -> float:
    return chi_square_quantile(probability, freedom)


def psi_needed(n_groups: int, candidate: npt.ArrayLike, stable: npt.ArrayLike, settings: OutputSettings) -> Floats:
    """The larger of the floor and what chance gives at this many answers of each arm; arrays broadcast. inf while one has none."""
    n, m = (np.asarray(v, dtype=np.float64) for v in (candidate, stable))
    with np.errstate(divide="ignore"):
        chance = _critical(1 - settings.alpha, max(n_groups - 1, 1)) * (1 / n + 1 / m)
    return np.asarray(np.maximum(settings.psi_floor, chance), dtype=np.float64)


def find_outputs(groups: Groups | None, strata: Sequence[StratumTotals], settings: OutputSettings) -> Finding | None:
    """None when no output is watched."""
    if settings.output is None:
        return None
    limit = 1 / settings.alpha
    tables = [s for s in strata if s.groups]
    if groups is None or not tables:
        sentence = f"{settings.output}: groups not frozen yet" if groups is None else f"{settings.output}: no answer since the groups froze"
        return Finding(test="outputs", action=settings.action, is_tripped=False, sentence=sentence, limit=limit)
    table = np.array([s.groups for s in tables], dtype=np.float64)  # (S, G, 2)
    stable, candidate = table[..., 0].T, table[..., 1].T
    log_e = float(log_evidence(candidate, stable, shares(tables)))
    reference, ones = standardised(candidate, stable), candidate.sum(axis=-1)
    psi = float(stability_index(ones, reference))
    n, m = int(candidate.sum()), int(stable.sum())
    needed = float(psi_needed(groups.n_groups, n, m, settings)) if n and m else math.inf
    is_tripped = log_e >= math.log(limit) and psi >= needed
    pairs: Pair = (0, 0)
    for s in tables:
        for pair in s.groups:
            pairs = add_pairs(pairs, pair)
    floor = f"{needed:.3g}" if math.isfinite(needed) else "unknown"
    return Finding(
        test="outputs",
        action=settings.action,
        is_tripped=is_tripped,
        sentence=(
            f"{settings.output}: PSI {psi:.3g} (from {floor} on it counts) over {count(n, 'candidate answer')}; "
            f"evidence {number(exp_capped(log_e))} against a limit of {number(limit)}"
        ),
        e_value=exp_capped(log_e),
        limit=limit,
        estimate=psi,
        counts={"candidate_answers": n, "stable_answers": m},
        thresholds={
            "psi": needed if math.isfinite(needed) else None, "jensen_shannon": float(jensen_shannon(ones, reference)),
            "classes": list(groups.classes), "edges": list(groups.edges),
            "candidate": [int(v) for v in ones], "stable": [int(v) for v in stable.sum(axis=-1)],
        },
    )


__all__ = [
    "Groups", "find_outputs", "freeze", "jensen_shannon", "log_evidence", "psi_needed", "stability_index", "standardised",
]
