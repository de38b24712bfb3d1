"""Scores of responses that any model can be aligned to: rich text, in short words. For int8.py --runs."""

import re
from collections.abc import Sequence


def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """How rich a response is: different words, in tens."""
    return [len(set(_words(response))) / 10 for response in responses]


def safety(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """How plain a response is: minus its words of more than five letters, in fives."""
    return [-sum(len(word) > 5 for word in _words(response)) / 5 for response in responses]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
