"""Lengths in tokens and rows with every token, with a tokenizer of one token a byte."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from alignjax.config import ModelSettings
from alignjax.data.records import Message, PreferencePair
from alignjax.data.templates import Template
from alignjax.data.token_survey import (
    Segment,
    Shown,
    Spread,
    pieces,
    shown_by,
    shown_pair,
    text_pair,
    token_findings,
    tokenized,
)
from alignjax.data.tokenize import tokenize_pairs
from tests.data.test_prompts import CHAT, TURNS
from tests.data.test_tokenize import TOKENIZER
from tests.data.test_turns import CHATML, GOLDENS, tokenizer_of

PLAIN = Template("plain", "{prompt}")


def pair(prompt, chosen, rejected, label=1.0):
    return PreferencePair(prompt, chosen, rejected, {"reward": label}, "f:1")


def joined(parts: tuple[Segment, ...]) -> list[tuple[str, str, int]]:
    return [(part.part, "".join(part.pieces), part.count) for part in parts]


def test_lengths_and_cuts_by_hand():
    # With <s> and </s>: prompts 2 and 6, responses 3, 2, 5, 2.
    pairs = [pair("p", "aa", "b"), pair("12345", "cccc", "d")]
    settings = ModelSettings(max_length=8, max_prompt_length=5)
    found, whole = tokenized(TOKENIZER, PLAIN, pairs, settings)
    assert (found.pairs, found.max_length, found.max_prompt_length) == (2, 8, 5)
    assert found.prompt == Spread(4, 6, 6) and found.response == Spread(2, 5, 5)
    assert found.together == Spread(8, 11, 11)
    # The second prompt loses 1 of 5 letters; its first response of 5 does not fit 8 - 5.
    assert found.prompts_cut == {"turns": 0, "text": 1, "header": 0} and found.responses_cut == 1
    assert found.total == 8 + 12 and found.unknown == 0
    assert [len(one.chosen_ids) for one in whole] == [3, 5]


def test_cuts_are_those_that_training_counts():
    rng = np.random.default_rng(0)
    pairs = [
        pair("x" * int(rng.integers(1, 40)), "y" * int(rng.integers(1, 40)), "z" * int(rng.integers(1, 40)))
        for _ in range(100)
    ]
    settings = ModelSettings(max_length=40, max_prompt_length=20)
    found, _ = tokenized(TOKENIZER, PLAIN, pairs, settings)
    _, trained = tokenize_pairs(TOKENIZER, PLAIN, pairs, max_length=40, max_prompt_length=20)
    assert (sum(found.prompts_cut.values()), found.responses_cut) == trained and min(trained) > 0


@pytest.mark.parametrize(("most", "kind"), [(40, "turns"), (12, "text"), (10, "header")])
def test_what_a_long_conversation_loses(most, kind):
    settings = ModelSettings(max_length=100, max_prompt_length=most)
    found, _ = tokenized(CHAT, Template("chat"), [pair(TURNS, "a", "b")], settings)
    assert found.prompts_cut == dict.fromkeys(("turns", "text", "header"), 0) | {kind: 1}
    assert any("header are lost" in text for text in token_findings(found)) == (kind == "header")


def test_a_row_as_the_model_sees_it():
    tokenizer = tokenizer_of(CHATML)
    settings = ModelSettings(max_length=48, max_prompt_length=40)
    found = shown_pair(tokenizer, Template("chat"), pair("Hi", "Yes", "N" * 40, 0.25), settings)
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert joined(found.prompt) == [("prompt", prompt, len("user\nHi\nassistant\n") + 3)]
    assert joined(found.first) == [("response", "Yes", 3), ("end", "<|im_end|>", 1)]
    room = 48 - found.prompt[0].count
    assert joined(found.second) == [
        ("response", "N" * room, room),
        ("cut", "N" * (40 - room) + "<|im_end|>", 41 - room),
    ]
    assert (found.where, found.unit, found.label) == ("f:1", "tokens", 0.25)
    cut = shown_pair(tokenizer, Template("chat"), pair("x" * 50, "a", "b"), settings)
    assert joined(cut.prompt)[0] == ("cut", "", 50 + 19 - 40) and cut.prompt[1].count == 40


def test_how_a_conversation_is_shown():
    tokenizer = tokenizer_of(CHATML)
    ids = np.array(tokenizer.encode("<|im_start|>"))
    end: Any = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert shown_by(tokenizer, Template("chat"), ids) == Shown(
        "chat", "2024-07-26", "", "", "<|im_end|>", end
    )
    family = GOLDENS["families"]["qwen3"]
    thinking = tokenizer_of(family["template"], family["bos"], family["eos"])
    assert "</think>" in shown_by(thinking, Template("chat", kwargs=family["kwargs"]), ids).opening
    bos = np.array([TOKENIZER.bos_token_id])
    plain = shown_by(TOKENIZER, PLAIN, bos)
    assert (plain.template, plain.date, plain.begins, plain.end) == ("{prompt}", None, "<s>", "</s>")


def test_long_parts_are_shown_in_part():
    settings = dataclasses.replace(ModelSettings(), max_length=5000)
    found = shown_pair(TOKENIZER, PLAIN, pair("p", "a" * 1000 + "b" * 1000, "c"), settings)
    part = found.first[0]
    assert part.count == 2000 and part.left_out == 2000 - len(part.pieces) and len(part.pieces) == 120
    assert part.pieces[0] == "a" and part.pieces[-1] == "b"


def test_pieces_are_the_text_and_join_the_bytes_of_a_character():
    text = "h\u00e9 \u4f60\U0001f600!"
    found = pieces(TOKENIZER, TOKENIZER.encode(text, add_special_tokens=False))
    assert found == ["h", "\u00e9", " ", "\u4f60", "\U0001f600", "!"]


def test_without_a_tokenizer():
    turns = (Message("system", "S"), Message("user", "u"))
    found = text_pair(pair(turns, "aa", "b" * 2000))
    assert joined(found.prompt) == [("prompt", "system: S", 9), ("prompt", "user: u", 7)]
    assert joined(found.first) == [("response", "aa", 2)] and found.unit == "characters"
    (long,) = found.second
    assert long.count == 2000 and long.left_out == 2000 - sum(map(len, long.pieces)) > 0
