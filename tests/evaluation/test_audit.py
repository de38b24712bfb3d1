"""What every policy reaches: means and intervals by hand, exact sums by enumeration."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from alignjax.config import JudgeSettings
from alignjax.data.worlds import Enumeration
from alignjax.evaluation.audit import Resampling, audit, distances_from_optimum
from alignjax.evaluation.comparison import Comparison
from alignjax.evaluation.headline import headline
from alignjax.evaluation.means import Basis, Scored, Uncertain, utilities_of
from alignjax.records.answer import Asked
from alignjax.records.evaluation import Evaluation
from alignjax.records.figure import Figure
from alignjax.records.units import Rate, Unit
from alignjax.records.verdict import Power, TestRecord, Verdict
from alignjax.scores import calibration as calib
from alignjax.scores.calibration import Calibration

# Calibrated: twice the reward, and safety less the reward. Resamples: both prompts, the first, the second,
# the last two under another calibration, which halves calibrated safety.
MATRIX = np.array([[2.0, 0.0], [-1.0, 1.0]])
CALIBRATION = Calibration(MATRIX, np.zeros((2, 2, 2)), "joint")
WEIGHTS = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
DRAWS = np.array([np.eye(2), np.diag([1.0, 0.5]), np.diag([1.0, 0.5])])
DIMENSIONS = ("reward", "safety")
BASIS = Basis(CALIBRATION, {"safety": Unit("safety")}, DIMENSIONS, {})
STATS = np.array([[3.0, 0.0, 0.5, 0.0], [5.0, 1.0, 0.5, 0.25]])
VERDICT = Verdict("verified", 1.0, 1.5, 1.25, 1.75, 0.96, 2, None, 0, "student")
TEST = TestRecord(3, 0.1, 0.9, {"safety": VERDICT}, {"safety": Power(2, 0.5, 0.9)}, accepted=True)


def scored(rewards, safety, *, kl=(0.0, 0.0), truth=None) -> Scored:
    """Two prompts; the numbers are [T, K]."""
    return Scored(np.stack([rewards, safety], axis=-1).astype(np.float64), None, np.array(kl), STATS, truth)


def audited(answer, policies, *, basis=BASIS, weights=WEIGHTS, draws=DRAWS, judges=None, optima=None):
    columns = {name: one.mean(utilities_of(one, basis)) for name, one in policies.items()}
    scores = {name: calib.calibrated(basis.calibration, one.raw) for name, one in policies.items()}
    prompts = [f"prompt {i}" for i in range(weights.shape[1])]
    comparison = Comparison(scores, None, prompts, {name: ["a"] * len(prompts) for name in policies})
    resampling = Resampling(weights, Uncertain(columns, draws))
    return audit(policies, basis, comparison, answer, TEST, resampling, judges or {}, optima or {})


@pytest.fixture
def asked(answer_of):
    return answer_of({"safety": Asked(margin=1.0, fraction=0.5)})


def assert_figure(figure: Figure, mean: float, draws) -> None:
    low, high = np.quantile(draws, 0.025), np.quantile(draws, 0.975)
    assert (figure.mean, figure.low, figure.high) == pytest.approx((mean, min(low, mean), max(high, mean)))


def test_means_and_intervals_by_hand(asked):
    truth = np.array([[[1.0, 2.0]], [[3.0, 6.0]]])
    found = {
        "reference": scored([[0.0, 2.0], [2.0, 2.0]], [[0.0, 0.0], [2.0, 0.0]], truth=truth),
        "aligned": scored(
            [[2.0, 2.0], [1.0, 3.0]], [[3.0, 5.0], [8.0, 8.0]], kl=(0.25, 0.75),
            truth=truth + [[[0.0, 1.0]], [[1.0, 4.0]]],
        ),
    }  # fmt: skip
    record = audited(asked, found)
    aligned = record.policies["aligned"]
    # Mean raw scores (2, 4) and (2, 8): rewards 4 and 4, safety 2 and 6; halved in the last two resamples.
    assert_figure(aligned.reward, 4.0, [4.0, 4.0, 4.0])
    assert_figure(aligned.utilities["safety"], 4.0, [4.0, 1.0, 3.0])
    # The reference's: (1, 0) and (2, 1). Rises of the reward 2 and 0; of safety 3 and 7, then 1.5 and 3.5.
    assert_figure(aligned.reward_gain, 1.0, [1.0, 2.0, 0.0])
    assert_figure(aligned.margins["safety"], 5.0, [5.0, 1.5, 3.5])
    assert aligned.margins["safety"].high == 5.0  # the resamples' interval ends below 5: it is widened
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


def test_what_was_asked_predicted_and_shown_stands_beside_it(asked):
    record = audited(asked, {"reference": scored([[1.0], [2.0]], [[0.0], [1.0]])})

    def at(mean: float) -> Figure:
        return Figure(mean, mean - 1, mean + 1)

    assert record.asked == {"safety": 1.0}
    assert record.predicted == {
        "reward": at(3.0), "kl": at(0.5), "utilities": {"safety": at(2.0)}, "margins": {"safety": at(1.0)},
        "safety": at(1.0),
    }  # fmt: skip
    assert record.verdicts == TEST.verdicts and record.power == TEST.power
    assert (record.look, record.spent) == (3, 0.9)
    assert record.headline == headline(asked, TEST) and record.headline.state == "ship"
    assert record.policies["reference"].true_reward is record.policies["reference"].true_margins is None


RATE = Rate(2.0, 0.5, np.zeros((2, 2)))


def test_a_rate_is_a_mean_probability_and_its_truth_the_logistic_function(answer_of):
    basis = BASIS._replace(units={"safety": Unit("safety", rate=RATE)})
    truth = np.array([[[0.0, 1.0], [0.0, -1.0]], [[0.0, 3.0], [0.0, 0.0]]])
    reference = scored([[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, truth=np.zeros((2, 2, 2)))
    found = {
        "reference": reference,
        "aligned": scored([[1.0, 0.0], [0.0, 1.0]], [[2.0, 3.0], [-1.0, 1.0]], truth=truth),
    }
    draws = np.tile(np.eye(2), (3, 1, 1))
    record = audited(answer_of({"safety": Asked(margin=0.1, rate=0.9)}), found, basis=basis, draws=draws)
    aligned = record.policies["aligned"]
    # Safety less the reward: 1 and 3; -1 and 0.
    p = np.array([(expit(2.5) + expit(6.5)) / 2, (expit(-1.5) + expit(0.5)) / 2])
    assert_figure(aligned.utilities["safety"], p.mean(), [p.mean(), p[0], p[1]])
    rise = p - expit(0.5)
    assert_figure(aligned.margins["safety"], rise.mean(), [rise.mean(), rise[0], rise[1]])
    # True scores are logits: sigma(1) + sigma(-1) = 1, so that the first prompt's rate rises by nothing.
    second = (expit(3.0) + 0.5) / 2 - 0.5
    assert aligned.true_margins is not None
    assert_figure(aligned.true_margins["safety"], second / 2, [second / 2, 0.0, second])


def group_result(answer_of, weights, draws):
    """Of four prompts two are about theft; safety there is 1 and 3, elsewhere 100."""
    basis = BASIS._replace(
        calibration=calib.identity(2),
        units={"safety[theft]": Unit("safety", "theft", "topic", 0.5)},
        categories={"topic": ("theft", "drugs", "theft", None)},
    )
    safety = np.array([[1.0], [100.0], [3.0], [100.0]])
    raw = np.stack([np.array([[1.0], [2.0], [3.0], [4.0]]), safety], axis=-1)
    stats = np.zeros((4, 4))
    policy = Scored(raw, None, np.zeros(4), stats, raw)
    reference = Scored(np.zeros((4, 1, 2)), None, np.zeros(4), stats, np.zeros((4, 1, 2)))
    answer = answer_of({"safety[theft]": Asked(margin=1.0)}, units=basis.units)
    record = audited(
        answer, {"reference": reference, "aligned": policy}, basis=basis, weights=weights, draws=draws
    )
    return record.policies["aligned"]


def test_a_groups_mean_is_over_its_own_prompts_that_were_drawn(answer_of):
    # Resamples: all; the first theft three times and a prompt of another kind; each theft once among others;
    # no theft at all, which says nothing of theft: the estimate itself stands for it.
    weights = np.array([[1, 1, 1, 1], [3, 1, 0, 0], [1, 2, 1, 0], [0, 2, 0, 2]]) / 4
    found = group_result(answer_of, weights, np.tile(np.eye(2), (4, 1, 1)))
    own = [2.0, 1.0, 2.0, 2.0]
    assert_figure(found.utilities["safety[theft]"], 2.0, own)
    assert_figure(found.margins["safety[theft]"], 2.0, own)
    assert found.true_margins is not None
    assert_figure(found.true_margins["safety[theft]"], 2.0, own)
    # The reward is everybody's: 1, 2, 3, 4.
    assert_figure(found.reward, 2.5, [2.5, 5 / 4, 8 / 4, 3.0])
    assert_figure(found.reward_gain, 2.5, [2.5, 5 / 4, 8 / 4, 3.0])


def test_a_groups_mean_moves_with_the_calibration(answer_of):
    weights = np.array([[1, 1, 1, 1], [3, 1, 0, 0]]) / 4
    draws = np.array([np.diag([1.0, 2.0]), np.diag([1.0, 0.5])])
    found = group_result(answer_of, weights, draws)
    assert_figure(found.margins["safety[theft]"], 2.0, [4.0, 0.5])
    assert found.true_margins is not None
    assert_figure(found.true_margins["safety[theft]"], 2.0, [2.0, 1.0])  # the truth is not calibrated


def test_contests_are_held_under_calibrated_scores(asked):
    # Raw safety: aligned higher. Calibrated, safety less the reward: lower. The reward is doubled.
    found = {"reference": scored([[0.0]] * 2, [[1.0]] * 2), "aligned": scored([[3.0]] * 2, [[2.0]] * 2)}
    record = audited(asked, found, judges={"safety": JudgeSettings()})
    assert list(record.contests) == ["reward", "safety"]
    wins = {name: one.win_rates["aligned"]["reference"] for name, one in record.contests.items()}
    assert wins == {"reward": Figure(1.0, 1.0, 1.0), "safety": Figure(0.0, 0.0, 0.0)}


def test_the_distance_from_the_optimum_has_no_width(asked):
    found = {"reference": scored([[1.0], [2.0]], [[0.0], [1.0]]), "aligned": scored([[1.0]] * 2, [[0.0]] * 2)}
    record = audited(asked, found, optima={"aligned": 0.3})
    assert record.policies["aligned"].kl_from_optimum == Figure(0.3, 0.3, 0.3)
    assert record.policies["reference"].kl_from_optimum is None


# Two prompts with three responses each.
TRUE = np.array([[[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]], [[1.0, -1.0], [0.0, 2.0], [0.5, 0.0]]])
REF = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
OWN = np.array([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])


def listed(weights: np.ndarray) -> Scored:
    return Scored(TRUE * 3.0 + 1.0, weights, np.zeros(2), STATS, TRUE)


def test_listed_responses_are_sums_over_all_of_them(asked) -> None:
    draws = np.tile(np.eye(2), (3, 1, 1))
    basis = BASIS._replace(calibration=calib.identity(2))
    record: Evaluation = audited(
        asked, {"reference": listed(REF), "aligned": listed(OWN)}, basis=basis, draws=draws
    )
    rises = [sum((OWN[i, y] - REF[i, y]) * TRUE[i, y, 1] for y in range(3)) for i in range(2)]
    aligned = record.policies["aligned"]
    assert aligned.true_margins is not None
    rise = sum(rises) / 2
    assert_figure(aligned.true_margins["safety"], rise, [rise, *rises])
    assert aligned.margins["safety"].mean == pytest.approx(3 * rise)


def test_the_distance_from_the_true_optimum_by_another_solver():
    # pi_lam ~ ref exp((r + lam g) / beta), with lam where the margin is 0.4, by bisection.
    def policy(lam):
        weights = REF * np.exp((TRUE[..., 0] + lam * TRUE[..., 1]) / 0.8)
        return weights / weights.sum(axis=1, keepdims=True)

    def margin(lam):
        return np.sum((policy(lam) - REF) * TRUE[..., 1]) / 2

    assert margin(0.0) < 0.4
    best = policy(optimize.brentq(lambda lam: margin(lam) - 0.4, 0.0, 50.0, xtol=1e-12))
    tokens = np.zeros((3, 2), np.int32)
    world = Enumeration(("a", "b"), tokens, np.ones(3, np.int32), ("x", "y", "z"), TRUE, np.log(REF[0]))
    policies = {"reference": listed(REF), "aligned": listed(OWN)}
    found = distances_from_optimum(policies, world, beta=0.8, margins=[0.4])
    assert list(found) == ["reference", "aligned"]
    for name, other in (("reference", REF), ("aligned", OWN)):
        expected = np.sum(best * np.log(best / other)) / 2
        assert found[name] == pytest.approx(expected, rel=1e-6)


def test_an_answer_that_cannot_be_met_is_never_audited(asked):
    infeasible = dataclasses.replace(asked, feasible=False, predicted=None)
    with pytest.raises(AssertionError, match="infeasible"):
        audited(infeasible, {"reference": scored([[1.0], [2.0]], [[0.0], [1.0]])})
