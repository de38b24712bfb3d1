"""Judges: scores, a function, verdicts of a file; and every fault of one is named."""

import numpy as np
import pytest

from alignjax.data.records import Message
from alignjax.errors import InputError
from alignjax.evaluation import judges

PROMPTS = ["how do i bake", "how do i fly"]
FIRST = {"reference": ["flour", "wings"], "aligned": ["flour and water", "no"]}
FIELD = "config.judges.safety.function"


def line(prompt, first, second, winner):
    return {"prompt": prompt, "first": first, "second": second, "winner": winner}


def test_scores_decide_by_all_pairs_of_responses():
    # Prompt 0: reference 0, 2 against aligned 1, 3: aligned wins 3 of 4. Prompt 1: all are ties.
    scores = np.array([[[0.0, 2.0], [1.0, 1.0]], [[1.0, 3.0], [1.0, 1.0]]])
    found = judges.by_scores(scores, None)
    np.testing.assert_allclose(found.shares[1, 0], [0.75, 0.5])
    np.testing.assert_allclose(found.shares[0, 1], [0.25, 0.5])
    assert (found.judge, found.comparisons, found.lead) == ("scores", 2, None)


def test_responses_count_by_their_weights():
    # Reference: 0 with 3/4, 2 with 1/4; aligned 1 for sure: it wins against the first alone.
    scores = np.array([[[0.0, 2.0]], [[1.0, 5.0]]])
    weights = np.array([[[0.75, 0.25]], [[1.0, 0.0]]])
    np.testing.assert_allclose(judges.by_scores(scores, weights).shares[1, 0], [0.75])


@pytest.mark.parametrize(("lead", "share"), [(5e-6, 0.5), (2e-5, 1.0), (-5e-6, 0.5), (-2e-5, 0.0)])
def test_scores_that_differ_by_rounding_are_equal(lead, share):
    scores = np.array([[[1.0]], [[1.0 + lead]]])
    assert judges.by_scores(scores, None).shares[1, 0, 0] == share


def test_a_function_is_asked_in_both_orders_on_first_responses(module):
    # It prefers the first place by 0.1 and otherwise the longer text: 0.5 + 0.1 +- 0.3.
    path = module(
        "def f(prompts, a, b):\n"
        "    assert len(set(prompts)) == 1 and len(prompts) == len(a) == len(b) == 2\n"
        "    return [0.6 + (0.3 if len(x) > len(y) else -0.3) for x, y in zip(a, b)]\n"
    )
    found = judges.by_function(path, FIELD, PROMPTS, FIRST)
    # Prompt 0: aligned is longer, 0.9 first and 1 - 0.3 second: 0.8. Prompt 1: 0.2.
    np.testing.assert_allclose(found.shares[1, 0], [0.8, 0.2])
    np.testing.assert_allclose(found.shares[0, 1], [0.2, 0.8])
    assert found.lead is not None
    np.testing.assert_allclose(found.lead, [0.1, 0.1])
    assert (found.judge, found.comparisons) == (path, 1)


def test_a_function_sees_every_pair_of_three_policies(module):
    # The share of the row's policy is its letter's place against the other's.
    path = module("def f(p, a, b):\n    return [0.5 + (ord(x) - ord(y)) / 10 for x, y in zip(a, b)]\n")
    found = judges.by_function(path, FIELD, ["p"], {"x": ["a"], "y": ["b"], "z": ["d"]})
    np.testing.assert_allclose(found.shares[..., 0], [[0.5, 0.4, 0.2], [0.6, 0.5, 0.3], [0.8, 0.7, 0.5]])


def test_a_function_is_given_messages_as_one_text(module):
    path = module("def f(p, a, b):\n    assert set(p) == {'hi\\nhello'}\n    return [0.5] * len(a)\n")
    prompt = (Message("user", "hi"), Message("assistant", "hello"))
    assert judges.by_function(path, FIELD, [prompt], {"x": ["a"], "y": ["b"]}).shares.shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(p, a, b):\n    raise KeyError('key')\n", "raised KeyError: 'key'; correct the function."),
        ("def f(p, a, b):\n    return [0.5]\n", "gave (1,) verdicts for 2 comparisons; give one each."),
        ("def f(p, a, b):\n    return 0.5\n", "gave () verdicts for 2 comparisons; give one each."),
        (
            "def f(p, a, b):\n    return ['x'] * 2\n",
            "raised ValueError: could not convert string to float: 'x'",
        ),
        ("def f(p, a, b):\n    return None\n", "gave () verdicts for 2 comparisons"),
        (
            "def f(p, a, b):\n    return [0.5, float('nan')]\n",
            "gave nan for comparison 1; give the probability",
        ),
        (
            "def f(p, a, b):\n    return [1.5, 0.5]\n",
            "gave 1.5 for comparison 0; give the probability in [0, 1]",
        ),
        ("def f(p, a, b):\n    return [-0.1, 0.5]\n", "gave -0.1 for comparison 0"),
    ],
)
def test_a_broken_function_is_named_with_the_prompt(module, code, message):
    path = module(code)
    with pytest.raises(InputError) as caught:
        judges.by_function(path, FIELD, PROMPTS, FIRST)
    assert str(caught.value).startswith(f"{FIELD}: the_judge:f, prompt 0 ('how do i bake'): {message}")


