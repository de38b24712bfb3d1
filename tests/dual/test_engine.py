"""The one engine: by hand, against the functions it is made of, and its record through JSON."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

from alignjax import dual
from alignjax.dual import Asked, answer, require_answer
from alignjax.errors import InfeasibleError, InputError
from alignjax.records import decode, encode
from alignjax.records.answer import DualAnswer, PromptMargin
from alignjax.records.figure import Figure
from alignjax.scores.calibration import Calibration, draws, relative_draws

# One prompt, r = 0, g in {0, 1}, beta 1: the weight of g = 1 is sigma(lam). Margin 1/4: lam = log 3,
# KL = 3/4 log(3/2) + 1/4 log(1/2), 1 / (9/16 + 1/16) = 1.6 effective samples.
COIN = np.zeros((1, 2)), np.array([[[0.0], [1.0]]])
KL = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)


def test_by_hand():
    found = answer(*COIN, names=["safety"], asked=[Asked(level=0.75)], beta=1.0, num_resamples=0)
    assert found.asked["safety"].margin == pytest.approx(0.25) and found.asked["safety"].level == 0.75
    assert found.lam == pytest.approx({"safety": np.log(3)}) and found.solved and found.feasible
    assert found.predicted is not None and found.solver is not None and found.prompts is not None
    assert found.predicted.kl.mean == pytest.approx(KL)
    assert found.predicted.utilities["safety"].mean == pytest.approx(0.75)
    margin = found.predicted.margins["safety"]
    assert margin.low == margin.mean == margin.high == pytest.approx(0.25)
    assert dataclasses.astuple(found.predicted.ess) == pytest.approx((1.6, 1.6, 2, 1.0))
    assert found.reachable == {"safety": 0.5} and found.multiple == pytest.approx(2.0)
    assert found.solver.objective == pytest.approx(np.log(2) - 0.75 * np.log(3))
    assert (found.num_prompts, found.num_samples, found.num_resamples, found.holds) == (1, 2, 0, ())
    assert found.intervals is None and found.corrected is None
    assert found.prompts["safety"].most == (PromptMargin(0, margin.mean),)
    assert len(found.warnings) == 1 and "100.0% of the prompts have fewer than 2" in found.warnings[0]


def table(n: int = 40, k: int = 16, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(n, k))
    return rewards, rng.normal(size=(n, k, m)) - 0.7 * rewards[..., None]


def figures(found: DualAnswer) -> list[Figure]:
    """Every Figure of an answer."""
    predicted, corrected = found.predicted, found.corrected
    assert predicted is not None and corrected is not None
    listed = [predicted.reward, predicted.kl, predicted.reward_gain, corrected.reward, corrected.kl]
    for named in (predicted.utilities, predicted.margins, corrected.margins, corrected.lam):
        listed += [one for one in named.values() if one is not None]
    return listed


def test_estimates_are_those_of_the_plain_functions_and_lie_in_their_intervals():
    rewards, utilities = table(m=2)
    mask = np.random.default_rng(1).random(rewards.shape) < 0.9
    given: dict[str, Any] = {"beta": 0.5, "mask": mask}
    asked = [Asked(margin=0.5), Asked(fraction=0.3)]
    found = answer(rewards, utilities, names=["a", "b"], asked=asked, num_resamples=200, **given)
    margins = dual.asked_margins(asked, utilities, mask=mask)
    solution = dual.solve(rewards, utilities, margins=margins, **given)
    bias = dual.finite_sample_bias(rewards, utilities, margins=margins, **given)
    assert found.predicted is not None and found.corrected is not None and found.intervals is not None
    np.testing.assert_allclose(found.multipliers, solution.lam, rtol=1e-12)
    predicted = found.predicted
    for j, name in enumerate(found.names):
        np.testing.assert_allclose(predicted.utilities[name].mean, solution.expected_utilities[j], rtol=1e-12)
        np.testing.assert_allclose(predicted.margins[name].mean, solution.margins[j], rtol=1e-12)
        better = found.corrected.lam[name]
        assert better is not None
        np.testing.assert_allclose(better.mean, solution.lam[j] - bias.lam[j], rtol=1e-9)
        ends = found.intervals.lam[name]
        assert ends.low is not None and ends.high is not None
        assert ends.low < solution.lam[j] < ends.high
    np.testing.assert_allclose(predicted.reward.mean, solution.expected_reward, rtol=1e-12)
    np.testing.assert_allclose(predicted.kl.mean, solution.kl, rtol=1e-12)
    np.testing.assert_allclose(found.corrected.kl.mean, solution.kl - bias.kl, rtol=1e-9)
    assert found.holds == ("which prompts were drawn",)
    for figure in figures(found):
        assert figure.low <= figure.mean <= figure.high and figure.low < figure.high


def test_intervals_have_the_width_of_the_standard_errors():
    """A tilt that is fixed: means over 300 prompts, whose errors the frontier states."""
    rewards, utilities = table(n=300)
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5}
    found = answer(rewards, utilities, num_resamples=4000, **given)
    assert found.predicted is not None and found.frontier is not None
    at = int(np.argmin(np.abs(found.frontier.lams[:, 0] - found.multipliers[0])))
    np.testing.assert_allclose(found.frontier.lams[at], found.multipliers, rtol=1e-12)
    margin, error = found.predicted.margins["a"], found.frontier.margin_errors[at, 0]
    np.testing.assert_allclose(margin.high - margin.low, 2 * 1.96 * error, rtol=0.05)
    np.testing.assert_allclose(found.frontier.margins[at, 0], 0.5, rtol=1e-9)


def test_draws_of_a_calibration_act_on_the_scores():
    """All draws double the utility: the margin's interval is that of margins twice as large."""
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5, "num_resamples": 100}
    draws = np.tile(np.diag([1.0, 2.0]), (100, 1, 1))
    plain = answer(rewards, utilities, **given)
    drawn = answer(rewards, utilities, calibration_draws=draws, **given)
    assert plain.predicted is not None and drawn.predicted is not None and drawn.intervals is not None
    assert drawn.lam == plain.lam
    assert drawn.predicted.kl == plain.predicted.kl
    one, two = plain.predicted.margins["a"], drawn.predicted.margins["a"]
    # Doubled, the lower end may lie above the estimate, which the interval then begins with.
    np.testing.assert_allclose([two.low, two.high], [min(2 * one.low, one.mean), 2 * one.high], rtol=1e-9)
    assert drawn.holds == ("which prompts were drawn", "how the scores were calibrated")
    # A margin of 0.5 of 2 g is one of 0.25 of g, at half the multiplier: all of it below the estimate.
    cheaper = dual.solve(rewards, 2 * utilities, beta=0.5, margins=np.array([0.5])).lam
    ends = drawn.intervals.lam["a"]
    assert ends.low is not None and ends.low < cheaper[0] < plain.multipliers[0] == ends.high


