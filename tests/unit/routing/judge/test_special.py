"""scipy is the oracle."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from serve.routing.judge.special import chi_square_quantile, log_beta, log_beta_tails, log_gamma


def test_log_gamma_is_scipys():
    x = np.concatenate([np.geomspace(1e-4, 1e9, 500), [1.0, 2.0, 0.5]])
    np.testing.assert_allclose(log_gamma(x), scipy.special.gammaln(x), rtol=1e-12, atol=1e-12)


def test_log_beta_is_scipys():
    rng = np.random.default_rng(1)
    a, b = np.exp(rng.uniform(-3, 12, (2, 500)))
    np.testing.assert_allclose(log_beta(a, b), scipy.special.betaln(a, b), rtol=1e-9, atol=1e-7)


def test_both_tails_of_the_incomplete_beta_are_scipys():
    rng = np.random.default_rng(2)
    a, b = np.exp(rng.uniform(-2, 9, (2, 1000)))
    x = np.clip(rng.beta(a, b), 1e-9, 1 - 1e-9)
    low, high = log_beta_tails(a, b, x)
    np.testing.assert_allclose(np.exp(low), scipy.special.betainc(a, b, x), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(np.exp(high), scipy.special.betaincc(a, b, x), rtol=1e-7, atol=1e-14)


def test_one_value_is_what_arrays_give():
    rng = np.random.default_rng(3)
    for a, b in np.exp(rng.uniform(-2, 9, (300, 2))):
        x = float(np.clip(rng.beta(a, b), 1e-9, 1 - 1e-9))
        one, array = log_beta_tails(a, b, x), log_beta_tails([a], [b], [x])
        np.testing.assert_allclose(one, [array[0][0], array[1][0]], rtol=1e-9, atol=1e-9)


def test_a_tail_far_below_the_smallest_float_keeps_its_logarithm():
    low, high = log_beta_tails(10_000.0, 1.0, 0.001)  # I_x(a, 1) = x^a
    assert float(low) == pytest.approx(10_000 * np.log(0.001))
    assert float(high) == 0.0


@pytest.mark.parametrize("freedom", [1, 2, 9, 19, 63])
@pytest.mark.parametrize("probability", [0.5, 0.95, 0.99, 0.999])
def test_chi_square_quantiles_are_scipys(probability, freedom):
    assert chi_square_quantile(probability, freedom) == pytest.approx(scipy.stats.chi2.ppf(probability, freedom), rel=1e-8)
