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
from alignjax.dual.statistics import resampling_weights, skewed_ends
from alignjax.errors import InfeasibleError, InputError
from alignjax.records import decode, encode
from alignjax.records.answer import DualAnswer, PromptMargin
from alignjax.records.figure import Figure
from alignjax.records.uncertainty import ScoreUncertainty
from alignjax.records.units import Unit
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
    assert found.forecast is not None
    plain = found.forecast.draw_k
    assert plain.kl.mean == pytest.approx(KL)
    assert plain.utilities["safety"].mean == pytest.approx(0.75)
    # Halves hold one response each, and the reference's mean: 2 * 3/4 - 1/2; KL 2 KL - 0.
    assert found.predicted.margins["safety"].mean == pytest.approx(0.5)
    assert found.predicted.kl.mean == pytest.approx(2 * KL)
    margin = plain.margins["safety"]
    assert margin.low == margin.mean == margin.high == pytest.approx(0.25)
    assert dataclasses.astuple(found.predicted.ess) == pytest.approx((1.6, 1.6, 2, 1.0))
    assert found.reachable == {"safety": 0.5} and found.multiple == pytest.approx(2.0)
    assert found.solver.objective == pytest.approx(np.log(2) - 0.75 * np.log(3))
    assert (found.num_prompts, found.num_samples, found.num_resamples, found.holds) == (1, 2, 0, ())
    assert found.intervals is None and found.corrected is None
    assert found.prompts["safety"].most == (PromptMargin(0, margin.mean),)
    gate, few, saturated = found.warnings
    assert "100.0% of the prompts have fewer than 2 effective" in saturated
    assert "100.0% of the prompts have fewer than 16 responses" in few
    # KL 0.13 is above log 2 - 1; exp(0.13 + 1) is 3.1.
    assert found.gate is not None and not found.gate.open and found.gate.share == 1
    assert found.gate.samples == 4 and "draw at least 4 responses" in gate
    assert found.forecast is not None and found.predicted == found.forecast.tilt


def table(n: int = 40, k: int = 16, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(n, k))
    return rewards, rng.normal(size=(n, k, m)) - 0.7 * rewards[..., None]


def uncertain(rewards: np.ndarray, draws: np.ndarray) -> ScoreUncertainty:
    """Draws without further columns, and no variance for a guard."""
    size = draws.shape[1]
    return ScoreUncertainty(np.zeros((*rewards.shape, 0)), draws, np.zeros((size, size, size)))


def figures(found: DualAnswer) -> list[Figure]:
    """Every Figure of an answer."""
    forecast, corrected = found.forecast, found.corrected
    assert forecast is not None and corrected is not None
    listed = [corrected.reward, corrected.kl]
    for one in (forecast.draw_k, forecast.tilt):
        listed += [one.reward, one.kl, one.reward_gain, *one.utilities.values(), *one.margins.values()]
    for named in (corrected.margins, corrected.lam):
        listed += [one for one in named.values() if one is not None]
    return listed


def test_estimates_are_those_of_the_plain_functions_and_lie_in_their_intervals():
    rewards, utilities = table(m=2)
    mask = np.random.default_rng(1).random(rewards.shape) < 0.9
    given: dict[str, Any] = {"beta": 0.5, "mask": mask}
    asked = [Asked(margin=0.5), Asked(fraction=0.3)]
    found = answer(rewards, utilities, names=["a", "b"], asked=asked, num_resamples=200, **given)
    margins = dual.asked_margins(asked, utilities, beta=0.5, mask=mask)
    solution = dual.solve(rewards, utilities, margins=margins, **given)
    bias = dual.finite_sample_bias(rewards, utilities, margins=margins, **given)
    assert found.predicted is not None and found.corrected is not None and found.intervals is not None
    np.testing.assert_allclose(found.multipliers, solution.lam, rtol=1e-12)
    assert found.forecast is not None
    predicted, tilt = found.forecast.draw_k, found.forecast.tilt
    for j, name in enumerate(found.names):
        np.testing.assert_allclose(predicted.utilities[name].mean, solution.expected_utilities[j], rtol=1e-12)
        np.testing.assert_allclose(predicted.margins[name].mean, solution.margins[j], rtol=1e-12)
        wanted = solution.margins[j] - bias.margins[j]
        np.testing.assert_allclose(tilt.margins[name].mean, wanted, rtol=1e-9)
        # On both sides wider by the bias than the interval of the corrected estimates.
        narrow, by = found.corrected.margins[name], abs(bias.margins[j])
        ends = narrow.low - by, narrow.high + by
        np.testing.assert_allclose([tilt.margins[name].low, tilt.margins[name].high], ends, rtol=1e-7)
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
    assert found.forecast is not None and found.frontier is not None
    at = int(np.argmin(np.abs(found.frontier.lams[:, 0] - found.multipliers[0])))
    np.testing.assert_allclose(found.frontier.lams[at], found.multipliers, rtol=1e-12)
    margin, error = found.forecast.draw_k.margins["a"], found.frontier.margin_errors[at, 0]
    np.testing.assert_allclose(margin.high - margin.low, 2 * 1.96 * error, rtol=0.05)
    np.testing.assert_allclose(found.frontier.margins[at, 0], 0.5, rtol=1e-9)


