"""Shadow pairs: each sampled request is answered by both versions, so the inputs' own variety cancels.

Disagreement. D_i in [0, 1] is the share of a pair's rows that disagree. H0: its mean is at most d. For p > d and any D in [0, 1]

    E[(p/d)^D ((1-p)/(1-d))^(1-D)] <= E[D] p/d + (1 - E[D]) (1-p)/(1-d) <= 1      (exp is convex; p/d > 1 > (1-p)/(1-d)),

so each p gives a supermartingale of the sum S = D_1 + ... + D_n alone ("sub-Bernoulli": Howard, Ramdas, McAuliffe & Sekhon, Time-uniform,
nonparametric, nonasymptotic confidence sequences, Annals of Statistics 49(2) 2021, arXiv 1810.08240). A Beta(a, b) prior cut to p > d mixes
them in closed form, their one-sided beta-binomial mixture:

    M = B(a + S, b + n - S) [1 - I_d(a + S, b + n - S)] / (B(a, b) [1 - I_d(a, b)] d^S (1 - d)^(n - S)).

The other side, H0: the mean is at least d, swaps D for 1 - D; half of its prior sits on p = 0, because no disagreement at all is what most
candidates that should pass show: then n = ln(2/alpha) / -ln(1 - d) pairs are enough.

Failures. Of requests that failed on one version only, half are the shadow's if neither is worse (McNemar): `eprocess` with share 1/2. Pairs
whose primary failed were not run to the end; all of them count for the primary, which errs on the side of the candidate.
"""

import math

import numpy as np
import numpy.typing as npt

from serve.routing.judge.eprocess import log_greater
from serve.routing.judge.judgement import Finding
from serve.routing.judge.observations import ShadowCounts
from serve.routing.judge.quantiles import rate_interval
from serve.routing.judge.settings import ShadowSettings
from serve.routing.judge.special import log_beta, log_beta_tails
from serve.routing.judge.wording import count, exp_capped, number, percent

Floats = npt.NDArray[np.float64]

_STABLE_SHARE = 0.5  # of discordant pairs, under H0


def log_above(total: npt.ArrayLike, n: npt.ArrayLike, limit: float) -> Floats:
    """ln of the e-value against H0: mean <= limit. total: sum of n values in [0, 1]; arrays broadcast. 0 < limit < 1.

    The prior is Beta(1, 1/limit - 1): its mean is the limit, its weight that of one disagreement.
    """
    return _log_mixture(total, n, limit, 1.0, 1 / limit - 1)


def log_below(total: npt.ArrayLike, n: npt.ArrayLike, limit: float) -> Floats:
    """ln of the e-value against H0: mean >= limit. Same arguments. Half the prior is on a mean of 0, half Beta(1/2, 1/2) cut to < limit."""
    s, n = np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.float64)
    smooth = _log_mixture(n - s, n, 1 - limit, 0.5, 0.5)
    never = np.where(s > 0, -np.inf, -n * math.log1p(-limit))
    return np.asarray(np.logaddexp(smooth, never) - math.log(2), dtype=np.float64)


def pairs_wanted(total: float, n: int, limit: float, evidence: float) -> int:
    """About how many pairs show a mean under `limit` by so much evidence, if no more than `total` disagree. n: pairs there are, too few.

    Two digits, rounded up. With more disagreements it takes more.
    """
    wanted, least = math.log(evidence), float(max(n, 1))
    # The evidence rises with pairs that agree: doubled until it is enough, then between the last two.
    doubled = least * 2.0 ** np.arange(1, 40)
    most = float(doubled[np.argmax(log_below(total, doubled, limit) >= wanted)])
    between = np.geomspace(most / 2, most, 257)
    enough = float(between[np.argmax(log_below(total, between, limit) >= wanted)])
    step: int = 10 ** max(0, math.floor(math.log10(enough)) - 1)
    return math.ceil(enough / step) * step


def _log_mixture(total: npt.ArrayLike, n: npt.ArrayLike, limit: float, a: float, b: float) -> Floats:
    s, n = np.broadcast_arrays(np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.float64))
    upper = log_beta_tails(a + s, b + n - s, limit)[1]
    prior = log_beta_tails(a, b, limit)[1]
    likelihood = s * math.log(limit) + (n - s) * math.log1p(-limit)
    return np.asarray(log_beta(a + s, b + n - s) + upper - log_beta(a, b) - prior - likelihood, dtype=np.float64)


def log_failures(shadow_only: npt.ArrayLike, primary: npt.ArrayLike) -> Floats:
    """ln of the e-value against H0: the shadow fails no more often than the primary. Counts of pairs; arrays broadcast."""
    b, c = np.broadcast_arrays(np.asarray(shadow_only, dtype=np.float64), np.asarray(primary, dtype=np.float64))
    return log_greater(b[..., None], c[..., None], [_STABLE_SHARE])


def find_shadow(shadow: ShadowCounts, settings: ShadowSettings) -> tuple[Finding, ...]:
    """Disagreement and failures; nothing when no request was sampled."""
    if not shadow.sampled and not shadow.compared:
        return ()
    return _find_disagreement(shadow, settings), _find_failures(shadow, settings)


def _find_disagreement(shadow: ShadowCounts, settings: ShadowSettings) -> Finding:
    limit = 1 / settings.alpha
    total = min(shadow.disagreement, float(shadow.compared))  # sums of shares may end a rounding error over
    e_value = exp_capped(float(log_above(total, shadow.compared, settings.max_disagreement)))
    share = total / shadow.compared if shadow.compared else None
    of_all = f" ({percent(share)}, allowed {percent(settings.max_disagreement)})" if share is not None else ""
    return Finding(
        test="shadow",
        action=settings.action,
        is_tripped=e_value >= limit,
        sentence=(
            f"{number(total)} disagreements in {count(shadow.compared, 'shadow pair')}{of_all}; "
            f"evidence {number(e_value)} against a limit of {number(limit)}"
        ),
        e_value=e_value,
        limit=limit,
        estimate=share,
        interval=rate_interval(total, shadow.compared, settings.alpha),
        counts={"sampled": shadow.sampled, "compared": shadow.compared, "dropped": shadow.dropped},
        thresholds={"max_disagreement": settings.max_disagreement, "disagreement": total},
    )


def _find_failures(shadow: ShadowCounts, settings: ShadowSettings) -> Finding:
    limit = 1 / settings.failures_alpha
    e_value = exp_capped(float(log_failures(shadow.failed, shadow.primary_failed)))
    return Finding(
        test="shadow",
        action=settings.failures_action,
        is_tripped=e_value >= limit,
        sentence=(
            f"shadow failed {count(shadow.failed, 'request')} that the primary answered, primary failed {shadow.primary_failed:,}; "
            f"evidence {number(e_value)} against a limit of {number(limit)}"
        ),
        e_value=e_value,
        limit=limit,
        counts={"failed": shadow.failed, "primary_failed": shadow.primary_failed, "compared": shadow.compared},
    )


__all__ = ["find_shadow", "log_above", "log_below", "log_failures", "pairs_wanted"]
