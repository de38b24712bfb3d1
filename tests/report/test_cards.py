"""Asked, forecast, delivered and shown side by side: where each number comes from, and what it is called."""

import dataclasses

import pytest

from alignjax.records.answer import Asked, Gate
from alignjax.records.figure import Figure
from alignjax.report.cards import cards_of, grid

CLOSED = Gate(open=False, share=0.4, reasons=("reason",), remedies=("remedy",), samples=512)


@pytest.fixture
def given(inputs, figure_of):
    """Makes an evaluation and an answer whose numbers are told apart at a glance."""

    def make(asked, *, truth=False, verdicts=None, gate=None):
        made = inputs(truth=truth)
        predicted = dataclasses.replace(
            made.answer.predicted,
            utilities={"safety": figure_of(7.1)},
            margins={"safety": figure_of(7.2)},
            reward_gain=figure_of(7.3),
            kl=figure_of(7.4),
        )
        aligned = dataclasses.replace(
            made.evaluation.policies["aligned"],
            utilities={"safety": figure_of(8.1)},
            margins={"safety": figure_of(8.2)},
            reward_gain=figure_of(8.3),
            kl=figure_of(8.4),
        )
        answer = dataclasses.replace(made.answer, asked={"safety": asked}, predicted=predicted, gate=gate)
        evaluation = dataclasses.replace(
            made.evaluation, policies={**made.evaluation.policies, "aligned": aligned}
        )
        if verdicts is not None:
            evaluation = dataclasses.replace(evaluation, verdicts=verdicts)
        return evaluation, answer

    return make


def mean(estimate):
    return None if estimate is None else estimate.mean


@pytest.mark.parametrize(
    ("asked", "what", "number", "forecast", "delivered"),
    [
        (Asked(margin=0.4), "margin", 0.4, 7.2, 8.2),
        (Asked(margin=0.4, fraction=0.5), "margin", 0.4, 7.2, 8.2),
        (Asked(margin=0.4, level=-0.6), "level", -0.6, 7.1, 8.1),
        (Asked(margin=0.4, level=0.0), "level", 0.0, 7.1, 8.1),
        (Asked(margin=0.4, rate=0.95), "rate", 0.95, 7.1, 8.1),
        (Asked(), "margin", None, 7.2, 8.2),
    ],
)
def test_a_constraint_is_shown_in_the_units_it_was_asked_in(given, asked, what, number, forecast, delivered):
    card = cards_of(*given(asked))[0]
    assert (card.name, card.what, card.asked) == ("safety", what, number)
    assert (mean(card.forecast), mean(card.delivered)) == (forecast, delivered)
    assert card.gate_open and card.truth is None


def test_the_reward_and_kl_come_last(given, verdict_of):
    verdicts = {"safety": verdict_of(), "reward": verdict_of(asked=0.25), "kl": verdict_of(asked=1.45)}
    evaluation, answer = given(Asked(margin=0.4), verdicts=verdicts)
    cards = cards_of(evaluation, answer)
    assert [card.name for card in cards] == ["safety", "reward", "kl"]
    reward, kl = cards[1:]
    assert (reward.asked, mean(reward.forecast), mean(reward.delivered)) == (0.25, 7.3, 8.3)
    assert (kl.asked, mean(kl.forecast), mean(kl.delivered)) == (1.45, 7.4, 8.4)
    assert [card.verdict for card in cards] == list(verdicts.values())


def test_the_truth_is_that_of_margins_and_of_the_rewards_gain(given):
    evaluation, answer = given(Asked(margin=0.4), truth=True)
    safety, reward, kl = cards_of(evaluation, answer)
    aligned, reference = evaluation.policies["aligned"], evaluation.policies["reference"]
    assert safety.truth == aligned.true_margins["safety"] and kl.truth is None
    assert mean(reward.truth) == pytest.approx(aligned.true_reward.mean - reference.true_reward.mean)
    level = cards_of(*given(Asked(margin=0.4, level=-0.6), truth=True))[0]
    assert level.truth is None  # a true margin is no true level