def test_draws_of_a_calibration_act_on_the_scores():
    """All draws double the utility: the margin's interval is that of margins twice as large."""
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(margin=0.5)], "beta": 0.5, "num_resamples": 100}
    draws = np.tile(np.diag([1.0, 2.0]), (100, 1, 1))
    plain = answer(rewards, utilities, **given)
    drawn = answer(rewards, utilities, uncertainty=uncertain(rewards, draws), **given)
    assert plain.forecast is not None and drawn.forecast is not None and drawn.intervals is not None
    assert drawn.lam == plain.lam
    assert drawn.forecast.draw_k.kl == plain.forecast.draw_k.kl
    one, two = plain.forecast.draw_k.margins["a"], drawn.forecast.draw_k.margins["a"]
    tilt = np.exp((rewards + plain.multipliers[0] * utilities[..., 0]) / 0.5)
    tilt /= tilt.sum(axis=1, keepdims=True)
    gains = np.sum((tilt - 1 / 16) * utilities[..., 0], axis=1)
    resamples = resampling_weights(np.random.default_rng([0, 1]), 40, 100, population=False) @ gains
    low, high = np.quantile(resamples, [0.025, 0.975])
    least, most = skewed_ends(gains)
    assert least < low and high < most < 2 * high
    # Of 40 prompts the percentiles are the narrower. Doubled, the lower one lies above the upper one of
    # before; below, what the prompts alone say remains.
    np.testing.assert_allclose([one.low, one.high], [least, most], rtol=1e-9)
    np.testing.assert_allclose([two.low, two.high], [min(2 * low, least), 2 * high], rtol=1e-9)
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
    drawn = answer(rewards, utilities, population=True, uncertainty=uncertain(rewards, draws), **given)
    assert drawn.forecast is not None and drawn.holds == ("how the scores were calibrated",)
    plain = drawn.forecast.draw_k
    assert plain.kl.high == pytest.approx(plain.kl.low)  # the tilt itself is not redrawn
    assert plain.margins["a"].low < plain.margins["a"].high


def test_weights_of_the_prompts():
    """A prompt of weight 2 is that prompt twice; one of weight 0 is not there."""
    rewards, utilities = table(n=8)
    given: dict[str, Any] = {"names": ["a"], "asked": [Asked(fraction=0.4)], "beta": 0.5, "num_resamples": 0}
    weights = np.array([2.0, 1, 1, 1, 1, 1, 1, 0])
    one = answer(rewards, utilities, prompt_weights=weights, **given)
    rows = [0, 0, 1, 2, 3, 4, 5, 6]
    two = answer(rewards[rows], utilities[rows], **given)
    assert one.forecast is not None and two.forecast is not None
    # Not the tilt's: a prompt twice is shuffled twice.
    first, second = one.forecast.draw_k, two.forecast.draw_k
    assert one.multipliers == pytest.approx(two.multipliers) and one.reachable == pytest.approx(two.reachable)
    assert first.margins["a"].mean == pytest.approx(second.margins["a"].mean)
    assert first.reward.mean == pytest.approx(second.reward.mean)
    drawn = answer(rewards, utilities, prompt_weights=weights, **{**given, "num_resamples": 50})
    assert drawn.predicted is not None and np.isfinite(drawn.predicted.reward.high)


