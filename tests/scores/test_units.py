"""Utilities of the dual from scores, and how they move with the calibration."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from alignjax.errors import InputError
from alignjax.records.calibration import Curve
from alignjax.records.units import Rate, Tail, Unit
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration
from alignjax.scores.units import belongs, columns, exposure, uncertainty, utilities

DIMENSIONS = ("reward", "safety", "honesty")
CATEGORIES = {"category": ("theft", "drugs", None, "theft", "arson")}
RATE = Rate(1.5, -0.25, np.array([[0.04, 0.01], [0.01, 0.09]]))
TAIL = Tail(share=0.2, cost=1.0, threshold=0.3)
UNITS = {
    "safety": Unit("safety", rate=RATE),
    "honesty": Unit("honesty", tail=TAIL),
    "safety[theft]": Unit("safety", "theft", "category", 0.4),
    "safety[other]": Unit("safety", "other", "category", 0.4, other_than=("theft",)),
    "honesty[theft]": Unit("honesty", "theft", "category", 0.4, rate=RATE),
}
N, K = 5, 4
MATRIX = np.array([[1.1, 0.2, 0.0], [-0.1, 0.8, 0.3], [0.05, 0.1, 1.2]])
COVARIANCES = np.array([[[4, 1, 0], [1, 2, 0], [0, 0, 1]], np.diag([1, 2, 3]), np.diag([2, 1, 1])]) / 100.0
LINEAR = Calibration(MATRIX, COVARIANCES, "joint", np.array([0.0, 0.5, 0.0]))


def raw_scores(n: int = N, k: int = K) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, k, 3))


def by_hand(unit: Unit, scores: np.ndarray, category: str | None) -> float:
    """The utility of one response [3], one rule after the other."""
    s = float(scores[DIMENSIONS.index(unit.dimension)])
    value = s
    if unit.rate is not None:
        value = 1.0 / (1.0 + math.exp(-(unit.rate.slope * s + unit.rate.intercept)))
    if unit.tail is not None:
        value = -max(0.0, -s - unit.tail.threshold) / unit.tail.share
    if unit.category is None:
        return value
    member = category in ("drugs", "arson") if unit.category == "other" else category == unit.category
    assert unit.share is not None
    return value / unit.share if member else 0.0


def test_utilities_and_exposure_by_brute_force():
    scores = raw_scores()
    found = utilities(UNITS, scores, DIMENSIONS, CATEGORIES)
    assert found.shape == (N, K, 5)
    for j, unit in enumerate(UNITS.values()):
        for i, category in enumerate(CATEGORIES["category"]):
            for k in range(K):
                assert found[i, k, j] == pytest.approx(by_hand(unit, scores[i, k], category), rel=1e-12)
    of_pairs = utilities(UNITS, scores[:, :2], DIMENSIONS, CATEGORIES)
    np.testing.assert_array_equal(of_pairs, found[:, :2])
    carried = exposure(UNITS, CATEGORIES, N)
    np.testing.assert_array_equal(carried[:, :2], 1.0)
    np.testing.assert_array_equal(
        carried[:, 2:].T, [[2.5, 0, 0, 2.5, 0], [0, 2.5, 0, 0, 2.5], [2.5, 0, 0, 2.5, 0]]
    )
    # The share of the prompts is 2 of 5, so that the mean exposure is 1: all that is asked is asked once.
    np.testing.assert_allclose(carried.mean(axis=0), 1.0)


def test_plain_scores_are_themselves_in_their_type():
    scores = raw_scores().astype(np.float32)
    found = utilities({name: Unit(name) for name in DIMENSIONS[1:]}, scores, DIMENSIONS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, scores[..., 1:])


def test_a_masked_response_reaches_no_other():
    """Scores of responses that do not exist may be nan."""
    scores = raw_scores()
    scores[0, 1] = np.nan
    found = utilities(UNITS, scores, DIMENSIONS, CATEGORIES)
    assert np.isfinite(np.delete(found.reshape(-1, 5), 1, axis=0)).all()


def test_belongs_refuses_what_does_not_fit():
    unit = UNITS["safety[theft]"]
    with pytest.raises(InputError, match="the prompts have no column 'category', only topic; add it"):
        belongs(unit, {"topic": ["a"]}, 1)
    with pytest.raises(InputError, match="5 categories in column 'category' for 3 prompts; give one each"):
        belongs(unit, CATEGORIES, 3)
    with pytest.raises(InputError, match="constraints.tact: has no score; there are reward, safety, honesty"):
        utilities({"tact": Unit("tact")}, raw_scores(), DIMENSIONS)


CURVE = Curve(np.array([-0.4, 0.5]), np.array([0.6, 1.0, 1.7]), np.eye(6) / 50)


@pytest.mark.parametrize("curved", [False, True])
def test_columns_are_the_derivatives(curved):
    """Central differences in every coefficient of the matrix, of the curve and of the rate."""
    fit = LINEAR._replace(curves=(None, CURVE, None)) if curved else LINEAR
    raw, step = raw_scores(), 1e-6
    found = columns(UNITS, fit, raw, DIMENSIONS, CATEGORIES)
    assert len(found) == 6

    def at(calibration: Calibration, units: dict[str, Unit]) -> np.ndarray:
        scores = calib.calibrated(calibration, raw)
        return np.concatenate([scores[..., :1], utilities(units, scores, DIMENSIONS, CATEGORIES)], axis=-1)

    for d, name in enumerate(DIMENSIONS):
        places = [j for j, unit in enumerate([Unit("reward"), *UNITS.values()]) if unit.dimension == name]
        for e in range(3):
            delta = np.zeros((3, 3))
            delta[d, e] = step
            high, low = (fit._replace(matrix=MATRIX + sign * delta) for sign in (1, -1))
            slope = (at(high, UNITS) - at(low, UNITS)) / (2 * step)
            for j in places:
                if j and list(UNITS.values())[j - 1].rate is not None:
                    continue  # it takes the scores as they are
                np.testing.assert_allclose(found[j].phi[..., e], slope[..., j], rtol=1e-5, atol=1e-8)
    for column in range(2):
        rates = []
        for sign in (1, -1):
            values = [RATE.slope, RATE.intercept]
            values[column] += sign * step
            one = Rate(values[0], values[1], RATE.covariance)
            rates.append(
                {n: dataclasses.replace(u, rate=one) if u.rate is not None else u for n, u in UNITS.items()}
            )
        slope = (at(fit, rates[0]) - at(fit, rates[1])) / (2 * step)
        for j, unit in enumerate(UNITS.values(), start=1):
            if unit.rate is not None:
                np.testing.assert_allclose(found[j].phi[..., column], slope[..., j], rtol=1e-6, atol=1e-9)
                np.testing.assert_array_equal(found[j].covariance, RATE.covariance)
    if curved:
        for p in range(3):
            ends = []
            for sign in (1, -1):
                slopes = CURVE.slopes.copy()
                slopes[p] += sign * step
                curve = dataclasses.replace(CURVE, slopes=slopes)
                ends.append(at(fit._replace(curves=(None, curve, None)), UNITS))
            slope = (ends[0] - ends[1]) / (2 * step)
            for j in (3, 4):  # safety[theft], safety[other]
                np.testing.assert_allclose(found[j].phi[..., 3 + p], slope[..., j], rtol=1e-6, atol=1e-9)
                np.testing.assert_array_equal(found[j].covariance, CURVE.covariance)


def test_plain_uncertainty_is_that_of_the_fit():
    """Draw b of a plain, linear fit gives the scores raw @ (M + delta_b)^T, and needs no further columns."""
    key, raw = jax.random.key(3), raw_scores()
    plain = {name: Unit(name) for name in DIMENSIONS[1:]}
    found = uncertainty(key, plain, LINEAR, raw, DIMENSIONS, None, 7)
    assert found.features.shape == (N, K, 0)
    scores = raw @ MATRIX.T
    expected = raw @ np.swapaxes(calib.draws(key, LINEAR, 7), 1, 2)[:, None]
    np.testing.assert_allclose(scores @ np.swapaxes(found.draws, 1, 2)[:, None], expected, atol=1e-12)
    # The variance of a mean of score j is x' C_j x of the raw scores' mean x.
    raw_mean, mean = raw[:2].mean(axis=(0, 1)), scores[:2].mean(axis=(0, 1))
    for j in range(3):
        assert mean @ found.covariances[j] @ mean == pytest.approx(raw_mean @ COVARIANCES[j] @ raw_mean)


def test_uncertainty_of_units():
    """A draw moves each utility by its column times the parameters drawn, alike in units of one dimension."""
    key, raw, num = jax.random.key(3), raw_scores(), 4000
    found = uncertainty(key, UNITS, LINEAR, raw, DIMENSIONS, CATEGORIES, num)
    width = 6 + found.features.shape[-1]
    assert found.draws.shape == (num, 6, width) and found.covariances.shape == (6, width, width)
    scores = raw @ MATRIX.T
    values = np.concatenate([scores[..., :1], utilities(UNITS, scores, DIMENSIONS, CATEGORIES)], axis=-1)
    table = np.concatenate([values, found.features], axis=-1)
    drawn = table @ np.swapaxes(found.draws, 1, 2)[:, None]  # [R, N, K, 6]
    matrices = calib.draws(key, LINEAR, num)
    reward, safety = (np.einsum("nkd,rd->rnk", raw, matrices[:, d]) for d in (0, 1))
    np.testing.assert_allclose(drawn[..., 0], reward, atol=1e-9)
    theft = np.array([True, False, False, True, False])[:, None]
    np.testing.assert_allclose(drawn[..., 3], np.where(theft, safety / 0.4, 0.0), atol=1e-9)
    other = np.array([False, True, False, False, True])[:, None]
    np.testing.assert_allclose(drawn[..., 4], np.where(other, safety / 0.4, 0.0), atol=1e-9)
    moved, spread = drawn - values, columns(UNITS, LINEAR, raw, DIMENSIONS, CATEGORIES)
    for j in (1, 2, 5):  # rate, tail, rate of a category: the draws' covariance over responses is theirs
        flat = moved[..., j].reshape(num, -1)
        phi = spread[j].phi.reshape(N * K, -1)
        expected = phi @ spread[j].covariance @ phi.T
        scale = np.max(np.diag(expected))
        assert scale > 0
        np.testing.assert_allclose(flat.T @ flat / num, expected, atol=0.08 * scale)
    # And the variance of a mean that the dual computes is that of the parameters alone.
    mean = np.random.default_rng(1).dirichlet(np.ones(N * K)) @ table.reshape(N * K, -1)
    for j, one in enumerate(spread):
        of_columns = np.random.default_rng(1).dirichlet(np.ones(N * K)) @ one.phi.reshape(N * K, -1)
        expected = of_columns @ one.covariance @ of_columns
        assert mean @ found.covariances[j] @ mean == pytest.approx(expected, rel=1e-9)


def test_scores_that_move_alike_share_their_columns():
    """Plain scores all move with the raw ones: three columns, and a category's own three."""
    units = {"safety": Unit("safety"), "honesty[theft]": Unit("honesty", "theft", "category", 0.4)}
    found = uncertainty(jax.random.key(0), units, LINEAR, raw_scores(), DIMENSIONS, CATEGORIES, 2)
    assert found.features.shape == (N, K, 6)