def test_relative_draws_of_calibrated_scores_are_the_draws_of_raw_ones():
    matrix = np.array([[1.1, 0.2], [-0.1, 0.8]])
    covariances = np.tile(0.01 * np.eye(2), (2, 1, 1))
    fitted = Calibration(matrix, covariances, "joint", np.array([1.0, 2.0]))
    key, raw = jax.random.key(3), np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(
        np.einsum("bij,nj->bni", relative_draws(key, fitted, 7), raw @ matrix.T),
        np.einsum("bij,nj->bni", draws(key, fitted, 7), raw),
        rtol=1e-10,
        atol=1e-12,
    )
    with pytest.raises(InputError, match="is singular"):
        relative_draws(key, fitted._replace(matrix=np.ones((2, 2))), 7)


def test_a_population_is_not_resampled():
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5, "num_resamples": 50}
    exact = answer(rewards, utilities, population=True, **given)
    assert exact.predicted is not None and exact.intervals is None and exact.holds == ()
    assert exact.predicted.kl.low == exact.predicted.kl.mean == exact.predicted.kl.high
    draws = np.eye(2) + 0.1 * np.random.default_rng(0).normal(size=(50, 2, 2))
    drawn = answer(rewards, utilities, population=True, calibration_draws=draws, **given)
    assert drawn.predicted is not None and drawn.holds == ("how the scores were calibrated",)
    assert drawn.predicted.kl.high == pytest.approx(drawn.predicted.kl.low)  # the tilt itself is not redrawn
    assert drawn.predicted.margins["a"].low < drawn.predicted.margins["a"].high


