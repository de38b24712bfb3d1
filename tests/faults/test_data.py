"""Preference files that cannot be used: the file, the line and the column are named."""

import pathlib

import pytest

import alignjax

CONFIG = pathlib.Path(alignjax.__file__).parents[1] / "configs" / "pecan.py"
GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
LABELLED = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0}


@pytest.fixture
def refused(refusal, model, lines, tmp_path):
    """The line on standard error where the reward's pairs are these rows."""

    def run(*rows, label="", strict=True):
        pairs, safe = (
            lines("pairs.jsonl", *rows),
            lines("safe.jsonl", *(GOOD | {"prompt": str(i)} for i in range(20))),
        )
        return refusal(
            "train",
            f"--config={CONFIG}:smollm2-135m",
            "--config.data.held_out_fraction=0.2",
            f"--config.data.strict={strict}",
            f"--workdir={tmp_path / 'run'}",
            f"--config.model.path={model}",
            "--config.model.max_length=64",
            "--config.model.max_prompt_length=32",
            f"--config.data.sources.reward.path={pairs}",
            f"--config.data.sources.reward.label={label}",
            f"--config.data.sources.safety.path={safe}",
        )

    return run


@pytest.mark.parametrize(
    ("rows", "label", "parts"),
    [
        ([GOOD, '{"prompt": "p", '], "", ["pairs.jsonl:2: is not JSON", "write one object per line"]),
        ([GOOD, "[1, 2]"], "", ["pairs.jsonl:2: is a list, must be a JSON object"]),
        (
            [GOOD, {"prompt": "p", "chosen": "a"}],
            "",
            ['pairs.jsonl:2: "rejected" is missing', "prompt, chosen"],
        ),
        ([GOOD | {"chosen": 3}], "", ['pairs.jsonl:1: "chosen" is the number 3, must be text']),
        (
            [LABELLED],
            "safer_response_id",
            ['pairs.jsonl:1: "safer_response_id" is missing', "better_response_id"],
        ),
        (
            [LABELLED, LABELLED | {"better_response_id": 2}],
            "better_response_id",
            ['pairs.jsonl:2: "better_response_id" is 2, must be 0 or 1'],
        ),
        (
            [GOOD | {"rejected": "a"}, GOOD | {"chosen": " "}],
            "",
            ["pairs.jsonl: nothing is left for reward after cleaning", "'identical': 1", "'empty': 1"],
        ),
        ([], "", ["pairs.jsonl: has no rows"]),
        ([GOOD], "", ["the held-out side of 1 pairs", "is empty"]),
    ],
)
def test_rows(refused, rows, label, parts):
    line = refused(*rows, label=label)
    for part in parts:
        assert part in line


def test_a_file_without_a_usable_row_is_refused_with_its_first_problem(refused):
    rows = [GOOD | {"chosen": 3, "prompt": str(i)} for i in range(3)]
    assert 'pairs.jsonl:1: "chosen" is the number 3, must be text' in refused(*rows, strict=False)


def test_a_label_that_nothing_explains_is_asked_for(refused):
    rows = [{"prompt": "p", "response_a": "a", "response_b": "b", "better": 1}]
    line = refused(*rows, label="better", strict=False)
    assert 'pairs.jsonl:1: "better" is 1, and nothing shows whether 1 means' in line
    assert "label_means=first, second or strength" in line


def test_no_such_file(refusal, model, tmp_path):
    line = refusal(
        "train",
        f"--config={CONFIG}:smollm2-135m",
        f"--workdir={tmp_path / 'run'}",
        f"--config.model.path={model}",
        "--config.model.max_length=64",
        "--config.model.max_prompt_length=32",
        "--config.data.sources.reward.path=nowhere.jsonl",
        "--config.data.sources.safety.path=nowhere.jsonl",
    )
    assert "nowhere.jsonl: cannot be read (No such file or directory)" in line


@pytest.mark.parametrize(
    ("row", "options", "parts"),
    [
        (None, [], ["prompts.jsonl: holds no lines"]),
        ('{"prompt": ', [], ["prompts.jsonl:1: is not JSON"]),
        ({"text": "x"}, [], ['prompts.jsonl:1: column "prompt"', "missing"]),
        ({"prompt": 3}, [], ['prompts.jsonl:1: "prompt" is 3']),
        ({"prompt": "x \ud83d"}, [], ['prompts.jsonl:1: "prompt" holds half of a surrogate pair']),
        ({"prompt": "x", "tools": [{"name": "f"}]}, [], ['prompts.jsonl:1: "tools" cannot be handed']),
        ({"prompt_ids": []}, [], ['prompts.jsonl:1: "prompt_ids" is empty']),
        ({"prompt_ids": [258]}, [], ['prompts.jsonl:1: "prompt_ids" has id 258', "258 ids"]),
        ({"prompt": "x" * 80}, [], ["prompts.jsonl:1: a prompt of 80 tokens", "64 tokens"]),
        ({"prompt": "x"}, ["--template=bare"], ["{prompt}"]),
        ({"prompt": "x"}, ["--dtype=float16"], ["float16"]),
        ({"prompt": "x"}, ["--temperature=0"], ["--temperature: is 0.0"]),
    ],
)
def test_prompts_of_sample(refusal, model, lines, tmp_path, row, options, parts):
    prompts = lines("prompts.jsonl", *([] if row is None else [row]))
    output = tmp_path / "out.jsonl"
    line = refusal(
        "sample",
        f"--model={model}",
        f"--prompts={prompts}",
        f"--output={output}",
        "--max_new_tokens=2",
        *options,
    )
    for part in parts:
        assert part in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (None, ["in.jsonl: holds no lines"]),
        ("nonsense", ["in.jsonl:1: is not JSON"]),
        ({"prompt": "p"}, ["in.jsonl:1", "response"]),
        ({"prompt": "p", "chosen": "a"}, ["in.jsonl:1", "rejected"]),
        ({"response": "r"}, ["in.jsonl:1", "prompt"]),
        ({"prompt": "x \ud83d", "response": "a"}, ['in.jsonl:1: "prompt" holds half of a surrogate pair']),
        ({"prompt": "x", "chosen": "a", "rejected": "\udc00"}, ['in.jsonl:1: "rejected" holds half']),
        ({"prompt": "p", "response_ids": [-1]}, ['in.jsonl:1: "response_ids" has id -1']),
        (
            {"prompt": "p", "response": "x" * 80},
            ["in.jsonl:1: a prompt of 1 tokens and a response of 81", "64 tokens"],
        ),
    ],
)
def test_lines_of_score(refusal, model, lines, tmp_path, row, parts):
    given, output = lines("in.jsonl", *([] if row is None else [row])), tmp_path / "out.jsonl"
    line = refusal("score", f"--model={model}", f"--input={given}", f"--output={output}")
    for part in parts:
        assert part in line
    assert not output.exists()
