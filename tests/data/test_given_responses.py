import json

import numpy as np
import pytest

from alignjax.data.given_responses import Expected, read_given
from alignjax.data.responses import Responses, write_responses
from alignjax.data.tokenize import Template, TokenizedResponse
from alignjax.data.worlds import world_for
from alignjax.errors import InputError

PLAIN = Template("plain", "{prompt}")
# Words a to f are ids 1 to 6; 0 ends a response.
IDS = [np.array([1, 2], np.int32), np.array([2, 3], np.int32)]
EXPECTED = Expected(["a b", "b c"], IDS, num_samples=2, max_new_tokens=3)
LINES = [
    {"prompt": "a b", "response": "c d"},
    {"prompt": "b c", "response": "a b c d"},
    {"prompt": "b c", "response": "f", "finish_reason": "length"},
    {"prompt": "a b", "response": "c", "response_ids": [3, 0]},
    {"prompt": "a b", "response": "a"},
    {"prompt": "d d", "response": "a"},
]


@pytest.fixture
def read(tmp_path):
    def reading(lines, expected=EXPECTED):
        path = tmp_path / "given.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        tokenizer = world_for("enumerable").tokenizer
        return read_given(str(path), expected, tokenizer, PLAIN, lacking=tmp_path / "unsampled.jsonl")

    return reading


def test_responses_are_tokenized_ended_cut_and_counted(read, tmp_path):
    (tmp_path / "unsampled.jsonl").write_text("of an earlier run\n")
    found, counts = read(LINES)
    tokens = [[one.response_ids.tolist() for one in row] for row in found.tokens]
    # The first of "b c" has five tokens with its end; the second was cut by the server.
    assert tokens == [[[3, 4, 0], [3, 0]], [[1, 2, 3], [6]]]
    assert found.texts == [["c d", "c"], ["a b c d", "f"]]
    assert found.prompts == ["a b", "b c"] and found.policy == "reference"
    assert [row[0].prompt_ids.tolist() for row in found.tokens] == [[1, 2], [2, 3]]
    assert counts._asdict() == {"used": 4, "cut": 1, "spare": 1, "elsewhere": 1}
    assert not (tmp_path / "unsampled.jsonl").exists()  # nothing is missing any more


def test_prompts_with_too_few_are_listed(read, tmp_path):
    message = r"has fewer than 2 responses to 1 of 2 prompts .* Draw those that .*unsampled.jsonl lists"
    with pytest.raises(InputError, match=message):
        read(LINES[1:3] + LINES[4:])
    listed = (tmp_path / "unsampled.jsonl").read_text().splitlines()
    how = {"max_new_tokens": 3, "temperature": 1.0, "top_p": 1.0}
    assert [json.loads(line) for line in listed] == [
        {"prompt": "a b", "prompt_ids": [1, 2], "num_samples": 1, "num_given": 1, **how}
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a b"}, r'given.jsonl:1: "response" must be a text, or "response_ids" a list of ids'),
        ({"response": "a"}, r'given.jsonl:1: "prompt" is missing'),
        ({"prompt": "a b", "response_ids": []}, r'"response_ids" must be a list of at least one id below 7'),
        ({"prompt": "a b", "response_ids": [7]}, r"at least one id below 7"),
        ({"prompt": "a b", "response_ids": [True]}, r"at least one id below 7"),
        ({"prompt": "a b", "response": "", "finish_reason": "length"}, r"was cut before its first token"),
    ],
)
def test_lines_that_cannot_be_used(read, line, message):
    with pytest.raises(InputError, match=message):
        read([line])


def test_a_runs_own_samples_are_such_a_file(read, tmp_path):
    rows = [[TokenizedResponse(i, np.array([k + 1, 0], np.int32)) for k in range(2)] for i in IDS]
    drawn = Responses(["a b", "b c"], [["a", "b"], ["a", "b"]], rows, "reference")
    write_responses(tmp_path / "samples.jsonl", drawn, {})
    found, _ = read([json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()])
    assert found.texts == drawn.texts
    for a, b in zip(found.flat, drawn.flat, strict=True):
        np.testing.assert_array_equal(a.response_ids, b.response_ids)
