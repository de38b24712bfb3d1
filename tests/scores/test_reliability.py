"""Checks of predicted against observed labels: by hand, their size under right fits, their power."""

import numpy as np
import pytest
from scipy.special import expit

from alignjax.scores import reliability
from alignjax.scores.calibration import fit
from alignjax.scores.reliability import check, checks, fitted, shortfall, tilted


def pairs(rng, count, error):
    """One score of both responses with an error, and labels of the true ones."""
    true = rng.normal(0, 1.2, (count, 2))
    labels = (rng.random(count) < expit(true[:, 0] - true[:, 1])).astype(float)
    return (true + error(rng, (count, 2)))[..., None], labels


def under_the_fit(raw, labels):
    row = fit([raw[:, 0] - raw[:, 1]], [labels]).matrix[0]
    return fitted(raw, 0, row, None, labels, np.arange(len(labels)))


def test_by_hand():
    """Weights 1, -2 and 1, the second pair turned: p = (0.8, 0.7, 0.5), y = (1, 0, 1).

    predicted (0.8 + 2 * 0.7 + 0.5) / 4 = 0.675, observed 2 / 4. Residuals 0.2, 0.7 and 0.5, times the weights
    0.2, -1.4, 0.5: squares 0.04, 1.96, 0.25, their root over 4. The last two in one group: 0.04 and 0.9^2.
    """
    p, y, w = np.array([0.8, 0.3, 0.5]), np.array([1.0, 1.0, 1.0]), np.array([1.0, -2.0, 1.0])
    found = check(p, y, w, np.arange(3), where="somewhere")
    assert (found.where, found.fit, found.holds) == ("somewhere", "linear", True)
    np.testing.assert_allclose([found.predicted, found.observed], [0.675, 0.5])
    np.testing.assert_allclose(found.standard_error, np.sqrt(0.04 + 1.96 + 0.25) / 4)
    np.testing.assert_allclose(check(p, y, w, np.array([0, 1, 1])).standard_error, np.sqrt(0.04 + 0.81) / 4)
    np.testing.assert_allclose(shortfall(found), 0.175 / (np.sqrt(2.25) / 4))


def test_only_a_shortfall_beyond_chance_and_one_point_fails():
    """Of 400 labels with p 0.6, the standard error is about 0.5 / 20 = 0.025, 2.1 of them 0.052."""

    def share(observed, count=400):
        labels = (np.arange(count) < observed * count).astype(float)
        return check(np.full(count, 0.6), labels, np.ones(count), np.arange(count)).holds

    assert share(0.56) and not share(0.52) and share(0.9)
    # Exact labels are short of every probability by the same amount: no chance at all.
    few = {
        short: check(np.full(9, 0.6), np.full(9, 0.6 - short), np.ones(9), np.zeros(9))
        for short in (0.009, 0.3)
    }
    assert few[0.009].holds and shortfall(few[0.3]) == pytest.approx(1.0)


def test_what_the_fit_has_matched_is_taken_out():
    """A weight that the design explains: its residuals sum to nothing, and have no error."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1))
    p = expit(x[:, 0])
    y = (rng.random(500) < p).astype(float)
    found = check(p, y, 3 * x[:, 0], np.arange(500), design=x)
    assert found.standard_error < 1e-12 < check(p, y, 3 * x[:, 0], np.arange(500)).standard_error


def test_the_error_is_that_of_fits_made_anew():
    """Standard deviation of observed - predicted over 400 worlds that the fit is right in; known to 4%."""
    rng, seen, errors = np.random.default_rng(1), [], []
    for _ in range(400):
        raw = rng.normal(size=(300, 2, 1))
        labels = (rng.random(300) < expit(raw[:, 0, 0] - raw[:, 1, 0])).astype(float)
        one = checks(under_the_fit(raw, labels), raw)[0]
        seen.append(one.observed - one.predicted)
        errors.append(one.standard_error)
    np.testing.assert_allclose(np.std(seen), np.mean(errors), rtol=0.1)


@pytest.mark.parametrize("error", ["none", "normal"])
def test_right_fits_are_rarely_doubted(error):
    """Three checks at 1.8% each, dependent: in at most 10% of 100 worlds. Scatter errs to the safe side."""
    scale = {"none": 0.0, "normal": 1.0}[error]
    doubted = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        raw, labels = pairs(rng, 1000, lambda rng, shape: scale * rng.normal(size=shape))
        doubted += not all(one.holds for one in checks(under_the_fit(raw, labels), raw))
    assert doubted <= 10


@pytest.mark.parametrize("error", ["t3", "exponential"])
def test_wrong_fits_are_found(error):
    draw = {
        "t3": lambda rng, shape: rng.standard_t(3, shape),
        "exponential": lambda rng, shape: rng.exponential(size=shape),
    }[error]
    found = 0
    for seed in range(20):
        raw, labels = pairs(np.random.default_rng(seed), 2000, draw)
        found += not all(one.holds for one in checks(under_the_fit(raw, labels), raw))
    assert found >= 19


def test_pairs_by_where_a_tilt_goes():
    """All weight on the top two of 8 samples, 6 and 7. Two pairs have one response there, the third both."""
    reference, weights = np.arange(8.0)[None], np.array([[0, 0, 0, 0, 0, 0, 4, 4]], float)
    raw = np.array([[6.0, 1.0], [2.0, 7.0], [6.0, 7.0]])[..., None]
    given = fitted(raw, 0, np.array([0.1]), None, np.array([1.0, 0.0, 0.0]), np.arange(3))
    one = tilted(given._replace(design=given.design[:, :0]), reference, weights)
    # The first pair as it is, the second turned over, both sigma(0.5); the third has no weight.
    np.testing.assert_allclose([one.predicted, one.observed], [expit(0.5), 1.0])
    assert one.holds and one.where == "pairs by where the tilt goes"


def test_no_pairs_no_check():
    """One pair below every quantile of the reference: it only counts among the surest pairs."""
    raw = np.array([[-1.0, 0.0]])[..., None]
    given = fitted(raw, 0, np.array([1.0]), None, np.array([1.0]), np.arange(1))
    (one,) = checks(given, np.linspace(-5, 5, 100))
    assert one.where == "the 10% of pairs with the largest differences"
    assert reliability.CURVE_TOP > reliability.TOP