def test_a_singular_calibration_has_draws_too():
    """Calibrated scores do not tell the raw ones, but the raw ones are there as columns."""
    singular = LINEAR._replace(matrix=np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 2.0, 0]]))
    key, raw = jax.random.key(0), raw_scores()
    plain = {name: Unit(name) for name in DIMENSIONS[1:]}
    found = uncertainty(key, plain, singular, raw, DIMENSIONS, None, 3)
    table = np.concatenate([raw @ singular.matrix.T, found.features], axis=-1)
    expected = raw @ np.swapaxes(calib.draws(key, singular, 3), 1, 2)[:, None]
    np.testing.assert_allclose(table @ np.swapaxes(found.draws, 1, 2)[:, None], expected, atol=1e-12)


def test_what_is_known_for_certain_needs_no_column():
    """Each score on its own coefficient: one column a category; scores believed as they are: none."""
    units = {"safety": Unit("safety"), "honesty[theft]": Unit("honesty", "theft", "category", 0.4)}
    own = np.stack([np.diag(row) for row in 0.1 * np.eye(3)])
    slope = Calibration(np.diag([1.0, 2.0, 3.0]), own, "slope", np.full(3, 0.5))
    found = uncertainty(jax.random.key(0), units, slope, raw_scores(), DIMENSIONS, CATEGORIES, 50)
    assert found.features.shape == (N, K, 3)  # raw scores of reward and safety, and honesty's of thefts
    theft = np.isin(np.arange(N), [0, 3])[:, None]
    np.testing.assert_allclose(found.features[..., 2], np.where(theft, raw_scores()[..., 2] / 0.4, 0.0))
    for num in (0, 3):
        none = uncertainty(
            jax.random.key(0), units, calib.identity(3), raw_scores(), DIMENSIONS, CATEGORIES, num
        )
        assert none.features.shape == (N, K, 0) and not none.covariances.any()
        np.testing.assert_array_equal(none.draws, np.tile(np.eye(3), (num, 1, 1)))
