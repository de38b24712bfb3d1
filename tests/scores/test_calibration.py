"""Calibration: by hand, against SciPy on a likelihood written anew, and intervals against the bootstrap."""

import jax
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from alignjax.errors import InputError
from alignjax.records.calibration import Curve
from alignjax.scores.calibration import (
    KINDS,
    Calibration,
    apply,
    bend,
    calibrated,
    coefficients,
    column_draws,
    columns,
    draws,
    findings,
    fit,
    relative_draws,
    separates,
    slopes,
)

# 400 pairs of score difference 1, 300 of them labelled first: sigma(slope) = 3/4, slope = log 3. Information:
# n p q = 75; the squared scores sum to 75 too, times 400 / 399: variance 400 / 399 / 75. The prior, 1e-3,
# moves the slope by 1e-3 log 3 / 75, about 1.5e-5.
HAND = np.ones((400, 1)), np.repeat([1.0, 0.0], [300, 100])


def simulate(seed, n=300, q=2):
    """Differences of q scores, and labels of q dimensions from known coefficients."""
    rng = np.random.default_rng(seed)
    truth = np.array([[0.8, -0.3, 0.2], [0.2, 0.5, 0.1], [0.0, 0.4, 0.9]])[:q, :q]
    differences = [rng.normal(size=(n, q)) * [1.0, 2.0, 0.5][:q] for _ in range(q)]
    labels = [
        (rng.random(n) < expit(x @ row)).astype(float) for x, row in zip(differences, truth, strict=True)
    ]
    return differences, labels, truth


def test_by_hand():
    found = fit([HAND[0]], [HAND[1]])
    np.testing.assert_allclose(found.matrix, [[np.log(3)]], atol=2e-5)
    np.testing.assert_allclose(found.covariances, [[[400 / 399 / 75]]], rtol=1e-4)
    row = slopes(found)[0]
    np.testing.assert_allclose(row["slope"], np.log(3), atol=2e-5)
    half = 1.959964 * np.sqrt(400 / 399 / 75)
    np.testing.assert_allclose([row["low"], row["high"]], [np.log(3) - half, np.log(3) + half], atol=5e-5)


