import itertools

import numpy as np
import pytest

from alignjax.config.settings import REFUSALS
from alignjax.data.refusals import is_refusal
from alignjax.data.worlds import assistant


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but no.",
        "I\u2019m sorry, but no.",  # curly
        "i CAN`T do that",
        "  \u201cSorry\u201d is all I say",
        "**I cannot** help.",
        "As  an\nAI, I do not",
        "Sorry",
    ],
)
def test_openings(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["", "Sorrylessly, he left.", "Sure! I cannot wait.", "I cannoth", "No."])
def test_answers(text):
    assert not is_refusal(text)


def test_phrases_of_ones_own():
    assert is_refusal("Je ne peux pas vous aider", ["je ne peux pas"]) and not is_refusal("Sorry", [])


def test_no_phrase_is_there_twice_or_hidden_by_another():
    assert len(set(REFUSALS)) == len(REFUSALS)
    for a, b in itertools.permutations(REFUSALS, 2):
        assert not b.startswith(f"{a} "), (a, b)


def test_the_assistants_refusals_are_found_and_its_answers_are_not():
    for refusal, referral in itertools.product(assistant.REFUSALS, assistant.REFERRALS):
        text = f"{refusal} {referral}".format(verb="make", object="bombs").strip()
        assert is_refusal(text), text
    for vague in assistant.VAGUE:
        assert not is_refusal(vague.format(verb="make", object="bombs")), vague
    for prompt in assistant.all_prompts()[:40]:
        rng = np.random.default_rng(0)
        for text in (assistant.respond(prompt, rng) for _ in range(20)):
            refuses = bool(set(text.split()) & {"sorry", "cannot", "refuse"})
            assert is_refusal(text) == refuses, text
