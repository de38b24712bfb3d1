"""Scores of responses as means of utilities: by hand, by finite differences, under drawn calibrations."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import expit

from alignjax.evaluation.means import (
    Basis,
    Scored,
    in_groups,
    on_these_prompts,
    uncertain_columns,
    uncertain_means,
    utilities_of,
)
from alignjax.records.calibration import Curve
from alignjax.records.units import Rate, Tail, Unit
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration

DIMENSIONS = ("reward", "safety", "honesty")
MATRIX = np.array([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.5, 1.5]])
COVARIANCES = np.array([np.diag([4.0, 1.0, 0.0]), np.diag([1.0, 2.0, 3.0]), np.diag([2.0, 1.0, 1.0])]) / 100
LINEAR = Calibration(MATRIX, COVARIANCES, "joint")
RATE = Rate(1.5, -0.25, np.array([[4.0, 1.0], [1.0, 9.0]]) * 1e-4)
TAIL = Tail(share=0.25, cost=1.0, threshold=0.5)
UNITS = {
    "safety": Unit("safety"),
    "safe": Unit("safety", rate=RATE),
    "tail": Unit("honesty", tail=TAIL),
    "safety[theft]": Unit("safety", "theft", "topic", 0.25),
    "safe[other]": Unit("safety", "other", "topic", 0.5, rate=RATE, other_than=("theft",)),
}
CATEGORIES = {"topic": ("theft", "drugs", None, "theft", "arson")}
BASIS = Basis(LINEAR, UNITS, DIMENSIONS, CATEGORIES)


def scored(seed: int = 0, *, weights: bool = False, truth: bool = False, shift: float = 0.0) -> Scored:
    """Five prompts with four responses each."""
    rng = np.random.default_rng(seed)
    return Scored(
        rng.normal(size=(5, 4, 3)) + shift,
        rng.dirichlet(np.ones(4), 5) if weights else None,
        rng.uniform(size=5),
        np.zeros((5, 4)),
        rng.normal(size=(5, 4, 3)) if truth else None,
    )


def test_means_over_responses_by_hand():
    raw = np.array([[[1.0, 10.0], [3.0, 30.0]], [[5.0, 0.0], [7.0, 4.0]]])
    sample = Scored(raw, None, np.zeros(2), np.zeros((2, 4)))
    np.testing.assert_array_equal(sample.mean(raw), [[2.0, 20.0], [6.0, 2.0]])
    listed = sample._replace(weights=np.array([[0.25, 0.75], [1.0, 0.0]]))
    np.testing.assert_array_equal(listed.mean(raw), [[2.5, 25.0], [5.0, 0.0]])
    np.testing.assert_array_equal(listed.mean(raw[..., 0]), [2.5, 5.0])


def test_which_prompts_a_constraint_is_about():
    found = in_groups(BASIS, 5)
    assert found.dtype == bool
    np.testing.assert_array_equal(found[:, :3], True)
    np.testing.assert_array_equal(found[:, 3:].T, [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]])


def test_on_these_prompts_a_groups_mean_is_its_own():
    here = on_these_prompts(BASIS, 5)
    assert [unit.share for unit in here.units.values()] == [None, None, None, 0.4, 0.4]
    assert here.units["safe[other]"] == dataclasses.replace(UNITS["safe[other]"], share=0.4)
    values = scored()
    own = values.mean(utilities_of(values, here)).mean(axis=0)
    scores = calib.calibrated(LINEAR, values.raw)[..., 1].mean(axis=1)
    rates = expit(1.5 * calib.calibrated(LINEAR, values.raw)[..., 1] - 0.25).mean(axis=1)
    assert own[4] == pytest.approx((scores[0] + scores[3]) / 2)
    assert own[5] == pytest.approx((rates[1] + rates[4]) / 2)


def test_a_group_without_prompts_keeps_its_share():
    others = BASIS._replace(categories={"topic": ("drugs",) * 5})
    here = on_these_prompts(others, 5)
    assert here.units["safety[theft]"].share == 0.25 and here.units["safe[other]"].share == 1.0
    assert not in_groups(others, 5)[:, 3].any()


def test_utilities_of_one_response_by_hand():
    # Raw (1, -1, -2): reward 2, safety -1 - 1 = -2, honesty -0.5 - 3 = -3.5, so a cost of 3.5.
    values = Scored(np.full((5, 1, 3), [1.0, -1.0, -2.0]), None, np.zeros(5), np.zeros((5, 4)))
    found = utilities_of(values, BASIS)
    p = 1 / (1 + np.exp(3.25))  # 1.5 * -2 - 0.25
    np.testing.assert_allclose(found[0, 0], [2.0, -2.0, p, -(3.5 - 0.5) / 0.25, -2.0 / 0.25, 0.0])
    np.testing.assert_allclose(found[1, 0], [2.0, -2.0, p, -12.0, 0.0, p / 0.5])
    np.testing.assert_allclose(found[2, 0, 4:], 0.0)  # this prompt has no category


def test_true_scores_are_logits_and_are_not_calibrated():
    values = scored(truth=True)
    assert values.truth is not None
    found = utilities_of(values, BASIS, truth=True)
    np.testing.assert_allclose(found[..., :2], values.truth[..., :2])
    np.testing.assert_allclose(found[..., 2], expit(values.truth[..., 1]))
    np.testing.assert_allclose(found[..., 3], -np.maximum(-values.truth[..., 2] - 0.5, 0.0) / 0.25)
    np.testing.assert_allclose(found[0, :, 4], values.truth[0, :, 1] / 0.25)
    np.testing.assert_allclose(found[4, :, 5], expit(values.truth[4, :, 1]) / 0.5)
    assert BASIS.units["safe"].rate is RATE  # what was given is as it was


# A curve for safety: its own score enters through it, with slopes 0.5, 1 and 2 between the knots.
CURVE = Curve(np.array([-0.4, 0.6]), np.array([0.5, 1.0, 2.0]), np.diag(np.arange(1.0, 7.0)) / 100)
BENT = Calibration(
    np.array([MATRIX[0], [-1.0, 0.0, 0.0], MATRIX[2]]), COVARIANCES, "joint", None, (None, CURVE, None)
)


def moved(calibration: Calibration, dimension: int, place: int, step: float) -> Calibration:
    """The calibration with one coefficient of a dimension moved: of a raw score, then of the curve."""
    if place < 3:
        matrix = calibration.matrix.copy()
        matrix[dimension, place] += step
        return calibration._replace(matrix=matrix)
    slopes = CURVE.slopes.copy()
    slopes[place - 3] += step
    return calibration._replace(curves=(None, dataclasses.replace(CURVE, slopes=slopes), None))


@pytest.mark.parametrize("calibration", [LINEAR, BENT], ids=["linear", "curve"])
@pytest.mark.parametrize("weights", [False, True], ids=["sample", "listed"])
def test_uncertain_columns_are_derivatives_of_the_means(calibration, weights):
    values, basis, h = scored(1, weights=weights), BASIS._replace(calibration=calibration), 1e-6
    found = uncertain_columns(values, basis)
    assert len(found) == 6

    def means(given: Basis) -> np.ndarray:
        return values.mean(utilities_of(values, given))

    places = {"reward": 0, "safety": 1, "tail": 2, "safety[theft]": 1}
    for j, name in enumerate(("reward", *UNITS)):
        phi, covariance = found[j]
        assert covariance.shape == (phi.shape[1],) * 2 and phi.shape[0] == 5
        for p in range(phi.shape[1]):
            if name in places:
                ends = [
                    basis._replace(calibration=moved(calibration, places[name], p, step)) for step in (h, -h)
                ]
            else:  # a rate moves with its own slope and intercept alone
                rates = [
                    dataclasses.replace(RATE, **{part: getattr(RATE, part) + step})
                    for part in [("slope", "intercept")[p]]
                    for step in (h, -h)
                ]
                unit = UNITS[name]
                ends = [
                    basis._replace(units={**UNITS, name: dataclasses.replace(unit, rate=rate)})
                    for rate in rates
                ]
            slope = (means(ends[0]) - means(ends[1]))[:, j] / (2 * h)
            np.testing.assert_allclose(phi[:, p], slope, atol=1e-7)
    np.testing.assert_array_equal(found[2][1], RATE.covariance)
    np.testing.assert_array_equal(found[0][1], COVARIANCES[0])


PLAIN = {"safety": Unit("safety"), "honesty": Unit("honesty")}


def test_every_policy_has_the_means_of_one_drawn_calibration():
    basis, key = BASIS._replace(units=PLAIN), jax.random.key(3)
    policies = {"reference": scored(0), "aligned": scored(1, weights=True, shift=0.5)}
    found = uncertain_means(policies, basis, key, 7)
    matrices = calib.draws(key, LINEAR, 7)
    assert found.draws.shape == (7, 3, 3) and list(found.columns) == list(policies)
    for name, policy in policies.items():
        raw = policy.mean(policy.raw)
        np.testing.assert_allclose(found.columns[name], raw @ MATRIX.T)
        for draw, matrix in zip(found.draws, matrices, strict=True):
            np.testing.assert_allclose(found.columns[name] @ draw.T, raw @ matrix.T, atol=1e-12)


def test_the_draws_do_not_depend_on_who_else_is_there():
    policies = {"reference": scored(0), "aligned": scored(1, shift=0.5)}
    key = jax.random.key(0)
    both = uncertain_means(policies, BASIS, key, 6)
    alone = uncertain_means({"aligned": policies["aligned"]}, BASIS, key, 6)
    np.testing.assert_array_equal(both.draws, alone.draws)
    np.testing.assert_array_equal(both.columns["aligned"], alone.columns["aligned"])
    assert both.columns["reference"].shape == both.columns["aligned"].shape
    other = uncertain_means(policies, BASIS, jax.random.key(1), 6)
    assert not np.allclose(other.draws, both.draws)


def test_a_drawn_rate_is_the_logistic_function_with_drawn_parameters():
    # The scores are known for certain, so that slope and intercept are all that is drawn: two features.
    basis = Basis(calib.identity(3), {"safe": UNITS["safe"]}, DIMENSIONS, {})
    values = scored(2)
    found = uncertain_means({"aligned": values}, basis, jax.random.key(0), 200)
    assert found.draws.shape == (200, 2, 4)
    np.testing.assert_array_equal(found.draws[:, :, :2], np.tile(np.eye(2), (200, 1, 1)))
    np.testing.assert_array_equal(found.draws[:, 0, 2:], 0.0)
    steps = found.draws[:, 1, 2:]
    np.testing.assert_allclose(steps.std(axis=0), np.sqrt(np.diag(RATE.covariance)), rtol=0.2)
    for step, draw in zip(steps, found.draws, strict=True):
        exact = expit((1.5 + step[0]) * values.raw[..., 1] - 0.25 + step[1]).mean(axis=1)
        # First order: what is left is at most |p''| / 2 < 0.05 times the square of the logit's step.
        room = 0.05 * np.max((step[0] * values.raw[..., 1] + step[1]) ** 2)
        assert np.max(np.abs(found.columns["aligned"] @ draw[1] - exact)) <= room + 1e-12
