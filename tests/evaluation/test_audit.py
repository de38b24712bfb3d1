"""What every policy reaches: means and intervals by hand, exact sums by enumeration."""

import numpy as np
import pytest
from scipy import optimize

from alignjax.config import JudgeSettings
from alignjax.data.responses import Responses
from alignjax.data.tokenize import TokenizedResponse
from alignjax.data.worlds import Enumeration, world_for
from alignjax.errors import InputError
from alignjax.evaluation.audit import Means, Resampling, audit, exact_means, sampled_means
from alignjax.evaluation.comparison import Comparison
from alignjax.records.answer import Asked, DualAnswer, EffectiveSamples, Predicted, Reference
from alignjax.records.figure import Figure


def at(mean: float) -> Figure:
    return Figure(mean, mean - 1, mean + 1)


PREDICTED = Predicted(at(3.0), at(0.5), {"safety": at(2.0)}, {"safety": at(1.0)}, at(-0.5),
                      EffectiveSamples(4.0, 2.0, 8, 0.0))  # fmt: skip
ANSWER = DualAnswer(
    names=("safety",), beta=1.0, confidence=0.95, num_prompts=2, num_samples=4, num_resamples=3,
    holds=("prompts",), asked={"safety": Asked(margin=1.0, fraction=0.5)},
    reference=Reference(0.0, {"safety": 0.0}), reachable={"safety": 2.0}, multiple=2.0, solved=True,
    feasible=True, certificate=None, certificate_reachable=None, conservative=None, lam={"safety": 0.7},
    predicted=PREDICTED, intervals=None, corrected=None, frontier=None, prompts=None, solver=None,
    warnings=(),
)  # fmt: skip

# Calibrated: twice the reward, and safety less the reward. Resamples: both prompts, the first, the second,
# the last two under another calibration, which also halves safety.
MATRIX = np.array([[2.0, 0.0], [-1.0, 1.0]])
OTHER = np.array([[2.0, 0.0], [0.0, 0.5]])
RESAMPLING = Resampling(
    MATRIX, np.stack([MATRIX, OTHER, OTHER]), np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
)


def means(rewards, safety, *, kl=(0.0, 0.0), truth=None, optimum=None) -> Means:
    scores = np.stack([rewards, safety], axis=-1).astype(np.float64)
    stats = np.array([[3.0, 0.0, 0.5, 0.0], [5.0, 1.0, 0.5, 0.25]])
    return Means(scores, np.array(kl), truth, stats, scores[:, None], optimum)


def comparison(found: dict[str, Means]) -> Comparison:
    first = {name: ["a", "b"] for name in found}
    return Comparison({name: one.scatter for name, one in found.items()}, None, ["p", "q"], first)


def middle(values):
    return np.quantile(values, 0.025), np.quantile(values, 0.975)


def assert_figure(figure: Figure, mean: float, draws) -> None:
    low, high = middle(draws)
    assert (figure.mean, figure.low, figure.high) == pytest.approx((mean, min(low, mean), max(high, mean)))


def test_means_and_intervals_by_hand():
    truth = np.array([[1.0, 2.0], [3.0, 6.0]])
    found = {
        "reference": means([1.0, 2.0], [0.0, 1.0], truth=truth),
        "aligned": means([2.0, 2.0], [4.0, 8.0], kl=(0.25, 0.75), truth=truth + [[0.0, 1.0], [1.0, 4.0]]),
    }
    record = audit(found, comparison(found), ANSWER, RESAMPLING, {})
    aligned = record.policies["aligned"]
    # Reward 2 x 2. Safety: means 6 - 2 = 4; resamples: 4, then half of 4, half of 8.
    assert_figure(aligned.reward, 4.0, [4.0, 4.0, 4.0])
    assert_figure(aligned.utilities["safety"], 4.0, [4.0, 2.0, 4.0])
    # Gains: raw (1, 4) and (0, 7). Reward 2 x 0.5, resamples 1, 2, 0; safety 5.5 - 0.5, then half of 4, 7.
    assert_figure(aligned.reward_gain, 1.0, [1.0, 2.0, 0.0])
    assert_figure(aligned.margins["safety"], 5.0, [5.0, 2.0, 3.5])
    assert aligned.margins["safety"].high == 5.0  # the interval of 2, 3.5, 5 ends below 5: it is widened
    assert_figure(aligned.kl, 0.5, [0.5, 0.25, 0.75])
    assert_figure(aligned.length, 4.0, [4.0, 3.0, 5.0])
    assert_figure(aligned.cut, 0.5, [0.5, 0.0, 1.0])
    assert_figure(aligned.empty, 0.5, [0.5, 0.5, 0.5])
    assert_figure(aligned.refusals, 0.125, [0.125, 0.0, 0.25])
    # The truth is not calibrated: rewards 1, 4; safety rises by 1 and 4.
    assert aligned.true_reward is not None and aligned.true_margins is not None
    assert_figure(aligned.true_reward, 2.5, [2.5, 1.0, 4.0])
    assert_figure(aligned.true_margins["safety"], 2.5, [2.5, 1.0, 4.0])
    reference = record.policies["reference"]
    assert reference.margins == {"safety": Figure(0.0, 0.0, 0.0)} == reference.true_margins
    assert reference.reward_gain == Figure(0.0, 0.0, 0.0) and aligned.kl_from_optimum is None
    assert list(record.policies) == ["reference", "aligned"]


def test_what_was_asked_and_predicted_stands_beside_it():
    found = {"reference": means([1.0, 2.0], [0.0, 1.0])}
    record = audit(found, comparison(found), ANSWER, RESAMPLING, {})
    assert record.asked == {"safety": 1.0}
    assert record.predicted == {
        "reward": at(3.0), "kl": at(0.5), "utilities": {"safety": at(2.0)}, "margins": {"safety": at(1.0)},
        "safety": at(1.0),
    }  # fmt: skip
    assert record.policies["reference"].true_reward is record.policies["reference"].true_margins is None