def test_weights_of_the_prompts():
    """A prompt of weight 2 is that prompt twice; one of weight 0 is not there."""
    rewards, utilities = table(n=8)
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(fraction=0.4)], "beta": 0.5, "num_resamples": 0}
    weights = np.array([2.0, 1, 1, 1, 1, 1, 1, 0])
    one = answer(rewards, utilities, prompt_weights=weights, **given)
    rows = [0, 0, 1, 2, 3, 4, 5, 6]
    two = answer(rewards[rows], utilities[rows], **given)
    assert one.predicted is not None and two.predicted is not None
    assert one.multipliers == pytest.approx(two.multipliers) and one.reachable == pytest.approx(two.reachable)
    assert one.predicted.margins["a"].mean == pytest.approx(two.predicted.margins["a"].mean)
    assert one.predicted.reward.mean == pytest.approx(two.predicted.reward.mean)
    drawn = answer(rewards, utilities, prompt_weights=weights, **{**given, "num_resamples": 50})
    assert drawn.predicted is not None and np.isfinite(drawn.predicted.reward.high)


def test_a_fixed_multiplier_is_not_solved_for():
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "beta": 0.5, "num_resamples": 50}
    free = answer(rewards, utilities, asked=[], lam=0.3, **given)
    assert not free.solved and free.feasible and free.lam == {"a": 0.3} and free.solver is None
    assert free.asked == {"a": Asked()} and free.multiple is None and free.intervals is None
    assert free.predicted is not None and free.frontier is not None
    at = dual.frontier(rewards, utilities, beta=0.5, lams=np.array([[0.3]]))
    assert free.predicted.margins["a"].mean == pytest.approx(at.margins[0, 0])
    assert free.predicted.margins["a"].low < free.predicted.margins["a"].high
    low = answer(rewards, utilities, asked=[Asked(margin=0.9)], lam=0.3, **given)
    assert any("The given multiplier reaches a margin of" in text for text in low.warnings)


def test_lambda_against_scipy():
    rewards, utilities = table()
    found = answer(rewards, utilities, names=["a"], asked=[Asked(margin=0.5)], beta=0.5, num_resamples=0)

    def slope(lam: float) -> float:
        w = np.exp((rewards + lam * utilities[..., 0]) / 0.5)
        w /= w.sum(axis=1, keepdims=True)
        return float(np.mean(np.sum(w * utilities[..., 0], axis=1)) - utilities.mean() - 0.5)

    assert found.multipliers[0] == pytest.approx(scipy.optimize.brentq(slope, 0, 50, xtol=1e-12), rel=1e-9)


def test_infeasible_has_no_prediction_and_says_what_can_be_met():
    """g2 = 1 - g1: raising one lowers the other."""
    scales = np.array([[0.0, 4.0]]), np.array([[[1.0, 0.0], [0.0, 1.0]]])
    found = answer(*scales, names=["a", "b"], asked=[Asked(margin=0.1)] * 2, beta=1.0)
    assert not found.feasible and found.solved and found.warnings == ()
    for name in ("lam", "predicted", "intervals", "corrected", "frontier", "prompts"):
        assert getattr(found, name) is None
    with pytest.raises(InfeasibleError) as caught:
        require_answer(found)
    with pytest.raises(InfeasibleError) as expected:
        margins = np.array([0.1, 0.1])
        solution = dual.solve(*scales, beta=1.0, margins=margins)
        dual.require_feasible(["a", "b"], solution, margins, scales[1])
    assert str(caught.value) == str(expected.value) and "together: " in str(caught.value)
    with pytest.raises(ValueError, match="the answer is infeasible"):
        _ = found.multipliers


