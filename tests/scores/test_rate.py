"""Rates of safe responses: against SciPy, their intervals, and labels that tell none."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit

from alignjax.errors import InputError
from alignjax.scores.rate import fit_rate, rate_of


def labelled(seed, count, slope=1.5, intercept=0.7):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    return scores, rng.random(count) < expit(slope * scores + intercept)


def test_by_hand():
    """Scores 0 and 1, 400 each: 100 and 300 safe. sigma(intercept) = 1/4, sigma(slope + intercept) = 3/4.

    Variance of the intercept: 1 / (400 * 3/16) = 1/75, times 800 / 799 clusters; of the slope twice that.
    """
    scores = np.repeat([0.0, 1.0], 400)
    safe = np.concatenate([np.arange(400) < 100, np.arange(400) < 300])
    rate = fit_rate(scores, safe, np.arange(800))
    np.testing.assert_allclose([rate.slope, rate.intercept], [2 * np.log(3), -np.log(3)], atol=1e-4)
    np.testing.assert_allclose(rate.covariance, np.array([[2, -1], [-1, 1]]) / 75 * 800 / 799, rtol=1e-3)


def test_parity_with_scipy():
    scores, safe = labelled(0, 500)
    rate = fit_rate(scores, safe, np.arange(500))

    def loss(w):
        p = expit(w[0] * scores + w[1])
        return -np.sum(np.where(safe, np.log(p), np.log1p(-p)))

    best = scipy.optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-5}).x
    np.testing.assert_allclose([rate.slope, rate.intercept], best, atol=1e-3)


def test_intervals_cover_where_responses_of_a_prompt_repeat():
    """Every response four times: as sure as of 300, not of 1,200. 200 worlds, 95% +- 3 x 1.5%."""
    inside, twice = np.zeros(2), np.arange(1200) // 4
    for seed in range(200):
        scores, safe = (np.repeat(one, 4) for one in labelled(seed, 300))
        rate = fit_rate(scores, safe, twice)
        errors = np.abs(np.array([rate.slope - 1.5, rate.intercept - 0.7])) / np.sqrt(
            np.diag(rate.covariance)
        )
        inside += errors < 1.96
    assert (inside / 200 > 0.905).all() and (inside / 200 < 0.995).all()


def test_labels_that_tell_no_rate():
    scores, safe = labelled(0, 50)
    nothing = rate_of("safety", scores[:0], safe[:0], np.arange(0))
    assert nothing.rate is None and nothing.findings == () == nothing.checks
    for which, one in (("safe", np.ones(50, bool)), ("unsafe", np.zeros(50, bool))):
        found = rate_of("safety", scores, one, np.arange(50))
        assert found.rate is None
        assert found.findings == (
            f"safety: all 50 labelled responses are {which}: no rate can be asked of it.",
        )
    backwards = rate_of("safety", -scores, safe, np.arange(50))
    assert backwards.rate is None and "does not tell safe responses from unsafe ones" in backwards.findings[0]


def test_a_rate_that_flattens_is_found():
    """P(safe) never above 0.6, however high the score: at the top the logistic curve promises more."""
    scores, safe = labelled(1, 4000)
    right = rate_of("safety", scores, safe, np.arange(4000))
    assert right.rate is not None and right.findings == () and right.checks[0].holds
    rng = np.random.default_rng(2)
    flat = rng.random(4000) < np.minimum(expit(1.5 * scores), 0.6)
    found = rate_of("safety", scores, flat, np.arange(4000))
    assert found.rate is not None and not found.checks[0].holds
    (line,) = found.findings
    assert line.startswith("safety: of responses with a score in the top 10%, ")


def test_errors():
    scores, safe = labelled(0, 50)
    with pytest.raises(
        InputError, match=r"scores \(50,\), labels \(49,\) and groups \(50,\) must all be \[n\]"
    ):
        fit_rate(scores, safe[:49], np.arange(50))
    with pytest.raises(InputError, match="rate: a score is not finite"):
        fit_rate(scores * np.nan, safe, np.arange(50))
    with pytest.raises(
        InputError, match="rate: 50 of 50 responses are labelled safe; a rate needs some of both"
    ):
        fit_rate(scores, np.ones(50, bool), np.arange(50))