def test_a_fixed_multiplier_is_not_solved_for():
    rewards, utilities = table()
    given: dict[str, Any] = {"names": ["a"], "beta": 0.5, "num_resamples": 50}
    free = answer(rewards, utilities, asked=[], lam=0.3, **given)
    assert not free.solved and free.feasible and free.lam == {"a": 0.3} and free.solver is None
    assert free.asked == {"a": Asked()} and free.multiple is None and free.intervals is None
    assert free.predicted is not None and free.forecast is not None
    at = dual.frontier(rewards, utilities, beta=0.5, lams=np.array([[0.3]]))
    assert free.forecast.draw_k.margins["a"].mean == pytest.approx(at.margins[0, 0])
    assert free.predicted.margins["a"].low < free.predicted.margins["a"].high
    low = answer(rewards, utilities, asked=[Asked(margin=0.9)], lam=0.3, **given)
    assert any("The given multiplier reaches a margin of" in text for text in low.warnings)


def test_every_constraint_may_have_a_multiplier_of_its_own():
    rewards, utilities = table()
    utilities = np.concatenate([utilities, -0.5 * utilities + rewards[..., None]], axis=-1)
    given: dict[str, Any] = {"names": ["a", "b"], "beta": 0.5, "num_resamples": 0}
    found = answer(rewards, utilities, asked=[], lam=[0.3, 0.7], **given)
    assert found.lam == {"a": 0.3, "b": 0.7} and found.forecast is not None
    at = dual.frontier(rewards, utilities, beta=0.5, lams=np.array([[0.3, 0.7]]))
    for j, name in enumerate("ab"):
        assert found.forecast.draw_k.margins[name].mean == pytest.approx(at.margins[0, j])
    with pytest.raises(InputError, match="lam has 3 numbers for a, b; give one, or one each"):
        answer(rewards, utilities, asked=[], lam=[0.3, 0.7, 1.0], **given)
    with pytest.raises(InputError, match=r"lam is \[0.3, -1.0\], must be a finite number"):
        answer(rewards, utilities, asked=[], lam=[0.3, -1.0], **given)


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
    for name in (
        "lam",
        "predicted",
        "forecast",
        "gate",
        "guard",
        "intervals",
        "corrected",
        "frontier",
        "prompts",
    ):
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


def test_a_level_under_a_guard_is_not_a_margin_of_this_sample():
    """Prompts differ much more than the margins do: a level must keep that."""
    rewards, utilities = table(n=60, k=32)
    utilities = utilities + 2 * np.random.default_rng(3).normal(size=(60, 1, 1))
    level = float(utilities.mean()) + 0.3
    given: dict[str, Any] = {"names": ["a"], "beta": 1.0, "conservative": True, "num_resamples": 200}
    found = answer(rewards, utilities, asked=[Asked(level=level)], **given)
    of_level = dual.solve_conservative(rewards, utilities, beta=1.0, levels=np.array([level]))
    margin = answer(rewards, utilities, asked=[Asked(margin=0.3)], **given)
    assert found.lam == pytest.approx({"a": of_level.solution.lam[0]})
    assert found.guard is not None and margin.guard is not None
    assert found.guard.standard_error["a"] > 3 * margin.guard.standard_error["a"]
    wide, narrow = (one.intervals for one in (found, margin))
    assert wide is not None and narrow is not None
    ends, close = wide.lam["a"], narrow.lam["a"]
    assert close.low is not None and close.high is not None and ends.low is not None
    assert ends.high is None or ends.high - ends.low > 2 * (close.high - close.low)


