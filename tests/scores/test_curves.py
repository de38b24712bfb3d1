"""Monotone curves: by hand, against SciPy on a likelihood written anew, intervals against the bootstrap."""

import numpy as np
import scipy.optimize
from scipy.special import expit

from alignjax.records.calibration import Curve
from alignjax.scores import curves
from alignjax.scores.calibration import Calibration, calibrated
from alignjax.scores.calibration import fit as linear_fit

# Twice as steep below 0 as between 0 and 1, flat above.
KNOTS, SLOPES = np.array([0.0, 1.0]), np.array([2.0, 1.0, 0.0])


def bent(x):
    return np.where(x < 0, 2 * x, np.minimum(x, 1.0))


def pairs(seed, count, own=1):
    """Raw scores of pairs, with labels from a bent map of one score and 0.5 times the other."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1.5, (count, 2, 2))
    true = bent(raw[..., own]) + 0.5 * raw[..., 1 - own]
    return raw, (rng.random(count) < expit(true[:, 0] - true[:, 1])).astype(float)


def fitted(raw, labels, own=1, groups=None):
    row = linear_fit([raw[:, 0] - raw[:, 1]] * 2, [labels] * 2).matrix[own]
    groups = np.arange(len(labels)) if groups is None else groups
    return curves.fit(raw, own, row, labels, groups, KNOTS)


def test_the_basis_by_hand():
    """Knots 1 and 3. To 2: 1 below the first knot, 1 in the middle. To -2: all below. To 5: 1, 2, 2."""
    found = curves.basis(np.array([1.0, 3.0]), np.array([[2.0, -2.0], [0.0, 5.0]]))
    np.testing.assert_array_equal(found, [[[1, 1, 0], [-2, 0, 0]], [[0, 0, 0], [1, 2, 2]]])
    # Both knots below 0: the segments between 0 and -3 are left downwards.
    found = curves.basis(np.array([-2.0, -1.0]), np.array([-3.0, -1.5, 4.0]))
    np.testing.assert_array_equal(found, [[-1, -1, -1], [0, -0.5, -1], [0, 0, 4]])


def test_equal_slopes_are_a_line():
    x = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(curves.basis(np.array([-0.3, 0.4, 1.0]), x) @ np.full(4, 1.7), 1.7 * x)


def test_a_curve_is_added_to_the_other_scores():
    x = np.random.default_rng(0).normal(size=(5, 4, 2)) * 3
    curve = Curve(KNOTS, SLOPES, np.zeros((5, 5)))
    fit = Calibration(np.array([[1.0, 0.0], [0.5, 0.0]]), np.zeros((2, 2, 2)), "joint", None, (None, curve))
    np.testing.assert_allclose(calibrated(fit, x)[..., 0], x[..., 0])
    np.testing.assert_allclose(calibrated(fit, x)[..., 1], bent(x[..., 1]) + 0.5 * x[..., 0])


def test_knots_are_quantiles_once_each():
    np.testing.assert_allclose(curves.knots_of(np.linspace(0, 1, 101)), [0.05, 0.2, 0.5, 0.8, 0.95])
    np.testing.assert_array_equal(curves.knots_of(np.zeros(10)), [0.0])


def test_recovers_the_curve_within_its_intervals():
    for own in (0, 1):
        raw, labels = pairs(3, 20_000, own)
        row, curve = fitted(raw, labels, own)
        deviation = np.sqrt(np.diag(curve.covariance))
        assert row[own] == 0 and (deviation[[1 - own, 2, 3, 4]] < 0.1).all() and deviation[own] == 0
        assert abs(row[1 - own] - 0.5) < 4 * deviation[1 - own]
        # The last slope is held at 0 by its bound where the labels would have it below.
        assert (np.abs(curve.slopes - SLOPES) < 4 * deviation[2:]).all() and (curve.slopes >= 0).all()


def test_parity_with_scipy():
    """The same penalised likelihood, written for h at the knots, by another solver."""
    raw, labels = pairs(5, 600)
    row = linear_fit([raw[:, 0] - raw[:, 1]] * 2, [labels] * 2).matrix[1]
    others, curve = curves.fit(raw, 1, row, labels, np.arange(600), KNOTS)

    def h(x, s):
        return np.where(x < 0, s[0] * x, np.where(x < 1, s[1] * x, s[1] + s[2] * (x - 1)))

    def loss(w):
        logits = np.diff(-(h(raw[..., 1], w[:3]) + w[3] * raw[..., 0]), axis=1)[:, 0]
        rough = 0.5 * np.sum((np.diff(w[:3]) / row[1]) ** 2)  # in units of the linear slope
        return np.sum(np.log1p(np.exp(-logits)) * labels + np.log1p(np.exp(logits)) * (1 - labels)) + rough

    bounds = [(0, 4 * row[1])] * 3 + [(None, None)]
    best = scipy.optimize.minimize(loss, [1.0, 1.0, 1.0, 0.0], method="Powell", bounds=bounds[:3] + [(-9, 9)])
    ours = np.array([*curve.slopes, others[0]])
    assert loss(ours) <= best.fun + 1e-5
    np.testing.assert_allclose(ours, best.x, atol=0.01)


def test_the_covariance_against_the_bootstrap():
    """Standard deviations over 120 resamples of 400 prompts with two pairs; they are known to 7%."""
    raw, labels = pairs(7, 800)
    raw[1::2] = raw[::2]  # pairs of one prompt depend on each other
    labels[1::2] = labels[::2]
    _, curve = fitted(raw, labels, groups=np.arange(800) // 2)
    rng, refits = np.random.default_rng(8), []
    for _ in range(120):
        rows = (rng.integers(400, size=400)[:, None] * 2 + np.arange(2)).ravel()
        row, one = fitted(raw[rows], labels[rows])
        refits.append([row[0], *one.slopes[:2]])
    ours = np.sqrt(np.diag(curve.covariance))[[0, 2, 3]]
    np.testing.assert_allclose(np.std(refits, axis=0), ours, rtol=0.2)


def test_unseen_labels_prefer_the_curve_only_where_there_is_one():
    raw, labels = pairs(9, 2000)
    row = linear_fit([raw[:, 0] - raw[:, 1]] * 2, [labels] * 2).matrix[1]
    bent_world = curves.held_out_losses(raw, 1, row, labels, np.arange(2000), KNOTS)
    assert bent_world.curve < bent_world.linear - 0.005
    straight = expit(np.diff(-raw[..., 1], axis=1)[:, 0])
    losses = curves.held_out_losses(raw, 1, np.array([0.01, 1.0]), straight, np.arange(2000), KNOTS)
    np.testing.assert_allclose(losses.linear, losses.curve, atol=1e-4)
    # -(p log p + (1 - p) log(1 - p)): labels that are the probabilities leave just their entropy.
    entropy = -np.mean(straight * np.log(straight) + (1 - straight) * np.log1p(-straight))
    np.testing.assert_allclose(losses.linear, entropy, atol=1e-5)


def test_a_prompt_is_on_one_side_of_a_fold():
    """Every pair twice, with labels that are noise: a fold that saw the twin would fit its noise."""
    rng = np.random.default_rng(0)
    raw, labels = rng.normal(size=(60, 2, 2)), rng.integers(2, size=60).astype(float)
    twice, knots, row = np.repeat(raw, 2, axis=0), np.linspace(-1, 1, 12), np.array([0.1, 0.1])
    apart = curves.held_out_losses(twice, 1, row, np.repeat(labels, 2), np.repeat(np.arange(60), 2), knots)
    leaking = curves.held_out_losses(twice, 1, row, np.repeat(labels, 2), np.arange(120), knots)
    assert leaking.linear < apart.linear - 0.03 and leaking.curve < apart.curve - 0.01


def test_sums_by_group():
    rows = np.array([[1.0, 0.0], [2.0, 5.0], [4.0, -1.0]])
    np.testing.assert_array_equal(curves.cluster_sums(rows, np.array([7, -2, 7])), [[2, 5], [5, -1]])
