"""The text that `python -m alignjax.data` prints: fields, marks and colours."""

import dataclasses
import re

import pytest

from alignjax.data.survey import Balance, Dropped, HeldOut, Recognised, Repeats, Sizes, Survey
from alignjax.data.token_survey import Segment, Shown, ShownPair, Spread, Tokens
from alignjax.report.data_survey import Surveyed, survey_text

SURVEY = Survey(
    path="pairs\x1b.jsonl",
    read=1200,
    used=1000,
    formats={"pairs": 900, "ranked": 100},
    recognised=Recognised(
        ("prompt", "response_0", "response_1", "id"), "response_0", "response_1", "id", "1 means"
    ),
    dropped={"empty": Dropped(200, "pairs.jsonl:7")},
    balance=Balance(first=250, second=500, ties=250, soft=3),
    repeats=Repeats(rows=5, turned=2, both_orders=4, prompts=700, prompts_repeated=60, most=9),
    sizes=Sizes("characters", 750, 10.0, 5.0, 0.75),
    held_out=HeldOut("test.jsonl", 100, 3, "pairs.jsonl:8"),
)
TOKENS = Tokens(
    pairs=500,
    max_length=64,
    max_prompt_length=32,
    prompt=Spread(10, 40, 1234),
    response=Spread(20, 50, 60),
    together=Spread(30, 80, 1300),
    prompts_cut={"turns": 2, "text": 0, "header": 1},
    responses_cut=7,
    unknown=11,
    total=10000,
)
PAIR = ShownPair(
    where="pairs.jsonl:1",
    unit="tokens",
    label=0.75,
    prompt=(Segment("cut", (), 12, 12), Segment("prompt", ("<s>", "Hi", "\n"), 3)),
    first=(Segment("response", ("Yes", " \u202e"), 2), Segment("end", ("</s>",), 1)),
    second=(Segment("response", ("a", "z"), 30, 28), Segment("cut", ("x" * 100,), 1)),
)
SHOWN = Shown("chat", "2024-07-26", "<s>", "<think></think>", "</s>", 2)
FOUND = Surveyed(SURVEY, "model", SHOWN, TOKENS, SURVEY.sizes, [PAIR], ["one finding"])


def test_fields_and_marks():
    text = survey_text(FOUND, colour=False)
    assert all(len(line) <= 80 for line in text.splitlines()) and text.isascii()
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text) is None
    words = " ".join(text.split())
    for part in (
        r"pairs\x1b.jsonl rows 1,200 read, 1,000 used taken for pairs (900), ranked (100)",
        "columns prompt, response_0, response_1, id label id: 1 means",
        "dropped 200 empty, first: pairs.jsonl:7",
        "balance response_0 preferred 25.0%, response_1 50.0%, ties 25.0%; 3 soft labels",
        "preferred responses 10.0 characters on average, the others 5.0; the preferred one is the longer",
        "repeats 5 repeated rows, 2 of them with the responses in the other order; 4 pairs with both labels",
        "prompts 700 distinct, 60 with several pairs (at most 9)",
        "held out test.jsonl: 100 pairs; 3 pairs of this file are on its prompts, first: pairs.jsonl:8",
        "template the tokenizer's chat template, at the date 2024-07-26 prompts begin with <s>",
        "replies begin with <think></think>, which is trained end token </s> (id 2)",
        "tokens of 500 of 1,000 pairs prompts: median 10, 95% at most 40, longest 1,234",
        "cut 3 prompts are longer than 32 (max_prompt_length) 2 lose their oldest turns 1 lose all but",
        "7 responses do not fit 64 (max_length)",
        "unknown 11 of 10,000 tokens",
        "prompt: 15 tokens - [12 tokens left out] . <s>|Hi|\\n",
        "response_0: 3 tokens, preferred with probability 0.75 + Yes| \\u202e = </s>",
        "response_1: 31 tokens, preferred with probability 0.25 + a|[28 tokens left out]|z - "
        + "x" * 74
        + " - xx",
        "findings - one finding",
    ):
        assert part in words, part


def test_colours_on_a_terminal():
    text = survey_text(FOUND, colour=True)
    assert "\x1b[32mYes\x1b[0m\x1b[4;32m \\u202e\x1b[0m" in text  # every second token is underlined
    assert "\x1b[30;43m</s>\x1b[0m" in text and "\x1b[90m<s>\x1b[0m" in text and "\x1b[31m" in text
    plain = re.sub(r"\x1b\[[\d;]+m", "", text)
    assert "\x1b" not in plain and all(len(line) <= 80 for line in plain.splitlines())


def test_without_a_model_and_without_rows():
    bare = dataclasses.replace(FOUND, shown=None, tokens=None, pairs=[], findings=[])
    text = survey_text(bare, colour=False)
    assert "end token" not in text and "rows as" not in text and "findings" not in text
    unlabelled = dataclasses.replace(SURVEY.recognised, label="", label_means="")
    none = dataclasses.replace(SURVEY, recognised=unlabelled, dropped={}, held_out=None)
    text = survey_text(dataclasses.replace(bare, survey=none), colour=False)
    assert "none: chosen is the better response" in text and "held out" not in text
    ties = dataclasses.replace(bare, by_length=Sizes("characters", 0, None, None, None))
    assert "no pair has a preferred response" in survey_text(ties, colour=False)


@pytest.mark.parametrize("kind", ["template", "begins"])
def test_plain_templates(kind):
    shown = dataclasses.replace(SHOWN, template="USER: {prompt}", date=None, begins="", opening="")
    text = survey_text(dataclasses.replace(FOUND, shown=shown), colour=False)
    expected = {"template": "template      USER: {prompt}", "begins": "with no special token added"}[kind]
    assert expected in text and "replies begin" not in text
