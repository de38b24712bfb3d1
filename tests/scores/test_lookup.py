"""Scores written elsewhere: found by the texts, and refused by file and line."""

import json
import math

import numpy as np
import pytest

from alignjax.data.records import Message
from alignjax.errors import InputError
from alignjax.scores.lookup import look_up, read_lookup, write_unscored


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_scores_are_found_by_prompt_and_response(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [{"role": "user", "content": "c"}]
    path = write(
        tmp_path / "scores.jsonl",
        [
            {"prompt": "p", "response": "x", "reward": 1, "utilities": {"safety": -2.5, "other": 0}},
            {"prompt": "p", "response": "y", "reward": 3.0},
            {"prompt": [{"role": "user", "content": "q"}], "response": "x", "utilities": {"safety": 4.0}},
            {"prompt": turns, "response": "x", "reward": 5.0},
            {"prompt": "p", "response": "x", "reward": 1.0},
        ],
    )
    messages = tuple(Message(**turn) for turn in turns)
    reward, safety = read_lookup(path, "reward"), read_lookup(path, "safety")
    found = look_up(reward, ["p", "p", messages, "q"], ["y", "x", "x", "x"])
    np.testing.assert_array_equal(found, [3.0, 1.0, 5.0, math.nan])
    np.testing.assert_array_equal(look_up(safety, ["q", "p"], ["x", "x"]), [4.0, -2.5])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "reward": 1.0}, r'jsonl:2: "response" is missing'),
        ({"response": "x", "reward": 1.0}, r'jsonl:2: "prompt" is missing'),
        ({"prompt": "p", "response": "y", "reward": math.nan}, r'jsonl:2: "reward" is nan, must be a finite'),
        ({"prompt": "p", "response": "y", "reward": "high"}, r"jsonl:2: \"reward\" is 'high'"),
        ({"prompt": "p", "response": "y", "reward": True}, r'jsonl:2: "reward" is True'),
        (
            {"prompt": "p", "response": "x", "reward": 2.0},
            r"jsonl:2: reward is 2.0, but 1.0 in .*jsonl:1 for the same",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, row, message):
    path = write(tmp_path / "scores.jsonl", [{"prompt": "p", "response": "x", "reward": 1.0}, row])
    with pytest.raises(InputError, match=message):
        read_lookup(path, "reward")


def test_a_file_without_the_dimension_is_refused(tmp_path):
    path = write(tmp_path / "scores.jsonl", [{"prompt": "p", "response": "x", "reward": 1.0}])
    with pytest.raises(InputError, match=r'no line has "utilities": \{"safety": ...\}'):
        read_lookup(path, "safety")
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "p", "response": "x", "utilities": [1.0]}])
    with pytest.raises(InputError, match=r'bad.jsonl:1: "utilities" must be an object'):
        read_lookup(bad, "safety")


def test_what_is_unscored_is_listed_once_in_the_files_own_form(tmp_path):
    prompt = (Message("system", "s"), Message("user", "é"))
    count = write_unscored(tmp_path / "todo.jsonl", [prompt, "p", prompt], ["x", "y", "x"])
    rows = [json.loads(line) for line in (tmp_path / "todo.jsonl").read_text(encoding="utf-8").splitlines()]
    assert count == 2 and rows[1] == {"prompt": "p", "response": "y"}
    scored = write(tmp_path / "scores.jsonl", [{**row, "reward": 1.0} for row in rows])
    assert look_up(read_lookup(scored, "reward"), [prompt], ["x"]).tolist() == [1.0]