def test_a_function_that_is_not_there_is_named(module):
    module("g = 3\n")
    with pytest.raises(InputError, match=rf"^{FIELD}: the_judge:f cannot be imported \(AttributeError"):
        judges.by_function("the_judge:f", FIELD, PROMPTS, FIRST)
    with pytest.raises(InputError, match=rf"^{FIELD}: the_judge:g is not a function"):
        judges.by_function("the_judge:g", FIELD, PROMPTS, FIRST)
    with pytest.raises(InputError, match=r"no_such_module:f cannot be imported .*is it on PYTHONPATH"):
        judges.by_function("no_such_module:f", FIELD, PROMPTS, FIRST)


def test_verdicts_of_both_orders_are_averaged_and_show_the_lead(verdicts):
    path = verdicts(
        line(PROMPTS[0], "aligned", "reference", 1),
        line(PROMPTS[0], "reference", "aligned", 1),
        line(PROMPTS[1], "reference", "aligned", 0.5),
    )
    judged = judges.by_verdicts(path, PROMPTS, list(FIRST))
    # Prompt 0: each won once, whoever was shown first. Prompt 1: in one order only, which says nothing of
    # places.
    np.testing.assert_allclose(judged.shares[1, 0], [0.5, 0.5])
    assert judged.lead is not None
    np.testing.assert_allclose(judged.lead, [0.5, np.nan])
    assert np.isnan(judged.shares[0, 0]).all() and (judged.judge, judged.comparisons) == ("verdicts", 1)


def test_several_verdicts_of_one_pair_are_averaged(verdicts):
    rows = [line(PROMPTS[1], "aligned", "reference", winner) for winner in (1, 1, 0, 0.5)]
    path = verdicts(*rows, line(PROMPTS[1], "reference", "aligned", 0))
    judged = judges.by_verdicts(path, PROMPTS, list(FIRST))
    # 2.5 of 4 shown first and 1 of 1 shown second: 3.5 of 5. Leads: 2.5 / 4 - 1/2 and 0 - 1/2, mean -3/16.
    np.testing.assert_allclose(judged.shares[1, 0], [np.nan, 0.7])
    np.testing.assert_allclose(judged.shares[0, 1], [np.nan, 0.3])
    assert judged.lead is not None
    np.testing.assert_allclose(judged.lead, [np.nan, -3 / 16])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            line("what", "aligned", "reference", 1),
            r'"prompt" is \'what\', none of the evaluation; take prompts',
        ),
        ({"first": "aligned", "second": "reference", "winner": 1}, r'"prompt" is \'None\', none of'),
        (line(PROMPTS[1], "allined", "reference", 1), r'"first" is \'allined\', must be a policy'),
        (line(PROMPTS[1], "aligned", None, 1), '"second" is None, must be a policy.*: reference, aligned;'),
        (line(PROMPTS[1], "aligned", ["aligned"], 1), r'"second" is \[\'aligned\'\], must be a policy'),
        (line(PROMPTS[1], "aligned", "aligned", 1), '"first" and "second" are both \'aligned\'; remove'),
        (line(PROMPTS[1], "aligned", "reference", 2), r'"winner" is 2, must be 1 \(first\), 0 \(second\)'),
        (line(PROMPTS[1], "aligned", "reference", "first"), "\"winner\" is 'first'"),
        (line(PROMPTS[1], "aligned", "reference", True), '"winner" is True'),
        (line(PROMPTS[1], "aligned", "reference", None), '"winner" is None'),
        (line(PROMPTS[1], "aligned", "reference", [1]), r'"winner" is \[1\]'),
        (line(PROMPTS[1], "aligned", "reference", float("nan")), '"winner" is nan'),
        (line([{"role": "user"}], "aligned", "reference", 1), '"prompt" is .*, none of the evaluation'),
        ([1], "is a list, must be a JSON object"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_its_file(verdicts, row, message):
    path = verdicts(line(PROMPTS[0], "aligned", "reference", 0), row)
    with pytest.raises(InputError, match=rf"verdicts\.jsonl:2: {message}"):
        judges.by_verdicts(path, PROMPTS, list(FIRST))


def test_a_missing_file_of_verdicts_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read"):
        judges.by_verdicts(str(tmp_path / "none.jsonl"), PROMPTS, list(FIRST))


def test_a_prompt_of_messages_is_found(verdicts):
    prompt = (Message("user", "hi"), Message("assistant", "hello"))
    given = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = verdicts(line(given, "aligned", "reference", 1))
    assert judges.by_verdicts(path, [prompt], list(FIRST)).shares[1, 0, 0] == 1.0
