"""The last lines of a run: every number of the evaluation, the promise, and one sentence at the end."""

import dataclasses

import pytest

from alignjax.records.answer import Gate
from alignjax.records.evaluation import Evaluation, Headline
from alignjax.records.figure import Figure
from alignjax.report import console_table


def with_policy(evaluation, name, **changes):
    policy = dataclasses.replace(evaluation.policies[name], **changes)
    return dataclasses.replace(evaluation, policies={**evaluation.policies, name: policy})


def test_every_number_of_the_evaluation_is_in_the_table(inputs):
    given = inputs(("safety", "honesty"))
    text = console_table(given.evaluation, given.answer)
    for policy in given.evaluation.policies.values():
        for estimate in (policy.reward, *policy.margins.values(), *policy.true_margins.values()):
            mean, low, high = estimate.mean, estimate.low, estimate.high
            shown = f"{mean + 0.0:.2f}" if low == high else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
            assert shown in text


def test_the_promise_stands_below_the_policies_and_the_notes_last(inputs):
    given = inputs(("safety", "honesty"), truth=False)
    text = console_table(given.evaluation, given.answer, width=400, findings=["few labels"], calibrated=True)
    policies, findings, promise_and_notes = text.split("\n\n", 2)
    promise, notes = promise_and_notes.split("\n\n")
    assert findings == "Finding: few labels"
    assert policies.startswith("policy") and given.evaluation.headline.sentence not in text
    rows = promise.splitlines()
    assert rows[0].split()[0] == "verdict" and rows[0].endswith("shown, 96%") and set(rows[1]) == {"-"}
    assert [row.split()[0] for row in rows[2:]] == ["safety", "honesty", "reward", "KL,"]
    assert all(" verified " in row for row in rows[2:])
    asked = given.evaluation.asked["honesty"]
    assert rows[3].split()[:4] == ["honesty", "margin", "verified", f"{asked:.2f}"]
    assert ">= 0.51" in rows[3] and "<= 1.36" in rows[5]
    # 1 / (1 + exp(-1)) = 1 / 1.3679 = 0.731
    assert "are in logits of people's labels: where a response is 1 higher than another, 73 of 100" in notes
    assert notes.splitlines()[-1] == (
        "shown: by the test on prompts that nothing else used, look 1 at them, 80% of its error spent; "
        "the confidence is of each bound."
    )


def test_every_line_fits_eighty_columns_and_a_promise_keeps_its_line(inputs):
    given = inputs()
    finding = "safety: slope 0.63 is below 0.7; the scores are over-confident and were shrunk, " * 3
    text = console_table(given.evaluation, given.answer, width=80, findings=[finding])
    assert max(len(line) for line in text.splitlines()) <= 80
    row = next(line for line in text.splitlines() if line.startswith("safety margin"))
    assert " verified " in row and row.endswith(">= 0.51") and row.count("[") == 2
    assert "people" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_columns_line_up_and_the_width_is_kept(inputs, width):
    given = inputs(("safety", "honesty", "privacy"))
    text = console_table(given.evaluation, given.answer, width=width)
    block = text.split("\n\n")[0].splitlines()
    assert max(len(line) for line in block) <= width
    assert len({len(line) for line in block}) == 1  # right-aligned cells end in one column


def test_a_closed_gate_is_named_and_no_number_of_the_tilt_stands_here(inputs, figure_of):
    given = inputs(truth=False)
    predicted = dataclasses.replace(
        given.answer.predicted,
        margins={"safety": figure_of(77.2)},
        reward_gain=figure_of(77.3),
        reward=figure_of(77.4),
        kl=figure_of(77.5),
    )
    answer = dataclasses.replace(given.answer, predicted=predicted)
    assert "77.20 [77.10, 77.30]" in console_table(given.evaluation, answer)
    closed = dataclasses.replace(answer, gate=Gate(open=False, share=0.5, reasons=("r",)))
    text = console_table(given.evaluation, closed)
    assert text.count("closed") == 3 and "77." not in text


def test_a_refused_policy_and_the_look(inputs, verdict_of):
    given = inputs(truth=False)
    sentence = "Do not ship: safety: asked 0.40, delivered 0.30."
    evaluation = dataclasses.replace(
        given.evaluation,
        verdicts={**given.evaluation.verdicts, "safety": verdict_of("not shown", low=0.2)},
        headline=Headline("do not ship", sentence, "Ask for less."),
        look=3,
        spent=0.9,
    )
    text = console_table(evaluation, given.answer)
    assert sentence not in text and "not shown" in text and ">= 0.20\n" in text
    assert "look 3 at them, 90% of its error spent" in text


def test_an_embedded_worlds_truth_is_a_table_of_its_own(inputs):
    given = inputs()
    evaluation = with_policy(given.evaluation, "aligned", kl_from_optimum=Figure(0.0123, 0.0123, 0.0123))
    blocks = console_table(evaluation, given.answer, width=200).split("\n\n")
    assert "true reward" not in blocks[0]
    assert "0.0123" in blocks[1] and "true safety margin" in blocks[1]
    assert "KL from optimum: KL(pi_lam* || policy)" in blocks[-1]


def test_statistics_of_texts_are_not_on_the_console(inputs):
    given = inputs()
    evaluation = with_policy(given.evaluation, "aligned", cut=Figure(0.25, 0.2, 0.3))
    text = console_table(evaluation, given.answer)
    assert "tokens" not in text and "21.4" not in text and "0.250" not in text


def test_without_policies_and_verdicts_nothing_is_made_up(inputs):
    given = inputs(truth=False)
    empty = Evaluation({}, {}, {}, {}, {}, 1, 0.0, {}, Headline("do not ship", "Nothing was trained."))
    text = console_table(empty, dataclasses.replace(given.answer, predicted=None))
    assert text.startswith("policy  reward  KL\n") and "Nothing was trained" not in text
    assert "None" not in text and "nothing else used" not in text and text.count("not tested") == 3
