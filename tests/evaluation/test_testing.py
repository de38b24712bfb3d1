"""The test of a policy: what is measured, by hand; what counts for acceptance; human labels joined to it."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from alignjax.data.records import prompt_key
from alignjax.data.responses import Responses
from alignjax.errors import InputError
from alignjax.evaluation import testing
from alignjax.evaluation import verdict as judging
from alignjax.evaluation.bounds import Measured
from alignjax.evaluation.human_labels import HumanLabels, PairLabel, ResponseLabel
from alignjax.evaluation.means import Basis, Scored, on_these_prompts
from alignjax.records.answer import Asked, Gate
from alignjax.records.units import Rate, Tail, Unit
from alignjax.records.verdict import Power, TestRecord, Verdict
from alignjax.runtime.work import Look
from alignjax.scores.calibration import Calibration

# Calibrated: twice the reward, and safety less the reward.
COVARIANCES = np.array([np.diag([0.04, 0.01]), [[0.02, 0.01], [0.01, 0.03]]])
CALIBRATION = Calibration(np.array([[2.0, 0.0], [-1.0, 1.0]]), COVARIANCES, "joint")
RATE = Rate(2.0, 0.5, np.array([[0.02, 0.01], [0.01, 0.05]]))
TOPICS = {"topic": ("theft", "drugs", "theft")}


def scored(raw, kl=(0.0, 0.0, 0.0), weights=None) -> Scored:
    return Scored(np.asarray(raw, np.float64), weights, np.array(kl), np.zeros((3, 4)))


# Three prompts, two responses of (reward, safety). Calibrated: reward 2 r, safety s - r.
REFERENCE = scored([[[0, 0], [1, 1]], [[1, 2], [1, 4]], [[2, 0], [0, 0]]])
POLICY = scored([[[1, 3], [1, 5]], [[0, 1], [2, 3]], [[1, 1], [3, 5]]], kl=(0.5, 1.0, 1.5))
RAW_RISE = np.array([[0.5, 3.5], [0.0, -1.0], [1.0, 3.0]])  # of the means over responses
MARGIN = np.array([3.0, -1.0, 2.0])  # safety less the reward


def basis(unit: Unit) -> Basis:
    return on_these_prompts(Basis(CALIBRATION, {"it": unit}, ("reward", "safety"), TOPICS), 3)


def measure(answer_of, asked: Asked, unit: Unit) -> dict[str, Measured]:
    return testing.measured(REFERENCE, POLICY, basis(unit), answer_of({"it": asked}))


def test_a_margin_is_the_difference_prompt_by_prompt(answer_of):
    found = measure(answer_of, Asked(margin=1.0), Unit("safety"))
    assert list(found) == ["reward", "it", "kl"]
    np.testing.assert_allclose(found["it"].values, MARGIN)
    np.testing.assert_allclose(found["it"].columns, RAW_RISE)
    np.testing.assert_array_equal(found["it"].covariance, COVARIANCES[1])
    assert found["it"].bounds is None and found["it"].labels is None
    np.testing.assert_allclose(found["reward"].values, [1.0, 0.0, 2.0])
    np.testing.assert_allclose(found["reward"].columns, RAW_RISE)
    np.testing.assert_array_equal(found["reward"].covariance, COVARIANCES[0])
    np.testing.assert_array_equal(found["kl"].values, [0.5, 1.0, 1.5])
    assert found["kl"].columns.shape == (3, 0) and found["kl"].covariance.shape == (0, 0)


@pytest.mark.parametrize("asked", [Asked(margin=1.0, fraction=0.5), Asked()])
def test_a_fraction_is_a_margin_and_so_is_nothing(answer_of, asked):
    np.testing.assert_allclose(measure(answer_of, asked, Unit("safety"))["it"].values, MARGIN)


def test_a_level_is_the_policys_own_mean(answer_of):
    found = measure(answer_of, Asked(margin=1.0, level=0.0), Unit("safety"))
    np.testing.assert_allclose(found["it"].values, [3.0, 1.0, 1.0])
    np.testing.assert_allclose(found["it"].columns, [[1.0, 4.0], [1.0, 2.0], [2.0, 3.0]])
    np.testing.assert_allclose(found["reward"].values, [1.0, 0.0, 2.0])  # always against the reference


def test_a_rate_is_a_mean_probability(answer_of):
    found = measure(answer_of, Asked(margin=0.1, rate=0.9), Unit("safety", rate=RATE))["it"]
    s = np.array([[2.0, 4.0], [1.0, 1.0], [0.0, 2.0]])  # safety less the reward
    p = expit(2.0 * s + 0.5)
    np.testing.assert_allclose(found.values, p.mean(axis=1))
    moves = [(p * (1 - p) * s).mean(axis=1), (p * (1 - p)).mean(axis=1)]
    np.testing.assert_allclose(found.columns, np.transpose(moves))
    np.testing.assert_array_equal(found.covariance, RATE.covariance)
    assert found.bounds == (0.0, 1.0)
    rise = measure(answer_of, Asked(margin=0.1), Unit("safety", rate=RATE))["it"]
    base = expit(2.0 * np.array([[0.0, 0.0], [1.0, 3.0], [-2.0, 0.0]]) + 0.5)
    np.testing.assert_allclose(rise.values, p.mean(axis=1) - base.mean(axis=1))
    assert rise.bounds == (-1.0, 1.0)


def test_a_group_is_measured_on_its_own_prompts(answer_of):
    # The share of the dual's prompts, 0.9, is not that of these, 2 of 3: neither changes a group's mean.
    unit = Unit("safety", "theft", "topic", 0.9)
    found = measure(answer_of, Asked(margin=1.0), unit)
    np.testing.assert_allclose(found["it"].values, [3.0, 2.0])
    np.testing.assert_allclose(found["it"].columns, RAW_RISE[[0, 2]])
    assert len(found["reward"].values) == 3
    rate = measure(answer_of, Asked(margin=0.1, rate=0.9), dataclasses.replace(unit, rate=RATE))["it"]
    p = expit(2.0 * np.array([[2.0, 4.0], [0.0, 2.0]]) + 0.5)
    np.testing.assert_allclose(rate.values, p.mean(axis=1))
    assert rate.bounds == (0.0, 1.0)


def test_a_tail_is_minus_the_cost_above_its_threshold(answer_of):
    unit = Unit("safety", tail=Tail(share=0.5, cost=0.0, threshold=-1.5))
    found = measure(answer_of, Asked(margin=1.0, level=-1.5), unit)["it"]
    # Costs -2, -4; -1, -1; 0, -2. Above -1.5: none; 0.5 each; 1.5 and none. Over the share: times 2.
    np.testing.assert_allclose(found.values, [0.0, -1.0, -1.5])
    # The second prompt's responses both move with the mean raw score, (1, 2); of the third's only (1, 1).
    np.testing.assert_allclose(found.columns, [[0.0, 0.0], [2.0, 4.0], [1.0, 1.0]])


def test_listed_responses_count_by_their_probabilities(answer_of):
    policy = POLICY._replace(weights=np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]]))
    answer = answer_of({"it": Asked(margin=0.0, level=0.0)})
    found = testing.measured(REFERENCE, policy, basis(Unit("safety")), answer)["it"]
    np.testing.assert_allclose(found.values, [2.0, 1.0, 1.5])


@pytest.mark.parametrize(
    ("asked", "number", "level"),
    [
        (Asked(margin=1.0), 1.0, False),
        (Asked(margin=1.0, fraction=0.5), 1.0, False),
        (Asked(margin=1.0, level=0.0), 0.0, True),
        (Asked(margin=1.0, rate=0.9), 0.9, True),
        (Asked(), None, False),
    ],
)
def test_the_number_that_a_mean_is_compared_with(asked, number, level):
    assert (testing.target(asked), testing.is_level(asked)) == (number, level)


def around(mean: float, spread: float = 0.1, count: int = 40) -> Measured:
    """Values `spread` below and above a mean in turn, with no error of a calibration."""
    values = mean + spread * np.tile([-1.0, 1.0], count // 2)
    return Measured(values, np.zeros((count, 0)), np.zeros((0, 0)))


def values_of(reward: float = 0.5, kl: float = 1.0, **constraints: float) -> dict[str, Measured]:
    means = {"reward": reward, **constraints, "kl": kl}
    return {name: around(mean) for name, mean in means.items()}


LOOK = Look(number=2, share=0.4, spent=0.8)


def run(values, answer, *, look=LOOK, reward=None, kl=None, population=False) -> TestRecord:
    return testing.test(values, answer, look, confidence=0.95, reward=reward, kl=kl, population=population)


def test_a_look_spends_its_share_of_the_error_on_what_was_asked(answer_of):
    answer = answer_of({"a": Asked(margin=0.3), "b": Asked(margin=0.1, level=-1.0)})
    record = run(values_of(a=0.4, b=-0.8), answer)
    assert (record.look, record.share, record.spent, record.accepted) == (2, 0.4, 0.8, True)
    # Two were asked: 0.05 x 0.4 / 2 each. The values are symmetric, so that the bound is Student's.
    assert [one.confidence for one in record.verdicts.values()] == pytest.approx([0.99] * 4)
    half = stats.t.ppf(0.99, 39) * np.std(around(0).values, ddof=1) / np.sqrt(40)
    a, b = record.verdicts["a"], record.verdicts["b"]
    assert (a.state, a.asked, a.mean, a.prompts) == ("verified", 0.3, pytest.approx(0.4), 40)
    assert (a.low, a.high) == (pytest.approx(0.4 - half), pytest.approx(0.4 + half))
    assert (b.state, b.asked) == ("verified", -1.0)  # the level, and not the margin
    assert list(record.power) == ["reward", "a", "b", "kl"]
    assert record.power["a"].prompts == 40 and record.power["a"].above > half


def test_what_nobody_asked_for_is_judged_and_counts_for_nothing(answer_of):
    answer = answer_of({"a": Asked(margin=0.3)})
    record = run(values_of(a=0.4, reward=-0.5, kl=2.5), answer)
    reward, kl = record.verdicts["reward"], record.verdicts["kl"]
    # The reward against the reference's; KL against the upper end of its forecast, 0.5 + 1.
    assert (reward.state, reward.asked) == ("refuted", 0.0)
    assert (kl.state, kl.asked) == ("refuted", 1.5)
    assert record.accepted and kl.confidence == pytest.approx(0.98)
    assert run(values_of(a=0.4, kl=1.2), answer).verdicts["kl"].state == "verified"


def test_what_was_asked_of_reward_and_kl_counts_and_shares_the_error(answer_of):
    answer = answer_of({"a": Asked(margin=0.3)})
    good = run(values_of(a=0.4), answer, reward=0.3, kl=1.4)
    assert good.accepted and good.verdicts["a"].confidence == pytest.approx(1 - 0.05 * 0.4 / 3)
    assert (good.verdicts["reward"].asked, good.verdicts["kl"].asked) == (0.3, 1.4)
    assert not run(values_of(a=0.4, reward=0.2), answer, reward=0.3, kl=1.4).accepted
    assert not run(values_of(a=0.4, kl=1.5), answer, reward=0.3, kl=1.4).accepted
    assert not run(values_of(a=0.2), answer, reward=0.3, kl=1.4).accepted


@pytest.mark.parametrize(
    ("mean", "state"), [(0.4, "verified"), (0.31, "not shown"), (0.29, "not shown"), (0.2, "refuted")]
)
def test_a_policy_is_accepted_where_everything_asked_is_verified(answer_of, mean, state):
    answer = answer_of({"a": Asked(margin=0.3), "free": Asked()})
    record = run(values_of(a=mean, free=-9.0), answer)
    assert record.verdicts["a"].state == state and record.accepted == (state == "verified")
    assert record.verdicts["free"].state == "not asked"
    assert record.verdicts["a"].confidence == pytest.approx(0.98)  # nothing was asked of the other


def test_a_forecast_behind_a_closed_gate_says_nothing_of_kl(answer_of):
    closed = answer_of({"a": Asked(margin=0.3)}, gate=Gate(open=False, share=0.5, reasons=("r",)))
    kl = run(values_of(a=0.4, kl=2.5), closed).verdicts["kl"]
    assert (kl.state, kl.asked) == ("not asked", None)
    opened = answer_of({"a": Asked(margin=0.3)}, gate=Gate(open=True, share=0.0))
    assert run(values_of(a=0.4, kl=2.5), opened).verdicts["kl"].asked == 1.5
    assert run(values_of(a=0.4, kl=2.5), closed, kl=3.0).verdicts["kl"].state == "verified"


def test_the_power_of_kl_is_that_of_a_bound_from_above(answer_of):
    values = values_of(a=0.4)
    values["kl"] = values["kl"]._replace(values=np.repeat([0.5, 3.0], [36, 4]))  # a long tail above
    power = run(values, answer_of({"a": Asked(margin=0.3)})).power["kl"]
    above, below = (judging.power(values["kl"], 0.02, upper=upper) for upper in (True, False))
    assert above is not None and below is not None
    assert power.above == pytest.approx(above.above) and power.above > 1.2 * below.above


def test_without_a_forecast_kl_is_compared_with_nothing(answer_of):
    answer = dataclasses.replace(answer_of({"a": Asked(margin=0.3)}), predicted=None)
    assert run(values_of(a=0.4), answer).verdicts["kl"].asked is None


def test_a_population_has_no_error_of_its_draw(answer_of):
    record = run(values_of(a=0.3001), answer_of({"a": Asked(margin=0.3)}), population=True)
    a = record.verdicts["a"]
    assert (a.state, a.bound, a.low) == ("verified", "exact", a.mean)
    assert run(values_of(a=0.3001), answer_of({"a": Asked(margin=0.3)})).verdicts["a"].state == "not shown"


TEXTS = {
    "policy": [["p00", "p01"], ["p10", "p11"], ["p20", "p21"]],
    "reference": [["r00", "r01"], ["r10", "r11"], ["r20", "r21"]],
}
RESPONSES = {name: Responses(["x", "y", "z"], texts, []) for name, texts in TEXTS.items()}
SCORES = {"policy": POLICY, "reference": REFERENCE}


def single(prompt, response, value, line) -> ResponseLabel:
    return ResponseLabel(prompt_key(prompt), response, float(value), isinstance(value, bool), f"f:{line}")


def pair(prompt, chosen, rejected, line) -> PairLabel:
    return PairLabel(prompt_key(prompt), chosen, rejected, f"f:{line}")


def label(answer_of, asked, unit, *, singles=(), pairs=()):
    answer, on = answer_of({"it": asked}), basis(unit)
    human = HumanLabels({"reward": [], "safety": singles}, {"reward": [], "safety": pairs})
    values = testing.measured(REFERENCE, POLICY, on, answer)
    found, unused = testing.with_labels(values, human, SCORES, RESPONSES, on, answer)
    assert found["reward"] == values["reward"] and found["kl"] is values["kl"]
    np.testing.assert_array_equal(found["it"].values, values["it"].values)
    return found["it"].labels, unused


def test_labels_on_responses_move_a_level_by_what_they_say(answer_of):
    singles = [
        single("x", "p01", 5, 1),  # calibrated 4: one more
        single("z", "p20", -2, 2),  # calibrated 0: two less
        single("z", "p21", 2, 3),  # calibrated 2, on the same prompt
        single("z", "nobody said this", 9, 4),
        single("x", "r00", 9, 5),  # the reference's: a level is about the policy
    ]
    labels, unused = label(answer_of, Asked(margin=0.0, level=0.0), Unit("safety"), singles=singles)
    assert labels is not None and unused == 2 and labels.number == 3
    np.testing.assert_array_equal(labels.places, [0, 2])
    np.testing.assert_allclose(labels.errors, [1.0, -1.0])
    assert labels.shift == pytest.approx(0.0)


def test_labels_of_a_group_are_those_on_its_prompts_in_its_units(answer_of):
    unit = Unit("safety", "theft", "topic", 0.9)
    singles = [single("x", "p01", 5, 1), single("y", "p10", 8, 2), single("z", "p20", -2, 3)]
    labels, unused = label(answer_of, Asked(margin=0.0, level=0.0), unit, singles=singles)
    assert labels is not None and (labels.number, unused) == (2, 1)
    np.testing.assert_array_equal(labels.places, [0, 1])  # among the group's two prompts
    np.testing.assert_allclose(labels.errors, [1.0, -2.0])


def test_labels_of_a_groups_margin_are_on_both_policies_responses(answer_of):
    unit = Unit("safety", "theft", "topic", 0.9)
    # On z the policy's 0 was said to be 3, and the reference's -2 to be 2: 3 more and 4 more.
    singles = [single("z", "p20", 3, 1), single("z", "r20", 2, 2), single("x", "p00", 9, 3)]
    labels, _ = label(answer_of, Asked(margin=1.0), unit, singles=singles)
    assert labels is not None and labels.number == 2
    np.testing.assert_array_equal(labels.places, [1])
    np.testing.assert_allclose(labels.errors, [-1.0])


def test_true_and_false_are_labels_of_a_rate(answer_of):
    singles = [single("x", "p00", True, 1), single("y", "p10", False, 2)]
    labels, unused = label(answer_of, Asked(margin=0.1, rate=0.9), Unit("safety", rate=RATE), singles=singles)
    p = expit(2.0 * np.array([2.0, 1.0]) + 0.5)
    assert labels is not None and (labels.number, unused) == (2, 0)
    np.testing.assert_allclose(labels.errors, [1.0 - p[0], -p[1]])
    with pytest.raises(InputError, match=r"^f:7: \"safety\" must be true or false, because a rate"):
        label(
            answer_of, Asked(margin=0.1, rate=0.9), Unit("safety", rate=RATE),
            singles=[*singles, single("x", "p01", 0.5, 7)],
        )  # fmt: skip


def test_pairs_move_a_margin_until_they_are_as_likely_as_they_are(answer_of):
    # Differences: p00 - r00 = 2, p10 - r10 = 0. One of two preferred on prompts of weight 1: the sum of
    # sigma(2 + d) + sigma(d) = 1 has d = -1.
    pairs = [pair("x", "p00", "r00", 1), pair("y", "r10", "p10", 2), pair("z", "p20", "p21", 3)]
    labels, unused = label(answer_of, Asked(margin=1.0), Unit("safety"), pairs=pairs)
    assert labels is not None and (labels.number, unused) == (2, 1)
    assert labels.shift == pytest.approx(-1.0)


def test_labels_that_were_not_read_are_unused(answer_of):
    """Pairs say nothing of a level; and where there are pairs, a margin takes nothing else."""
    singles = [single("x", "p01", 5, 1), single("x", "r00", 1, 2)]
    pairs = [pair("x", "p00", "r00", 3), pair("y", "r10", "p10", 4)]
    given = {"singles": singles, "pairs": pairs}
    labels, unused = label(answer_of, Asked(margin=0.0, level=0.0), Unit("safety"), **given)
    assert labels is not None and (labels.number, unused) == (1, 3)
    labels, unused = label(answer_of, Asked(margin=1.0), Unit("safety"), **given)
    assert labels is not None and (labels.number, unused) == (2, 2)


@pytest.mark.parametrize(
    ("asked", "unit", "given"),
    [
        (Asked(margin=1.0), Unit("safety"), {"pairs": [pair("x", "what", "r00", 1)]}),
        (Asked(margin=1.0, level=0.0), Unit("safety"), {"pairs": [pair("x", "p00", "r00", 1)]}),
        (Asked(margin=1.0), Unit("safety"), {"singles": [single("x", "p00", 1, 1)]}),  # no reference's
        (
            Asked(margin=1.0, level=0.0),
            Unit("safety", tail=Tail(0.5, 0.0, -1.5)),
            {"singles": [single("x", "p00", 1, 1)]},
        ),
    ],
)
def test_a_file_that_fits_nothing_is_refused(answer_of, asked, unit, given):
    with pytest.raises(
        InputError, match=r"^human labels: none of the 1 labels fits .*; label the responses in evaluation_"
    ):
        label(answer_of, asked, unit, **given)


def shown(
    state: str,
    *,
    asked: float | None = 0.4,
    mean: float = 0.634,
    low: float | None = 0.505,
    high: float | None = 0.756,
    more: int | None = None,
) -> Verdict:
    return Verdict(state, asked, mean, low, high, 0.98, 120, more, 0, "student")


@pytest.mark.parametrize(
    ("name", "one", "text"),
    [
        (
            "safety",
            shown("verified"),
            "safety: asked 0.40, delivered 0.63, at least 0.51 with confidence 0.98: verified",
        ),
        (
            "safety",
            shown("not shown", low=0.3, more=250),
            "safety: asked 0.40, delivered 0.63, at least 0.30 with confidence 0.98: not shown; "
            "about 250 more test prompts would decide it",
        ),
        (
            "safety",
            shown("not asked", asked=None, low=None, high=None),
            "safety: delivered 0.63, no bound with confidence 0.98: not asked",
        ),
        (
            "reward",
            shown("refuted", asked=0.0, mean=-7.4, low=-8.0, high=-7.0),
            "reward above the reference's: asked 0.00, delivered -7.40, at least -8.00 with confidence 0.98: "
            "refuted",
        ),
        (
            "kl",
            shown("verified", asked=1.5, mean=1.2, low=1.1, high=1.3),
            "KL: expected at most 1.50, delivered 1.20, at most 1.30 with confidence 0.98: verified",
        ),
        (
            "kl",
            shown("not asked", asked=None, mean=1.2, high=None),
            "KL: delivered 1.20, no bound with confidence 0.98: not asked",
        ),
    ],
)
def test_a_verdict_in_words(name, one, text):
    assert testing.sentence(name, one) == text


def test_a_record_in_lines(answer_of):
    power = {"safety": Power(120, 0.254, 0.9), "kl": Power(120, 0.1, 0.9)}
    record = TestRecord(
        2, 0.4, 0.8, {"safety": shown("verified"), "kl": shown("not asked", asked=None)}, power, True
    )
    lines = testing.told(record, answer_of({"safety": Asked(margin=0.4)}))
    assert lines == [
        "look 2 at these test prompts; 80% of the error is spent",
        testing.sentence("safety", shown("verified")),
        "safety: 120 test prompts show what is 0.25 above what was asked in 90 of 100 runs",
        testing.sentence("kl", shown("not asked", asked=None)),
    ]