def test_contests_are_held_under_calibrated_scores():
    # Raw safety: aligned higher. Calibrated, safety less the reward: lower. The reward is doubled.
    found = {"reference": means([0.0, 0.0], [1.0, 1.0]), "aligned": means([3.0, 3.0], [2.0, 2.0])}
    record = audit(found, comparison(found), ANSWER, RESAMPLING, {"safety": JudgeSettings()})
    assert list(record.contests) == ["reward", "safety"]
    wins = {name: one.win_rates["aligned"]["reference"] for name, one in record.contests.items()}
    assert wins == {"reward": Figure(1.0, 1.0, 1.0), "safety": Figure(0.0, 0.0, 0.0)}


def test_the_distance_from_the_optimum_has_no_width():
    found = {"reference": means([1.0, 2.0], [0.0, 1.0], optimum=0.3)}
    record = audit(found, comparison(found), ANSWER, RESAMPLING, {})
    assert record.policies["reference"].kl_from_optimum == Figure(0.3, 0.3, 0.3)


def test_scores_of_other_dimensions_are_refused():
    scores = np.zeros((2, 3))
    found = {"reference": Means(scores, np.zeros(2), None, np.zeros((2, 4)), scores[:, None])}
    with pytest.raises(
        InputError, match=r"^constraints: 1 are configured, the scores hold 2; .*--redo=scores"
    ):
        audit(found, comparison(found), ANSWER, RESAMPLING, {})


def test_sampled_means_are_means_over_responses():
    world = world_for("assistant")
    prompts = list(world.prompts_eval[:2])
    texts = [[world.make_reference_corpus(i, 1)[0][1] for i in row] for row in ((0, 1), (2, 3))]
    token = TokenizedResponse(np.array([1], np.int32), np.array([2], np.int32))
    drawn = Responses([*prompts], texts, [[token] * 2] * 2)
    scores, kl = np.arange(8.0).reshape(2, 2, 2), np.array([[0.0, 1.0], [2.0, 4.0]])
    stats = np.arange(16.0).reshape(2, 2, 4)
    found = sampled_means(scores, kl, stats, drawn, world)
    np.testing.assert_array_equal(found.scores, [[1.0, 2.0], [5.0, 6.0]])
    np.testing.assert_array_equal(found.kl, [0.5, 3.0])
    np.testing.assert_array_equal(found.stats, [[2, 3, 4, 5], [10, 11, 12, 13]])
    np.testing.assert_array_equal(found.scatter, scores)
    assert found.truth is not None and found.kl_from_optimum is None
    for i in range(2):
        each = [world.true_scores(prompts[i], [text])[0] for text in texts[i]]
        np.testing.assert_allclose(found.truth[i], np.mean(each, axis=0))
    assert sampled_means(scores, kl, stats, drawn, None).truth is None


# Two prompts with three responses each.
TRUE = np.array([[[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]], [[1.0, -1.0], [0.0, 2.0], [0.5, 0.0]]])
REF = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
OWN = np.array([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
RAW = TRUE * 3.0 + 1.0


def enumeration() -> Enumeration:
    tokens = np.zeros((3, 2), np.int32)
    return Enumeration(("a", "b"), tokens, np.ones(3, np.int32), ("x", "y", "z"), TRUE, np.log(REF[0]))


def exact(margins):
    stats = np.arange(24.0).reshape(2, 3, 4)
    logps = {"reference": np.log(REF), "aligned": np.log(OWN)}
    return exact_means(
        logps, RAW, stats, enumeration(), beta=0.8, margins=margins, rng=np.random.default_rng(0)
    ), stats  # fmt: skip


def test_exact_means_are_sums_over_all_responses():
    found, stats = exact(None)
    for name, policy in (("reference", REF), ("aligned", OWN)):
        for i in range(2):
            one = found[name]
            assert one.truth is not None
            for field, values in ((one.scores, RAW), (one.truth, TRUE), (one.stats, stats)):
                np.testing.assert_allclose(field[i], sum(policy[i, y] * values[i, y] for y in range(3)))
            kl = sum(policy[i, y] * np.log(policy[i, y] / REF[i, y]) for y in range(3))
            np.testing.assert_allclose(one.kl[i], kl, atol=1e-12)
            assert one.kl_from_optimum is None
    # Histograms show draws from each policy: 0.8 of 256 are the third response, give or take 5 deviations.
    shown = found["aligned"].scatter[0]
    share = np.mean(np.all(shown == RAW[0, 2], axis=1))
    assert shown.shape == (256, 2) and abs(share - 0.8) < 5 * 0.025
    assert {tuple(row) for row in shown.tolist()} <= {tuple(row) for row in RAW[0].tolist()}


def test_the_distance_from_the_true_optimum_by_another_solver():
    # pi_lam ~ ref exp((r + lam g) / beta), with lam where the margin is 0.4, by bisection.
    def policy(lam):
        weights = REF * np.exp((TRUE[..., 0] + lam * TRUE[..., 1]) / 0.8)
        return weights / weights.sum(axis=1, keepdims=True)

    def margin(lam):
        return np.sum((policy(lam) - REF) * TRUE[..., 1]) / 2

    assert margin(0.0) < 0.4
    best = policy(optimize.brentq(lambda lam: margin(lam) - 0.4, 0.0, 50.0, xtol=1e-12))
    found, _ = exact([0.4])
    for name, other in (("reference", REF), ("aligned", OWN)):
        expected = np.sum(best * np.log(best / other)) / 2
        assert found[name].kl_from_optimum == pytest.approx(expected, rel=1e-6)