@pytest.mark.parametrize("state", ["verified", "not shown", "refuted", "not asked"])
def test_the_state_is_the_verdicts(given, verdict_of, state):
    verdicts = {"safety": verdict_of(state, low=0.505, high=0.755)}
    card = cards_of(*given(Asked(margin=0.4), verdicts=verdicts))[0]
    assert (card.state, card.shown, card.confidence) == (state, "at least 0.51", "96%")


def test_a_bound_of_kl_is_from_above_and_one_prompt_has_none(given, verdict_of):
    verdicts = {"safety": verdict_of("not shown", low=None, high=None), "kl": verdict_of(high=1.36)}
    safety, reward, kl = cards_of(*given(Asked(margin=0.4), verdicts=verdicts))
    assert (safety.shown, kl.shown) == ("no bound", "at most 1.36")
    assert (reward.state, reward.shown, reward.confidence, reward.asked) == ("not tested", "-", "", None)


def test_without_a_policy_or_a_forecast_nothing_is_made_up(given):
    evaluation, answer = given(Asked(margin=0.4))
    evaluation = dataclasses.replace(evaluation, policies={})
    cards = cards_of(evaluation, dataclasses.replace(answer, predicted=None))
    assert all(card.forecast is card.delivered is card.truth is None for card in cards)


def test_the_cards_are_a_grid_of_text(given, verdict_of):
    verdicts = {"safety": verdict_of("refuted", high=0.35), "reward": verdict_of(asked=0.0, low=-0.2)}
    rows = grid(cards_of(*given(Asked(margin=0.4, rate=0.95), verdicts=verdicts)))
    assert rows == [
        ["", "verdict", "asked", "forecast", "delivered", "shown, 96%"],
        ["safety rate", "refuted", "0.95", "7.10 [7.00, 7.20]", "8.10 [8.00, 8.20]", ">= 0.51"],
        ["reward gain", "verified", "0.00", "7.30 [7.20, 7.40]", "8.30 [8.20, 8.40]", ">= -0.20"],
        ["KL, nats", "not tested", "-", "7.40 [7.30, 7.50]", "8.40 [8.30, 8.50]", "-"],
    ]  # fmt: skip


def test_a_world_that_knows_the_truth_has_a_column_for_it(given):
    rows = grid(cards_of(*given(Asked(margin=0.4), truth=True)))
    assert rows[0] == ["", "verdict", "asked", "forecast", "delivered", "shown, 96%", "true"]
    assert len({len(row) for row in rows}) == 1 and rows[3][6] == "-"


def test_untested_cards_have_no_confidence(given):
    rows = grid(cards_of(*given(Asked(margin=0.4), verdicts={})))
    assert (rows[0][1], rows[0][-1]) == ("verdict", "shown")
    assert [(row[1], row[-1]) for row in rows[1:]] == [("not tested", "-")] * 3


def test_a_forecast_behind_a_closed_gate_is_not_shown(given):
    cards = cards_of(*given(Asked(margin=0.4), gate=CLOSED))
    assert not any(card.gate_open for card in cards)
    rows = grid(cards)
    assert [row[3] for row in rows[1:]] == ["closed"] * 3
    assert not any("7." in cell for row in rows for cell in row)
    opened = grid(cards_of(*given(Asked(margin=0.4), gate=Gate(open=True, share=0.0))))
    assert opened[1][3] == "7.20 [7.10, 7.30]"


def test_an_estimate_that_is_exact_has_no_bracket(given):
    evaluation, answer = given(Asked(margin=0.4))
    aligned = dataclasses.replace(evaluation.policies["aligned"], margins={"safety": Figure(1.0, 1.0, 1.0)})
    evaluation = dataclasses.replace(evaluation, policies={"aligned": aligned})
    assert grid(cards_of(evaluation, answer))[1][4] == "1.00"
