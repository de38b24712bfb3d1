"""The dual solved anew: against plain solves of the same resamples, under the same calibrations."""

import numpy as np
import pytest

from alignjax.dual import finite_sample_bias, solve
from alignjax.dual.resampling import resolve

ASKED = np.array([0.25, 0.15])


@pytest.fixture
def matrices() -> np.ndarray:
    """Calibrations near the identity, [4, 3, 3]."""
    return np.eye(3) + 0.1 * np.random.default_rng(5).normal(size=(4, 3, 3))


@pytest.fixture
def weights() -> np.ndarray:
    """Resamples of 30 prompts, [4, 30]."""
    return np.random.default_rng(6).multinomial(30, np.full(30, 1 / 30), size=4) / 30


@pytest.mark.parametrize("calibrated", [False, True])
def test_every_resample_is_a_solve_of_its_own(make_problem, weights, matrices, calibrated):
    rewards, utilities = make_problem(1, n=30)
    mask = np.random.default_rng(2).random(rewards.shape) < 0.9
    lam = solve(rewards, utilities, beta=0.6, margins=ASKED, mask=mask).lam
    given = {"beta": 0.6, "mask": mask}
    drawn = matrices if calibrated else None
    found, better = resolve(rewards, utilities, lam, asked=ASKED, weights=weights, matrices=drawn, **given)
    assert better is None and found.solved.all()
    for b in range(4):
        scores = np.concatenate([rewards[..., None], utilities], axis=2)
        scores = scores @ matrices[b].T if calibrated else scores
        alone = solve(scores[..., 0], scores[..., 1:], prompt_weights=weights[b], margins=ASKED, **given)
        np.testing.assert_allclose(found.lam[b], alone.lam, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(found.corrected, found.lam)


def test_levels_groups_and_features_are_those_of_the_resample(make_problem, weights):
    """A level counts from each resample's own reference and calibration; a group from its own share."""
    rewards, utilities = make_problem(1, n=30)
    group = np.arange(30) % 3 == 0
    exposure = np.column_stack([np.ones(30), group / group.mean()])
    utilities = utilities * exposure[:, None, :]
    features = np.random.default_rng(3).normal(size=(30, rewards.shape[1], 1))
    matrices = np.concatenate([np.tile(np.eye(3), (4, 1, 1)), np.zeros((4, 3, 1))], axis=2)
    matrices[:, 1, 3] = [0.1, -0.1, 0.2, 0.0]  # the first utility moves by the feature
    lam = np.array([0.2, 0.1])
    asked = np.array([utilities[..., 0].mean() + 0.2, 0.1])
    found, _ = resolve(
        rewards,
        utilities,
        lam,
        beta=0.6,
        asked=asked,
        by_level=np.array([True, False]),
        exposure=exposure,
        weights=weights,
        matrices=matrices,
        features=features,
    )
    for b in range(4):
        scores = np.concatenate([rewards[..., None], utilities, features], axis=2) @ matrices[b].T
        reference = weights[b] @ scores[..., 1].mean(axis=1)
        margins = np.array([asked[0] - reference, asked[1] * (weights[b] @ exposure[:, 1])])
        alone = solve(scores[..., 0], scores[..., 1:], beta=0.6, margins=margins, prompt_weights=weights[b])
        np.testing.assert_allclose(found.lam[b], alone.lam, rtol=1e-8, atol=1e-10)
    assert found.solved.all()


def test_what_cannot_be_met_on_a_resample_is_infinite():
    """Prompt 0 can bring 1/2, prompt 1 nothing: 0.3 needs more than 0.6 of the weight on prompt 0."""
    utilities = np.array([[[0.0], [1.0]], [[0.0], [0.0]]])
    weights = np.array([[0.7, 0.3], [0.5, 0.5]])
    found, _ = resolve(
        np.zeros((2, 2)), utilities, np.array([0.5]), beta=1.0, asked=np.array([0.3]), weights=weights
    )
    np.testing.assert_array_equal(found.solved, [True, False])
    # 0.7 (sigma(lam) - 1/2) = 0.3
    np.testing.assert_allclose(found.lam[0], np.log(6.5 / 0.5), rtol=1e-8)
    assert np.isinf(found.lam[1]).all() and np.isinf(found.corrected[1]).all()


def test_the_correction_is_that_of_finite_sample_bias(make_problem):
    rewards, utilities = make_problem(8, n=40, k=24)
    given = {"beta": 0.8, "margins": ASKED}
    solution = solve(rewards, utilities, **given)
    bias = finite_sample_bias(rewards, utilities, **given)
    equal = np.full((1, 40), 1 / 40)
    found, better = resolve(
        rewards, utilities, solution.lam, beta=0.8, asked=ASKED, weights=equal, correct_bias=True
    )
    assert better is not None
    np.testing.assert_allclose(better.lam, solution.lam - bias.lam, rtol=1e-9)
    np.testing.assert_allclose(better.kl.mean(), solution.kl - bias.kl, rtol=1e-9)
    gained = better.scores[:, 1:].mean(axis=0) - utilities.mean(axis=(0, 1))
    np.testing.assert_allclose(gained, solution.margins - bias.margins, rtol=1e-9)
    np.testing.assert_allclose(better.scores[:, 0].mean(), solution.expected_reward - bias.reward, rtol=1e-9)
    # On the prompts as they are the first-order shift ends near the root itself.
    np.testing.assert_allclose(found.corrected[0], better.lam, rtol=0.02)