@pytest.mark.slow
@pytest.mark.parametrize("conservative", [False, True])
def test_groups_that_share_nothing_are_solved_as_if_alone(conservative):
    """exposure 1{c} / p_c: each group's multiplier, guard and margins are those of its own rows.

    The tilt to lam_c 1{c} g / p_c is that to lam_c / p_c of g on its rows. The guard shares its error among
    the constraints, so that alone each is asked at half of it.
    """
    rewards, utilities = table(n=50, k=32)
    g, first = utilities[..., 0], np.arange(50) % 5 < 2
    p = np.array([0.4, 0.6])
    exposure = np.column_stack([first, ~first]) / p
    grouped = g[..., None] * exposure[:, None, :]
    asked = [Asked(margin=0.2), Asked(level=float(g[~first].mean()) + 0.1)]
    given: dict[str, Any] = {"beta": 1.0, "conservative": conservative, "num_resamples": 300}
    units = {name: Unit("s", name, "category", share) for name, share in zip("ab", p.tolist(), strict=True)}
    found = answer(rewards, grouped, names=["a", "b"], asked=asked, exposure=exposure, units=units, **given)
    assert found.units == units and found.forecast is not None and found.predicted is not None
    for j, rows in enumerate((first, ~first)):
        name = "ab"[j]
        alone = answer(
            rewards[rows], utilities[rows], names=[name], asked=[asked[j]], confidence=0.975, **given
        )
        assert alone.forecast is not None and alone.predicted is not None
        assert found.asked[name].margin == pytest.approx(alone.asked[name].margin)
        assert found.reachable[name] == pytest.approx(alone.reachable[name])
        assert found.reference.utilities[name] == pytest.approx(alone.reference.utilities[name])
        if not conservative:  # the guard's bias is of another shuffle
            assert found.multipliers[j] / p[j] == pytest.approx(alone.multipliers[0])
            one, two = (x.forecast.draw_k.margins[name] for x in (found, alone) if x.forecast)
            assert one.mean == pytest.approx(two.mean)
            # 97.5% beside 95%: normal quantiles 2.24 and 1.96.
            assert (one.high - one.low) / (two.high - two.low) == pytest.approx(1.96 / 2.24, rel=0.15)
            assert found.prompts is not None and alone.prompts is not None
            own, single = found.prompts[name], alone.prompts[name]
            assert own.quartiles == pytest.approx(single.quartiles)
            assert own.least[0].prompt == np.flatnonzero(rows)[int(single.least[0].prompt)]
        else:
            assert found.guard is not None and alone.guard is not None
            # Of another shuffle, hence not equal; a group's size taken for noise would double it.
            errors = [x.standard_error[name] for x in (found.guard, alone.guard)]
            assert errors[0] == pytest.approx(errors[1], rel=0.2)
            assert found.multipliers[j] / p[j] == pytest.approx(alone.multipliers[0], rel=0.1)
            low = found.guard.low
            wanted = found.asked[name].margin
            assert low is not None and wanted is not None and low[name] == pytest.approx(wanted)


def test_a_single_prompt_has_no_guard_and_a_group_of_one_neither():
    rewards, utilities = table(n=4, k=32)
    given: dict[str, Any] = {"beta": 1.0, "conservative": True}
    with pytest.raises(InputError, match="^dual.answer: a rests on a single prompt, of which there is no"):
        answer(rewards[:1], utilities[:1], names=["a"], asked=[Asked(margin=0.0)], **given)
    exposure = np.array([[1.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    both = np.concatenate([utilities, utilities * exposure[:, None, 1:]], axis=2)
    asked = [Asked(margin=-1.0)] * 2
    with pytest.raises(InputError, match="^dual.answer: s.b. rests on a single prompt"):
        answer(rewards, both, names=["s", "s[b]"], asked=asked, exposure=exposure, **given)


def test_near_the_limit_is_said_and_infinite_ends_are_none():
    rewards, utilities = table()
    near = 0.97 * float(np.asarray(dual.reachable(utilities))[0])
    found = answer(rewards, utilities, names=["a"], asked=[Asked(margin=near)], beta=0.5, num_resamples=200)
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
    assert encode(found)["format"] == 3


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
    with pytest.raises(InputError, match=r"uncertainty.draws has shape \(3, 2, 2\), must be \(1000, 2, 2\)"):
        answer(*COIN, uncertainty=uncertain(COIN[0], np.ones((3, 2, 2))), **given)
    with pytest.raises(InputError, match=r"^dual.answer: exposure has shape \(2,\), must be \(1, 1\)"):
        answer(*COIN, exposure=np.ones(2), **given)
    with pytest.raises(InputError, match="^dual.answer: no prompt carries a; leave the constraint out"):
        answer(*COIN, exposure=np.zeros((1, 1)), **given)
    with pytest.raises(InputError, match="^dual.answer: confidence is 0.4, must lie between 0.5 and 1"):
        answer(*COIN, confidence=0.4, conservative=True, **given)
    with pytest.raises(InputError, match="^dual.answer: 2 prompt_ids for 1 prompts"):
        answer(*COIN, prompt_ids=["a", "b"], **given)
    with pytest.raises(InputError, match="^dual.answer: confidence is 1.0, must lie between 0 and 1"):
        answer(*COIN, confidence=1.0, **given)
    with pytest.raises(InputError, match="^dual.answer: num_resamples is -1, must be at least 0"):
        answer(*COIN, num_resamples=-1, **given)
