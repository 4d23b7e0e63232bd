"""Sample-ratio mismatch: did the arms get the requests that their shares say?

For each share, n assigned requests of which k are the candidate's: the Bayes factor of a Beta-binomial whose prior Beta(c rho, c (1 - rho))
is centred at the set share, against the binomial with rho itself (Lindon & Malek 2022, arXiv 2011.03567; also PyPI ssrm-test):

    ln BF = ln B(c rho + k, c (1 - rho) + n - k) - ln B(c rho, c (1 - rho)) - k ln rho - (n - k) ln(1 - rho).

It is a martingale with mean 1 when each request is drawn with rho, so it may be looked at any time; shares are independent and multiply.
Assignment cannot go wrong by itself in a server that draws each request: a mismatch says that something between the draw and the counts
loses requests of one arm, and then no other test can be trusted. Hence the default action, hold.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serve.routing.judge.judgement import Finding
from serve.routing.judge.quantiles import rate_interval
from serve.routing.judge.settings import RatioSettings
from serve.routing.judge.special import log_beta
from serve.routing.judge.strata import StratumTotals, columns, shares, total
from serve.routing.judge.wording import exp_capped, number, percent

Floats = npt.NDArray[np.float64]


def log_evidence(candidate: npt.ArrayLike, stable: npt.ArrayLike, share: npt.ArrayLike, concentration: float) -> Floats:
    """ln of the product of Bayes factors. Requests of shape (..., n_strata), share (n_strata,); shape (...)."""
    ones, zeros, rho = (np.asarray(v, dtype=np.float64) for v in (candidate, stable, share))
    a, b = concentration * rho, concentration * (1 - rho)
    each = log_beta(a + ones, b + zeros) - log_beta(a, b) - ones * np.log(rho) - zeros * np.log1p(-rho)
    return np.asarray(each.sum(axis=-1), dtype=np.float64)


def find_ratio(strata: Sequence[StratumTotals], settings: RatioSettings) -> Finding:
    """The estimate and interval are of the observed share of the newest generation."""
    limit = 1 / settings.alpha
    assigned = total([s.assigned for s in strata])
    counted = [s for s in strata if sum(s.assigned)]
    if not counted:
        sentence = "no requests drawn one by one"
        return Finding(test="ratio", action=settings.action, is_tripped=False, sentence=sentence, e_value=1.0, limit=limit)
    stable, candidate = columns([s.assigned for s in counted])
    log_e = float(log_evidence(candidate, stable, shares(counted), settings.concentration))
    newest = max(counted, key=lambda s: s.generation)
    n = sum(newest.assigned)
    observed = newest.assigned[1] / n
    return Finding(
        test="ratio",
        action=settings.action,
        is_tripped=log_e >= math.log(limit),
        sentence=(
            f"candidate got {newest.assigned[1]:,} of {n:,} requests ({percent(observed)}) at a set share of {percent(newest.share)}; "
            f"evidence {number(exp_capped(log_e))} against a limit of {number(limit)}"
        ),
        e_value=exp_capped(log_e),
        limit=limit,
        estimate=observed,
        interval=rate_interval(newest.assigned[1], n, settings.alpha),
        counts={"stable": assigned[0], "candidate": assigned[1]},
        thresholds={"share": newest.share},
    )


__all__ = ["find_ratio", "log_evidence"]
