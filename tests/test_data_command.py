"""The command `python -m alignjax.data`: text, JSON, and what it refuses."""

import json

import pytest

from tests.data.test_turns import CHATML, tokenizer_of

ROWS = [
    *({"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": f"not so {i}"} for i in range(30)),
    {"prompt": "p", "chosen": "a\x1b[31m\u202e", "rejected": None},
    {"prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "chosen": "a", "rejected": "b"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """pairs.jsonl, test.jsonl and model/, a tokenizer with ChatML's template."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "test.jsonl").write_text(json.dumps(ROWS[3]) + "\n")
    tokenizer_of(CHATML).save_pretrained(folder / "model")
    return folder


def test_text(command, folder):
    status, out, err = command(
        "data/__main__", folder / "pairs.jsonl", f"--model={folder / 'model'}", "--show=1", "--max_rows=25"
    )
    assert (status, err) == (0, "")
    assert all(len(line) <= 80 or str(folder) in line for line in out.splitlines())
    words = " ".join(out.split())
    for part in (
        "rows 32 read, 30 used",
        "taken for pairs (30)",
        "label none: chosen is the better response",
        "1 malformed, first:",
        'pairs.jsonl:31: "rejected" is null',
        "1 templated, first:",
        "template the tokenizer's chat template, at the date 2024-07-26",
        "end token <|im_end|> (id ",
        "tokens of 25 of 30 pairs",
        ". <|im_start|>|u|s|e|r|\\n|q|u|e|s|t|i|o|n| |0|<|im_end|>|\\n|<|im_start|>|a|s",
        "+ y|e|s| |0 = <|im_end|>",
        "the preferred response is the shorter one in 100% of the pairs",
    ):
        assert part in words, part
    assert "\x1b" not in out


def test_json_says_the_same(command, folder):
    arguments = (
        *("data/__main__", folder / "pairs.jsonl", folder / "test.jsonl", "--json"),
        *(
            f"--held_out={folder / 'test.jsonl'}",
            f"--model={folder / 'model'}",
            "--max_length=60",
            "--max_prompt_length=40",
        ),
    )
    status, out, _ = command(*arguments)
    pairs, test = json.loads(out)["files"]
    assert status == 0 and pairs["survey"]["read"] == 32 and test["survey"]["read"] == 1
    assert pairs["survey"]["dropped"]["templated"]["rows"] == 1
    assert pairs["survey"]["held_out"]["leaks"] == 1 == test["survey"]["held_out"]["leaks"]
    assert pairs["tokens"]["pairs"] == 30 and pairs["shown"]["end"] == "<|im_end|>"
    assert pairs["by_length"]["unit"] == "tokens" and pairs["by_length"]["longer"] == 0.0
    assert [part["part"] for part in pairs["pairs"][0]["first"]] == ["response", "end"]
    assert len(pairs["pairs"]) == 2 and pairs["findings"]


def test_without_a_model(command, folder):
    status, out, _ = command("data/__main__", folder / "pairs.jsonl", "--show=2")
    assert status == 0 and "31 used" in out and "characters" in out and "end token" not in out
    assert "    . question 0" in out and "    + not so 1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no file is named"),
        (("{0}/none.jsonl",), "none.jsonl: cannot be read"),
        (("{0}/pairs.jsonl", "--model={0}/none"), "none: no such file or folder"),
        (("{0}/pairs.jsonl", "--model={0}"), "holds no tokenizer"),
        (("{0}/pairs.jsonl", "--model={0}/pairs.jsonl"), "not a model"),
        (("{0}/pairs.jsonl", "--format=table"), "--format=table: value should be one of"),
        (
            ("{0}/pairs.jsonl", "--max_length=10"),
            "--max_prompt_length: is 256, must be less than --max_length",
        ),
        (("{0}/pairs.jsonl", "--template_date=today"), "--template_date: is 'today', must be a date"),
        (("{0}/pairs.jsonl", "--template_kwargs=[]"), "--template_kwargs: is '[]', must be a JSON object"),
        (("{0}/pairs.jsonl", "--chosen=better"), '"better" is missing'),
        (("{0}/pairs.jsonl", "--held_out={0}/none.jsonl"), "none.jsonl: cannot be read"),
        (("--file={0}/pairs.jsonl", "--show=-1"), "--show=-1"),
    ],
)
def test_refused_in_one_line(command, folder, arguments, message):
    status, out, err = command("data/__main__", *(text.format(folder) for text in arguments))
    assert status == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_file_of_templated_prompts_is_refused(command, folder, tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps(ROWS[-1]) + "\n")
    status, _, err = command("data/__main__", tmp_path / "t.jsonl", f"--model={folder / 'model'}")
    assert status == 2 and 'set config.model.template (or --template) to "{prompt}"' in err
    bare = (f"--model={folder / 'model'}", "--template={prompt}")
    assert command("data/__main__", tmp_path / "t.jsonl", *bare).status == 0