def test_clusters_by_hand():
    """Every pair twice under one prompt: 200 clusters, squares sum to 200 (2^2) 3/16 = 150."""
    found = fit([HAND[0]], [HAND[1]], groups=[np.arange(400) // 2])
    np.testing.assert_allclose(found.matrix, [[np.log(3)]], atol=2e-5)
    np.testing.assert_allclose(found.covariances, [[[150 * 200 / 199 / 75**2]]], rtol=1e-4)


@pytest.mark.parametrize("kind", ["joint", "slope"])
@pytest.mark.parametrize("soft", [False, True])
def test_parity_with_scipy(kind, soft):
    differences, labels, _ = simulate(0, q=3)
    if soft:
        labels = [0.9 * y + 0.05 for y in labels]
    found = fit(differences, labels, kind=kind)
    for d, (x, y) in enumerate(zip(differences, labels, strict=True)):
        columns = [0, 1, 2] if kind == "joint" else [d]

        def loss(w, x=x[:, columns], y=y):
            p = expit(x @ w)
            return -np.sum(y * np.log(p) + (1 - y) * np.log1p(-p))

        best = scipy.optimize.minimize(loss, np.zeros(len(columns)), method="BFGS", options={"gtol": 1e-5})
        np.testing.assert_allclose(found.matrix[d, columns], best.x, atol=1e-3)
        assert loss(found.matrix[d, columns]) <= best.fun + 1e-4
        np.testing.assert_array_equal(np.delete(found.matrix[d], columns), np.zeros(3 - len(columns)))
        np.testing.assert_array_equal(np.delete(found.covariances[d], columns, axis=0), 0)
    assert found.kind == kind


@pytest.mark.parametrize("clustered", [False, True])
def test_sandwich_against_the_bootstrap(clustered):
    """Standard deviations over 300 resamples of the clusters; they are known to about 4%."""
    differences, labels, _ = simulate(1)
    size = 4 if clustered else 1
    x, y = np.repeat(differences[0], size, axis=0), np.repeat(labels[0], size)
    groups = np.arange(len(y)) // size
    found = fit([x, x], [y, y], groups=[groups, groups])
    rng, refits = np.random.default_rng(2), []
    for _ in range(300):
        rows = (rng.integers(300, size=300)[:, None] * size + np.arange(size)).ravel()
        refits.append(fit([x[rows], x[rows]], [y[rows], y[rows]]).matrix[0])
    np.testing.assert_allclose(np.std(refits, axis=0), np.sqrt(np.diag(found.covariances[0])), rtol=0.15)


def test_recovers_the_truth_within_its_intervals():
    differences, labels, truth = simulate(3, n=4000)
    found = fit(differences, labels)
    deviation = np.sqrt(np.stack([np.diag(c) for c in found.covariances]))
    assert (np.abs(found.matrix - truth) < 4 * deviation).all() and (deviation < 0.1).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(0.01, 100))
def test_invariants(seed, a, b):
    """Turning pairs over, their order, and the units of a score."""
    differences, labels, _ = simulate(seed, n=60)
    found = fit(differences, labels)
    rng = np.random.default_rng(seed)
    turned = rng.random(60) < 0.5
    flipped = (
        [np.where(turned[:, None], -x, x) for x in differences],
        [np.where(turned, 1 - y, y) for y in labels],
    )
    order = rng.permutation(60)
    for xs, ys in (flipped, ([x[order] for x in differences], [y[order] for y in labels])):
        again = fit(xs, ys)
        np.testing.assert_allclose(again.matrix, found.matrix, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(again.covariances, found.covariances, rtol=1e-6, atol=1e-8)
    units = np.array([a, b])
    other = fit([x * units for x in differences], labels)
    np.testing.assert_allclose(other.matrix * units, found.matrix, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        other.covariances * np.outer(units, units), found.covariances, rtol=1e-6, atol=1e-8
    )


def test_separable_labels_and_a_constant_score_stay_finite():
    x = np.stack([np.linspace(-1, 1, 20), np.zeros(20)], axis=1)
    found = fit([x, x], [(x[:, 0] > 0).astype(float), np.full(20, 0.5)])
    assert np.isfinite(found.matrix).all() and found.matrix[0, 0] > 5 and found.matrix[0, 1] == 0
    np.testing.assert_allclose(found.matrix[1], [0, 0], atol=1e-12)
    assert np.isfinite(found.covariances).all()


def test_none_is_the_identity():
    differences, labels, _ = simulate(0)
    found = fit(differences, labels, kind="none")
    np.testing.assert_array_equal(found.matrix, np.eye(2))
    np.testing.assert_array_equal(found.covariances, np.zeros((2, 2, 2)))


def test_apply_by_hand():
    """[[2, 1], [0, 3]] on r = 1, g = 2: 2 + 2 = 4 and 6."""
    calibration = Calibration(np.array([[2.0, 1.0], [0.0, 3.0]]), np.zeros((2, 2, 2)), "joint")
    rewards, utilities = apply(calibration, np.full((5, 3), 1.0), np.full((5, 3, 1), 2.0))
    np.testing.assert_array_equal(rewards, np.full((5, 3), 4.0))
    np.testing.assert_array_equal(utilities, np.full((5, 3, 1), 6.0))


def test_calibrated_scores_have_slope_one():
    """Fitting the fitted scores again finds the identity."""
    differences, labels, _ = simulate(5)
    found = fit(differences, labels)
    again = fit([x @ found.matrix.T for x in differences], labels)
    np.testing.assert_allclose(again.matrix, np.eye(2), atol=1e-3)


def test_draws_have_the_fits_mean_and_covariance():
    """Of 4,000 draws: means to 5 standard errors, covariances to 10%."""
    found = fit(*simulate(6)[:2])._replace(unexplained=None)
    drawn = draws(jax.random.key(0), found, 4000)
    assert drawn.shape == (4000, 2, 2)
    for d in range(2):
        deviation = np.sqrt(np.diag(found.covariances[d]))
        assert (np.abs(drawn[:, d].mean(axis=0) - found.matrix[d]) < 5 * deviation / np.sqrt(4000)).all()
        error = np.cov(drawn[:, d].T) - found.covariances[d]
        assert (np.abs(error) < 0.1 * np.outer(deviation, deviation)).all()
    # Rows come from different labels: their draws are independent, correlations within 5 / sqrt(4000).
    correlation = np.corrcoef(drawn.reshape(4000, 4).T)[:2, 2:]
    assert np.abs(correlation).max() < 0.08
    np.testing.assert_array_equal(draws(jax.random.key(0), found, 4000), drawn)
    assert not np.array_equal(draws(jax.random.key(1), found, 4000), drawn)


def test_scatter_flattens_the_fit_and_the_draws_reach_the_truth():
    """True logits 1.5 x + sqrt(1.2) e: the formula says flatter by 1 / sqrt(1 + 0.346 * 1.2) = 0.84."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1.2, (200_000, 1))
    y = (rng.uniform(size=len(x)) < expit(1.5 * x[:, 0] + np.sqrt(1.2) * rng.normal(size=len(x)))).astype(
        float
    )
    found = fit([x], [y])
    np.testing.assert_allclose(found.matrix[0, 0], 1.5 / np.sqrt(1 + 0.34584 * 1.2), rtol=0.02)
    assert found.unexplained is not None
    # E = (1.26 * 1.2)^2 = 2.3 of fitted logits, un-flattened, is above 9; what single labels can scatter at
    # all, E (y - p)^2 / E (p (1 - p))^2, is less.
    p = expit(x @ found.matrix.T)[:, 0]
    np.testing.assert_allclose(
        found.unexplained, np.mean((y - p) ** 2) / np.mean((p * (1 - p)) ** 2), rtol=1e-9
    )
    drawn = draws(jax.random.key(0), found, 4000)[:, 0, 0]
    assert np.quantile(drawn, 0.025) < 1.5 < np.quantile(drawn, 0.975)
    # Half of them about the fit, half about the whole bound; the fit's own error is some 0.005.
    most = found.matrix[0, 0] * np.sqrt(1 + 0.34584 * found.unexplained[0])
    low, high = np.abs(drawn - found.matrix[0, 0]) < 0.05, np.abs(drawn - most) < 0.05
    assert (low | high).all() and 1800 < low.sum() < 2200


def test_the_bound_on_scatter_is_unflattened():
    """1,000 pairs of difference 1, a share p labelled first: E is the square of log(p / (1 - p)).

    p = 0.6: E = 0.1644, v = E / (1 - 0.34584 E) = 0.1743; labels could scatter by 1 / (p (1 - p)) = 4.2.
    p = 0.9: E = 4.83 is above 1 / 0.34584, and only the labels bound v: by 1 / 0.09 = 11.1.
    """
    for share, most in ((0.6, 0.1743), (0.9, 1 / 0.09)):
        found = fit([np.ones((1000, 1))], [(np.arange(1000) < 1000 * share).astype(float)])
        assert found.unexplained is not None
        np.testing.assert_allclose(found.unexplained, [most], rtol=1e-3)


def bent_fit():
    """One constraint with a curve: slopes 2 below 0, 1 up to 1, 0 above; 0.5 of the reward."""
    root = np.random.default_rng(0).normal(size=(5, 5)) * 0.1
    covariance = root @ root.T
    covariance[1] = covariance[:, 1] = 0.0  # its own score has no coefficient beside the curve
    curve = Curve(np.array([0.0, 1.0]), np.array([2.0, 1.0, 0.0]), covariance)
    linear = fit(*simulate(6)[:2])
    return bend(linear, 1, np.array([0.5, 0.0]), curve, np.zeros(4), np.full(4, 0.5)), linear, curve


def test_a_bent_dimension_leaves_the_others_alone():
    found, linear, curve = bent_fit()
    np.testing.assert_array_equal(found.matrix, [linear.matrix[0], [0.5, 0.0]])
    assert found.curves == (None, curve) and linear.curves is None
    np.testing.assert_array_equal(found.covariances[0], linear.covariances[0])
    np.testing.assert_array_equal(found.covariances[1], curve.covariance[:2, :2])
    # Labels that are their probabilities leave nothing unexplained.
    assert found.unexplained is not None and linear.unexplained is not None
    np.testing.assert_array_equal(found.unexplained, [linear.unexplained[0], 0.0])
    raw = np.array([[2.0, -3.0], [2.0, 0.25], [-2.0, 7.0]])
    np.testing.assert_allclose(calibrated(found, raw)[:, 1], [1 - 6, 1 + 0.25, -1 + 1])
    np.testing.assert_allclose(calibrated(found, raw)[:, 0], raw @ linear.matrix[0])
    np.testing.assert_array_equal(apply(found, raw[:, 0], raw[:, 1:])[1][:, 0], calibrated(found, raw)[:, 1])


@pytest.mark.parametrize("bent", [False, True])
def test_columns_and_coefficients_give_the_calibrated_score(bent):
    curved, linear, _ = bent_fit()
    found = curved if bent else linear
    raw = np.random.default_rng(1).normal(size=(4, 3, 2)) * 2
    ours = np.stack(
        [phi @ one for (phi, _), one in zip(columns(found, raw), coefficients(found), strict=True)], axis=-1
    )
    np.testing.assert_allclose(ours, calibrated(found, raw))
    widths = [phi.shape[-1] for phi, _ in columns(found, raw)]
    assert widths == [2, 5 if bent else 2] == [len(c) for _, c in columns(found, raw)]
    np.testing.assert_array_equal(columns(found, raw)[0][1], found.covariances[0])


def test_column_draws_have_the_fits_mean_and_covariance():
    """Of 4,000 draws: means to 5 standard errors, covariances to 10%."""
    found, _, curve = bent_fit()
    first, second = column_draws(jax.random.key(0), found._replace(unexplained=None), 4000)
    assert first.shape == (4000, 2) and second.shape == (4000, 5)
    deviation = np.sqrt(np.diag(curve.covariance))
    assert (np.abs(second.mean(axis=0) - [0.5, 0, 2, 1, 0]) <= 5 * deviation / np.sqrt(4000) + 1e-12).all()
    error = np.abs(np.cov(second.T) - curve.covariance)
    assert (error <= 0.1 * np.outer(deviation, deviation) + 1e-12).all()
    # Scatter scales every coefficient of a dimension alike, in half of the draws.
    scattered = column_draws(jax.random.key(0), found._replace(unexplained=np.array([0.0, 3.0])), 4000)[1]
    ratios = scattered[:, 2] / second[:, 2]
    far = np.abs(ratios - np.sqrt(1 + 0.34584 * 3)) < 1e-4
    assert (far | (np.abs(ratios - 1) < 1e-12)).all() and 1800 < far.sum() < 2200


def test_a_curve_has_no_matrices():
    found = bent_fit()[0]
    for draw in (draws, relative_draws):
        with pytest.raises(InputError, match="calibration: a score has a curve, which no matrix gives"):
            draw(jax.random.key(0), found, 3)


def test_relative_draws_undo_the_matrix():
    """Calibrated scores s = x M^T under a draw D are x D^T."""
    found, raw = fit(*simulate(6)[:2]), np.random.default_rng(1).normal(size=(7, 2))
    drawn, relative = (draw(jax.random.key(0), found, 3) for draw in (draws, relative_draws))
    np.testing.assert_allclose(calibrated(found, raw) @ relative[1].T, raw @ drawn[1].T)
    with pytest.raises(InputError, match="is singular"):
        relative_draws(jax.random.key(0), found._replace(matrix=np.ones((2, 2))), 3)


def test_probabilities_as_labels_tell_the_scatter():
    """Labels sigma(2 x) have no scatter: nothing is added, and the fit's own error is all there is."""
    x = np.random.default_rng(1).normal(size=(500, 1))
    found = fit([x], [expit(2 * x[:, 0])])
    assert found.unexplained is not None and found.unexplained[0] < 1e-5
    np.testing.assert_allclose(draws(jax.random.key(0), found, 50)[:, 0, 0], 2.0, atol=0.02)


def test_draws_without_uncertainty_are_the_matrix():
    found = fit(*simulate(6)[:2], kind="none")
    np.testing.assert_array_equal(draws(jax.random.key(0), found, 3), np.tile(np.eye(2), (3, 1, 1)))


@pytest.mark.parametrize(
    ("slope", "deviation", "message", "stop"),
    [
        (1.0, 0.1, None, False),
        (0.5, 0.05, "safety: the score is over-confident (slope 0.50, 95% interval 0.40 to 0.60)", False),
        (1.0, 0.2, "safety: its scale is hardly known (slope 1.00, 95% interval 0.61 to 1.39)", False),
        (
            0.1,
            0.2,
            "safety: the score does not predict its held-out labels (slope 0.10, 95% interval -0.29",
            True,
        ),
        (-1.0, 0.1, "safety: the score does not predict its held-out labels", True),
    ],
)
def test_findings(slope, deviation, message, stop):
    """Half the interval is 1.96 deviations; wide: more than half the slope, 2 * 1.96 * 0.2 = 0.78."""
    calibration = Calibration(np.array([[slope]]), np.array([[[deviation**2]]]), "slope")
    found = findings(calibration, ["safety"])
    if message is None:
        assert found == []
    else:
        assert len(found) == 1 and found[0].message.startswith(message) and found[0].stop is stop


def test_raw_scores_of_another_number():
    found = fit(*simulate(6)[:2])
    for use in (calibrated, columns):
        with pytest.raises(
            InputError, match=r"is of 2 scores, raw scores have shape \(4, 3\); give \[..., 2\]"
        ):
            use(found, np.zeros((4, 3)))


def test_errors():
    differences, labels, _ = simulate(0)
    with pytest.raises(InputError, match="calibration: kind is 'both'; use one of joint, slope, none"):
        fit(differences, labels, kind="both")
    assert KINDS == ("joint", "slope", "none")
    with pytest.raises(InputError, match=r"dimension 1 has differences \(300, 1\), must be \[300, 2\]"):
        fit([differences[0], differences[1][:, :1]], labels)
    with pytest.raises(InputError, match="dimension 1 has no held-out pairs; hold out more"):
        fit([differences[0], differences[1][:0]], [labels[0], labels[1][:0]])
    with pytest.raises(InputError, match="dimension 0 has a score difference or a label that is not finite"):
        fit([differences[0] * np.nan, differences[1]], labels)
    with pytest.raises(InputError, match=r"dimension 0 has 3 groups for 300 pairs"):
        fit(differences, labels, groups=[np.arange(3), np.arange(300)])


def test_labels_that_a_score_separates_have_no_finite_slope():
    x, y = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 1.0])
    assert separates(x, y) and separates(np.append(x, 0.0), np.append(y, 1.0))
    assert not separates(-x, y) and not separates(x, np.array([1.0, 0.0, 0.9]))
    assert not separates(x, np.array([1.0, 0.0, 0.0])) and not separates(np.zeros(3), y)
    one = fit([x[:, None]], [y], kind="slope")
    (finding,) = findings(one, ["safety"], [True])
    assert finding.stop and finding.message.startswith("safety: the score orders every held-out pair")
