"""Contests by scores, by a function and by verdicts: numbers by hand, and every fault of a judge named."""

import json
import sys
from typing import Any

import numpy as np
import pytest

from alignjax import presets
from alignjax.config import from_mapping
from alignjax.data.records import Message
from alignjax.errors import InputError
from alignjax.workflow import judges
from alignjax.workflow.contests import Played, contests, record
from alignjax.workflow.estimates import resampling_weights

PROMPTS = ["how do i bake", "how do i fly"]
FIRST = {"reference": ["flour", "wings"], "aligned": ["flour and water", "no"]}
RESAMPLES = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])


@pytest.fixture
def make_config():
    def make(**judge: Any):
        config: Any = presets.shared("pecan")
        presets.assistant(config)
        config.judges.safety.update(judge)
        return from_mapping(config.to_dict())

    return make


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module("def f(...): ...") makes a judge of that code; it is called the_judge:f."""

    def write(code):
        (tmp_path / "the_judge.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "the_judge", raising=False)
        return "the_judge:f"

    return write


@pytest.fixture
def verdicts(tmp_path):
    def write(*rows):
        path = tmp_path / "verdicts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def line(prompt, first, second, winner):
    return {"prompt": prompt, "first": first, "second": second, "winner": winner}


def test_scores_decide_by_all_pairs_of_responses():
    # Prompt 0: reference 0, 2 against aligned 1, 3: aligned wins 3 of 4. Prompt 1: all are ties.
    scores = np.array([[[0.0, 2.0], [1.0, 1.0]], [[1.0, 3.0], [1.0, 1.0]]])
    found = record(["reference", "aligned"], judges.by_scores(scores, None), RESAMPLES)
    wins = found["win_rates"]["aligned"]["reference"]
    assert wins["mean"] == pytest.approx(0.625)
    # The resamples have 0.625, 0.75 and 0.5; the middle 95% of three lies 0.05 of the gaps inside.
    assert wins["low"] == pytest.approx(0.5 + 0.05 * 0.125) and wins["high"] == pytest.approx(
        0.75 - 0.05 * 0.125
    )
    # 2 prompts x 2 responses are 4 comparisons; half a win each way: log(3 / 2).
    assert found["ratings"]["aligned"]["mean"] == pytest.approx(np.log(3.0 / 2.0))
    assert found["ratings"]["reference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert (found["judge"], found["comparisons"], found["missing"]) == ("scores", 4, 0)
    assert found["position_bias"] is None


def test_a_population_has_no_width():
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    weights = resampling_weights(np.random.default_rng(1), 4, 50, population=True)
    found = record(["reference", "a", "b"], judges.by_scores(scores, None), weights)
    for figure in (found["win_rates"]["a"]["b"], found["ratings"]["b"]):
        assert figure["low"] == pytest.approx(figure["mean"]) == figure["high"]


def test_every_dimension_is_judged_by_its_own_column(make_config):
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=(2, 3, 2)) for name in FIRST}
    scores["aligned"][..., 1] += 10.0
    found = contests(make_config(), Played(scores, None, PROMPTS, FIRST), RESAMPLES)
    assert list(found) == ["reward", "safety"]
    assert found["safety"]["win_rates"]["aligned"]["reference"]["mean"] == 1.0
    assert 0 < found["reward"]["win_rates"]["aligned"]["reference"]["mean"] < 1


def test_a_function_is_asked_in_both_orders_on_first_responses(make_config, module):
    # It prefers the first place by 0.2 and otherwise the longer text: 0.5 + 0.1 +- 0.3.
    path = module(
        "def f(prompts, a, b):\n"
        "    assert len(set(prompts)) == 1\n"
        "    return [0.6 + (0.3 if len(x) > len(y) else -0.3) for x, y in zip(a, b)]\n"
    )
    scores = {name: np.zeros((2, 3, 2)) for name in FIRST}
    found = contests(make_config(function=path), Played(scores, None, PROMPTS, FIRST), RESAMPLES)["safety"]
    # Prompt 0: aligned is longer, 0.9 first and 1 - 0.3 second: 0.8. Prompt 1: 0.2.
    assert found["win_rates"]["aligned"]["reference"]["mean"] == pytest.approx(0.5)
    assert found["win_rates"]["aligned"]["reference"]["high"] == pytest.approx(0.8, abs=0.02)
    assert found["position_bias"]["mean"] == pytest.approx(0.1)
    assert found["judge"] == path and found["comparisons"] == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(p, a, b):\n    raise KeyError('key')\n", r"raised KeyError: 'key'; correct the function"),
        ("def f(p, a, b):\n    return [0.5]\n", r"gave \(1,\) verdicts for 2 comparisons; give one each"),
        ("def f(p, a, b):\n    return ['x'] * 2\n", "raised ValueError"),
        ("def f(p, a, b):\n    return [0.5, float('nan')]\n", r"gave nan for comparison 1; give the prob"),
        ("def f(p, a, b):\n    return [1.5, 0.5]\n", "gave 1.5 for comparison 0"),
        ("def f(p, a, b):\n    return [-0.1, 0.5]\n", "gave -0.1 for comparison 0"),
    ],
)
def test_a_broken_judge_is_named_with_the_prompt(module, code, message):
    path = module(code)
    with pytest.raises(InputError, match=message) as caught:
        judges.by_function(path, "config.judges.safety.function", PROMPTS, FIRST)
    begin = "config.judges.safety.function: the_judge:f, prompt 0 ('how do i bake'): "
    assert str(caught.value).startswith(begin)


def test_judges_are_looked_for_before_anything_is_trained(make_config, module, tmp_path):
    judges.check(make_config(function=module("def f(p, a, b):\n    return p\n")))
    with pytest.raises(InputError, match=r"config.judges.safety.function: the_judge:g cannot be imported"):
        judges.check(make_config(function="the_judge:g"))
    with pytest.raises(InputError, match=r"config.judges.safety.verdicts: there is no file .*none.jsonl"):
        judges.check(make_config(verdicts=str(tmp_path / "none.jsonl")))


def test_verdicts_of_both_orders_are_averaged_and_show_the_bias(verdicts):
    path = verdicts(
        line(PROMPTS[0], "aligned", "reference", 1),
        line(PROMPTS[0], "reference", "aligned", 1),
        line(PROMPTS[1], "reference", "aligned", 0.5),
    )
    judged = judges.by_verdicts(path, PROMPTS, list(FIRST))
    # Prompt 0: each won once. Prompt 1: a tie in one order only, so that it says nothing of places.
    np.testing.assert_allclose(judged.shares[1, 0], [0.5, 0.5])
    assert judged.lead is not None
    np.testing.assert_allclose(judged.lead, [0.5, np.nan])
    found = record(list(FIRST), judged, RESAMPLES)
    assert found["position_bias"]["mean"] == 0.5 and found["judge"] == "verdicts"


def test_pairs_without_a_verdict_are_missing_and_counted(verdicts, make_config):
    policies = ["reference", "one", "two"]
    path = verdicts(line(PROMPTS[0], "one", "reference", 1))
    found = record(policies, judges.by_verdicts(path, PROMPTS, policies), RESAMPLES)
    # Three pairs on two prompts are six; one has a verdict.
    assert (found["comparisons"], found["missing"]) == (1, 5)
    assert found["win_rates"]["two"] == {"reference": None, "one": None} and found["ratings"]["two"] is None
    # One of one: 1.5 against 0.5, also where a resample has no verdict left.
    assert found["ratings"]["one"]["mean"] == pytest.approx(np.log(3.0))
    scores = {name: np.zeros((2, 3, 2)) for name in policies}
    given = contests(make_config(verdicts=path), Played(scores, None, PROMPTS, None), RESAMPLES)
    assert given["safety"] == found and given["reward"]["judge"] == "scores"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (line("what", "aligned", "reference", 1), r'"prompt" is \'what\', none of the evaluation'),
        ({"first": "aligned", "second": "reference", "winner": 1}, r'"prompt" is \'None\', none of'),
        (line(PROMPTS[1], "allined", "reference", 1), r'"first" is \'allined\', must be a policy'),
        (line(PROMPTS[1], "aligned", None, 1), '"second" is None, must be a policy.*: reference, aligned;'),
        (line(PROMPTS[1], "aligned", "aligned", 1), '"first" and "second" are both \'aligned\''),
        (line(PROMPTS[1], "aligned", "reference", 2), '"winner" is 2, must be 1'),
        (line(PROMPTS[1], "aligned", "reference", "first"), "\"winner\" is 'first'"),
        (line(PROMPTS[1], "aligned", "reference", True), '"winner" is True'),
        ([1], "is a list, must be a JSON object"),
    ],
)
def test_a_line_that_does_not_fit_is_named_with_its_file(verdicts, row, message):
    path = verdicts(line(PROMPTS[0], "aligned", "reference", 0), row)
    with pytest.raises(InputError, match=rf"verdicts\.jsonl:2: {message}"):
        judges.by_verdicts(path, PROMPTS, list(FIRST))


def test_a_prompt_of_messages_is_found(verdicts):
    prompt = (Message("user", "hi"), Message("assistant", "hello"))
    given = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = verdicts(line(given, "aligned", "reference", 1))
    assert judges.by_verdicts(path, [prompt], list(FIRST)).shares[1, 0, 0] == 1.0
