import dataclasses

import pytest

from alignjax.records.evaluation import Evaluation, Headline, JudgeRecord, Round
from alignjax.records.figure import Figure
from alignjax.report import contests, html, score_models
from alignjax.report.style import to_svg

EMPTY = Evaluation({}, {}, {}, {}, {}, 1, 0.0, {}, Headline("do not ship", "Nothing was trained."))


def with_contest(evaluation, dimension, **changes):
    contest = dataclasses.replace(evaluation.contests[dimension], **changes)
    return dataclasses.replace(evaluation, contests={**evaluation.contests, dimension: contest})


def without_win(evaluation, dimension, policy, opponent):
    """The same, where these two were never compared."""
    rates = evaluation.contests[dimension].win_rates
    rates = {**rates, policy: {**rates[policy], opponent: None}}
    return with_contest(evaluation, dimension, win_rates=rates)


def test_the_table_has_wins_against_the_reference_and_ratings_of_every_dimension(inputs):
    grid = contests.grid(inputs().evaluation)
    assert grid is not None
    assert grid.head[1:] == [
        "reward: wins against the reference",
        "reward: rating",
        "safety: wins against the reference",
        "safety: rating",
    ]
    assert [label for label, _, _ in grid.rows] == ["reference", "helpful-only", "safe-only", "aligned"]
    assert grid.rows[0][2] == ["-", "0.00", "-", "0.00"]
    # Ratings are 0.6 apart, and aligned is the fourth policy: 1 / (1 + exp(-1.8)) = 0.858.
    assert grid.rows[3][2][:2] == ["0.86 [0.83, 0.89]", "1.80 [1.70, 1.90]"]
    assert grid.rows[3][2][2].startswith("0.14") and grid.rows[3][2][3].startswith("-1.80")
    assert "safety is judged by its calibrated scores" in " ".join(grid.notes)
    assert contests.grid(EMPTY) is None


def test_judges_missing_verdicts_and_the_order_of_showing_are_named(inputs):
    evaluation = without_win(inputs().evaluation, "safety", "aligned", "reference")
    evaluation = with_contest(
        evaluation,
        "safety",
        judge="my:judge",
        missing=1234,
        position_bias=Figure(0.041, 0.03, 0.052),
        ratings={**evaluation.contests["safety"].ratings, "aligned": None},
    )
    grid = contests.grid(evaluation)
    assert grid is not None and grid.rows[3][2][2:] == ["-", "-"]
    assert grid.notes[-1] == (
        "safety is judged by my:judge, in both orders; 1,234 pairs of policies and prompts have no verdict; "
        "the response shown first wins more often than half by 0.041 [0.030, 0.052]."
    )


def test_a_judge_that_is_a_model_has_its_rate_and_what_it_could_not_say(inputs):
    evaluation = with_contest(inputs().evaluation, "safety", judge="llama-guard")
    rates = {"reference": Figure(0.71, 0.604, 0.797), "aligned": Figure(1.0, 0.956, 1.0)}
    record = JudgeRecord("llama-guard", 83, True, 4, 0, 332, 5, 1, rates, {"reference": {"S1": 3}})
    grid = contests.grid(dataclasses.replace(evaluation, judges={"safety": record}))
    assert grid is not None and grid.head[-1] == "safety: safe by llama-guard, %"
    assert [cells[-1] for _, _, cells in grid.rows] == ["71 [60, 80]", "-", "-", "100 [96, 100]"]
    assert grid.notes[-1] == (
        "safety is judged by llama-guard, every response for itself, on 83 prompts of its own (4 of them are "
        "trained on); 5 of 332 answers could not be read; its context has no room for 1 of the questions."
    )


def test_the_matrix_has_the_rows_policy_against_the_columns(inputs):
    evaluation = without_win(inputs().evaluation, "reward", "aligned", "safety")
    figure = contests.win_matrix(evaluation)
    assert figure is not None and [axes.get_title(loc="left") for axes in figure.axes] == [
        "reward: wins (%)",
        "safety: wins (%)",
    ]
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert texts[0.5, 0.5] == "" and texts[2.5, 3.5] == "-"
    assert texts[0.5, 3.5] == "86" and texts[3.5, 0.5] == "14"  # aligned, below, against the reference
    assert "<image" not in to_svg(figure)  # cells are shapes: the page stays small and sharp


def test_two_policies_need_no_matrix(inputs):
    evaluation = inputs().evaluation
    two = {name: evaluation.policies[name] for name in ("reference", "aligned")}
    assert contests.win_matrix(dataclasses.replace(evaluation, policies=two)) is None
    assert contests.win_matrix(EMPTY) is None


@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_dimensions_has_a_panel_each(inputs, count):
    evaluation = inputs().evaluation
    played = {f"d{i}": evaluation.contests["reward"] for i in range(count)}
    evaluation = dataclasses.replace(evaluation, contests=played)
    figure = contests.win_matrix(evaluation)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == [
        f"d{i}: wins (%)" for i in range(count)
    ]


def score_row(stage, step, loss, **more):
    row = {"stage": stage, "step": step, "eval_calibrated_loss": loss, "eval_loss": -loss}
    row |= {"eval_rewards/accuracies": 0.7, "eval_rewards/margins": 0.5, "eval_rewards/mean": 0.1}
    row |= {"eval_rewards/min": -1.5, "eval_rewards/max": 2.5, "eval_calibration_error": 0.025}
    return row | more


def test_score_models_are_shown_at_the_step_that_was_kept():
    metrics = [
        score_row("reward", 10, 0.6),
        score_row("reward", 20, 0.5, **{"eval_rewards/accuracies": 0.765}),
        score_row("reward", 30, 0.55),
        score_row("safety", 10, 0.4, **{"eval_rewards/min": None}),
        {"stage": "policy", "step": 5, "eval_calibrated_loss": 0.1, "eval_rewards/accuracies": 0.9},
        {"stage": "reward", "step": 15, "loss": 0.1},
    ]
    grid = score_models.grid(metrics, {})
    assert grid is not None
    assert grid.rows[0] == ("reward", "", ["20", "0.765", "0.500", "0.100", "-1.50", "2.50", "0.025"])
    assert grid.rows[1][0] == "safety" and grid.rows[1][2][4] == "-"
    by_loss = score_models.grid(metrics, {"score_training": {"judge_by": "loss"}})
    assert by_loss is not None and by_loss.rows[0][2][0] == "10"
    assert score_models.grid(metrics[4:], {}) is None


def test_all_of_them_are_on_the_page(inputs, record_of, hostile):
    given = inputs(truth=False)
    tests = [record_of(given.evaluation.verdicts, look) for look in (1, 2)]
    zeros = {"safety": 0.0}
    refused = [Round(1, zeros, zeros, zeros, zeros, {"safety": 0.7}, 0.0, 0.0)]
    evaluation = with_contest(given.evaluation, "safety", judge=hostile)
    metrics = [score_row("reward", 20, 0.5)]
    answer = dataclasses.replace(given.answer, frontier=None)
    given = dataclasses.replace(given, answer=answer, evaluation=evaluation, metrics=metrics, scores={})
    given = dataclasses.replace(given, rounds=refused, tests=tests)
    drawn = html.plates(given)
    assert {"wins", "rounds"} <= {plate.name for plate in drawn}
    page = html.render(given, drawn)
    places = [page.index(f"<h2>{title}<") for title in ("Contests", "Figures", "Rounds", "Score models")]
    assert places == sorted(places) and page.count("<script") == 2
    assert "1.80 <small>[1.70, 1.90]</small>" in page