def test_conservative_and_its_refusal():
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "beta": 0.5, "conservative": True, "num_resamples": 0}
    found = answer(rewards, utilities, asked=[Asked(margin=0.5)], **given)
    guarded = dual.solve_conservative(rewards, utilities, beta=0.5, margins=np.array([0.5]))
    assert found.conservative is not None and found.conservative.low is not None
    assert found.multipliers == pytest.approx(guarded.solution.lam)
    assert found.conservative.guard["a"] == pytest.approx(guarded.guard[0])
    assert found.conservative.low["a"] == pytest.approx(0.5)
    require_answer(found)
    refused = answer(rewards, utilities, asked=[Asked(fraction=0.99)], **given)
    assert refused.conservative is not None and refused.conservative.low is None
    message = "can be met on average but not with confidence 0.95 .a: asked .*, raised to .*, the largest is"
    with pytest.raises(InfeasibleError, match=message):
        require_answer(refused)


def test_near_the_limit_is_said_and_infinite_ends_are_none():
    rewards, utilities = table()
    found = answer(rewards, utilities, names=["a"], asked=[Asked(fraction=0.97)], beta=0.5, num_resamples=200)
    assert found.intervals is not None and found.intervals.lam["a"].high is None
    assert found.corrected is not None and found.corrected.lam["a"] is None
    assert any("What is asked is 0.97 of the most" in text for text in found.warnings)
    assert any("of the resamples the margins cannot be met" in text for text in found.warnings)
    json.dumps(encode(found), allow_nan=False)


@pytest.mark.parametrize("asked", [Asked(margin=0.5), Asked(margin=99.0)])
def test_the_record_goes_through_json(asked):
    found = answer(
        *table(), names=["a"], asked=[asked], beta=0.5, num_resamples=20, prompt_ids=list("ab" * 20)
    )
    again = decode(DualAnswer, json.loads(json.dumps(encode(found), allow_nan=False)), "dual.json")
    assert json.dumps(encode(again)) == json.dumps(encode(found))
    assert encode(found)["format"] == 2


def test_equal_seeds_equal_records():
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5, "num_resamples": 50}
    one, two, three = (encode(answer(*table(), seed=seed, **given)) for seed in (1, 1, 2))
    assert one == two and one != three


def test_errors():
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5}
    with pytest.raises(InputError, match=r"utilities has shape \(1, 2, 1\), must be \[N, K, 2\]"):
        answer(*COIN, **{**given, "names": ["a", "b"]})
    with pytest.raises(InputError, match="^dual.answer: nothing is asked; give"):
        answer(*COIN, **{**given, "asked": []})
    with pytest.raises(InputError, match="^dual.answer: nothing is asked of 'a'; give a margin"):
        answer(*COIN, **{**given, "asked": [Asked()]})
    with pytest.raises(InputError, match="^dual.answer: lam is -1.0, must be a finite number"):
        answer(*COIN, lam=-1.0, **given)
    with pytest.raises(InputError, match="^dual.answer: a fixed lam is not solved for"):
        answer(*COIN, lam=1.0, conservative=True, **given)
    with pytest.raises(InputError, match=r"^dual.answer: calibration_draws has shape \(3, 2, 2\), must be"):
        answer(*COIN, calibration_draws=np.ones((3, 2, 2)), **given)
    with pytest.raises(InputError, match="^dual.answer: 2 prompt_ids for 1 prompts"):
        answer(*COIN, prompt_ids=["a", "b"], **given)
    with pytest.raises(InputError, match="^dual.answer: confidence is 1.0, must lie between 0 and 1"):
        answer(*COIN, confidence=1.0, **given)
    with pytest.raises(InputError, match="^dual.answer: num_resamples is -1, must be at least 0"):
        answer(*COIN, num_resamples=-1, **given)
